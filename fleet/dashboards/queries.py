"""PromQL over the registry: a metric, a label or a filter that does not exist is an error of Python."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fleet.contracts.metrics import EXPORTER_UP, Kind, Metric, Source

RATE: Final = "$__rate_interval"
INTERVAL: Final = "$__interval"
RANGE: Final = "$__range"
SCRAPED: Final = frozenset({"job", "instance", "process"})
"""Labels that scraping adds."""
VARIABLES: Final[Mapping[str, str]] = {
    "scope": "scope",
    "pool": "pool",
    "task_queue": "pool",
    "agent": "agent",
    "tenant": "tenant",
    "tool": "tool",
}
"""By label, the variable of a dashboard that filters it."""

Where = Mapping[str, str]
"""By label a regular expression; one that begins with `!` must not match."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Writes the expressions of one dashboard: whatever has a label that a variable filters is filtered.

    A metric of `fleet exporter` is first reduced to one series for each set of its labels: a second exporter, started
    by accident or for safety, doubles nothing.
    """

    variables: frozenset[str] = field(default_factory=frozenset)
    """Names of the dashboard's variables."""

    def select(self, metric: Metric, where: Where | None = None, suffix: str = "", name: str | None = None) -> str:
        """The metric's series."""
        where = where or {}
        _known(metric, where)
        matchers = [
            f'{label}=~"${VARIABLES[label]}"'
            for label in metric.labels
            if label not in where and VARIABLES.get(label) in self.variables
        ]
        for label, pattern in where.items():
            operator, wanted = ("!~", pattern[1:]) if pattern.startswith("!") else ("=~", pattern)
            matchers.append(f'{label}{operator}"{wanted}"')
        named = name or f"{metric.exposed}{suffix}"
        return f"{named}{{{', '.join(matchers)}}}" if matchers else named

    def sum(self, metric: Metric, by: str = "", where: Where | None = None) -> str:
        """Gauges added up."""
        _is(metric, Kind.GAUGE)
        return f"sum{_by(metric, by)} ({self._once(metric, self.select(metric, where))})"

    def max(self, metric: Metric, by: str = "", where: Where | None = None, over: str = "") -> str:
        """The largest of gauges, now or `over` a while: what was short is seen, too."""
        _is(metric, Kind.GAUGE)
        found = self.select(metric, where)
        return f"max{_by(metric, by)} ({f'max_over_time({found}[{over}])' if over else found})"

    def min(self, metric: Metric, by: str = "", where: Where | None = None, over: str = "") -> str:
        """The smallest of gauges, now or `over` a while."""
        _is(metric, Kind.GAUGE)
        found = self.select(metric, where)
        return f"min{_by(metric, by)} ({f'min_over_time({found}[{over}])' if over else found})"

    def last(self, metric: Metric, by: str = "", where: Where | None = None, over: str = RANGE) -> str:
        """Gauges as they were told last: of a fleet that has ended, too."""
        _is(metric, Kind.GAUGE)
        return f"max{_by(metric, by)} (last_over_time({self.select(metric, where)}[{over}]))"

    def count(self, metric: Metric, by: str = "", where: Where | None = None, ago: str = "") -> str:
        """How many series there are, or were `ago`."""
        return f"count{_by(metric, by)} ({self.select(metric, where)}{f' offset {ago}' if ago else ''})"

    def rate(self, metric: Metric, by: str = "", where: Where | None = None, over: str = RATE) -> str:
        """Counters a second."""
        _is(metric, Kind.COUNTER)
        return f"sum{_by(metric, by)} ({self._once(metric, f'rate({self.select(metric, where)}[{over}])')})"

    def per_minute(self, metric: Metric, by: str = "", where: Where | None = None) -> str:
        """Counters a minute."""
        return f"60 * {self.rate(metric, by, where)}"

    def increase(self, metric: Metric, by: str = "", where: Where | None = None, over: str = RANGE) -> str:
        """By how much counters have grown, over the whole range of the dashboard."""
        _is(metric, Kind.COUNTER)
        return f"sum{_by(metric, by)} ({self._once(metric, f'increase({self.select(metric, where)}[{over}])')})"

    def told(self, metric: Metric, by: str = "", where: Where | None = None, over: str = "") -> str:
        """Counters as they stand, or stood at most `over` a while."""
        _is(metric, Kind.COUNTER)
        found = self.select(metric, where)
        return f"sum{_by(metric, by)} ({self._once(metric, f'max_over_time({found}[{over}])' if over else found)})"

    def quantile(self, q: float, metric: Metric, by: str = "", where: Where | None = None, over: str = RATE) -> str:
        """A quantile of a histogram."""
        _is(metric, Kind.HISTOGRAM)
        _known(metric, by.split())
        buckets = f"sum by ({', '.join([*by.split(), 'le'])}) (rate({self.select(metric, where, '_bucket')}[{over}]))"
        return f"histogram_quantile({q:g}, {buckets})"

    def mean(self, metric: Metric, by: str = "", where: Where | None = None, over: str = RATE) -> str:
        """What a histogram's observations are on average."""
        return f"{self.spent(metric, by, where, over)} / {self.seen(metric, by, where, over)}"

    def seen(self, metric: Metric, by: str = "", where: Where | None = None, over: str = RATE) -> str:
        """Observations of a histogram a second."""
        _is(metric, Kind.HISTOGRAM)
        return f"sum{_by(metric, by)} (rate({self.select(metric, where, '_count')}[{over}]))"

    def spent(self, metric: Metric, by: str = "", where: Where | None = None, over: str = RATE) -> str:
        """Sum of a histogram's observations a second."""
        _is(metric, Kind.HISTOGRAM)
        return f"sum{_by(metric, by)} (rate({self.select(metric, where, '_sum')}[{over}]))"

    def _once(self, metric: Metric, expression: str) -> str:
        if metric.source is not Source.EXPORTER:
            return expression
        return f"max{_by(metric, ' '.join(metric.labels))} ({expression})"


def at_least(expression: str) -> str:
    """The sum of counters with 0 for none: what has never happened is not `no data`."""
    return f"({expression}) or vector(0)"


def if_known(expression: str, source: str) -> str:
    """The sum of what the exporter tells, with 0 for none while it can read the source; else nobody knows."""
    return f'({expression}) or 0 * max({EXPORTER_UP.exposed}{{source="{source}"}} == 1)'


def values(metric: Metric, label: str, matchers: str = "") -> str:
    """What a variable lists: the values of a label."""
    _known(metric, [label])
    suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
    return f"label_values({metric.exposed}{suffix}{matchers}, {label})"


def _by(metric: Metric, by: str) -> str:
    labels = by.split()
    _known(metric, labels)
    return f" by ({', '.join(labels)})" if labels else ""


def _known(metric: Metric, labels: Sequence[str] | Where) -> None:
    for label in labels:
        if (label not in SCRAPED and label not in metric.labels) or not re.fullmatch("[a-z_]+", label):
            raise ValueError(f"{metric.name} has no label {label}: one of {', '.join(metric.labels) or 'none'}")


def _is(metric: Metric, kind: Kind) -> None:
    if metric.kind is not kind:
        raise ValueError(f"{metric.name} is a {metric.kind}, not a {kind}")
