"""Batches: what is done with each of many inputs, which inputs fit, and the one client that starts and steers them."""

import json
import re
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.converter import value_to_type
from temporalio.service import RPCError, RPCStatusCode

from fleet import agents, attributes, documents, templates
from fleet.arguments import problems
from fleet.contracts import names
from fleet.contracts.batch import (
    AGAIN_SIGNAL,
    MOST_ITEM,
    MOST_WINDOW,
    RESULTS_QUERY,
    WINDOW,
    WINDOW_SIGNAL,
    BatchInput,
    BatchStatus,
    FailurePolicy,
    ItemResult,
    OnFailure,
    Work,
    WorkKind,
)
from fleet.contracts.runs import LAST_PRIORITY, ToolBinding
from fleet.contracts.tools import TOOLS
from fleet.errors import BadInput, Unreachable
from fleet.manifest import Manifest
from fleet.rates import NAME
from fleet.tables import AGENTS_POOL, LLM_POOL, MEMORY_POOL

T = TypeVar("T")

BATCH_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a batch may be called: it becomes part of the ids of its runs and the keys of its effects."""
MOST_RETRIES: Final = 100
_MODEL: Final = re.compile(r"[^/\s]+/\S+")


def agent_work(manifest: Manifest, agent: str, goal: str) -> Work:
    """A run of the agent for each item, as the manifest has it now.

    Raises:
        BadInput: there is no such agent, or the goal is no template.
    """
    _template(goal, "--goal")
    return Work(kind=WorkKind.AGENT, agent=agents.definition(manifest, agent), template=goal)


def tool_work(manifest: Manifest, tool: str) -> Work:
    """A call of the tool for each item, which is its arguments.

    Raises:
        BadInput: there is no such tool, or nobody could be asked about it.
    """
    contract = TOOLS.get(tool)
    usable = sorted(n for n, c in TOOLS.items() if not c.guarded and c.stub.pool != MEMORY_POOL)
    if contract is None:
        raise BadInput(f"unknown tool {tool!r}; a batch can call: {', '.join(usable)}")
    if contract.guarded:
        raise BadInput(
            f"{tool} moves money, and nobody is asked in a batch of tools: use --agent, whose rules are asked"
        )
    if contract.stub.pool == MEMORY_POOL:
        raise BadInput(f"{tool} is of an agent's memory: use --agent; a batch can call: {', '.join(usable)}")
    if contract.stub.pool not in manifest.pools:
        raise BadInput(f"{tool} has no [pools.{contract.stub.pool}] in the manifest")
    binding = ToolBinding(
        spec=contract.spec,
        activity=contract.stub.name,
        task_queue=manifest.task_queue(contract.stub.pool),
        effect=contract.effect,
        finds=contract.finds,
        lists=contract.lists,
    )
    return Work(kind=WorkKind.TOOL, tool=binding)


def model_work(manifest: Manifest, model: str, prompt: str, *, max_output_tokens: int = 1024) -> Work:
    """A call of the model for each item.

    Raises:
        BadInput: the manifest has no such provider, or the prompt is no template.
    """
    _template(prompt, "--prompt")
    provider = manifest.providers.get(model.partition("/")[0])
    if not _MODEL.fullmatch(model) or provider is None or provider.kind not in ("openai", "anthropic"):
        raise BadInput(f"model {model!r}: must be provider/model, of a provider of kind openai or anthropic")
    if LLM_POOL not in manifest.pools:
        raise BadInput(f"the manifest has no [pools.{LLM_POOL}]")
    return Work(
        kind=WorkKind.MODEL,
        model=model,
        template=prompt,
        task_queue=manifest.task_queue(LLM_POOL),
        max_output_tokens=max_output_tokens,
    )


def checked(work: Work, line: str) -> dict[str, Any]:
    """One input, from its line of JSON, fit for the work.

    Raises:
        BadInput: what is wrong with it.
    """
    try:
        item = json.loads(line, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not JSON: {error}") from None
    if not isinstance(item, dict):
        raise BadInput(f"must be a JSON object, is {line.strip()[:40]!r}")
    return fit(work, item)


def fit(work: Work, item: dict[str, Any]) -> dict[str, Any]:
    """The input, if the work can be done with it.

    Raises:
        BadInput: a field is missing, an argument is wrong, or it is too large.
    """
    size = len(json.dumps(item))
    if size > MOST_ITEM:
        raise BadInput(f"has {size} bytes as JSON; {MOST_ITEM} are the most: name the document instead of quoting it")
    if work.tool is not None:
        wrong = problems(work.tool, item)
        if wrong is not None:
            raise BadInput(wrong)
    elif not templates.render(work.template, item).strip():
        raise BadInput(f"leaves the template {work.template[:80]!r} empty")
    return item


def failure_policy(on_failure: str, most: str, *, total: int) -> FailurePolicy:
    """What failed items mean, from the words of a command.

    Args:
        on_failure: `skip`, `stop` or `retry=N`.
        most: a number, a share as `5%` of all items, or `any`.
        total: items of the batch.

    Raises:
        BadInput: they are none of these.
    """
    then, retries = OnFailure.SKIP, 0
    word, _, count = on_failure.partition("=")
    if word == "retry" and count.isdigit() and 1 <= int(count) <= MOST_RETRIES:
        retries = int(count)
    elif on_failure == "stop":
        then = OnFailure.STOP
    elif on_failure != "skip":
        raise BadInput(f"--on-failure {on_failure!r}: must be skip, stop or retry=N with N from 1 to {MOST_RETRIES}")
    return FailurePolicy(then=then, retries=retries, most=_most(most, total))


def _most(text: str, total: int) -> int | None:
    if text == "any":
        return None
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", text)
    if share and float(share[1]) <= 100:
        return int(total * float(share[1]) / 100)
    raise BadInput(f"--max-failures {text!r}: must be a number, a share of all items as 5%, or any")


def batch_input(
    manifest: Manifest,
    batch: str,
    work: Work,
    *,
    token: str,
    tenant: str = "default",
    priority: int = LAST_PRIORITY,
    window: int = WINDOW,
    failures: FailurePolicy | None = None,
) -> BatchInput:
    """The input of a batch.

    Raises:
        BadInput: an id, tenant, priority or window that cannot be.
    """
    if not BATCH_ID.fullmatch(batch):
        raise BadInput(f"batch id {batch[:80]!r}: must be letters, digits, _ . -, at most 100")
    if not NAME.fullmatch(tenant):
        raise BadInput(f"tenant {tenant!r}: must be letters, digits, _ . : -, at most 64")
    if not 1 <= priority <= LAST_PRIORITY:
        raise BadInput(f"priority {priority} is not between 1 (first) and {LAST_PRIORITY}")
    if not 1 <= window <= MOST_WINDOW:
        raise BadInput(f"a window of {window} items: must be from 1 to {MOST_WINDOW}")
    return BatchInput(
        batch=batch,
        token=token,
        work=work,
        # behind no quota; the pool `agents` has a door
        task_queue=manifest.task_queue(MEMORY_POOL if MEMORY_POOL in manifest.pools else AGENTS_POOL),
        tenant=tenant,
        priority=priority,
        weight=manifest.weight(tenant),
        door=manifest.max_active is not None,
        window=window,
        failures=failures or FailurePolicy(),
    )


def stored(batch: BatchInput) -> dict[str, Any]:
    """The input as JSON, for the database."""
    found = documents.plain(batch)
    assert isinstance(found, dict)
    return found


def restored(found: Mapping[str, Any]) -> BatchInput:
    """The input that was stored."""
    batch: BatchInput = value_to_type(BatchInput, dict(found))
    return batch


def described(work: Work) -> str:
    """What is done, in a few words."""
    match work.kind:
        case WorkKind.AGENT:
            return f"agent {work.agent.name if work.agent else ''}: {work.template}"
        case WorkKind.TOOL:
            return f"tool {work.tool.spec.name if work.tool else ''}"
        case WorkKind.MODEL:
            return f"{work.model}: {work.template}"


class BatchClient:
    """Batches over one Temporal connection."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self.temporal = client
        self._manifest = manifest

    async def start(self, batch: BatchInput) -> None:
        """Start the batch, or have the one that runs look again for what is to do.

        Raises:
            BadInput: a run bears the id.
        """
        found = await self._described(batch.batch)
        if found is not None and found.workflow_type != names.BATCH_WORKFLOW:
            raise BadInput(f"{batch.batch!r} is a run: choose another id for the batch")
        work = batch.work
        model = work.agent.model if work.agent else work.model
        attribute = {attributes.AGENT: work.agent.name if work.agent else "", attributes.TENANT: batch.tenant}
        attribute[attributes.MODEL] = model
        try:
            await self.temporal.start_workflow(
                names.BATCH_WORKFLOW,
                batch,
                id=batch.batch,
                task_queue=self._manifest.task_queue(AGENTS_POOL),
                # what was done is in the database: an earlier end does no harm
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                start_signal=AGAIN_SIGNAL,
                memo={names.TENANT_MEMO: batch.tenant, names.GOAL_MEMO: described(work)[:500]},
                static_summary=f"batch: {described(work)}"[:200],
                priority=Priority(priority_key=batch.priority, fairness_key=batch.tenant, fairness_weight=batch.weight),
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(key, value) for key, value in attribute.items() if value]
                ),
            )
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT and "earch attribute" in error.message:
                raise BadInput(f"Temporal: {error.message}: run `fleet init` once for this namespace") from None
            raise Unreachable(f"Temporal: {error.message}") from None

    async def running(self, batch: str) -> bool:
        """Whether its workflow goes on."""
        found = await self._described(batch)
        return found is not None and found.status is WorkflowExecutionStatus.RUNNING

    async def state(self, batch: str) -> str:
        """`running` or how its workflow closed, in Temporal's words; empty where it knows none."""
        found = await self._described(batch)
        return found.status.name.lower() if found is not None and found.status is not None else ""

    async def status(self, batch: str) -> BatchStatus:
        """Where it stands. Needs a live worker of the agents' pool.

        Raises:
            BadInput: there is no such batch.
        """
        handle = self.temporal.get_workflow_handle(batch)
        found: BatchStatus = await self._about(batch, handle.query(names.STATUS_QUERY, result_type=BatchStatus))
        return found

    async def latest(self, batch: str) -> list[ItemResult]:
        """Its last results, newest first, shortened. Needs a live worker of the agents' pool.

        Raises:
            BadInput: there is no such batch.
        """
        handle = self.temporal.get_workflow_handle(batch)
        found: list[ItemResult] = await self._about(batch, handle.query(RESULTS_QUERY, result_type=list[ItemResult]))
        return found

    async def result(self, batch: str) -> BatchStatus:
        """Wait for its end.

        Raises:
            BadInput: there is no such batch, or it was cancelled, terminated or has failed.
        """
        handle = self.temporal.get_workflow_handle(batch, result_type=BatchStatus)
        try:
            found: BatchStatus = await self._about(batch, handle.result())
        except WorkflowFailureError as error:
            cause = getattr(error.cause, "message", "") or str(error.cause)
            raise BadInput(
                f"batch {batch!r} has ended without a result: {cause}; `fleet batch resume` goes on"
            ) from None
        return found

    async def pause(self, batch: str, reason: str) -> None:
        """Let it begin nothing new."""
        await self._signal(batch, names.PAUSE_SIGNAL, reason)

    async def resume(self, batch: str, reason: str = "") -> None:
        """Let it go on."""
        await self._signal(batch, names.RESUME_SIGNAL, reason)

    async def stop(self, batch: str, reason: str) -> None:
        """End it soon; what has no result then is to do when it is resumed."""
        await self._signal(batch, names.STOP_SIGNAL, reason)

    async def window(self, batch: str, items: int) -> None:
        """Let so many items be in flight.

        Raises:
            BadInput: it is out of bounds.
        """
        if not 1 <= items <= MOST_WINDOW:
            raise BadInput(f"a window of {items} items: must be from 1 to {MOST_WINDOW}")
        await self._signal(batch, WINDOW_SIGNAL, items)

    async def _signal(self, batch: str, signal: str, argument: Any) -> None:
        if not await self.running(batch):
            raise BadInput(f"batch {batch!r} does not run: `fleet batch ls` lists them")
        await self._about(batch, self.temporal.get_workflow_handle(batch).signal(signal, argument))

    async def _described(self, batch: str) -> WorkflowExecutionDescription | None:
        try:
            return await self.temporal.get_workflow_handle(batch).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise Unreachable(f"Temporal: {error.message}") from None

    async def _about(self, batch: str, call: Awaitable[T]) -> T:
        try:
            return await call
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise BadInput(f"Temporal knows no batch {batch!r}: `fleet batch ls` lists them") from None
            raise Unreachable(f"Temporal: {error.message}") from None


def _template(text: str, option: str) -> None:
    if not text.strip():
        raise BadInput(f"{option} is empty: write a template, as 'Summarise {{title}}'")
    templates.fields(text)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
