"""What a run waits for, in one line."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from fleet.cli import context, output
from fleet.cli.pending import Pending, pending_calls
from fleet.client import FleetClient, RunInfo, connect
from fleet.contracts.approvals import Approval, ApprovalState
from fleet.contracts.names import FailureType, place_key
from fleet.contracts.tools import APPROVAL_NOTIFY, DOOR_ENTER, LLM_CHAT
from fleet.errors import FleetError
from fleet.manifest import Manifest

if TYPE_CHECKING:
    from ratelimit.limiter import Limiter
    from ratelimit.places import Standing

SOON = timedelta(seconds=2)
"""A quota that grants within this holds nobody up."""

_SCOPE = re.compile(r"waits for (?P<scope>\S+?),? (?:(?P<limit>\S+): (?:its place|about)|which is closed)")
"""How a call that was sent away says what it waits for (`workers/admission.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """One call of the run, and what holds it up."""

    activity: str
    """Empty: the workflow itself."""
    attempt: int
    kind: str
    """`human`, `paused`, `quota`, `closed`, `provider`, `door`, `store`, `worker`, `queue`, `working`, `retry`."""
    text: str
    scope: str | None = None
    limit: str | None = None
    place: int | None = None
    """In the scope's line; 1: next."""
    wait_s: float | None = None
    task_queue: str | None = None


def why(run_id: str, *, manifest: Path | None, json: bool) -> None:
    """Say what the run waits for."""

    async def work() -> None:
        settings, loaded = context.load(manifest)
        client = FleetClient(await connect(settings), loaded)
        info = await client.info(run_id)
        if info.closed_at is not None:
            found: list[Why] = []
            line = f"{run_id} waits for nothing: it is {info.state}"
        else:
            found = await of_people(client, run_id)
            found += await of_calls(client, info, manifest)
            found = found or [await of_workflow(client, run_id)]
            line = "\n".join(f"{run_id} {one.text}{attempt_of(one)}" for one in found)
        if json:
            output.document({"run": run_id, "state": info.state, "waits_for": found})
        else:
            typer.echo(line)

    context.run(work())


def attempt_of(one: Why) -> str:
    """Which call it is about, as the end of a line; empty: the workflow itself."""
    return f" ({one.activity}, attempt {one.attempt})" if one.activity else ""


async def of_calls(client: FleetClient, info: RunInfo, manifest: Path | None) -> list[Why]:
    """What each call under way waits for; without Redis as far as Temporal alone can say.

    Raises:
        RPCError: Temporal does not answer, or there is no such run.
    """
    from fleet.cli.quota import shared_limiter

    pending = [
        one
        for one in await pending_calls(client, info.id)
        # nobody waits for a notice
        if one.call.activity_type.name != APPROVAL_NOTIFY.name
    ]
    try:
        async with shared_limiter(manifest) as (shared, loaded):
            return [await _call(client, one, shared, _scope_of(loaded, info.agent, one.call)) for one in pending]
    except FleetError:
        return [await _call(client, one, None, None) for one in pending]


async def of_people(client: FleetClient, run_id: str) -> list[Why]:
    """What the run waits for that people must do; nothing if it does not answer within five seconds."""
    try:
        status = await asyncio.wait_for(client.status(run_id), 5)
        asked = await client.approvals(run_id) if status.approvals else []
    except (FleetError, TimeoutError):
        return []
    found = [_asked(approval) for approval in asked if approval.state is ApprovalState.OPEN]
    if status.paused is not None:
        text = f"is paused ({status.paused}): fleet resume {run_id}"
        found.append(Why(activity="", attempt=0, kind="paused", text=output.visible(text)))
    return found


def _asked(approval: Approval) -> Why:
    who = ", ".join(approval.approvers) or "anybody"
    missing = approval.needed - len(approval.votes)
    text = (
        f"waits for {missing} of {who} to decide on {approval.tool} ({approval.why}) until"
        f" {approval.expires_at:%Y-%m-%d %H:%M} UTC: fleet approvals show {approval.id}"
    )
    return Why(activity="", attempt=0, kind="human", text=output.visible(text))


def _scope_of(manifest: Manifest, agent: str, pending: Any) -> str | None:
    """What the call is charged to, by the manifest of today."""
    if pending.activity_type.name == LLM_CHAT.name:
        spec = manifest.agents.get(agent)
        return spec.model if spec else None
    queue = pending.activity_options.task_queue.name
    for name, pool in manifest.pools.items():
        if manifest.task_queue(name) == queue:
            provider = pool.provider or name
            return next((scope for scope in manifest.scopes() if scope.partition("/")[0] == provider), None)
    return None


async def _call(client: FleetClient, of: Pending, shared: "Limiter | None", scope_now: str | None) -> Why:
    pending = of.call
    queue = pending.activity_options.task_queue.name
    failure = pending.last_failure
    kind = failure.application_failure_info.type if failure.HasField("application_failure_info") else ""

    def told(kind: str, text: str, **more: Any) -> Why:
        return Why(
            activity=pending.activity_type.name, attempt=pending.attempt, task_queue=queue, kind=kind, text=text, **more
        )

    if pending.activity_type.name == DOOR_ENTER and kind == FailureType.QUOTA_WAIT:
        return told("door", "waits at the door: as many runs are active as may be (pools.agents.max_active)")
    if kind == FailureType.QUOTA_WAIT and (match := _SCOPE.search(failure.message)):
        scope, limit = match["scope"], match["limit"]
        if limit is None:
            return told("closed", failure.message, scope=scope)
        number, standing = await _place(shared, scope, place_key(of.workflow_id, of.execution, pending.activity_id))
        if standing is None:
            return told("quota", failure.message, scope=scope, limit=limit)
        wait_s = standing.wait.total_seconds()
        text = f"waits for {scope} {standing.limit}: place {number} in line, starts in about {output.seconds(wait_s)}"
        return told("quota", text, scope=scope, limit=standing.limit, place=number, wait_s=wait_s)
    match kind:
        case FailureType.RATE_LIMITED | FailureType.OVERLOADED | FailureType.QUOTA_EXHAUSTED:
            return told("provider", f"waits for the provider: {failure.message}")
        case FailureType.STORE_LOST | FailureType.DATABASE_LOST:
            return told("store", failure.message)
    if pending.HasField("last_started_time") and not pending.HasField("next_attempt_schedule_time"):
        doing = f" ({of.doing})" if of.doing else ""
        where = f"the call is under way on {pending.last_worker_identity}{doing}"
        return told("working", f"waits for nothing of ours: {where}")
    if failure.message:
        return told("retry", f"tries again after: {failure.message}")
    return await _in_queue(client, queue, told, shared, scope_now)


async def _place(shared: "Limiter | None", scope: str, key: str) -> "tuple[int, Standing | None]":
    if shared is not None:
        for number, standing in enumerate(await shared.standing(scope), 1):
            if standing.key == key:
                return number, standing
    return 0, None


async def _in_queue(
    client: FleetClient, queue: str, told: Callable[..., Why], shared: "Limiter | None", scope: str | None
) -> Why:
    found = await client.temporal.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.temporal.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_stats=True,
        )
    )
    from ratelimit.errors import NEVER

    backlog = found.stats.approximate_backlog_count
    if not found.pollers:
        return told("worker", f"waits for a worker: nobody polls task queue {queue!r}; fleet worker {queue}")
    ahead = None
    if shared is not None and scope is not None and shared.counts(scope):
        ahead = (await shared.ahead(scope)).wait
    if ahead is not None and ahead > SOON:
        # the gate keeps calls in the queue while the quota would not grant them
        wait_s = ahead.total_seconds()
        until = output.seconds(wait_s) if ahead < NEVER else "somebody opens it: fleet quota thaw"
        text = f"waits in task queue {queue!r}, {backlog} calls there: {scope} grants nothing for {until}"
        return told("quota", text, scope=scope, wait_s=wait_s)
    return told("queue", f"waits in task queue {queue!r}: {backlog} calls there, {len(found.pollers)} workers poll")


async def of_workflow(client: FleetClient, run_id: str) -> Why:
    """What the workflow itself does while it calls nobody."""
    try:
        status = await asyncio.wait_for(client.status(run_id), 5)
    except (FleetError, TimeoutError):
        text = "waits for a worker of the agents' pool: fleet worker agents"
        return Why(activity="", attempt=0, kind="worker", text=text)
    return Why(activity="", attempt=0, kind="working", text=f"{status.phase.value} {status.doing}".rstrip())
