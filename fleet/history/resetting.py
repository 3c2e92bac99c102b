"""Running a run again from one of its steps.

Temporal keeps the history up to the workflow task that has scheduled the step and lets the workflow go on from there,
as a new execution under the same id. What comes after it is thrown away, but for what was said to the run, which is
said to it again. Effects keep their idempotency keys: the ledger answers for those that were had.
"""

from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from fleet.contracts import names
from fleet.contracts.effects import EffectRequest, EffectState
from fleet.errors import BadInput, Unreachable
from fleet.history.model import Step, Story
from fleet.history.reading import Chain

LONGEST_REASON: Final = 1000
"""Characters of why a run is reset: it goes into its history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a reset would do. Nothing is done yet."""

    run_id: str
    step: str
    execution: str
    """Temporal's id of the execution that is reset."""
    link: int
    """Which of the chain it is, from 1."""
    links: int
    """How many the chain has."""
    event_id: int
    """The workflow task that is done again."""
    running: bool
    """The newest execution is running: it is terminated."""
    again: list[Step] = field(default_factory=list)
    """Steps that are thrown away, and done again if the run comes to them."""
    had: list[Step] = field(default_factory=list)
    """Those of them that are effects the ledger knows as done: not had again if their arguments are the same."""
    void: list[str] = field(default_factory=list)
    """Approvals that are asked again, if the run comes to them."""
    signals: list[str] = field(default_factory=list)
    """What was said to the run after that point: said to it again, unless signals are dropped."""
    dropped: bool = False
    """Signals are dropped."""


def plan(told: Story, chain: Chain, name: str, *, drop_signals: bool = False) -> Plan:
    """Find where the step begins and what lies behind it.

    Args:
        told: the run's story.
        chain: it was told from.
        name: of the step. Those that were scheduled together with it are done again with it.
        drop_signals: what was said to the run after that point is forgotten.

    Raises:
        BadInput: there is no such step, the execution that holds it is gone, or the run would be stopped at once.
    """
    step = told.step(name)
    if step is None:
        there = ", ".join(each.name for each in told.steps) or "none"
        if chain.gone and name.partition(".")[0].isdecimal() and int(name.partition(".")[0]) <= told.before.steps:
            raise BadInput(
                f"step {name} of {told.run_id} is in an execution that is gone; those that are left: {there}"
            )
        raise BadInput(f"run {told.run_id} has no step {name!r} that can be run again; it has: {there}")
    gone = len(told.executions) - len(chain.executions)
    past = chain.executions[step.execution - gone]
    if not past.run_id:
        raise BadInput(f"the history of {told.run_id} does not tell its execution: reset a run, not a file")
    after = [
        each
        for each in told.steps
        if (each.execution, each.task_event_id) >= (step.execution, step.task_event_id) and each.what
    ]
    if not drop_signals and (stopped := _stop(chain, step, gone)):
        raise BadInput(
            f"{told.run_id} was asked to stop after step {name} ({stopped}), and would be again:"
            " --drop-signals forgets all that was said to it since"
        )
    begins = step.scheduled_at
    return Plan(
        run_id=told.run_id,
        step=name,
        execution=past.run_id,
        link=step.execution + 1,
        links=len(told.executions),
        event_id=step.task_event_id,
        running=told.ended_at is None,
        again=after,
        had=[
            each for each in after if isinstance(each.request, EffectRequest) and each.outcome == EffectState.DONE.value
        ],
        void=[q.approval.id for q in told.questions if q.approval.opened_at >= begins],
        signals=[what for at, what in told.notes if what.startswith("signal ") and at >= begins],
        dropped=drop_signals,
    )


def _stop(chain: Chain, step: Step, gone: int) -> str:
    """Why the run was asked to stop after the step was scheduled; empty if it was not."""
    kind = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    for number, past in enumerate(chain.executions[step.execution - gone :]):
        for event in past.events:
            signaled = event.workflow_execution_signaled_event_attributes
            later = number > 0 or event.event_id > step.task_event_id
            if event.event_type == kind and later and signaled.signal_name == names.STOP_SIGNAL:
                return f"event {event.event_id}"
    return ""


async def reset(client: Client, planned: Plan, reason: str) -> str:
    """Do it. Answers Temporal's id of the new execution. A cancellation is not asked for again.

    Raises:
        BadInput: Temporal refuses, in its own words, or the reason is too long.
        Unreachable: Temporal does not answer.
    """
    if len(reason) > LONGEST_REASON:
        raise BadInput(f"the reason has {len(reason)} characters; {LONGEST_REASON} are the most")
    excluded = [ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_CANCEL_REQUEST]
    if planned.dropped:
        excluded += [
            ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL,
            ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE,
        ]
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=planned.run_id, run_id=planned.execution),
        reason=reason,
        workflow_task_finish_event_id=planned.event_id,
        request_id=str(uuid4()),
        reset_reapply_exclude_types=excluded,
        identity=client.identity,
    )
    try:
        return (await client.workflow_service.reset_workflow_execution(request)).run_id
    except RPCError as error:
        if error.status.name in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"):
            why = f"Temporal does not reset {planned.run_id} to step {planned.step}: {error.message}"
            raise BadInput(why) from None
        raise Unreachable(f"Temporal: {error.message}") from None
