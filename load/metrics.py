"""What a trial tells while it runs, for the dashboard *Load test*: asked for at each scrape, counted nowhere twice."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from time import time

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from fleet.contracts import metrics
from fleet.contracts.metrics import Metric
from load.offering import Runs
from load.trial import Finding, Mark
from workers.exporter.collector import Family, family

SEEN_S = 10.0
"""A fault that lasts for an instant, as a kill, is told for so long: else no scrape would see it."""


class TrialMetrics(Collector):
    """The families of source `load`. Of the trial that runs, or ran last."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """What `/metrics` serves."""
        self.registry.register(self)
        self._runs = Runs(())
        self._marks: Sequence[Mark] = ()
        self._calls: Mapping[tuple[str, ...], float] = {}
        self._findings: Sequence[Finding] = ()

    def begin(self, runs: Runs, marks: Sequence[Mark]) -> None:
        """A trial begins: what is known of its runs and its faults, which it goes on writing to."""
        self._runs, self._marks, self._calls, self._findings = runs, marks, {}, ()

    def called(self, calls: Mapping[tuple[str, ...], float]) -> None:
        """What the simulated providers have answered until now, by scope and outcome."""
        self._calls = calls

    def judged(self, findings: Sequence[Finding]) -> None:
        """The verdict."""
        self._findings = findings

    def collect(self) -> Iterable[Family]:
        """As it stands."""
        runs, now = self._runs, time()
        # another thread than the one that writes: copies
        arrived, ended = list(runs.arrived), list(runs.outcomes.values())
        yield _family(metrics.LOAD_ARRIVED, Counter((one.agent,) for one in arrived))
        yield _family(metrics.LOAD_PLANNED, {(): len(runs.planned)})
        yield _family(metrics.LOAD_ACTIVE, {(): max(0, runs.active)})
        yield _family(metrics.LOAD_ENDED, Counter((outcome,) for outcome in ended))
        faults: dict[tuple[str, ...], float] = {(mark.kind, mark.target): 0.0 for mark in self._marks}
        for mark in list(self._marks):
            if mark.at <= now < max(mark.until, mark.at + SEEN_S):
                faults[mark.kind, mark.target] = 1.0
        yield _family(metrics.LOAD_FAULT, faults)
        yield _family(metrics.LOAD_CALLS, self._calls)
        yield _family(metrics.LOAD_ORACLE, {(one.name,): float(one.ok) for one in self._findings})


def _family(metric: Metric, values: Mapping[tuple[str, ...], float]) -> Family:
    found = family(metric)
    for labels, value in values.items():
        found.add_metric(labels, value)
    return found
