"""What the Temporal SDK and the workflows count, served with what the process itself counts.

The SDK serves its metrics over HTTP, from its own threads: nothing is done in Python when they change. That endpoint is
on the loopback; a scrape of `/metrics` reads it, and hands on what the registry knows of workflows, in the registry's
labels, and whatever is Temporal's.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from itertools import product
from typing import Final

import structlog
from prometheus_client.metrics_core import Metric as Scraped
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from fleet.contracts import metrics
from fleet.contracts.metrics import Kind, Metric, Source
from fleet.contracts.names import AGENT_WORKFLOW, BATCH_WORKFLOW, EFFECT_WORKFLOW
from workers.metrics import Metrics

WITHIN_S: Final = 1.0
"""Longest time that a scrape waits for the SDK. What it does not tell in time is missing from that scrape."""
_TEMPORAL: Final = "temporal_"
_FAILED: Final = metrics.WORKFLOW_TASK_FAILED
_POLLS: Final = "workflow_task"
_WORKFLOWS: Final = (AGENT_WORKFLOW, BATCH_WORKFLOW, EFFECT_WORKFLOW)
_WHYS: Final = ("NonDeterminismError", "WorkflowError")
"""Why workflow tasks fail, as the SDK says it."""
_ATTEMPTS: Final = 5
"""To find a port that nobody takes between asking for it and using it."""

log = structlog.get_logger("fleet.worker")


@contextmanager
def measured(ours: Metrics, heartbeat: timedelta, *, agents: bool) -> Iterator[Runtime]:
    """A runtime of the SDK whose metrics `ours.registry` serves until the block ends. One for each process.

    Args:
        ours: of the process. While they are off the SDK counts nothing either.
        heartbeat: how often workers tell Temporal that they live.
        agents: the process runs agents, and tells of their runs from the start.

    Raises:
        RuntimeError: the loopback has no free port.
    """
    if not ours.on:
        yield Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=heartbeat)
        return
    for left in reversed(range(_ATTEMPTS)):
        port = _free_port()
        try:
            runtime = Runtime(telemetry=_telemetry(port), worker_heartbeat_interval=heartbeat)
            break
        except (RuntimeError, ValueError):
            if not left:
                raise
    collector = SdkCollector(port, ours, agents=agents)
    registry = ours.registry
    registry.register(collector)
    try:
        yield runtime
    finally:
        registry.unregister(collector)


class SdkCollector:
    """Reads the SDK's endpoint when it is collected."""

    def __init__(self, port: int, ours: Metrics, *, agents: bool) -> None:
        """Args:
        port: of the endpoint, on the loopback.
        ours: bounds the values of labels.
        agents: tell of runs before there was one.
        """
        self._port = port
        self._ours = ours
        self._born = [one for one in metrics.BORN if one.source is Source.WORKFLOW] if agents else []

    def describe(self) -> Iterable[Scraped]:
        """Nothing: registering must not read the endpoint."""
        return []

    def collect(self) -> Iterator[Scraped]:
        """The families of workflows, in the registry's labels, and Temporal's own."""
        text = self._text()
        unborn = {one.name: one for one in self._born} if text else {}
        failed, polled = Scraped(_FAILED.name, _FAILED.says, _FAILED.kind.value), []
        for family in text_string_to_metric_families(text):
            known = metrics.REGISTRY.get(family.name)
            if known is not None and known.source is Source.WORKFLOW:
                unborn.pop(known.name, None)
                yield self._summed(known, family)
            elif family.name == _FAILED.name:
                failed = family
            elif family.name.startswith(_TEMPORAL):
                if family.name == metrics.POLLERS.name:
                    polled = [one.labels for one in family.samples if one.labels["poller_type"] == _POLLS]
                yield family
        yield _with_noughts(failed, polled)
        for one in unborn.values():
            yield self._summed(one, Scraped(one.name, one.says, one.kind.value))

    def _text(self) -> str:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=WITHIN_S)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except (OSError, HTTPException) as error:
            log.warning("the SDK's metrics are missing from a scrape", why=str(error) or type(error).__name__)
            return ""
        finally:
            connection.close()

    def _summed(self, known: Metric, family: Scraped) -> Scraped:
        """With the registry's labels only: the SDK adds its namespace, task queue and workflow type."""
        sums: dict[tuple[str, tuple[str, ...], str], float] = {}
        if known in self._born:
            sums |= {(known.exposed, values, ""): 0.0 for values in self._ours.bounds.births(known)}
        for sample in family.samples:
            # a scrape looks at the same runs again: to count what is folded would count scrapes
            values = tuple(
                self._ours.folded(known, label, sample.labels.get(label, ""), count=False) for label in known.labels
            )
            bound = sample.labels.get("le", "")
            key = (sample.name, values, _as_ours(bound) if bound else "")
            sums[key] = sums.get(key, 0.0) + sample.value
        found = Scraped(known.name, known.says, known.kind.value)
        for (name, values, bound), value in sums.items():
            labels = dict(zip(known.labels, values, strict=True)) | ({"le": bound} if bound else {})
            found.samples.append(Sample(name, labels, value))
        return found


def _with_noughts(failed: Scraped, polled: Iterable[Mapping[str, str]]) -> Scraped:
    """Failures of workflow tasks, told at 0 of what has not failed yet: that a replay diverges is seen at the first.

    Args:
        failed: as the SDK tells it.
        polled: labels of the polls for workflow tasks.
    """
    known = {frozenset(sample.labels.items()) for sample in failed.samples}
    for labels, kind, why in product(polled, _WORKFLOWS, _WHYS):
        series = {name: value for name, value in labels.items() if name != "poller_type"}
        series |= {"workflow_type": kind, "failure_reason": why}
        if frozenset(series.items()) not in known:
            failed.samples.append(Sample(_FAILED.exposed, series, 0.0))
    return failed


def _telemetry(port: int) -> TelemetryConfig:
    return TelemetryConfig(
        metrics=PrometheusConfig(
            bind_address=f"127.0.0.1:{port}",
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
            histogram_bucket_overrides={
                one.name: one.buckets
                for one in metrics.REGISTRY.values()
                if one.source is Source.WORKFLOW and one.kind is Kind.HISTOGRAM
            },
        ),
        # the same everywhere
        attach_service_name=False,
    )


def _as_ours(bound: str) -> str:
    """A bucket's bound as the process writes its own: `10.0`, not `10`."""
    written: str = floatToGoString(float(bound))  # type: ignore[no-untyped-call]
    return written


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
