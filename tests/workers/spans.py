"""Spans as tests look at them."""

from contextlib import contextmanager
from dataclasses import replace

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from fleet import tracing
from workers.otlp import SpanRecorder
from workers.tracing import TracingInterceptor


class Spans:
    """What this process has told."""

    def __init__(self, exporter):
        self._exporter = exporter

    def all(self):
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, beginning):
        return [span for span in self.all() if span.name.startswith(beginning)]

    def one(self, beginning):
        (span,) = self.named(beginning)
        return span

    def names(self):
        return sorted(span.name for span in self.all())

    def forget(self):
        self._exporter.clear()


@contextmanager
def recording(**options):
    """Spans are made within the block."""
    exporter = InMemorySpanExporter()
    recorder = SpanRecorder(SimpleSpanProcessor(exporter), **options)
    tracing.install(recorder)
    try:
        yield Spans(exporter)
    finally:
        tracing.install(None)
        recorder.close()


def parent(span):
    return span.parent.span_id if span.parent else None


class _Body(ActivityInboundInterceptor):
    def __init__(self, body):
        self._body = body

    async def execute_activity(self, input):  # noqa: A002
        return await self._body(*input.args)


async def attempt(body, *args, headers=None, environment=None, **info):
    """The body as an attempt of an activity, as a worker that is traced would run it."""
    found = environment or ActivityEnvironment()
    found.info = replace(found.info, **info)
    around = TracingInterceptor().intercept_activity(_Body(body))
    given = ExecuteActivityInput(fn=body, args=args, executor=None, headers=headers or {})
    return await found.run(around.execute_activity, given)
