"""Traces on their way through Temporal: from a client to a run, to its calls, to its effects, over continue-as-new.

What a workflow does is told as a whole, at its end, by the worker that ends it: a span whose ids follow from the run's
id and whose beginning is the run's. So no worker has to live as long as a run, a replay tells nothing twice, and what a
run has started names its span before that is told. Only names, ids and amounts are told here; the context travels in
the header `_tracer-data` with the W3C's `traceparent`, as the Temporal SDKs have it.

A process that has not been given a `Recorder` adds no interceptor, and nothing here costs it anything.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Protocol

import temporalio.client
import temporalio.worker
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue
from temporalio.api.common.v1 import Payload

from fleet.contracts.approvals import Verdict
from fleet.contracts.batch import BatchInput
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState
from fleet.contracts.runs import Outcome, RunInput, RunResult

HEADER: Final = "_tracer-data"
"""Temporal's SDKs look for it."""

AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
OPERATION: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
TOOL_NAME: Final = "gen_ai.tool.name"
ERROR_TYPE: Final = "error.type"
INPUT: Final = "gen_ai.input.messages"
OUTPUT: Final = "gen_ai.output.messages"
EFFECT_KEY: Final = "fleet.effect.key"
EFFECT_STATE: Final = "fleet.effect.state"
TENANT: Final = "fleet.tenant"
WORKFLOW_ID: Final = "temporalWorkflowID"
RUN_ID: Final = "temporalRunID"
ACTIVITY_ID: Final = "temporalActivityID"

MOST_CONTENT: Final = 50_000
"""Characters of an attribute that has content: of its JSON, with all that is quoted in it."""

Attributes = dict[str, AttributeValue]

PROVIDERS: Final = {"azure": "azure.ai.openai"}
"""What the conventions call a provider, where it is another word than ours.

https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/
"""

_TRUNCATED: Final = json.dumps({"truncated": True})
_LINK: Final = "link"
"""In the header: a span that what begins here is linked to."""
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSpan:
    """A span that has ended when it is told."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, AttributeValue]
    links: Sequence[SpanContext] = ()
    error: str | None = None
    """Kind of what went wrong."""


class Recorder(Protocol):
    """Makes the spans of this process."""

    content: bool
    """What models and tools say and hear is told too."""

    def begin(
        self,
        name: str,
        *,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> Span:
        """A span that is lived through in this process, below the one of the context, or else of what is under way."""

    def samples(self, parent: SpanContext | None, trace_id: int, name: str) -> bool:
        """Whether a span of this trace is told, below its parent or as the first one.

        The same for everybody who asks with the same sampler: what is under way in this process counts for nothing.
        """

    def clean(self, value: Any) -> Any:
        """Text, or lists and dictionaries of it, without secrets: before it is cut, for half of one is not known."""

    def tell(self, span: WholeSpan) -> None:
        """Take a span. Never raises, never waits."""


_recorder: Recorder | None = None


def install(recorder: Recorder | None) -> None:
    """From now on this process has spans; None: from now on it has none."""
    global _recorder  # noqa: PLW0603 - one for the process, as OpenTelemetry has it
    _recorder = recorder


def installed() -> Recorder | None:
    """What makes the spans of this process; None: it has none."""
    return _recorder


def interceptors() -> list["TracingInterceptor"]:
    """Of a client of Temporal, and so of its workers; none where there are no spans."""
    return [] if _recorder is None else [TracingInterceptor()]


def header(context: SpanContext, link: SpanContext | None = None) -> Mapping[str, Payload]:
    """The header by which what is started becomes a part of the span's trace, and is linked to another span."""
    return _payload(_carrier(context) | ({} if link is None else {_LINK: _traceparent(link)}))


def apart(link: SpanContext) -> Mapping[str, Payload]:
    """The header by which what is started has a trace of its own that is linked to the span."""
    return _payload({_LINK: _traceparent(link)})


def above(headers: Mapping[str, Payload]) -> tuple[SpanContext | None, SpanContext | None]:
    """The span that a header names as the parent, and the one that it links to."""
    payload = headers.get(HEADER)
    return (None, None) if payload is None else _above(payload.data)


def beginning(run_id: str) -> tuple[int, int]:
    """Ids of trace and span of an execution that nobody has given a trace: the same for all who tell of it."""
    trace_id = int.from_bytes(sha256(f"trace/{run_id}".encode()).digest()[:16], "big")
    return trace_id, span_id(run_id)


def span_id(of: str) -> int:
    """An id that follows from a name."""
    # 0 is no span id
    return int.from_bytes(sha256(f"span/{of}".encode()).digest()[:8], "big") or 1


def sampled(context: SpanContext, told: bool) -> TraceFlags:
    """The flags of a trace, with the decision about one of its spans."""
    others = int(context.trace_flags) & ~TraceFlags.SAMPLED
    return TraceFlags(others | (TraceFlags.SAMPLED if told else TraceFlags.DEFAULT))


class TracingInterceptor(temporalio.client.Interceptor, temporalio.worker.Interceptor):
    """Spans of clients and of workflows. Activities' are in `workers/tracing.py`."""

    def intercept_client(self, next: temporalio.client.OutboundInterceptor) -> temporalio.client.OutboundInterceptor:  # noqa: A002
        """Wrap a client's calls."""
        return _Client(next)

    def workflow_interceptor_class(
        self,
        input: temporalio.worker.WorkflowInterceptorClassInput,  # noqa: A002
    ) -> type[temporalio.worker.WorkflowInboundInterceptor] | None:
        """Wrap the workflows of a worker."""
        from fleet.workflows.traced import TracedWorkflow

        return TracedWorkflow


class _Client(temporalio.client.OutboundInterceptor):
    async def start_workflow(
        self,
        input: temporalio.client.StartWorkflowInput,  # noqa: A002
    ) -> temporalio.client.WorkflowHandle[Any, Any]:
        recorder = _recorder
        if recorder is None:
            return await super().start_workflow(input)
        subject = input.args[0] if input.args else None
        name, attributes = described(input.workflow, subject, input.id)
        attributes.pop(OPERATION, None)
        said = attributes.get(AGENT_NAME) or name
        with _spanned(recorder, f"start {said}", SpanKind.PRODUCER, attributes) as span:
            input.headers = {**input.headers, **header(span.get_span_context())}
            handle = await super().start_workflow(input)
            if handle.first_execution_run_id:
                span.set_attribute(RUN_ID, handle.first_execution_run_id)
            return handle

    async def start_workflow_update(
        self,
        input: temporalio.client.StartWorkflowUpdateInput,  # noqa: A002
    ) -> temporalio.client.WorkflowUpdateHandle[Any]:
        recorder = _recorder
        if recorder is None:
            return await super().start_workflow_update(input)
        attributes = {WORKFLOW_ID: input.id, CONVERSATION_ID: input.id} | of_verdict(input.args)
        with _spanned(recorder, input.update, SpanKind.CLIENT, attributes) as span:
            input.headers = {**input.headers, **header(span.get_span_context())}
            return await super().start_workflow_update(input)

    async def signal_workflow(self, input: temporalio.client.SignalWorkflowInput) -> None:  # noqa: A002
        recorder = _recorder
        if recorder is None:
            await super().signal_workflow(input)
            return
        attributes: Attributes = {WORKFLOW_ID: input.id, CONVERSATION_ID: input.id}
        with _spanned(recorder, input.signal, SpanKind.PRODUCER, attributes) as span:
            input.headers = {**input.headers, **header(span.get_span_context())}
            await super().signal_workflow(input)


@contextmanager
def _spanned(recorder: Recorder, name: str, kind: SpanKind, attributes: Attributes) -> Iterator[trace.Span]:
    """A span around a client's call. An error's text may quote what was sent: its kind is told."""
    span = recorder.begin(name, kind=kind, attributes=attributes)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def described(kind: str, subject: Any, workflow_id: str) -> tuple[str, Attributes]:
    """Name and attributes of a workflow's span, by the GenAI conventions where they have a word for it."""
    attributes: Attributes = {WORKFLOW_ID: workflow_id}
    match subject:
        case RunInput():
            agent, (provider, _, model) = subject.agent.name, subject.agent.model.partition("/")
            attributes |= {
                OPERATION: "invoke_agent", AGENT_NAME: agent, CONVERSATION_ID: workflow_id,
                PROVIDER_NAME: PROVIDERS.get(provider, provider), "gen_ai.request.model": model or provider,
                TENANT: subject.tenant,
            }  # fmt: skip
            del attributes[WORKFLOW_ID]
            if subject.carried is not None:
                attributes["fleet.run.execution"] = subject.carried.executions + 1
            return f"invoke_agent {agent}", attributes
        case EffectRequest():
            attributes |= {
                OPERATION: "execute_tool", TOOL_NAME: subject.tool, AGENT_NAME: subject.agent,
                CONVERSATION_ID: subject.run_id, EFFECT_KEY: subject.key, TENANT: subject.tenant,
            }  # fmt: skip
            return f"execute_tool {subject.tool}", attributes
        case BatchInput():
            return "batch", attributes | {"fleet.batch.id": subject.batch, TENANT: subject.tenant}
    return kind, attributes


def of_result(result: Any) -> tuple[Attributes, str | None]:
    """What a workflow's result adds to its span, and the kind of what went wrong."""
    match result:
        case RunResult():
            told: Attributes = {
                "fleet.run.outcome": result.outcome.value, "fleet.run.steps": result.steps,
                "fleet.run.tokens": result.tokens, "fleet.run.cost": result.cost,
                "fleet.run.quota_wait_s": sum(result.quota_waits_s),
            }  # fmt: skip
            return told, result.outcome.value if result.outcome is Outcome.FAILED else None
        case EffectResult():
            return {EFFECT_STATE: result.state.value}, None if result.state is EffectState.DONE else result.state.value
    return {}, None


def content(recorder: Recorder, run: RunInput, result: Any) -> Attributes:
    """What a run was asked and what it has answered."""
    answer = result.answer if isinstance(result, RunResult) else ""
    return {
        INPUT: fitted(recorder, [said("user", run.goal)]),
        OUTPUT: fitted(recorder, [said("assistant", answer)]),
    }


def said(role: str, *texts: str) -> dict[str, Any]:
    """A message as the conventions write it."""
    return {"role": role, "parts": [{"type": "text", "content": text} for text in texts if text]}


def fitted(recorder: Recorder, items: Sequence[Any]) -> str:
    """A JSON array of the last items, as many as an attribute may have; of the last one its beginnings, if need be."""
    written, left = list[str](), MOST_CONTENT - len("[]")
    try:
        for item in reversed(items):
            text = json.dumps(clean := recorder.clean(item), ensure_ascii=False)
            if len(text) > left:
                if written:
                    break
                text = _shortened(clean, left)
            written.append(text)
            left -= len(text) + len(", ")
    except (RecursionError, TypeError, ValueError):
        # no JSON, or nested too deep: it is told of no more than that
        written.append(_TRUNCATED)
    return f"[{', '.join(reversed(written))}]"


def cut(recorder: Recorder, text: str) -> str:
    """As much of a text as an attribute may have."""
    cleaned: str = recorder.clean(text)
    return cleaned[:MOST_CONTENT]


def fitted_object(recorder: Recorder, item: Mapping[str, Any]) -> str:
    """A JSON object, its texts cut if need be."""
    return fitted(recorder, [item])[1:-1]


def _shortened(item: Any, most: int) -> str:
    """JSON of the item, its texts cut until it fits; of what has too many of them, nothing but that."""
    each = most
    while (each := each // 2) > 0:
        text = json.dumps(_clipped(item, each), ensure_ascii=False)
        if len(text) <= most:
            return text
    return _TRUNCATED


def _clipped(value: Any, each: int) -> Any:
    match value:
        case str():
            return value[:each]
        case dict():
            return {name: _clipped(one, each) for name, one in value.items()}
        case list() | tuple():
            return [_clipped(one, each) for one in value]
    return value


def of_verdict(args: Sequence[Any]) -> Attributes:
    """What an update that decides an approval adds to its span."""
    verdict = args[0] if args else None
    if not isinstance(verdict, Verdict):
        return {}
    return {
        "fleet.approval.id": verdict.approval_id,
        "fleet.approval.decision": verdict.decision.value,
        "fleet.approval.channel": verdict.channel,
    }


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 0xFF:02x}"


def _carrier(context: SpanContext) -> dict[str, str]:
    if not context.is_valid:
        return {}
    state = {"tracestate": context.trace_state.to_header()} if context.trace_state else {}
    return {"traceparent": _traceparent(context), **state}


def _payload(carrier: Mapping[str, str]) -> Mapping[str, Payload]:
    if not carrier:
        return {}
    return {HEADER: Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(dict(carrier)).encode())}


@lru_cache(1024)
def _above(data: bytes) -> tuple[SpanContext | None, SpanContext | None]:
    # of a run, all calls and all their attempts have the same one
    try:
        carrier = json.loads(data)
    except (ValueError, RecursionError):
        # written by somebody else: it must not keep a run from going on
        return None, None
    if not isinstance(carrier, dict):
        return None, None
    return _context(carrier.get("traceparent"), carrier.get("tracestate")), _context(carrier.get(_LINK), None)


def _context(parent: object, state: object) -> SpanContext | None:
    """https://www.w3.org/TR/trace-context/#traceparent-header"""
    read = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
    if read is None or read[1] == "ff":
        return None
    found = SpanContext(
        int(read[2], 16),
        int(read[3], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(read[4], 16)),
        trace_state=TraceState.from_header([state]) if isinstance(state, str) and state else None,
    )
    return found if found.is_valid else None
