"""Everything a worker counts: the registry's families of source `worker`, in bounded label values.

A value beyond the bound of its label is counted as `other`, and that it was is counted too. So the number of time
series of a process is bounded by its manifest and `FLEET_METRICS_TENANTS`, whoever starts whichever runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from math import prod
from threading import Lock
from typing import Any, Final, Protocol, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from fleet import tracing
from fleet.contracts import metrics, tools
from fleet.contracts.llm import Usage
from fleet.contracts.metrics import OTHER, Kind, Metric, Source
from fleet.manifest import Manifest
from ratelimit import events
from ratelimit.places import Closed

BATCH: Final = "batch"
"""What stands for an agent in calls that a batch makes without one."""
TENANTS: Final = 100
"""Tenants with series of their own, unless the settings say otherwise."""
ROOM: Final[Mapping[str, int]] = {
    "activity": 32,
    "build": 4,
    "label": 16,
    "limit": 16,
    "outcome": 16,
    "verb": 24,
    "version": 1,
}
"""Most values of a label that neither a manifest nor the registry names, for each metric of one process: first come,
the rest is `other`."""

# when a series began is a series of its own: Prometheus does without
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Which values the labels of one process may have."""

    named: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By label, the values that are known beforehand."""
    born: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By label, the values of those counters that are served from the start."""
    tenants: int = TENANTS

    @classmethod
    def of(cls, manifest: Manifest, scopes: Iterable[str], tenants: int, pools: Iterable[str] = ()) -> "Bounds":
        """Those of a manifest: names of agents, models and scopes that only older manifests had are beyond them.

        Args:
            manifest: what the fleet is.
            scopes: that have a quota.
            tenants: with series of their own.
            pools: that the process serves: it tells of their effects before there was one.
        """
        served = set(pools)
        models = {model for agent in manifest.agents.values() for model in (agent.model, agent.context.model) if model}
        models |= {name for name in manifest.prices if name.partition("/")[0] in manifest.providers}
        named = {
            "agent": {*manifest.agents, BATCH, ""},
            "endpoint": set(manifest.endpoints),
            "model": models,
            "pool": set(manifest.pools),
            "scope": {*(scope for scope in scopes if not scope.endswith("/*")), *manifest.providers, *models, ""},
            "tool": set(tools.TOOLS),
        }
        born = {
            "agent": frozenset(manifest.agents),
            "endpoint": frozenset(manifest.endpoints),
            "scope": frozenset(scope for scope in scopes if not scope.endswith("/*")),
            "tool": frozenset(name for name, tool in tools.TOOLS.items() if tool.effect and tool.stub.pool in served),
        }
        return cls(named={k: frozenset(values) for k, values in named.items()}, born=born, tenants=tenants)

    def births(self, metric: Metric) -> Iterator[tuple[str, ...]]:
        """Labels of the series that a metric has from the start."""
        return product(*(metric.values.get(label) or sorted(self.born.get(label, ())) for label in metric.labels))

    def values(self, metric: Metric, label: str) -> int:
        """Most values of a label of one metric, `other` included where there may be others."""
        known = metric.values.get(label)
        return self.room(label) + 1 if known is None else len(known)

    def room(self, label: str) -> int:
        """Most values that the label has, `other` aside."""
        if label in self.named:
            return len(self.named[label])
        return self.tenants if label == "tenant" else ROOM.get(label, TENANTS)


def most(bounds: Bounds, families: Iterable[Metric] | None = None) -> int:
    """Most time series of one worker process: of its own families and of those that its workflows tell.

    Of a family, the product of its labels' values, `other` included; of a histogram so many for each bucket, `+Inf`
    included, its sum and its count.
    """
    if families is None:
        families = [one for one in metrics.REGISTRY.values() if one.source in (Source.WORKER, Source.WORKFLOW)]
    return sum(
        prod(bounds.values(one, label) for label in one.labels)
        * (len(one.buckets) + 3 if one.kind is Kind.HISTOGRAM else 1)
        for one in families
    )


class Series(Protocol):
    """One time series. Each kind knows its own of these."""

    def inc(self, amount: float = 1.0) -> None:
        """Count, or raise a gauge."""
        ...

    def dec(self, amount: float = 1.0) -> None:
        """Lower a gauge."""
        ...

    def set(self, value: float) -> None:
        """Set a gauge."""
        ...

    def observe(self, value: float) -> None:
        """Take one value into a histogram, with the id of the trace that is under way."""
        ...


class _Observed:
    """A histogram's, with exemplars. Other series are the library's own: nothing stands between.

    Calls of the store have no exemplars: their answers come in the context of whoever opened the connection, and so in
    the trace of another call.
    """

    __slots__ = ("_take",)

    def __init__(self, child: Histogram) -> None:
        self._take = child.observe

    def inc(self, amount: float = 1.0) -> None:
        raise TypeError(f"a histogram observes, it does not count: {amount:g}")

    def dec(self, amount: float = 1.0) -> None:
        self.inc(-amount)

    def set(self, value: float) -> None:
        self.inc(value)

    def observe(self, value: float) -> None:
        if tracing.installed() is None:
            self._take(value)
            return
        # imported late: what traces counts its spans here
        from workers.tracing import exemplar

        self._take(value, exemplar())


class _Nothing:
    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """Metrics are off."""

    def dec(self, amount: float = 1.0) -> None:
        """Metrics are off."""

    def set(self, value: float) -> None:
        """Metrics are off."""

    def observe(self, value: float) -> None:
        """Metrics are off."""


_NOTHING: Final = _Nothing()


class Family:
    """All series of one metric."""

    def __init__(self, metric: Metric, inner: Counter | Gauge | Histogram, owner: "Metrics") -> None:
        self._metric = metric
        self._inner = inner
        self._owner = owner
        self._known: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """The series of these values, in the registry's order; each that is beyond its bound is `other`.

        To count a negative amount is an error: what comes from a provider is held at 0 by whoever counts it.
        """
        found = self._known.get(values)
        return self._made(values) if found is None else found

    def _made(self, values: tuple[str, ...]) -> Series:
        if not self._owner.on:
            return _NOTHING
        metric = self._metric
        folded = tuple(self._owner.folded(metric, *each) for each in zip(metric.labels, values, strict=True))
        series = self._known.get(folded)
        if series is None:
            child: Any = self._inner.labels(*folded) if folded else self._inner
            named = metric.kind is Kind.HISTOGRAM and metric is not metrics.STORE_SECONDS
            series = cast("Series", _Observed(child) if named else child)
            # never under a value that was folded: there are such without number
            self._known[folded] = series
        return series


class StoreCalls:
    """Takes each call of the limiter's store."""

    def __init__(self, ours: "Metrics", posture: str) -> None:
        """Args:
        ours: of the process.
        posture: what the limiter does without its store: `pause` or `degrade`.
        """
        self._seconds = ours.of(metrics.STORE_SECONDS)
        self._lost = ours.of(metrics.STORE_LOST).labels()
        self._up = ours.of(metrics.STORE_UP).labels(posture)
        self._answered: bool | None = None

    @property
    def away(self) -> bool:
        """The last call had no answer."""
        return self._answered is False

    def __call__(self, verb: str, took_s: float, answered: bool) -> None:
        """Take one: its verb, its seconds, and whether there was an answer."""
        self._seconds.labels(verb).observe(took_s)
        if answered is not self._answered:
            self._answered = answered
            self._up.set(1.0 if answered else 0.0)
        if not answered:
            self._lost.inc()


class Metrics:
    """What one process counts. Until `configure` labels that a manifest names are not bounded."""

    def __init__(self) -> None:
        self.on = True
        """Whether anything is counted."""
        self._bounds = Bounds()
        self._came: dict[tuple[str, str], set[str]] = {}
        self._lock = Lock()
        self._registry = CollectorRegistry()
        self._families = {
            one.name: Family(one, _declared(one, self._registry), self)
            for one in metrics.REGISTRY.values()
            if one.source is Source.WORKER
        }

    @property
    def registry(self) -> CollectorRegistry:
        """What `/metrics` serves; empty while metrics are off."""
        return self._registry if self.on else CollectorRegistry()

    def configure(self, bounds: Bounds, *, on: bool = True) -> None:
        """Set the bounds of labels; `on=False`: count nothing from now on."""
        self._bounds, self.on = bounds, on
        for metric in metrics.BORN:
            if on and metric.source is Source.WORKER:
                for values in bounds.births(metric):
                    self.of(metric).labels(*values)
        if not on:
            for family in self._families.values():
                family._known.clear()  # noqa: SLF001 - they are one

    @property
    def bounds(self) -> Bounds:
        """Which values labels may have."""
        return self._bounds

    def of(self, metric: Metric) -> Family:
        """The family of a metric of the registry, of source `worker`."""
        return self._families[metric.name]

    def folded(self, metric: Metric, label: str, value: str, *, count: bool = True) -> str:
        """The value, or `other` where the metric's label has no room for it.

        Args:
            metric: whose label.
            label: of those that the metric has.
            value: which may be beyond the label's bound.
            count: that it was folded. False where the same observation is looked at again.
        """
        if value == OTHER or self._has_room(metric, label, value):
            return value
        if count:
            self.of(metrics.FOLDED).labels(label).inc()
        return OTHER

    def tenant(self, name: str) -> str:
        """The tenant, or `other` once there are as many as have series of their own."""
        return self.folded(metrics.TENANT_CALLS, "tenant", name)

    def used(self, model: str, agent: str, tenant: str, usage: Usage, money: Decimal | None) -> None:
        """Take one call of a model that was answered. Never raises: a call that was paid must not be made again.

        Args:
            model: `provider/model`.
            agent: whose call it was.
            tenant: whose run it was.
            usage: as the provider has counted it; below 0 counts as 0.
            money: what it has cost; None: the model has no price.
        """
        tokens = self.of(metrics.MODEL_TOKENS)
        cached, output = max(0, usage.cached_tokens), max(0, usage.output_tokens)
        # types add up: what was in the provider's cache is part of the input
        tokens.labels(model, agent, "input").inc(max(0, usage.input_tokens - cached))
        tokens.labels(model, agent, "cached").inc(cached)
        tokens.labels(model, agent, "output").inc(output)
        # three families bear it: one call is folded once
        tenant = self.tenant(tenant)
        self.of(metrics.TENANT_CALLS).labels(tenant).inc()
        self.of(metrics.TENANT_TOKENS).labels(tenant).inc(max(0, usage.input_tokens) + output)
        if money is not None and money > 0:
            paid = float(money)
            self.of(metrics.MODEL_COST).labels(model, agent).inc(paid)
            self.of(metrics.TENANT_COST).labels(tenant).inc(paid)

    def observe(self, event: events.Event) -> None:
        """Take one event of the limiter. Never raises: what it tells of has happened."""
        if isinstance(event, events.Granted):
            self.of(metrics.QUOTA_WAIT).labels(event.scope).observe(event.waited_s)
        elif isinstance(event, events.Settled):
            spent = self.of(metrics.QUOTA_SPENT)
            for (scope, limit), units in event.spent.items():
                spent.labels(scope, limit).inc(max(0.0, units))
        elif isinstance(event, events.Estimated):
            self.of(metrics.QUOTA_ESTIMATE).labels(event.scope, event.what).observe(event.ratio)
        elif isinstance(event, events.Cooled):
            self.of(metrics.QUOTA_COOLDOWNS).labels(event.scope).inc()
        elif isinstance(event, events.Shut) and event.cause is not Closed.NO:
            self.of(metrics.QUOTA_CLOSINGS).labels(event.scope, event.cause.name.lower()).inc()
        elif isinstance(event, events.Degraded):
            self.of(metrics.QUOTA_DEGRADED).labels(event.scope).inc()
        elif isinstance(event, events.Shadowed):
            self.of(metrics.QUOTA_SHADOWED).labels(event.scope, event.limit).inc()

    def store(self, posture: str) -> StoreCalls | None:
        """What is told of each call of the limiter's store; None while metrics are off.

        Args:
            posture: what the limiter does without its store: `pause` or `degrade`.
        """
        return StoreCalls(self, posture) if self.on else None

    def _has_room(self, metric: Metric, label: str, value: str) -> bool:
        known = metric.values.get(label) or self._bounds.named.get(label)
        if known is not None:
            return value in known
        # a tenant is another one or not: the same in all families
        came = self._came.setdefault(("" if label == "tenant" else metric.name, label), set())
        if value in came:
            return True
        with self._lock:
            # before a manifest is known its labels are not bounded
            if len(came) >= self._bounds.room(label) and (label in ROOM or label == "tenant"):
                return False
            came.add(value)
        return True


def _declared(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind is Kind.HISTOGRAM:
        return Histogram(metric.name, metric.says, metric.labels, buckets=metric.buckets, registry=registry)
    kind = Counter if metric.kind is Kind.COUNTER else Gauge
    return kind(metric.name, metric.says, metric.labels, registry=registry)


METRICS: Final = Metrics()
"""Those of this process."""
