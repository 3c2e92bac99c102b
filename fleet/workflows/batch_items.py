"""One item of a batch: a call, a run or an effect, and how it has ended."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

from fleet import attributes, policy, starting, templates
from fleet.contracts import names
from fleet.contracts.approvals import digest
from fleet.contracts.batch import (
    BATCH_WATCH,
    BatchInput,
    BatchItem,
    Ended,
    ItemOutcome,
    ItemResult,
    Watch,
    Watched,
    WorkKind,
)
from fleet.contracts.effects import EffectRequest, EffectState
from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role
from fleet.contracts.runs import RULES, Outcome, RunInput, ToolBinding
from fleet.contracts.tools import LLM_CHAT, ToolRequest, ToolResult
from fleet.errors import BadInput
from fleet.workflows import calling

R = TypeVar("R")

ITEM_WITHIN: Final = timedelta(days=30)
"""All attempts and waits of one effect."""
_RETRY: Final = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))
_LONGEST_ERROR: Final = 1000


class Withdrawn(Exception):
    """The item was not done, and nothing has failed: it is still to do."""

    def __init__(self, pause: str = "") -> None:
        super().__init__(pause)
        self.pause = pause
        """Why nothing else may begin either; empty: because the batch ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How one attempt has ended."""

    outcome: ItemOutcome
    result: Any = None
    error: str = ""
    run: str = ""
    hopeless: bool = False
    """Another attempt would end alike."""

    def ended(self, number: int, attempt: int) -> ItemResult:
        """As the item's end."""
        return ItemResult(
            number=number,
            outcome=self.outcome,
            attempts=attempt,
            error=self.error[:_LONGEST_ERROR],
            result=self.result,
            run=self.run,
        )


@dataclass(slots=True)
class Ends:
    """Ends of runs that are no children of this execution, waited for by one activity at a time."""

    batch: BatchInput
    awaited: set[str] = field(default_factory=set)
    ended: dict[str, Ended] = field(default_factory=dict)

    async def of(self, run: str) -> Ended:
        """Wait for the end of a run."""
        self.awaited.add(run)
        await workflow.wait_condition(lambda: run in self.ended)
        return self.ended.pop(run)

    async def watch(self) -> None:
        """Look for ends for as long as the workflow goes on."""
        while True:
            await workflow.wait_condition(lambda: bool(self.awaited))
            found = await workflow.execute_activity(
                BATCH_WATCH.name,
                Watch(runs=sorted(self.awaited)),
                result_type=Watched,
                task_queue=self.batch.task_queue,
                start_to_close_timeout=timedelta(minutes=5),
                heartbeat_timeout=timedelta(seconds=20),
                retry_policy=_RETRY,
                summary=f"watch {len(self.awaited)} runs",
            )
            for one in found.ended:
                self.awaited.discard(one.run)
                self.ended[one.run] = one


class Items:
    """Has items done."""

    def __init__(self, batch: BatchInput, ends: Ends, stopped: Callable[[], str | None]) -> None:
        """Args:
        batch: whose items.
        ends: of runs that an earlier execution has begun.
        stopped: why the batch ends; None while it goes on.
        """
        self._batch = batch
        self._work = batch.work
        self._ends = ends
        self._stopped = stopped
        self._chain = workflow.info().first_execution_run_id[:8]
        self.starting: set[int] = set()
        """Items whose run is being started: until it has, nobody else could wait for its end."""

    @property
    def apart(self) -> bool:
        """Items are workflows of their own, which outlive the execution that has begun them."""
        return self._work.kind is WorkKind.AGENT or (self._work.tool is not None and self._work.tool.effect)

    def run_of(self, number: int, attempt: int) -> str:
        """Id of the workflow that an item is."""
        if self._work.kind is WorkKind.AGENT:
            return names.item_run(self._batch.batch, number, attempt)
        return names.effect_key(self._batch.batch, str(number))

    async def have(self, item: BatchItem, attempt: int) -> Tried:
        """One attempt.

        Raises:
            Withdrawn: it is still to do.
        """
        try:
            match self._work.kind:
                case WorkKind.AGENT:
                    return await self._agent(item, attempt)
                case WorkKind.TOOL:
                    assert self._work.tool is not None
                    if self._work.tool.effect:
                        return await self._effect(self._work.tool, item)
                    return await self._tool(self._work.tool, item, attempt)
                case WorkKind.MODEL:
                    return await self._model(item, attempt)
        except BadInput as bad:
            return Tried(outcome=ItemOutcome.FAILED, error=str(bad), hopeless=True)
        finally:
            self.starting.discard(item.number)

    async def end_of(self, number: int, attempt: int) -> Tried:
        """The end of an attempt that an earlier execution has begun."""
        run = self.run_of(number, attempt)
        return self._told(await self._ends.of(run))

    async def stop(self, number: int, attempt: int, reason: str) -> None:
        """Ask an item's workflow to end."""
        run = workflow.get_external_workflow_handle(self.run_of(number, attempt))
        try:
            if self._work.kind is WorkKind.AGENT:
                await run.signal(names.STOP_SIGNAL, reason)
            else:
                await run.cancel()
        except FailureError:
            return  # it has ended meanwhile

    async def _tool(self, tool: ToolBinding, item: BatchItem, attempt: int) -> Tried:
        request = ToolRequest(
            tool=tool.spec.name,
            call_id=str(item.number),
            arguments=item.input,
            step=str(item.number),
            max_failures=self._work.policy.max_failures,
            run_id=self._batch.batch,
            tenant=self._batch.tenant,
        )
        answer = await self._call(tool.activity, request, ToolResult, tool.task_queue, item, attempt)
        if isinstance(answer, Tried):
            return answer
        if answer.error:
            return Tried(outcome=ItemOutcome.FAILED, error=answer.content)
        return Tried(outcome=ItemOutcome.DONE, result=_json(answer.content))

    async def _model(self, item: BatchItem, attempt: int) -> Tried:
        request = ChatRequest(
            model=self._work.model,
            messages=[Message(role=Role.USER, content=templates.render(self._work.template, item.input))],
            max_output_tokens=self._work.max_output_tokens,
            max_failures=self._work.policy.max_failures,
            role="batch",
        )
        answer = await self._call(LLM_CHAT.name, request, ChatResult, self._work.task_queue, item, attempt)
        if isinstance(answer, Tried):
            return answer
        told = {
            "answer": answer.message.content,
            "tokens": answer.usage.total_tokens,
            "finish_reason": answer.finish_reason,
        }
        return Tried(outcome=ItemOutcome.DONE, result=told)

    async def _call(
        self, activity: str, request: Any, result: type[R], queue: str, item: BatchItem, attempt: int
    ) -> R | Tried:
        limits = policy.timeouts(self._work.policy, ITEM_WITHIN.total_seconds())
        while True:
            handle: workflow.ActivityHandle[R] = workflow.start_activity(
                activity,
                request,
                result_type=result,
                task_queue=queue,
                # places in line are kept by it: an execution counts its own from 1 again
                activity_id=f"{item.number}-{attempt}-{self._chain}",
                # without schedule_to_close: a quota that is short for days fails no item
                start_to_close_timeout=limits.start_to_close,
                heartbeat_timeout=limits.heartbeat,
                retry_policy=_RETRY,
                cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
                priority=Priority(
                    # each is something new: runs in flight come first
                    priority_key=self._batch.priority + 1,
                    fairness_key=self._batch.tenant,
                    fairness_weight=self._batch.weight,
                ),
            )
            try:
                return await handle
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise Withdrawn from None
                kind, reason = calling.kind(error), calling.reason(error)
                if kind in (names.FailureType.BUDGET_EXHAUSTED, names.FailureType.QUOTA_EXHAUSTED):
                    # so it would be for all that are left
                    raise Withdrawn(reason) from None
                if kind in names.WAITS:
                    continue
                return Tried(outcome=ItemOutcome.FAILED, error=f"{kind}: {reason}", hopeless=_hopeless(error))

    async def _agent(self, item: BatchItem, attempt: int) -> Tried:
        assert self._work.agent is not None
        run = RunInput(
            agent=self._work.agent,
            goal=templates.render(self._work.template, item.input),
            tenant=self._batch.tenant,
            priority=self._batch.priority,
            weight=self._batch.weight,
            door=self._batch.door,
            rules=RULES,
        )
        if not run.goal.strip():
            raise BadInput("the goal is empty")
        run_id = self.run_of(item.number, attempt)
        return await self._child(
            names.AGENT_WORKFLOW,
            run,
            run_id,
            item.number,
            # whatever has begun it: another run under its id would have its effects again
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            search_attributes=attributes.of_run(run),
            **starting.told(run),
        )

    async def _effect(self, tool: ToolBinding, item: BatchItem) -> Tried:
        name = tool.spec.name
        request = EffectRequest(
            key=self.run_of(item.number, 1),
            tool=name,
            activity=tool.activity,
            arguments=item.input,
            # another batch under this id must not find its effects done
            digest=f"{digest(name, item.input)}@{self._batch.token[:8]}",
            run_id=self._batch.batch,
            agent="",
            tenant=self._batch.tenant,
            policy=self._work.policy,
            deadline_s=ITEM_WITHIN.total_seconds(),
            priority=self._batch.priority,
            weight=self._batch.weight,
        )
        return await self._child(
            names.EFFECT_WORKFLOW,
            request,
            request.key,
            item.number,
            task_queue=tool.task_queue,
            # the ledger, not the id, keeps it from happening twice
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            priority=Priority(
                priority_key=self._batch.priority, fairness_key=self._batch.tenant, fairness_weight=self._batch.weight
            ),
        )

    async def _child(self, kind: str, request: Any, run: str, number: int, **options: Any) -> Tried:
        try:
            handle = await workflow.start_child_workflow(
                kind,
                request,
                id=run,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                **options,
            )
        except WorkflowAlreadyStartedError:
            self.starting.discard(number)
            return self._told(await self._ends.of(run))
        self.starting.discard(number)
        try:
            return self._told(Ended(run=run, result=await handle))
        except ChildWorkflowError as error:
            return self._told(Ended(run=run, error=str(error.cause or error)))

    def _told(self, end: Ended) -> Tried:
        if end.result is None:
            return Tried(outcome=ItemOutcome.FAILED, error=end.error, run=end.run)
        found = end.result
        if self._work.kind is WorkKind.AGENT:
            return _of_run(end.run, found)
        state, reason = EffectState(found["state"]), str(found.get("reason", ""))
        if state is EffectState.DONE:
            had = {"evidence": found.get("evidence", {}), "answer": _json(str(found.get("content", "")))}
            return Tried(outcome=ItemOutcome.DONE, result=had, run=end.run)
        if self._stopped() is not None and state is EffectState.FAILED:
            raise Withdrawn
        outcome = ItemOutcome.UNKNOWN if state is EffectState.UNKNOWN else ItemOutcome.FAILED
        return Tried(outcome=outcome, error=reason, run=end.run)


def _of_run(run: str, found: dict[str, Any]) -> Tried:
    outcome, reason = Outcome(found["outcome"]), str(found.get("reason", ""))
    used = {name: found[name] for name in ("answer", "steps", "tokens", "cost") if name in found}
    match outcome:
        case Outcome.COMPLETED:
            return Tried(outcome=ItemOutcome.DONE, result=used, run=run)
        case Outcome.STOPPED:
            return Tried(outcome=ItemOutcome.STOPPED, result=used, error=reason, run=run, hopeless=True)
        case _:
            return Tried(outcome=ItemOutcome.FAILED, result=used, error=f"{outcome.value}: {reason}", run=run)


def _hopeless(error: ActivityError) -> bool:
    """Whether the provider would refuse the same call again."""
    return calling.kind(error) in (
        names.FailureType.BAD_REQUEST, names.FailureType.TOOL_FAILED, names.FailureType.PROVIDER_REFUSED,
    )  # fmt: skip


def _json(text: str) -> Any:
    """What a tool answered; as text where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
