"""The one client: start, watch, stop runs. What the CLI and other programs use."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import Priority, WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from fleet import agents
from fleet.contracts import names
from fleet.contracts.runs import LAST_PRIORITY, Outcome, RunInput, RunResult, RunStatus
from fleet.errors import BadInput, UnknownRun, Unreachable
from fleet.manifest import AGENTS_POOL, Manifest
from fleet.rates import NAME
from fleet.settings import Settings

STATES = {
    "running": "Running",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
    "terminated": "Terminated",
    "timedout": "TimedOut",
}
"""Temporal's names of the states of a run."""

PATIENCE_S = 120.0
"""How long the end of a run is waited for while Temporal is away."""
_SDK_PATIENCE_S = 10.0


async def connect(settings: Settings) -> Client:
    """Connect to Temporal: `TEMPORAL_*` and `temporal.toml`, else the embedded stack, else localhost:7233.

    Raises:
        Unreachable: nobody answers there.
    """
    try:
        config: dict[str, Any] = dict(ClientConfig.load_client_connect_config())
    except (RuntimeError, ValueError, OSError) as error:
        raise BadInput(f"Temporal's configuration cannot be read: {error}") from None
    if not config.get("target_host"):
        config["target_host"] = settings.dev().get("temporal") or "localhost:7233"
    try:
        return await Client.connect(**config)
    except (RuntimeError, RPCError) as error:
        # the transport's own words are a page of nested types
        why = "" if "Connect" in str(error) else f" ({str(error).splitlines()[0][:120]})"
        raise Unreachable(
            f"Temporal does not answer at {config['target_host']}{why}:"
            " start one with `fleet dev` or set TEMPORAL_ADDRESS"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run in a listing."""

    id: str
    agent: str
    goal: str
    state: str
    """`running` or how it closed, in Temporal's words."""
    started_at: datetime
    closed_at: datetime | None

    @property
    def duration_s(self) -> float:
        """Seconds from start to end, or until now."""
        end = self.closed_at or datetime.now(self.started_at.tzinfo)
        return (end - self.started_at).total_seconds()


class FleetClient:
    """Runs of agents, over one Temporal connection."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self.temporal = client
        self._manifest = manifest

    async def start(
        self, agent: str, goal: str, *, run_id: str | None = None, tenant: str = "default", priority: int = 3
    ) -> str:
        """Start a run and return its id. The agent's definition is snapshotted into it.

        Raises:
            BadInput: unknown agent, empty goal, or the id is taken.
        """
        if not goal.strip():
            raise BadInput("the goal is empty: say what the agent is to do")
        if not NAME.fullmatch(tenant):
            raise BadInput(f"tenant {tenant!r}: must be letters, digits, _ . : -, at most 64")
        if not 1 <= priority <= LAST_PRIORITY:
            raise BadInput(f"priority {priority} is not between 1 (first) and {LAST_PRIORITY}")
        definition = agents.definition(self._manifest, agent)
        weight = self._manifest.weight(tenant)
        run = RunInput(
            agent=definition,
            goal=goal,
            tenant=tenant,
            priority=priority,
            weight=weight,
            door=self._manifest.max_active is not None,
        )
        workflow_id = run_id or f"{agent}-{secrets.token_hex(5)}"
        try:
            await self.temporal.start_workflow(
                names.AGENT_WORKFLOW,
                run,
                id=workflow_id,
                # the id is part of the key of every effect: another run under it would find them done
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                task_queue=self._manifest.task_queue(AGENTS_POOL),
                memo={names.AGENT_MEMO: agent, names.GOAL_MEMO: goal[:500], names.TENANT_MEMO: tenant},
                priority=Priority(priority_key=priority, fairness_key=tenant, fairness_weight=weight),
                static_summary=f"{agent}: {goal}"[:200],
            )
        except RPCError as error:
            raise _unreachable(error) from None
        except Exception as error:
            if type(error).__name__ == "WorkflowAlreadyStartedError":
                raise BadInput(f"run {workflow_id!r} exists already: choose another id") from None
            raise
        return workflow_id

    def handle(self, run_id: str) -> WorkflowHandle[Any, RunResult]:
        """Temporal's handle of the run."""
        return self.temporal.get_workflow_handle(run_id, result_type=RunResult)

    async def list(self, *, state: str | None = None, limit: int = 100) -> AsyncIterator[RunInfo]:
        """Runs, newest first; `state` is a key of `STATES`."""
        query = f"WorkflowType = '{names.AGENT_WORKFLOW}'"
        if state:
            query += f" AND ExecutionStatus = '{STATES[state]}'"
        try:
            async for execution in self.temporal.list_workflows(query, limit=limit):
                yield await _info(execution)
        except RPCError as error:
            raise _unreachable(error) from None

    async def info(self, run_id: str) -> RunInfo:
        """One run.

        Raises:
            UnknownRun: there is none of that id.
        """
        try:
            return await _info(await self.handle(run_id).describe())
        except RPCError as error:
            raise _about(run_id, error) from None

    async def status(self, run_id: str) -> RunStatus:
        """Where the run stands. Needs a live worker of the agents' pool."""
        handle = self.temporal.get_workflow_handle(run_id)
        try:
            status: RunStatus = await handle.query(names.STATUS_QUERY, result_type=RunStatus)
        except RPCError as error:
            raise _about(run_id, error) from None
        return status

    async def result(self, run_id: str) -> RunResult:
        """Wait for the end. A failed run is a result too: outcome `failed`, with the reason.

        A Temporal that is away for less than two minutes is waited for.

        Raises:
            UnknownRun: there is none of that id.
            Unreachable: Temporal does not answer.
        """
        try:
            return await _patiently(lambda: self.handle(run_id).result())
        except WorkflowFailureError as error:
            cause = error.cause
            reason = cause.message if isinstance(cause, ApplicationError) else str(cause)
            kind = cause.type if isinstance(cause, ApplicationError) else type(cause).__name__
            return RunResult(outcome=Outcome.FAILED, answer="", reason=f"{kind}: {reason}")
        except RPCError as error:
            raise _about(run_id, error) from None

    async def stop(self, run_id: str, reason: str) -> None:
        """Ask the run to finish soon.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already.
        """
        info = await self.info(run_id)
        if info.closed_at is not None:
            raise BadInput(f"run {run_id!r} has ended already ({info.state})")
        try:
            await self.temporal.get_workflow_handle(run_id).signal(names.STOP_SIGNAL, reason)
        except RPCError as error:
            raise _about(run_id, error) from None


async def _info(execution: WorkflowExecution) -> RunInfo:
    memo = await execution.memo()
    return RunInfo(
        id=execution.id,
        agent=str(memo.get(names.AGENT_MEMO, "")),
        goal=str(memo.get(names.GOAL_MEMO, "")),
        state=execution.status.name.lower() if isinstance(execution.status, WorkflowExecutionStatus) else "unknown",
        started_at=execution.start_time,
        closed_at=execution.close_time,
    )


async def _patiently(call: Callable[[], Awaitable[RunResult]]) -> RunResult:
    """Repeat a call that waits for long while Temporal is away."""
    loop = asyncio.get_running_loop()
    lost_at: float | None = None
    while True:
        began = loop.time()
        try:
            return await call()
        except RPCError as error:
            if error.status is not RPCStatusCode.UNAVAILABLE:
                raise
            failed_at = loop.time()
            # the SDK itself tries for ten seconds: a call that took longer had been answered
            if lost_at is None or failed_at - began > 2 * _SDK_PATIENCE_S:
                lost_at = failed_at
            if failed_at - lost_at > PATIENCE_S:
                raise
            await asyncio.sleep(1)


def _about(run_id: str, error: RPCError) -> Exception:
    if error.status is RPCStatusCode.NOT_FOUND:
        return UnknownRun(f"no run {run_id!r}: `fleet ps` lists them")
    return _unreachable(error)


def _unreachable(error: RPCError) -> Unreachable:
    return Unreachable(f"Temporal: {error.message}")
