"""Processes that serve every family of the registry, with values that move between scrapes."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import Metric as Family

from fleet.contracts import metrics
from fleet.contracts.metrics import REGISTRY, Kind, Metric, Source

JOBS = {
    Source.WORKER: "fleet-worker",
    Source.WORKFLOW: "fleet-worker",
    Source.TEMPORAL: "fleet-worker",
    Source.EXPORTER: "fleet-exporter",
    Source.LOAD: "fleet-load",
}
VALUES = {
    "state": ["working", "approval", "approved", "done", "failed", "running", "stopping", "used", "free"],
    "outcome": ["completed", "failed", "budget_exhausted", "ok"],
    "status": ["draining", "200", "429"],
    "type": ["input", "cached", "output"],
    "scope": ["openai/gpt-5", "smtp/relay"],
}
"""By label; of the others two made-up ones."""


def values(label: str) -> list[str]:
    """Of a label, as many as panels ask for by name."""
    return VALUES.get(label, [f"{label}-1", f"{label}-2"])


class _Moving:
    """Moves everything on whenever it is scraped: counters grow, so that rates exist."""

    def __init__(self, families: list[Metric], registry: CollectorRegistry) -> None:
        # first in the registry, so it is collected first
        registry.register(self)
        self._made = [(one, _made(one, registry)) for one in families]
        self._lock = threading.Lock()
        self._move()

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        self._move()
        return iter(())

    def _move(self) -> None:
        with self._lock:
            for metric, made in self._made:
                for combination in product(*(values(label) for label in metric.labels)):
                    child = made.labels(*combination) if metric.labels else made
                    if metric is metrics.EXPORTER_AT:
                        child.set_to_current_time()
                    elif isinstance(child, Counter):
                        child.inc(3)
                    elif isinstance(child, Gauge):
                        child.set(1)
                    else:
                        child.observe(0.7)


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind is Kind.COUNTER:
        return Counter(metric.name, metric.says, metric.labels, registry=registry)
    if metric.kind is Kind.GAUGE:
        return Gauge(metric.name, metric.says, metric.labels, registry=registry)
    more = {"buckets": metric.buckets} if metric.buckets else {}
    return Histogram(metric.name, metric.says, metric.labels, registry=registry, **more)


@contextmanager
def serving() -> Iterator[list[dict[str, object]]]:
    """One server a job, for as long as the block lasts; Prometheus' targets."""
    with ExitStack() as stack:
        targets: list[dict[str, object]] = []
        for job in sorted(set(JOBS.values())):
            registry = CollectorRegistry()
            _Moving([one for one in REGISTRY.values() if JOBS[one.source] == job], registry)
            server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
            stack.callback(_stop, server, thread)
            address = f"127.0.0.1:{server.server_port}"
            targets.append({"targets": [address], "labels": {"job": job, "process": f"{job}-1"}})
        yield targets


def _stop(server, thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
