"""The spans of a worker process: attempts, waits for quota, calls of providers. What is told of each: `docs/traces.md`.

Without a recorder (`workers/otlp.py` makes one where the environment names a collector) all of this does nothing.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import time_ns
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from fleet import tracing
from fleet.contracts.effects import EffectRequest
from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role
from fleet.contracts.names import WAITS
from fleet.contracts.tools import ToolRequest, ToolResult
from fleet.tracing import PROVIDERS
from fleet.workflows.traced import bound as traced_workflow
from ratelimit.profiles import PROFILES, Profile
from workers.providers.errors import Exhausted, Overloaded, ProviderError, RateLimited

SCOPE: Final = "fleet.quota.scope"
LIMIT: Final = "fleet.quota.limit"
WAITED: Final = "fleet.quota.waited_s"
RETRY_AFTER: Final = "fleet.retry_after_s"
REQUEST_ID: Final = "fleet.provider.request_id"
RESPONSE_ID: Final = "gen_ai.response.id"
LEAST_WAIT_S: Final = 0.001
"""A shorter wait is no span of its own."""

_PROFILES: Final = {profile: PROVIDERS.get(name, name) for name, profile in PROFILES.items()}
_ABOVE: Final = contexts.create_key("fleet-above")
"""In the context: the span that an attempt belongs to."""


def exemplar() -> dict[str, str] | None:
    """The id of the sampled trace that is under way, for a histogram's exemplar; None without one."""
    if tracing.installed() is None:
        return None
    found = trace.get_current_span().get_span_context()
    return {"trace_id": f"{found.trace_id:032x}"} if found.is_valid and found.trace_flags.sampled else None


def where(logger: object, name: str, event: Any) -> Any:
    """A structlog processor: which trace, which run and which attempt an event belongs to, as far as that is known."""
    del logger, name
    if tracing.installed() is not None:
        found = trace.get_current_span().get_span_context()
        if found.is_valid:
            event.setdefault("trace_id", f"{found.trace_id:032x}")
            event.setdefault("span_id", f"{found.span_id:016x}")
    if workflow_id := (bound := dict(traced_workflow())).pop("workflow_id", ""):
        event.setdefault("run_id", run_of(workflow_id))
        for key, value in bound.items():
            event.setdefault(key, value)
    elif activity.in_activity():
        info = activity.info()
        if info.workflow_id:
            event.setdefault("run_id", run_of(info.workflow_id))
        event.setdefault("activity", info.activity_type)
        event.setdefault("attempt", info.attempt)
    return event


def run_of(workflow_id: str) -> str:
    """The run that a workflow belongs to: an effect's id begins with its run's, and ids of runs have no slash."""
    return workflow_id.partition("/")[0]


def note(attributes: Mapping[str, AttributeValue]) -> None:
    """Add to what is told of the span under way."""
    if tracing.installed() is not None:
        trace.get_current_span().set_attributes(attributes)


def identified(answer: object) -> None:
    """The provider's body has an id of its own: servers that imitate another one may leave it out."""
    found = getattr(answer, "id", None)
    if isinstance(found, str) and found:
        note({RESPONSE_ID: found})


def event(name: str, attributes: Mapping[str, AttributeValue]) -> None:
    """Something has happened within the span under way."""
    if tracing.installed() is not None:
        trace.get_current_span().add_event(name, attributes)


def waited(scope: str, share: str, waited_s: float, limit: str) -> None:
    """A place in line has come now, so many seconds after it was first booked.

    A wait that has begun in an earlier attempt lies beside the attempts, not in this one.

    Args:
        scope: what the provider counts by.
        share: in whose line: the scope's, or that of a tenant's share of it.
        waited_s: since the first booking.
        limit: that made it wait; empty: unknown.
    """
    recorder = tracing.installed()
    if recorder is None or waited_s < LEAST_WAIT_S:
        return
    ended_ns, attempt = time_ns(), trace.get_current_span()
    if not attempt.is_recording():
        return
    attributes: dict[str, AttributeValue] = {SCOPE: share, WAITED: waited_s}
    if limit:
        attributes[LIMIT] = limit
    began_ns = ended_ns - int(waited_s * 1e9)
    above = contexts.get_value(_ABOVE)
    is_before = began_ns < (getattr(attempt, "start_time", None) or 0)
    beside = above if is_before and isinstance(above, Context) else None
    links = [Link(attempt.get_span_context())] if beside is not None else []
    span = recorder.begin(f"quota wait {scope}", context=beside, attributes=attributes, links=links, start_ns=began_ns)
    span.end(ended_ns)


def deferred(scope: str, limit: str, later_s: float) -> None:
    """The slot is given back: the call comes back for its place."""
    event("fleet.quota.deferred", {SCOPE: scope, LIMIT: limit, RETRY_AFTER: later_s})


def turned_away(scope: str, error: ProviderError) -> None:
    """The provider has said that it was too much; the scope may be closed for the whole fleet."""
    if isinstance(error, RateLimited | Overloaded | Exhausted):
        event("fleet.provider.rejected", {SCOPE: scope, **rejection(error)})


@contextmanager
def calling(name: str, attributes: Mapping[str, AttributeValue]) -> Iterator[Span]:
    """A call of a provider: what leaves the block as an error is told as its kind; its text is content."""
    recorder = tracing.installed()
    if recorder is None:
        yield trace.INVALID_SPAN
        return
    span = recorder.begin(name, kind=SpanKind.CLIENT, attributes=attributes)
    token = contexts.attach(trace.set_span_in_context(span))
    try:
        yield span
    except asyncio.CancelledError:
        span.add_event("cancelled")
        raise
    except Exception as error:
        if isinstance(error, RateLimited | Overloaded):
            span.add_event("fleet.provider.rejected", rejection(error))
        failed(span, type(error).__name__, str(error))
        raise
    finally:
        contexts.detach(token)
        span.end()


def rejection(error: ProviderError) -> dict[str, AttributeValue]:
    """What a provider that turns a call away has said."""
    told: dict[str, AttributeValue] = {tracing.ERROR_TYPE: type(error).__name__}
    if error.retry_after_s is not None:
        told[RETRY_AFTER] = error.retry_after_s
    if error.limit:
        told[LIMIT] = error.limit
    return told


def failed(span: Span, kind: str, text: str) -> None:
    """The span has failed. Its text may quote what was sent, and so may a stack trace: the one is content, which is
    told only where it is asked for, and the other is not told."""
    recorder, told = tracing.installed(), {"exception.type": kind}
    if recorder is None or not span.is_recording():
        return
    span.set_attribute(tracing.ERROR_TYPE, kind)
    if recorder.content:
        told["exception.message"] = text = tracing.cut(recorder, text)
    span.add_event("exception", told)
    span.set_status(StatusCode.ERROR, text if recorder.content else None)


def provider(profile: Profile) -> str:
    """What the conventions call a provider of this kind."""
    return _PROFILES.get(profile, profile.dialect)


class Chatting:
    """A call of a model under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, result: ChatResult) -> None:
        """The model has answered."""
        span, usage = self._span, result.usage
        if not span.is_recording():
            return
        told: dict[str, AttributeValue] = {
            "gen_ai.response.model": result.model,
            "gen_ai.response.finish_reasons": (result.finish_reason,),
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        }
        if usage.cached_tokens:
            told["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        if result.request_id:
            told[REQUEST_ID] = result.request_id
        recorder = tracing.installed()
        if recorder is not None and recorder.content:
            answer = _written(result.message) | {"finish_reason": result.finish_reason}
            told[tracing.OUTPUT] = tracing.fitted(recorder, [answer])
        span.set_attributes(told)


@contextmanager
def chatting(provider: str, model: str, request: ChatRequest, agent: str) -> Iterator[Chatting]:
    """A call of a model, by the GenAI conventions.

    Args:
        provider: whose API it is, as the conventions call it.
        model: as the provider names it.
        request: what is asked. Its messages are told only where the environment asks for content.
        agent: whose call it is.
    """
    recorder = tracing.installed()
    if recorder is None:
        yield Chatting(trace.INVALID_SPAN)
        return
    attributes: dict[str, AttributeValue] = {
        tracing.OPERATION: "chat",
        tracing.PROVIDER_NAME: provider,
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": request.max_output_tokens,
        **_of_run(),
    }
    if agent:
        attributes[tracing.AGENT_NAME] = agent
    with calling(f"chat {model}", attributes) as span:
        if recorder.content and span.is_recording():
            system = [{"type": "text", "content": m.content} for m in request.messages if m.role is Role.SYSTEM]
            said = [_written(m) for m in request.messages if m.role is not Role.SYSTEM]
            span.set_attribute(tracing.INPUT, tracing.fitted(recorder, said))
            span.set_attribute("gen_ai.system_instructions", tracing.fitted(recorder, system))
        yield Chatting(span)


def traced() -> list[Interceptor]:
    """What a worker's interceptors begin with; none where there are no spans."""
    return [] if tracing.installed() is None else [TracingInterceptor()]


class TracingInterceptor(Interceptor):
    """A span around each attempt. Outside of what redacts: an error that it sees has no secrets."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap the activities of a worker."""
        return _Attempt(next)


class _Attempt(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        recorder = tracing.installed()
        # a local one is part of a workflow task, and takes no longer
        if recorder is None or activity.info().is_local:
            return await super().execute_activity(input)
        request = input.args[0] if input.args else None
        parent = _parent(recorder, input.headers)
        above = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
        if isinstance(request, ToolRequest):
            name, kind = f"execute_tool {request.tool}", SpanKind.INTERNAL
        else:
            name, kind = activity.info().activity_type, SpanKind.CONSUMER
        span = recorder.begin(name, context=above, kind=kind)
        if span.is_recording():
            span.set_attributes(_described(recorder, request))
        token = contexts.attach(trace.set_span_in_context(span, contexts.set_value(_ABOVE, above)))
        try:
            result = await super().execute_activity(input)
        except BaseException as error:
            _broken(recorder, span, error)
            raise
        else:
            if recorder.content and isinstance(result, ToolResult) and span.is_recording():
                span.set_attribute("gen_ai.tool.call.result", tracing.cut(recorder, result.content))
            return result
        finally:
            contexts.detach(token)
            span.end()


def _parent(recorder: tracing.Recorder, headers: Mapping[str, Payload]) -> SpanContext | None:
    """The span of the workflow, whether its worker tells of it or not."""
    found, _ = tracing.above(headers)
    info = activity.info()
    if found is not None or not info.workflow_run_id:
        return found
    trace_id, span_id = tracing.beginning(info.workflow_run_id)
    root = SpanContext(trace_id, span_id, is_remote=True)
    told = recorder.samples(None, trace_id, info.workflow_type or "")
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=tracing.sampled(root, told))


def _described(recorder: tracing.Recorder, request: Any) -> dict[str, AttributeValue]:
    info = activity.info()
    workflow_id = info.workflow_id or ""
    run_id = run_of(workflow_id)
    attributes: dict[str, AttributeValue] = {
        tracing.RUN_ID: info.workflow_run_id or "",
        tracing.ACTIVITY_ID: info.activity_id,
        tracing.CONVERSATION_ID: run_id,
        "fleet.attempt": info.attempt,
        "fleet.task_queue": info.task_queue,
        "fleet.queued_s": max(0.0, (info.started_time - info.current_attempt_scheduled_time).total_seconds()),
    }
    if workflow_id != run_id:
        attributes[tracing.WORKFLOW_ID] = workflow_id
    if info.priority.fairness_key:
        attributes[tracing.TENANT] = info.priority.fairness_key
    match request:
        case ToolRequest():
            attributes |= {
                "fleet.activity": info.activity_type, tracing.OPERATION: "execute_tool",
                tracing.TOOL_NAME: request.tool, "gen_ai.tool.call.id": request.call_id,
                tracing.AGENT_NAME: request.agent,
            }  # fmt: skip
        case EffectRequest():
            attributes |= {
                tracing.TOOL_NAME: request.tool, tracing.EFFECT_KEY: request.key,
                "fleet.effect.mode": request.mode.value, tracing.AGENT_NAME: request.agent,
            }  # fmt: skip
        case ChatRequest() if request.role:
            attributes[tracing.AGENT_NAME] = request.role
    if recorder.content and isinstance(request, ToolRequest | EffectRequest):
        attributes["gen_ai.tool.call.arguments"] = tracing.fitted_object(recorder, request.arguments)
    return attributes


def _broken(recorder: tracing.Recorder, span: Span, error: BaseException) -> None:
    """How an attempt ended that has no result: a wait is a state, and no error."""
    if not span.is_recording():
        return
    if isinstance(error, asyncio.CancelledError):
        span.add_event("cancelled")
        return
    if not isinstance(error, ApplicationError):
        failed(span, type(error).__name__, str(error))
        return
    kind = error.type or type(error).__name__
    again: dict[str, AttributeValue] = {"fleet.failure": kind}
    if error.next_retry_delay is not None:
        again[RETRY_AFTER] = error.next_retry_delay.total_seconds()
    if kind in WAITS:
        if recorder.content:
            again["fleet.says"] = tracing.cut(recorder, error.message)
        span.add_event("wait", again)
        return
    failed(span, kind, error.message)
    if not error.non_retryable:
        span.add_event("retry", again)


def _of_run() -> dict[str, AttributeValue]:
    if not activity.in_activity():
        return {}
    return {tracing.CONVERSATION_ID: run_of(activity.info().workflow_id or "")}


def _written(message: Message) -> dict[str, Any]:
    """A message as the conventions write it."""
    if message.role is Role.TOOL:
        part = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.content}
        return {"role": "tool", "parts": [part]}
    written = tracing.said(message.role.value, message.content)
    written["parts"] += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.tool_calls
    ]
    return written
