"""The way of spans out of this process: made, redacted, queued, sent over OTLP, counted. None of it is waited for.

The queue is bounded and has one thread behind it. What a collector that is slow, silent or away does not take is
dropped and counted (`fleet_spans_total{outcome="dropped"}`); the calls that the spans tell of never notice, and a
process that ends gives the last ones at most `LAST_S` seconds.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from random import getrandbits
from threading import Event, Lock, Thread
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event as Happened
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

from fleet import tracing
from fleet.contracts import metrics
from fleet.settings import Traces
from fleet.tracing import WholeSpan
from workers.metrics import METRICS
from workers.redaction import REDACTOR, Redactor

LAST_S: Final = 2.0
"""How long a process that ends waits for its last spans to be taken."""
HOPELESS_S: Final = 0.2
"""The same where the collector has not taken those before."""
TIMEOUT_S: Final = 5.0
"""How long the collector may take, unless the environment says otherwise."""
MOST_WAITING: Final = 16_000_000
"""Bytes of spans that wait to be sent."""
MOST_TOGETHER: Final = 4_000_000
"""Bytes of spans that are sent together: collectors refuse requests that are much larger."""
_LEAST_WEIGHT: Final = 500
"""Bytes of a span with nothing long in it."""
_SHORT: Final = 100
_MOST_EVENTS: Final = 128
"""Of one span, as OpenTelemetry has it."""
_UNSET: Final = Status(StatusCode.UNSET)
_QUIET_S: Final = 60.0
"""How often it is said that spans are dropped."""
_ENCODER: Final = "opentelemetry.exporter.otlp.proto.common._internal"
"""Says which attribute it leaves out: the span itself is sent."""
_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    _ENCODER,
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)

Count = Callable[[str, int], None]
"""Takes an outcome and how many spans have had it."""

log = logging.getLogger("fleet.traces")
_LOST: Final = logging.getLogger(_LOGGERS[-1])
"""What is said here is heard as what the exporter says."""


class SpanRecorder:
    """Makes spans: a `fleet.tracing.Recorder` with OpenTelemetry's samplers, processors and resources.

    It is nobody's global provider: SDKs that would find one there make spans of their own for calls that are told here.
    """

    def __init__(
        self,
        processor: SpanProcessor,
        *,
        content: bool = False,
        resource: Mapping[str, str] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """Args:
        processor: takes spans that have ended.
        content: what models and tools say and hear is told too.
        resource: who this process is; what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say counts more.
        sampler: which traces are told. Default: as `OTEL_TRACES_SAMPLER` says, else all.
        """
        self.content = content
        named = OTELResourceDetector().detect().attributes
        self._resource = Resource.create({**(resource or {}), **named})
        self._scope = InstrumentationScope("fleet", version("agent-fleet"))
        self._processor = processor
        self._sampler = TracerProvider(sampler=sampler, resource=self._resource, shutdown_on_exit=False).sampler

    def begin(
        self,
        name: str,
        *,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> trace.Span:
        """A span that is lived through in this process.

        Args:
            name: of what is done.
            context: has the span that it is below; None: the context under way.
            kind: how it stands to what is above and below it.
            attributes: what is known now.
            links: other spans that it has to do with.
            start_ns: when it has begun; None: now.
        """
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is None or not parent.is_valid:
            parent, trace_id, flags = None, getrandbits(128) or 1, TraceFlags.RANDOM_TRACE_ID
        else:
            trace_id, flags = parent.trace_id, int(parent.trace_flags) & ~TraceFlags.SAMPLED
        decided = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
        if told := decided.decision is Decision.RECORD_AND_SAMPLE:
            flags |= TraceFlags.SAMPLED
        own = SpanContext(trace_id, getrandbits(64) or 1, False, TraceFlags(flags), decided.trace_state)
        if not told:
            return NonRecordingSpan(own)
        return _Living(self, name, own, parent, kind, dict(attributes or {}), links, start_ns or time.time_ns())

    def samples(self, parent: SpanContext | None, trace_id: int, name: str) -> bool:
        """Whether a span of this trace is told, below its parent or as the first one."""
        # None would be the context that is under way here
        around = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
        return self._sampler.should_sample(around, trace_id, name).decision is Decision.RECORD_AND_SAMPLE

    def clean(self, value: Any) -> Any:
        """Text, or lists and dictionaries of it, without secrets."""
        return REDACTOR.clean_value(value)

    def tell(self, span: WholeSpan) -> None:
        """Take a span that has ended. Never raises."""
        told = dict(span.attributes)
        if span.error is not None:
            told[tracing.ERROR_TYPE] = span.error
        links = [Link(link) for link in span.links]
        status = _UNSET if span.error is None else Status(StatusCode.ERROR)
        living = _Living(self, span.name, span.context, span.parent, SpanKind.INTERNAL, told, links, span.started_ns)
        living.set_status(status)
        living.end(span.ended_ns)

    def close(self) -> None:
        """Send what waits, with all the time that the exporter takes."""
        self._processor.shutdown()

    def ended(self, span: "_Living", ended_ns: int) -> None:
        """Hand a span on. Never raises: nothing must fail because nobody can be told of it."""
        try:
            self._processor.on_end(
                ReadableSpan(
                    name=span.name,
                    context=span.context,
                    parent=span.parent,
                    resource=self._resource,
                    attributes=span.attributes,
                    events=span.events,
                    links=span.links,
                    kind=span.kind,
                    status=span.status,
                    start_time=span.start_time,
                    end_time=ended_ns,
                    instrumentation_scope=self._scope,
                )
            )
        except Exception as error:  # noqa: BLE001
            log.warning("the span %s is lost: %r", span.name, error)


class _Living(trace.Span):
    """A span under way. The SDK's costs four times as much: it locks, copies and checks at each attribute, while this
    one is written to by one thread and has attributes that are known to be fit. What comes after its end is not told:
    the span may be on its way already.
    """

    def __init__(
        self,
        recorder: SpanRecorder,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        links: Sequence[Link],
        start_time: int,
    ) -> None:
        self._recorder = recorder
        self._has_ended = False
        self.name, self.kind, self.status = name, kind, _UNSET
        self.context, self.parent = context, parent
        self.attributes, self.links, self.events = attributes, list(links), list[Happened]()
        self.start_time = start_time

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return not self._has_ended

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if not self._has_ended:
            self.attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if not self._has_ended and len(self.events) < _MOST_EVENTS:
            self.events.append(Happened(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if not self._has_ended:
            self.links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self.add_event("exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._recorder.ended(self, end_time or time.time_ns())


class Outbox(SpanProcessor):
    """Spans on their way to an exporter: a queue with a bound by number and one by size, with a thread behind it."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        queue: int = 2048,
        batch: int = 512,
        delay_s: float = 5.0,
        most: int = MOST_WAITING,
        count: Count,
    ) -> None:
        """Args:
        exporter: sends them.
        queue: most that wait; what ends then is dropped.
        batch: most that are sent together: fewer, where they have more than `MOST_TOGETHER` bytes.
        delay_s: how long one waits for others.
        most: bytes that wait; what ends then is dropped.
        count: is told `exported` and `dropped`.
        """
        self._queue, self._most = queue, most
        self._count = count
        self._lock = Lock()
        self._waiting = self._bytes = 0
        self._closed = False
        self.failing = False
        """The last spans were not taken."""
        self._batches = BatchSpanProcessor(
            _Watched(exporter, self),
            max_queue_size=queue,
            schedule_delay_millis=delay_s * 1000,
            max_export_batch_size=batch,
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is sent of spans under way."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, or drop it. Never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        size = weight(span)
        with self._lock:
            full = self._closed or self._waiting >= self._queue or self._bytes + size > self._most
            if not full:
                self._waiting += 1
                self._bytes += size
        if full:
            self._count("dropped", 1)
        else:
            self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits. Takes as long as the exporter does."""
        with self._lock:
            self._closed = True
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits."""
        return self._batches.force_flush(timeout_millis)

    def taken(self, spans: int, size: int) -> None:
        """So many, of so many bytes, leave the queue."""
        with self._lock:
            self._waiting -= spans
            self._bytes -= size

    def sent(self, spans: int, *, well: bool) -> None:
        """So many were exported, or lost."""
        self.failing = not well
        self._count("exported" if well else "dropped", spans)


class _Watched(SpanExporter):
    """Redacts and counts what passes."""

    def __init__(self, exporter: SpanExporter, outbox: Outbox, redactor: Redactor = REDACTOR) -> None:
        self._exporter = exporter
        self._outbox = outbox
        self._redactor = redactor

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        sizes = [weight(span) for span in spans]
        self._outbox.taken(len(spans), sum(sizes))
        result, begin = SpanExportResult.SUCCESS, 0
        for end in _ends(sizes):
            if self._export(spans[begin:end]) is not SpanExportResult.SUCCESS:
                result = SpanExportResult.FAILURE
            begin = end
        return result

    def _export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export([redacted(span, self._redactor) for span in spans])
        except Exception as error:  # noqa: BLE001 - the next ones may be fine
            _LOST.warning("spans are lost: %r", error)
        finally:
            self._outbox.sent(len(spans), well=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def weight(span: ReadableSpan) -> int:
    """About how many bytes a span has, more rather than less."""
    size = _LEAST_WEIGHT
    for value in (span.attributes or {}).values():
        if isinstance(value, str) and len(value) > _SHORT:
            size += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    return size


def _ends(sizes: Sequence[int]) -> Iterator[int]:
    """Where a batch is split, so that no part has more than `MOST_TOGETHER` bytes, or more than one span."""
    together = 0
    for number, size in enumerate(sizes):
        if together and together + size > MOST_TOGETHER:
            yield number
            together = 0
        together += size
    if sizes:
        yield len(sizes)


def redacted(span: ReadableSpan, redactor: Redactor) -> ReadableSpan:
    """The span without secrets, and without what is no UTF-8; the same object where it has none of either."""
    texts = [span.name, span.status.description or ""]
    for attributes in (span.attributes, *(event.attributes for event in span.events)):
        for value in (attributes or {}).values():
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, tuple):
                texts += [one for one in value if isinstance(one, str)]
    # all at once: hardly ever has one of them a secret
    together = "\n".join(texts)
    if _speakable(together) is together and redactor.clean(together) == together:
        return span

    def clean(text: str) -> str:
        return redactor.clean(_speakable(text))

    def clean_value(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(clean_value(one) for one in value)
        return clean(value) if isinstance(value, str) else value

    def cleaned(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: clean_value(value) for name, value in (attributes or {}).items()}

    described = clean(span.status.description) if span.status.description else None
    return ReadableSpan(
        name=clean(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=cleaned(span.attributes),
        events=[Happened(clean(e.name), cleaned(e.attributes), e.timestamp) for e in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, described),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _speakable(text: str) -> str:
    """The text with `?` for lone surrogates, which a model may write in JSON and protobuf refuses; else the same."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


class _Complaints(logging.Handler):
    """What the exporter would write for every batch becomes one line a minute; at the end, the sign to give up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = Event()
        self.told = False
        """It is known: nothing more is said."""
        self._said_at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        spans_are_lost = record.name != _ENCODER
        if spans_are_lost:
            self.heard.set()
        now = time.monotonic()
        if not self.told and (self._said_at is None or now - self._said_at >= _QUIET_S):
            self._said_at = now
            what = "the collector does not take traces, which are dropped" if spans_are_lost else "not told of a span"
            log.warning("%s: %s", what, record.getMessage()[:300])


@contextmanager
def exporting(asked: Traces | None, *, service: str) -> Iterator[None]:
    """This process has spans within the block, if the environment asks for them.

    Args:
        asked: by the environment (`fleet.settings.traces`); None: it has none, and the block pays nothing.
        service: what the process is called, unless the environment names it.
    """
    if asked is None:
        yield
        return
    exporter = _exporter(asked)
    outbox = Outbox(exporter, queue=asked.queue, batch=asked.batch, delay_s=asked.delay_s, count=_counted)
    resource = {
        "service.name": service,
        "service.namespace": "fleet",
        "service.version": version("agent-fleet"),
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
    }
    recorder = SpanRecorder(outbox, content=asked.content, resource=resource)
    complaints = _Complaints()
    with _heard(complaints):
        tracing.install(recorder)
        try:
            yield
        finally:
            tracing.install(None)
            if not _closed(recorder, outbox, complaints):
                complaints.told = True
                exporter.shutdown()


def _closed(recorder: SpanRecorder, outbox: Outbox, complaints: _Complaints) -> bool:
    """Whether the last spans have been dealt with in time."""
    hopeless = outbox.failing
    complaints.heard.clear()
    # a daemon: a collector that never answers must not keep the process
    closing = Thread(target=recorder.close, name="last-spans", daemon=True)
    closing.start()
    until = time.monotonic() + (HOPELESS_S if hopeless else LAST_S)
    while closing.is_alive() and not complaints.heard.is_set() and (left := until - time.monotonic()) > 0:
        closing.join(min(left, 0.02))
    return not closing.is_alive()


def _exporter(asked: Traces) -> SpanExporter:
    if asked.exporter == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(timeout=TIMEOUT_S if asked.timeout_s is None else asked.timeout_s)


def _counted(outcome: str, spans: int) -> None:
    METRICS.of(metrics.SPANS).labels(outcome).inc(spans)


@contextmanager
def _heard(complaints: _Complaints) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.handlers = [logging.NullHandler(), complaints]
        # also afterwards: a thread that was left behind may still have something to say
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(complaints)
