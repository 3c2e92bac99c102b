"""The last readings as Prometheus' families."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fleet.contracts.metrics import REGISTRY, Kind, Metric, Source
from workers.exporter.looking import Sample

Family = CounterMetricFamily | GaugeMetricFamily


class Readings(Collector):
    """Every metric of the exporter, with the time series that are known. Asks nobody: a scrape costs next to nothing.

    A series that is not known is absent, not zero.
    """

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """Args:
        samples: everything that is known now.
        """
        self._samples = samples

    def describe(self) -> Iterator[Family]:
        """The families, empty."""
        yield from _families().values()

    def collect(self) -> Iterator[Family]:
        """The families as they stand."""
        found = _families()
        for sample in self._samples():
            found[sample.metric.name].add_metric(sample.labels, sample.value)
        yield from found.values()


def _families() -> dict[str, Family]:
    return {metric.name: family(metric) for metric in REGISTRY.values() if metric.source is Source.EXPORTER}


def family(metric: Metric) -> Family:
    """The family of a counter or a gauge, without a series yet."""
    made = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    return made(metric.name, metric.says, labels=metric.labels)
