"""The spans of workflows: told whole, once, at their end, whoever replays them."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import temporalio.worker
from opentelemetry.trace import SpanContext, TraceState
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.exceptions import is_cancelled_exception

from fleet.contracts import names
from fleet.contracts.approvals import ApprovalEvent, ApprovalState
from fleet.contracts.runs import RunInput
from fleet.contracts.tools import APPROVAL_RECORD
from fleet.tracing import (
    RUN_ID,
    TOOL_NAME,
    WORKFLOW_ID,
    Attributes,
    Recorder,
    WholeSpan,
    above,
    apart,
    beginning,
    content,
    described,
    header,
    installed,
    of_result,
    of_verdict,
    sampled,
    span_id,
)

log = logging.getLogger("fleet.traces")

_SIGNALS = frozenset({names.STOP_SIGNAL, names.TELL_SIGNAL, names.PAUSE_SIGNAL, names.RESUME_SIGNAL})


@dataclass(frozen=True, slots=True)
class _Here:
    """Where a workflow is in its trace."""

    own: SpanContext
    parent: SpanContext | None
    links: tuple[SpanContext, ...]
    header: Mapping[str, Payload]
    """What its calls and children are given."""


class TracedWorkflow(temporalio.worker.WorkflowInboundInterceptor):
    """Around one execution of a workflow."""

    def init(self, outbound: temporalio.worker.WorkflowOutboundInterceptor) -> None:
        """Wrap what the workflow asks for."""
        self._here: _Here | None = None
        self._heard = 0
        super().init(_Outbound(outbound, self))

    async def execute_workflow(self, input: temporalio.worker.ExecuteWorkflowInput) -> Any:  # noqa: A002
        """Tell the workflow when it has ended."""
        subject = input.args[0] if input.args else None
        try:
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            self._ended(subject, {"fleet.run.continued": True}, None)
            raise
        except BaseException as error:
            if workflow.cancellation_reason() is not None and is_cancelled_exception(error):
                self._ended(subject, {"fleet.run.outcome": "cancelled"}, None)
            elif workflow.is_failure_exception(error):
                # whatever else is no end of the run: a task that fails is repeated
                self._ended(subject, {}, _kind(error))
            raise
        self._ended(subject, {}, None, result)
        return result

    async def handle_update_handler(self, input: temporalio.worker.HandleUpdateInput) -> Any:  # noqa: A002
        """Tell that an update was taken, linked to who has sent it."""
        result = await super().handle_update_handler(input)
        with _unheard(input.update):
            self.moment(input.update, f"update/{input.id}", of_verdict(input.args), above(input.headers)[0])
        return result

    async def handle_signal(self, input: temporalio.worker.HandleSignalInput) -> None:  # noqa: A002
        """Tell that somebody steers the run, linked to who does."""
        if input.signal in _SIGNALS and workflow.info().workflow_type == names.AGENT_WORKFLOW:
            self._heard += 1
            with _unheard(input.signal):
                self.moment(input.signal, f"signal/{self._heard}", {}, above(input.headers)[0])
        await super().handle_signal(input)

    def here(self) -> _Here | None:
        """Where this workflow is in its trace; None without a recorder. Follows from its history alone."""
        if self._here is None and (recorder := installed()) is not None:
            with _unheard("where a workflow is in its trace"):
                self._here = _found(recorder)
        return self._here

    def moment(self, name: str, key: str, attributes: Attributes, link: SpanContext | None) -> None:
        """Something has happened to the run now."""
        now = workflow.time_ns()
        self.tell(name, key, now, now, attributes, link)

    def tell(
        self,
        name: str,
        key: str,
        started_ns: int,
        ended_ns: int,
        attributes: Attributes,
        link: SpanContext | None = None,
        error: str | None = None,
    ) -> None:
        """A span below the workflow's own. Nothing is told while it is replayed."""
        with self._telling() as (recorder, here):
            if recorder is None or here is None:
                return
            info = workflow.info()
            recorder.tell(
                WholeSpan(
                    name=name,
                    context=_beside(here.own, span_id(f"{info.run_id}/{key}")),
                    parent=here.own,
                    started_ns=started_ns,
                    ended_ns=max(ended_ns, started_ns),
                    attributes={WORKFLOW_ID: info.workflow_id, RUN_ID: info.run_id, **attributes},
                    links=() if link is None else (link,),
                    error=error,
                )
            )

    def _ended(self, subject: Any, told: Attributes, error: str | None, result: Any = None) -> None:
        with self._telling() as (recorder, here):
            if recorder is None or here is None:
                return
            info = workflow.info()
            name, attributes = described(info.workflow_type, subject, info.workflow_id)
            if result is not None:
                found, error = of_result(result)
                told |= found
                if recorder.content and isinstance(subject, RunInput):
                    told |= content(recorder, subject, result)
            started_ns = _ns(info.workflow_start_time)
            recorder.tell(
                WholeSpan(
                    name=name,
                    context=here.own,
                    parent=here.parent,
                    started_ns=started_ns,
                    ended_ns=max(workflow.time_ns(), started_ns),
                    attributes={**attributes, RUN_ID: info.run_id, **told},
                    links=here.links,
                    error=error,
                )
            )

    @contextmanager
    def _telling(self) -> Iterator[tuple[Recorder | None, _Here | None]]:
        """Whom to tell, and where this is; nobody while it is replayed. What goes wrong here is no error of the run."""
        recorder, here = installed(), self.here()
        if recorder is None or here is None or workflow.unsafe.is_replaying() or not here.own.trace_flags.sampled:
            yield None, None
            return
        with _unheard("a workflow's span"), workflow.unsafe.sandbox_unrestricted():
            yield recorder, here


class _Outbound(temporalio.worker.WorkflowOutboundInterceptor):
    def __init__(self, next: temporalio.worker.WorkflowOutboundInterceptor, inbound: TracedWorkflow) -> None:  # noqa: A002
        super().__init__(next)
        self._inbound = inbound

    def start_activity(
        self,
        input: temporalio.worker.StartActivityInput,  # noqa: A002
    ) -> "workflow.ActivityHandle[Any]":
        input.headers = self._with(input.headers)
        event = input.args[0] if input.activity == APPROVAL_RECORD.name and input.args else None
        if isinstance(event, ApprovalEvent):
            with _unheard("an approval's span"):
                self._written(event)
        return super().start_activity(input)

    async def start_child_workflow(
        self,
        input: temporalio.worker.StartChildWorkflowInput,  # noqa: A002
    ) -> "workflow.ChildWorkflowHandle[Any, Any]":
        here = self._inbound.here()
        if here is not None:
            # each of ten thousand items of a batch has a trace of its own
            is_item = workflow.info().workflow_type == names.BATCH_WORKFLOW and input.workflow == names.AGENT_WORKFLOW
            given = apart(here.own) if is_item else here.header
            input.headers = {**input.headers, **given}
        return await super().start_child_workflow(input)

    def continue_as_new(self, input: temporalio.worker.ContinueAsNewInput) -> NoReturn:  # noqa: A002
        here = self._inbound.here()
        if here is not None:
            if workflow.info().workflow_type == names.BATCH_WORKFLOW:
                given = apart(here.own)
            else:
                given = header(here.parent or here.own, here.own)
            input.headers = {**input.headers, **given}
        super().continue_as_new(input)

    def _with(self, headers: Mapping[str, Payload]) -> Mapping[str, Payload]:
        here = self._inbound.here()
        return headers if here is None else {**headers, **here.header}

    def _written(self, event: ApprovalEvent) -> None:
        """An approval that has ended is a span from the question to its end."""
        approval = event.approval
        if approval.state is ApprovalState.OPEN or event.what != approval.state.value:
            return
        attributes: Attributes = {
            "fleet.approval.id": approval.id,
            "fleet.approval.state": approval.state.value,
            "fleet.approval.needed": approval.needed,
            "fleet.approval.votes": len(approval.votes),
            TOOL_NAME: approval.tool,
        }
        ended = approval.decided_at or event.at
        self._inbound.tell(
            f"approval {approval.tool}", f"approval/{approval.id}", _ns(approval.opened_at), _ns(ended), attributes
        )


def bound() -> Mapping[str, str]:
    """What a log line of a workflow has: its run, and its trace where it has one. Empty outside of workflows."""
    if not workflow.in_workflow():
        return {}
    info = workflow.info()
    found = {"workflow_id": info.workflow_id}
    if installed() is not None:
        parent, _ = above(info.headers)
        trace_id = beginning(info.run_id)[0] if parent is None else parent.trace_id
        found |= {"trace_id": f"{trace_id:032x}", "span_id": f"{span_id(info.run_id):016x}"}
    return found


def _found(recorder: Recorder) -> _Here:
    info = workflow.info()
    parent, linked = above(info.headers)
    trace_id, own_id = beginning(info.run_id)
    if parent is not None:
        trace_id = parent.trace_id
    # nobody who starts a run by a schedule or by another client's hand has a trace
    around = parent or SpanContext(trace_id, own_id, is_remote=False, trace_state=TraceState())
    with workflow.unsafe.sandbox_unrestricted():
        told = recorder.samples(parent, trace_id, info.workflow_type)
    own = SpanContext(
        trace_id, own_id, is_remote=False, trace_flags=sampled(around, told), trace_state=around.trace_state
    )
    return _Here(own, parent, () if linked is None else (linked,), header(own))


@contextmanager
def _unheard(what: str) -> Iterator[None]:
    """A run must not fail because nobody can be told of it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        with workflow.unsafe.sandbox_unrestricted():
            log.warning("%s is lost: %r", what, error)


def _kind(error: BaseException) -> str:
    """The failure's type on the wire, else the class of what caused it."""
    found = getattr(error, "type", None)
    # a timeout's is a number
    return str(found) if isinstance(found, str) and found else type(error.__cause__ or error).__name__


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


def _beside(context: SpanContext, number: int) -> SpanContext:
    return SpanContext(
        context.trace_id, number, is_remote=False, trace_flags=context.trace_flags, trace_state=context.trace_state
    )
