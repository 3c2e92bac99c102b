"""Spans leave a process, or are dropped: nobody waits for a collector."""

import inspect
import socket
import time
from threading import Event

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import generate_latest

from fleet import settings
from fleet import tracing as traces
from fleet.cli import context
from fleet.errors import BadInput
from tests.workers.collector import collecting
from tests.workers.spans import recording
from workers import tracing
from workers.metrics import METRICS
from workers.otlp import LAST_S, MOST_TOGETHER, MOST_WAITING, Outbox, SpanRecorder, exporting
from workers.providers import errors
from workers.redaction import REDACTOR


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Held(SpanExporter):
    """Takes the spans once it is let go."""

    def __init__(self):
        self.entered, self.go_on = Event(), Event()
        self.took = []

    def export(self, spans):
        self.entered.set()
        self.go_on.wait(10)
        self.took.extend(spans)
        return SpanExportResult.SUCCESS


def spans_of(recorder, count):
    for number in range(count):
        recorder.begin(f"span {number}").end()


def test_what_the_queue_cannot_hold_is_dropped_and_counted_and_nobody_waits():
    exporter, counted = Held(), {"exported": 0, "dropped": 0}

    def count(outcome, spans):
        counted[outcome] += spans

    outbox = Outbox(exporter, queue=100, batch=10, delay_s=0.01, count=count)
    recorder = SpanRecorder(outbox)
    spans_of(recorder, 1)
    assert exporter.entered.wait(5)
    began = time.perf_counter()
    spans_of(recorder, 5000)
    took = time.perf_counter() - began
    assert counted == {"exported": 0, "dropped": 4900}
    assert took < 2.0
    exporter.go_on.set()
    recorder.close()
    assert counted == {"exported": 101, "dropped": 4900}
    spans_of(recorder, 1)
    assert counted["dropped"] == 4901


@pytest.mark.parametrize("how", ["hangs", "refuses", "is away", "is overloaded"])
def test_a_process_ends_in_time_whatever_becomes_of_its_last_spans(how, monkeypatch):
    with collecting(hangs=how == "hangs", status={"refuses": 400, "is overloaded": 503}.get(how, 200)) as collector:
        url = collector.url
        if how == "is away":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with exporting(settings.traces(), service="test"):
            spans_of(traces.installed(), 600)
            began = time.perf_counter()
        took = time.perf_counter() - began
        assert traces.installed() is None
        assert took < (LAST_S + 0.5 if how == "hangs" else 1.0)


def test_a_collector_that_has_hung_before_is_hardly_waited_for(monkeypatch):
    with collecting(hangs=True) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        before = dropped()
        with exporting(settings.traces(), service="test"):
            spans_of(traces.installed(), 1)
            until = time.monotonic() + 10
            while dropped() == before:
                assert time.monotonic() < until
                time.sleep(0.01)
            spans_of(traces.installed(), 1)
            began = time.perf_counter()
        assert time.perf_counter() - began < 1.0


def dropped():
    found = [line for line in generate_latest(METRICS.registry).decode().splitlines() if line.startswith("fleet_spans")]
    return sum(float(line.split()[-1]) for line in found if "dropped" in line)


def test_what_is_told_arrives_packed_and_says_who_tells_it(monkeypatch):
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=here")
        with exporting(settings.traces(), service="fleet-worker"), tracing.calling("search x", {"a": 1}):
            assert set(tracing.exemplar()) == {"trace_id"}
        (span,) = collector.spans
        assert collector.requests == [("/v1/traces", "gzip")]
    assert (span.service, span.instance, span.name, span.attributes) == ("fleet-worker", "here", "search x", {"a": 1})
    assert tracing.exemplar() is None


def test_a_command_ends_with_its_spans_sent(monkeypatch):
    async def work():
        with tracing.calling("search x", {}):
            return 7

    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        assert context.run(work()) == 7
        assert [(span.service, span.name) for span in collector.spans] == [("mine", "search x")]


def test_no_secret_leaves_the_process():
    REDACTOR.learn("hunter2-the-secret")
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
        with (
            exporting(settings.traces(), service="test"),
            pytest.raises(errors.Unavailable),
            tracing.calling("search x", {"url": "https://me:hunter2-the-secret@example.com"}),
        ):
            raise errors.Unavailable("no answer to hunter2-the-secret")
        (span,) = collector.spans
    assert "hunter2" not in repr(span)
    assert span.error
    assert span.events == [
        ("exception", {"exception.type": "Unavailable", "exception.message": "no answer to [redacted]"})
    ]


def test_without_a_collector_there_is_nothing_to_pay(monkeypatch):
    assert settings.traces() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert settings.traces().queue == 2048
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert settings.traces() is None
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert settings.traces() is None
    with exporting(None, service="test"):
        assert (traces.interceptors(), tracing.traced(), tracing.exemplar()) == ([], [], None)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp, console or none, got 'zipkin'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "must be http/protobuf, got 'grpc'"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "must be a number of at least 1, got '-1'"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan", "must be a number of seconds from 0.001 to 300, got 'nan'"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000", "must be a number of seconds from 0.001 to 300, got '10000'"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "must be http/protobuf, got 'http/json'"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", "must be a URL of http or https with a host"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1", "must be a URL of http or https with a host"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "must be gzip, deflate or none, got 'zip'"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "must be one of always_on, always_off, "),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many", "must be an integer of at least 0, got 'many'"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1", "must be an integer of at least 0, got '-1'"),
    ],
)
def test_what_is_not_served_is_one_line(name, value, said, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as bad:
        settings.traces()
    assert str(bad.value).startswith(name)
    assert said in str(bad.value)


@pytest.mark.parametrize("value", ["2", "-0.1", "half"])
def test_a_ratio_that_is_none_is_one_line(value, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", value)
    with pytest.raises(BadInput, match=r"^OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1, got "):
        settings.traces()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert settings.traces() is not None


def test_what_is_said_of_traces_counts_more_than_what_is_said_of_all_signals(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7")
    assert settings.traces().timeout_s == 7


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_SAMPLER", "x"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file")]
)
def test_work_that_cannot_be_run_is_closed(name, value, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("workers.otlp._exporter", broken)

    async def work():
        raise AssertionError

    todo = work()
    with pytest.raises((BadInput, RuntimeError)):
        context.run(todo)
    assert inspect.getcoroutinestate(todo) == inspect.CORO_CLOSED


def broken(asked):
    raise RuntimeError("no exporter")


def test_what_is_said_of_a_span_after_its_end_is_not_told():
    with recording() as spans:
        with tracing.calling("search x", {"a": 1}) as span:
            pass
        span.set_attribute("late", 1)
        span.set_attributes({"later": 1})
        span.add_event("latest")
        span.end()
        assert not span.is_recording()
    (told,) = spans.all()
    assert (dict(told.attributes), list(told.events)) == ({"a": 1}, [])


class Sized(SpanExporter):
    """Notes how many spans came together, and how long their texts were."""

    def __init__(self):
        self.batches = []

    def export(self, spans):
        self.batches.append((len(spans), sum(len(span.attributes["text"].encode()) for span in spans)))
        return SpanExportResult.SUCCESS


def test_spans_that_are_large_are_dropped_by_their_bytes_and_sent_few_together():
    exporter, counted = Sized(), {"exported": 0, "dropped": 0}

    def count(outcome, spans):
        counted[outcome] += spans

    outbox = Outbox(exporter, delay_s=60.0, count=count)
    recorder = SpanRecorder(outbox)
    for number in range(200):
        recorder.begin("span", attributes={"text": ("é" if number % 2 else "e") * 100_000}).end()
    # 200 of 150,000 bytes on average
    assert 100 <= 200 - counted["dropped"] <= MOST_WAITING // 150_000 + 1
    recorder.close()
    assert counted["exported"] + counted["dropped"] == 200
    assert len(exporter.batches) >= 4
    assert max(size for _, size in exporter.batches) <= MOST_TOGETHER
    spans_of(recorder, 1)
    assert counted["dropped"] > 200 - counted["exported"]


def test_what_is_no_utf_8_is_replaced_and_no_other_span_is_lost(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with exporting(settings.traces(), service="test"):
            spans_of(traces.installed(), 2)
            with pytest.raises(errors.Unavailable), tracing.calling("x\ud800", {"a": "b\udfff", "c": ("d\ud83d",)}):
                raise errors.Unavailable("e\ud800")
            # no attribute of a span: the exporter says so itself
            traces.installed().begin("odd", attributes={"odd": object(), "even": 1}).end()
        found = {span.name: span for span in collector.spans}
    assert set(found) == {"span 0", "span 1", "x?", "odd"}
    assert found["x?"].attributes == {"a": "b?", "c": ["d?"], "error.type": "Unavailable"}
    assert found["x?"].events[0][1]["exception.message"] == "e?"
    assert found["odd"].attributes == {"even": 1}
    (said,) = caplog.messages
    assert said.startswith("not told of a span: Failed to encode key odd: ")


def test_a_log_line_names_its_trace():
    with recording() as spans, tracing.calling("search x", {}):
        said = tracing.where(None, "", {"event": "x"})
    (span,) = spans.all()
    assert said["trace_id"] == f"{span.context.trace_id:032x}"
    assert said["span_id"] == f"{span.context.span_id:016x}"
    assert tracing.where(None, "", {"event": "x"}) == {"event": "x"}


def test_a_collector_that_is_away_is_one_line_in_the_log(caplog, capsys):
    with socket.socket() as probe, pytest.MonkeyPatch.context() as patch:
        probe.bind(("127.0.0.1", 0))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
        with exporting(settings.traces(), service="test"):
            before = dropped()
            for _ in range(3):
                spans_of(traces.installed(), 1)
                until = time.monotonic() + 10
                while dropped() == before:
                    assert time.monotonic() < until
                    time.sleep(0.01)
                before = dropped()
    (said,) = caplog.messages
    assert said.startswith("the collector does not take traces, which are dropped: ")
    assert capsys.readouterr() == ("", "")
