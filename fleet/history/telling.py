"""From the events of a run's executions to its story."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from fleet import compaction
from fleet.codec import readable
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalEvent, Ask, Verdict
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult, Message
from fleet.contracts.runs import RunInput, RunResult
from fleet.contracts.tools import (
    APPROVAL_NOTIFY,
    APPROVAL_RECORD,
    DOOR_ENTER,
    MEMORY_KEEP,
    STUBS,
    ToolRequest,
)
from fleet.errors import BadInput
from fleet.history import clocks
from fleet.history.model import Execution, Question, Step, Story, Totals
from fleet.history.reading import Chain, Past

_STUBS = {stub.name: stub for stub in STUBS}
_ASIDE = frozenset({APPROVAL_RECORD.name, APPROVAL_NOTIFY.name, MEMORY_KEEP.name})
"""Activities that are told as notes, or not at all: no steps of the agent's."""
_SAID: dict[str, type] = {names.DECIDE_SIGNAL: Verdict}
"""What signals carry, where it is not text."""
_ENDS = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "completed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "failed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: "cancelled",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: "terminated",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: "timed out",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: "continued",
}


async def story(history: WorkflowHistory, converter: DataConverter) -> Story:
    """Tell one history. Understands every run of `AgentWorkflow`, finished or not."""
    past = Past(workflow_id=history.workflow_id, run_id=_run_id(history), events=list(history.events))
    return await of_chain(Chain(run_id=history.workflow_id, executions=[past]), converter)


async def of_chain(chain: Chain, converter: DataConverter) -> Story:
    """Tell a whole chain of executions, with the effects' own histories where they were read.

    Args:
        chain: of one run.
        converter: that reads its payloads.
    """
    teller = _Teller(chain.run_id, converter)
    teller.told.executions = [Execution(run_id=each, gone=True) for each in chain.gone]
    for past in chain.executions:
        await teller.execution(past)
    for step in teller.told.steps:
        if step.child is not None and (child := chain.children.get(step.child[1])) is not None:
            step.calls = await _calls(child, converter)
            # what the ledger was asked afterwards is no attempt of the effect
            step.attempts = max([step.attempts, *(call.attempts for call in step.calls)])
            failed = next((call for call in step.calls if call.failure), None)
            if failed is not None and not step.failure:
                step.failure, step.failure_type = failed.failure, failed.failure_type
    return teller.end(chain.read_at)


async def _calls(child: Past, converter: DataConverter) -> list[Step]:
    teller = _Teller(child.workflow_id, converter)
    await teller.execution(child)
    return teller.told.steps


class _Teller:
    """Reads events one after another; a chain's executions too."""

    def __init__(self, run_id: str, converter: DataConverter) -> None:
        self.told = Story(run_id=run_id)
        self._converter = converter
        self._steps: dict[int, Step] = {}
        self._questions: dict[str, Question] = {}
        self._named: Counter[str] = Counter()
        self._thought = 0
        """Calls of the model that have ended well: what the next one's number is counted from."""
        self._last: datetime | None = None
        self._messages: list[Message] = []
        """What the last call of a model was given."""

    async def execution(self, past: Past) -> None:
        """Tell the events of one execution."""
        self._steps = {}
        for event in past.events:
            at = _at(event)
            if not (await self._of_effect(event, at) or await self._of_humans(event, at)):
                await self._of_call(event, at)
                await self._of_run(event, at, past)
            self._last = at

    def end(self, now: datetime | None) -> Story:
        """The story, with what can be told only once all of it is known."""
        told = self.told
        if told.ended_at is None:
            told.read_at = now or self._last
        for step in told.steps:
            step.spans = clocks.of_step(step, told.ended_at or told.read_at)
            if isinstance(step.result, ChatResult):
                step.cost = f"{told.cost_of(step):f}"
        for question in told.questions:
            after = [
                s for s in told.steps
                if s.base == question.step.partition("-")[0] and s.scheduled_at >= question.approval.opened_at
            ]  # fmt: skip
            if after:
                after[0].asked.append(question)
        told.notes.sort(key=lambda note: note[0])
        told.time = clocks.of_run(told)
        return told

    async def _of_call(self, event: HistoryEvent, at: datetime) -> None:
        match event.event_type:
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                await self._scheduled(event, at)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                started = event.activity_task_started_event_attributes
                step = self._called(started.scheduled_event_id)
                step.started_at, step.attempts, step.worker = at, started.attempt, started.identity
                step.failure, step.failure_type = await self._reason(started.last_failure)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                completed = event.activity_task_completed_event_attributes
                step = self._called(completed.scheduled_event_id)
                step.ended_at, step.outcome = at, "completed"
                stub = _STUBS.get(step.what)
                if stub is not None and step.what not in _ASIDE:
                    step.result = await self._decode(completed.result.payloads, stub.result)
                self._thought += step.is_model
            case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
                failed = event.activity_task_failed_event_attributes
                await self._end(self._called(failed.scheduled_event_id), at, "failed", failed.failure)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
                timed_out = event.activity_task_timed_out_event_attributes
                await self._end(self._called(timed_out.scheduled_event_id), at, "timed out", timed_out.failure)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
                asked = event.activity_task_cancel_requested_event_attributes
                self._called(asked.scheduled_event_id).outcome = "cancel requested"
            case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
                canceled = event.activity_task_canceled_event_attributes
                await self._end(self._called(canceled.scheduled_event_id), at, "cancelled", None)

    def _called(self, event_id: int) -> Step:
        if event_id not in self._steps:
            raise self._broken(f"event {event_id}, a call's, is not there")
        return self._steps[event_id]

    async def _scheduled(self, event: HistoryEvent, at: datetime) -> None:
        scheduled = event.activity_task_scheduled_event_attributes
        name = scheduled.activity_type.name
        stub = None if name in _ASIDE else _STUBS.get(name)
        request = await self._decode(scheduled.input.payloads, stub.request) if stub else None
        step = self._step(event, at, name, scheduled.task_queue.name, request)
        step.task_event_id = scheduled.workflow_task_completed_event_id
        if isinstance(request, ChatRequest):
            self._share(request)
        if name not in _ASIDE:
            step.name = self._name(name, request)
            self.told.steps.append(step)

    def _share(self, request: ChatRequest) -> None:
        """Let calls of a conversation share what is the same: each call's record has all of it."""
        for i, (known, message) in enumerate(zip(self._messages, request.messages, strict=False)):
            if known != message:
                break
            request.messages[i] = known
        self._messages = request.messages

    async def _of_effect(self, event: HistoryEvent, at: datetime) -> bool:
        """Effects are child workflows. True: the event was of one."""
        aside = Step(number=0, what="", task_queue="", request=None, scheduled_at=at)  # those that are no step
        steps = self._steps
        match event.event_type:
            case EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
                await self._initiated(event, at)
            case EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED:
                refused = event.start_child_workflow_execution_failed_event_attributes
                step = steps.get(refused.initiated_event_id, aside)
                step.ended_at, step.outcome, step.failure = at, "failed", f"{refused.workflow_id} is under way already"
            case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
                started = event.child_workflow_execution_started_event_attributes
                step = steps.get(started.initiated_event_id, aside)
                step.started_at, step.attempts = at, 1
                step.child = (started.workflow_execution.workflow_id, started.workflow_execution.run_id)
            case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED:
                completed = event.child_workflow_execution_completed_event_attributes
                step = steps.get(completed.initiated_event_id, aside)
                had: EffectResult = await self._decode(completed.result.payloads, EffectResult)
                step.result, step.failure = had, had.reason
                await self._end(step, at, had.state.value, None)
            case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED:
                failed = event.child_workflow_execution_failed_event_attributes
                await self._end(steps.get(failed.initiated_event_id, aside), at, "failed", failed.failure)
            case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED:
                cancelled = event.child_workflow_execution_canceled_event_attributes
                await self._end(steps.get(cancelled.initiated_event_id, aside), at, "cancelled", None)
            case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED:
                terminated = event.child_workflow_execution_terminated_event_attributes
                await self._end(steps.get(terminated.initiated_event_id, aside), at, "terminated", None)
            case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT:
                late = event.child_workflow_execution_timed_out_event_attributes
                await self._end(steps.get(late.initiated_event_id, aside), at, "timed out", None)
            case _:
                return False
        return True

    async def _initiated(self, event: HistoryEvent, at: datetime) -> None:
        begun = event.start_child_workflow_execution_initiated_event_attributes
        request: EffectRequest = await self._decode(begun.input.payloads, EffectRequest)
        if request.key.startswith(names.ending_key(request.run_id, "")):
            # nobody waits for it: its own ledger row tells its end
            self.told.notes.append((at, f"tells {request.arguments.get('endpoint')} that the run has ended"))
            return
        step = self._step(event, at, request.activity, begun.task_queue.name, request)
        step.task_event_id = begun.workflow_task_completed_event_id
        step.name = self._name(request.activity, request)
        self.told.steps.append(step)

    def _step(self, event: HistoryEvent, at: datetime, what: str, queue: str, request: Any) -> Step:
        step = Step(
            number=len(self.told.steps) + 1,
            what=what,
            task_queue=queue,
            request=request,
            scheduled_at=at,
            execution=len(self.told.executions) - 1,
            event_id=event.event_id,
        )
        self._steps[event.event_id] = step
        return step

    def _name(self, what: str, request: Any) -> str:
        """The run's own name of what it begins."""
        match request:
            case ChatRequest(role=role) if role.endswith(compaction.SUFFIX):
                name = "compact"
            case ChatRequest():
                name = f"{self._thought + 1}"
            case ToolRequest(step=step):
                name = step
            case EffectRequest(key=key, run_id=run_id):
                name = key.removeprefix(names.effect_key(run_id, ""))
            case _:
                name = "door" if what == DOOR_ENTER else what
        self._named[name] += 1
        return name if self._named[name] == 1 else f"{name}-{self._named[name]}"

    async def _of_humans(self, event: HistoryEvent, at: datetime) -> bool:
        """What people have said, and what became of questions to them. True: the event was of these."""
        notes = self.told.notes
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                signaled = event.workflow_execution_signaled_event_attributes
                kind = _SAID.get(signaled.signal_name, str)
                said = await self._decode(signaled.input.payloads, kind)
                shown = _verdict(said) if isinstance(said, Verdict) else said
                notes.append((at, f"signal {signaled.signal_name}: {shown}"))
                self._paused(signaled.signal_name, at)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                asked = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
                if asked.name == names.DECIDE_UPDATE:
                    verdict = await self._decode(asked.args.payloads, Verdict)
                    notes.append((at, f"{asked.name}: {_verdict(verdict)}"))
                else:
                    notes.append((at, f"update {asked.name}"))
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled = event.activity_task_scheduled_event_attributes
                if scheduled.activity_type.name == APPROVAL_RECORD.name:
                    self._happened(await self._decode(scheduled.input.payloads, ApprovalEvent), at)
                return False
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
                notes.append((at, "cancel requested"))
            case _:
                return False
        return True

    def _paused(self, signal: str, at: datetime) -> None:
        pauses = self.told.pauses
        since = pauses[-1][0] if pauses and pauses[-1][1] is None else None
        if signal == names.PAUSE_SIGNAL and since is None:
            pauses.append((at, None))
        elif signal in (names.RESUME_SIGNAL, names.STOP_SIGNAL) and since is not None:
            pauses[-1] = (since, at)

    def _happened(self, happened: ApprovalEvent, at: datetime) -> None:
        approval = happened.approval
        question = self._questions.get(approval.id)
        if question is None:
            step = approval.id.removeprefix(f"{approval.run_id}/").removesuffix(f"/{Ask.SETTLE.value}")
            question = self._questions[approval.id] = Question(step=step, approval=approval)
            self.told.questions.append(question)
        question.approval = approval
        question.told.append((happened.at, happened.what))
        if happened.vote is None or happened.what == "refused":
            why = happened.detail or approval.reason or approval.why
            self.told.notes.append((at, f"approval {approval.id} {happened.what}: {why}"))

    async def _of_run(self, event: HistoryEvent, at: datetime, past: Past) -> None:
        told = self.told
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                await self._begun(event, at, past)
            case EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
                failed = event.workflow_task_failed_event_attributes
                if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
                    if self._last is not None:
                        told.resets.append((self._last, at))
                    told.notes.append((at, f"reset: {failed.failure.message}"))
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                result = event.workflow_execution_completed_event_attributes.result.payloads
                kind = RunResult if told.run is not None else EffectResult
                ended = await self._decode(result, kind)
                told.result = ended if isinstance(ended, RunResult) else None
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
                failure = event.workflow_execution_failed_event_attributes.failure
                told.failure = (await self._reason(failure))[0]
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
                told.failure = event.workflow_execution_terminated_event_attributes.reason
        if event.event_type in _ENDS:
            told.state = told.result.outcome.value if told.result else _ENDS[event.event_type]
            told.ended_at = at

    async def _begun(self, event: HistoryEvent, at: datetime, past: Past) -> None:
        told = self.told
        begun = event.workflow_execution_started_event_attributes
        link = Execution(run_id=past.run_id, events=len(past.events), started_at=at)
        told.executions.append(link)
        kind = begun.workflow_type.name
        if kind == names.EFFECT_WORKFLOW:
            return
        if kind != names.AGENT_WORKFLOW:
            raise BadInput(f"{past.workflow_id} is of {kind}, no run of an agent: its history is read with `temporal`")
        run: RunInput = await self._decode(begun.input.payloads, RunInput)
        if told.run is None:
            told.run, told.started_at = run, at
            carried = run.carried
            if carried is not None:
                # the executions before it are gone, or are not asked for
                told.started_at, told.untold = carried.began_at, (carried.began_at, at)
                told.before = Totals(steps=carried.steps, tokens=carried.tokens, cost=Decimal(carried.money))
                self._thought = carried.steps
        else:
            told.notes.append((at, f"continued as new, as execution {len(told.executions)}"))
            told.state, told.ended_at = "running", None

    async def _decode(self, payloads: Sequence[Payload], kind: type) -> Any:
        if not payloads and kind is str:
            return None  # a signal may have none
        with suppress(IndexError, KeyError, RuntimeError, ValueError):
            return (await self._converter.decode([payloads[0]], [kind]))[0]
        # what the SDK says would have the content in it
        raise self._broken(f"a payload is no {kind.__name__}")

    def _broken(self, why: str) -> BadInput:
        return BadInput(f"{self.told.run_id}: no whole history, or of another version: {why}")

    async def _end(self, step: Step, at: datetime, outcome: str, failure: Failure | None) -> None:
        step.ended_at, step.outcome = at, outcome
        if failure is not None and (said := await self._reason(failure))[0]:
            step.failure, step.failure_type = said

    async def _reason(self, failure: Failure) -> tuple[str, str]:
        """The innermost failure in words, and its type on the wire."""
        failure = await readable(failure, self._converter)
        while failure.HasField("cause"):
            failure = failure.cause
        kind = failure.application_failure_info.type
        return (f"{kind}: {failure.message}" if kind else failure.message), kind


def _verdict(verdict: Verdict) -> str:
    said = f": {verdict.comment}" if verdict.comment else ""
    return f"{verdict.by} says {verdict.decision.value} to {verdict.approval_id} ({verdict.channel}){said}"


def _at(event: HistoryEvent) -> datetime:
    return event.event_time.ToDatetime(tzinfo=UTC)


def _run_id(history: WorkflowHistory) -> str:
    first = history.events[0] if history.events else HistoryEvent()
    return first.workflow_execution_started_event_attributes.original_execution_run_id
