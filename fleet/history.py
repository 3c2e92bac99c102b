"""Reading a run's event history back as a story."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from fleet.contracts import names
from fleet.contracts.approvals import ApprovalEvent, Verdict
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.runs import RunInput, RunResult
from fleet.contracts.tools import APPROVAL_NOTIFY, APPROVAL_RECORD, MEMORY_KEEP, STUBS, ToolRequest, ToolResult

_STUBS = {stub.name: stub for stub in STUBS}
_ASIDE = frozenset({APPROVAL_RECORD.name, APPROVAL_NOTIFY.name, MEMORY_KEEP.name})
"""Activities that are told as notes, or not at all: no steps of the agent's."""
_SAID: dict[str, type] = {names.DECIDE_SIGNAL: Verdict}
"""What signals carry, where it is not text."""


@dataclass(slots=True, kw_only=True)
class Step:
    """One call of a model or a tool, or one effect, from its scheduling to its end."""

    number: int
    what: str
    """Name of the activity; of an effect, of the one that has it."""
    task_queue: str
    request: ChatRequest | ToolRequest | EffectRequest | None
    scheduled_at: datetime
    started_at: datetime | None = None
    """Start of the last attempt."""
    ended_at: datetime | None = None
    attempts: int = 0
    outcome: str = "pending"
    """`pending`, `completed`, `failed`, `timed out` or `cancelled`."""
    failure: str = ""
    """Why it failed, or why the attempt before the last one did."""
    result: ChatResult | ToolResult | EffectResult | None = None
    worker: str = ""

    @property
    def duration_s(self) -> float | None:
        """Seconds from scheduling to end, waits and retries included."""
        return None if self.ended_at is None else (self.ended_at - self.scheduled_at).total_seconds()

    @property
    def quota_wait_s(self) -> float:
        """Seconds of it spent in line for quota."""
        use = self.result.quota if self.result else None
        return use.waited_s if use else 0.0


@dataclass(slots=True, kw_only=True)
class Story:
    """A run from beginning to end."""

    run_id: str
    run: RunInput | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    state: str = "running"
    failure: str = ""
    steps: list[Step] = field(default_factory=list)
    notes: list[tuple[datetime, str]] = field(default_factory=list)
    """What reached the run, and what became of what it asked humans."""
    result: RunResult | None = None


async def story(history: WorkflowHistory, converter: DataConverter) -> Story:
    """Tell the history. Understands every run of `AgentWorkflow`, finished or not."""
    told = Story(run_id=history.workflow_id)
    steps: dict[int, Step] = {}
    for event in history.events:
        if not (await _of_effect(event, told, steps, converter) or await _of_humans(event, told, converter)):
            await _tell(event, told, steps, converter)
    return told


async def _tell(event: HistoryEvent, told: Story, steps: dict[int, Step], converter: DataConverter) -> None:
    at = event.event_time.ToDatetime(tzinfo=UTC)
    match event.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            told.started_at = at
            told.run = await _decode(
                converter, event.workflow_execution_started_event_attributes.input.payloads, RunInput
            )
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            step = await _scheduled(event, at, len(told.steps) + 1, converter)
            steps[event.event_id] = step
            if step.what not in _ASIDE:
                told.steps.append(step)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            started = event.activity_task_started_event_attributes
            step = steps[started.scheduled_event_id]
            step.started_at, step.attempts, step.worker = at, started.attempt, started.identity
            step.failure = _reason(started.last_failure)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            step = steps[completed.scheduled_event_id]
            step.ended_at, step.outcome = at, "completed"
            stub = _STUBS.get(step.what)
            if stub is not None and step.what not in _ASIDE:
                step.result = await _decode(converter, completed.result.payloads, stub.result)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            _end(steps[failed.scheduled_event_id], at, "failed", _reason(failed.failure))
        case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            timed_out = event.activity_task_timed_out_event_attributes
            _end(steps[timed_out.scheduled_event_id], at, "timed out", _reason(timed_out.failure))
        case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            _end(steps[event.activity_task_canceled_event_attributes.scheduled_event_id], at, "cancelled", "")
        case _:
            await _ending(event, at, told, converter)


async def _of_effect(event: HistoryEvent, told: Story, steps: dict[int, Step], converter: DataConverter) -> bool:
    """Effects are child workflows. True: the event was of one."""
    at = event.event_time.ToDatetime(tzinfo=UTC)
    aside = Step(number=0, what="", task_queue="", request=None, scheduled_at=at)  # those that are no step
    match event.event_type:
        case EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
            begun = event.start_child_workflow_execution_initiated_event_attributes
            request: EffectRequest = await _decode(converter, begun.input.payloads, EffectRequest)
            if request.key.startswith(names.ending_key(request.run_id, "")):
                # nobody waits for it: its own ledger row tells its end
                told.notes.append((at, f"tells {request.arguments.get('endpoint')} that the run has ended"))
                return True
            step = Step(
                number=len(told.steps) + 1,
                what=request.activity,
                task_queue=begun.task_queue.name,
                request=request,
                scheduled_at=at,
            )
            told.steps.append(step)
            steps[event.event_id] = step
        case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            started = event.child_workflow_execution_started_event_attributes
            step = steps.get(started.initiated_event_id, aside)
            step.started_at, step.attempts = at, 1
        case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED:
            completed = event.child_workflow_execution_completed_event_attributes
            step = steps.get(completed.initiated_event_id, aside)
            had: EffectResult = await _decode(converter, completed.result.payloads, EffectResult)
            step.result = had
            _end(step, at, had.state.value, had.reason)
        case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED:
            failed = event.child_workflow_execution_failed_event_attributes
            _end(steps.get(failed.initiated_event_id, aside), at, "failed", _reason(failed.failure))
        case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED:
            cancelled = event.child_workflow_execution_canceled_event_attributes
            _end(steps.get(cancelled.initiated_event_id, aside), at, "cancelled", "")
        case EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED:
            terminated = event.child_workflow_execution_terminated_event_attributes
            _end(steps.get(terminated.initiated_event_id, aside), at, "terminated", "")
        case _:
            return False
    return True


async def _of_humans(event: HistoryEvent, told: Story, converter: DataConverter) -> bool:
    """What people have said, and what became of questions to them. True: the event was of these."""
    at = event.event_time.ToDatetime(tzinfo=UTC)
    match event.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            signaled = event.workflow_execution_signaled_event_attributes
            kind = _SAID.get(signaled.signal_name, str)
            said = await _decode(converter, signaled.input.payloads, kind)
            shown = _verdict(said) if isinstance(said, Verdict) else said
            told.notes.append((at, f"signal {signaled.signal_name}: {shown}"))
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            asked = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
            verdict = await _decode(converter, asked.args.payloads, Verdict)
            told.notes.append((at, f"{asked.name}: {_verdict(verdict)}"))
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == APPROVAL_RECORD.name:
                happened: ApprovalEvent = await _decode(converter, scheduled.input.payloads, ApprovalEvent)
                if happened.vote is None or happened.what == "refused":
                    why = happened.detail or happened.approval.reason or happened.approval.why
                    told.notes.append((at, f"approval {happened.approval.id} {happened.what}: {why}"))
            return False
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            told.notes.append((at, "cancel requested"))
        case _:
            return False
    return True


def _verdict(verdict: Verdict) -> str:
    said = f": {verdict.comment}" if verdict.comment else ""
    return f"{verdict.by} says {verdict.decision.value} to {verdict.approval_id} ({verdict.channel}){said}"


async def _ending(event: HistoryEvent, at: datetime, told: Story, converter: DataConverter) -> None:
    match event.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            result = event.workflow_execution_completed_event_attributes.result.payloads
            told.result = await _decode(converter, result, RunResult)
            told.state = told.result.outcome.value if told.result else "completed"
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            told.state = "failed"
            told.failure = _reason(event.workflow_execution_failed_event_attributes.failure)
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            told.state = "cancelled"
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            told.state = "terminated"
            told.failure = event.workflow_execution_terminated_event_attributes.reason
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
            told.state = "timed out"
        case _:
            return
    told.ended_at = at


async def _scheduled(event: HistoryEvent, at: datetime, number: int, converter: DataConverter) -> Step:
    scheduled = event.activity_task_scheduled_event_attributes
    name = scheduled.activity_type.name
    stub = None if name in _ASIDE else _STUBS.get(name)
    return Step(
        number=number,
        what=name,
        task_queue=scheduled.task_queue.name,
        request=await _decode(converter, scheduled.input.payloads, stub.request) if stub else None,
        scheduled_at=at,
    )


def _end(step: Step, at: datetime, outcome: str, failure: str) -> None:
    step.ended_at, step.outcome, step.failure = at, outcome, failure or step.failure


async def _decode(converter: DataConverter, payloads: Sequence[Payload], kind: type) -> Any:
    if not payloads:
        return None
    return (await converter.decode(payloads, [kind]))[0]


def _reason(failure: Failure) -> str:
    while failure.HasField("cause"):
        failure = failure.cause
    kind = failure.application_failure_info.type
    return f"{kind}: {failure.message}" if kind else failure.message
