"""What a provider grants: limits, quotas, costs."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Self

from ratelimit.errors import BadCost, BadQuota, CostTooLarge
from ratelimit.places import Kind
from ratelimit.state import Spec

Cost = Mapping[str, float]
"""What one call spends: units by limit, or by what several limits count (see `Quota.limits`)."""

LARGEST_COST = 2.0**53
"""Beyond this a double no longer counts single units."""
MEAN_MONTH = timedelta(days=30.436875)
DEEPEST = 4
"""Most scopes that one call is charged to."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PART = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}"
_SCOPE = re.compile(rf"{_PART}(/{_PART}){{1,4}}")
_TEMPLATE = re.compile(rf"{_PART}(/{_PART}){{1,3}}/\*")


def _positive(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise BadQuota(f"{what} is {value!r}: must be a finite number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One thing a provider counts, and how it forgives."""

    capacity: float
    """Units granted per `period`, as the provider documents them (tokens, requests); of what is in flight, at once."""

    period: timedelta = timedelta(minutes=1)
    """How long `capacity` units take to return. Of what is in flight: how long a call holds it if nobody says that it
    still runs. Calendar months have none."""

    burst: float | None = None
    """Most units that can be spent at once after idling. Default: `capacity`. Smaller where a provider enforces a
    minute's quota over shorter windows."""

    kind: Kind = Kind.CONTINUOUS
    """How units return."""

    offset: timedelta = timedelta(0)
    """Of windows: when the first begins, from midnight UTC."""

    shadow: bool = False
    """Count what the limit would refuse, refuse nothing."""

    def __post_init__(self) -> None:
        _positive(self.capacity, "capacity")
        _positive(self.period.total_seconds(), "period in seconds")
        if self.capacity > LARGEST_COST:
            raise BadQuota(f"capacity is {self.capacity!r}: must be at most 2**53")
        if self.burst is None:
            return
        _positive(self.burst, "burst")
        if self.kind is not Kind.CONTINUOUS:
            raise BadQuota(f"burst is {self.burst!r}: only what returns bit by bit has one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """All limits of a scope, taken together: a call is charged to every one of them or to none."""

    scope: str
    """What the provider counts by: `provider/model`, `provider/model/organisation`. One that ends in `/*` is the
    template for the scopes below it, one for each tenant, and lies within the scope above it."""

    limits: Mapping[str, Limit]
    """By name. A limit counts the unit of its name: `tokens_per_day` counts tokens, `in_flight` counts requests and
    `tokens_in_flight` tokens, so that the cost of a call names each unit once."""

    within: str | None = None
    """The scope that the call is charged to as well: a model's organisation, a tenant's model."""

    passing: bool = False
    """Forgotten once it is as new: for scopes without number, one for each tenant."""

    starts_full: bool = False
    """State that is new starts full, lost state too: for limits that are ours and no provider's, as tenants' are."""

    headroom: float = 1.0
    """The share (0-1] of the provider's limits that is planned to be used. What is in flight is used to the full."""

    burst_headroom: float = 1.0
    """The share (0-1] of each burst that is planned to be used: a call may reach the provider a little earlier than the
    one before it allows."""

    recovery: timedelta = field(default=timedelta(minutes=1))
    """How long the pace would take from 0 back to 1."""

    def __post_init__(self) -> None:
        if not _TEMPLATE.fullmatch(self.scope):
            check_scope(self.scope)
        if not self.limits:
            raise BadQuota(f"{self.scope}: a quota needs at least one limit")
        for name, limit in self.limits.items():
            if not _NAME.fullmatch(name):
                raise BadQuota(f"{self.scope}: limit {name!r}: a name is lower-case letters, digits and _")
            if counts_flight(name) != (limit.kind is Kind.IN_FLIGHT):
                raise BadQuota(f"{self.scope}: limit {name!r}: what is in flight, and only that, ends in in_flight")
        if self.within is not None:
            check_scope(self.within)
            if _provider(self.within) != _provider(self.scope) or self.within == self.scope:
                raise BadQuota(f"{self.scope}: within {self.within!r}: must be another scope of the same provider")
        _positive(self.headroom, f"{self.scope}: headroom")
        _positive(self.burst_headroom, f"{self.scope}: burst_headroom")
        for what, share in (("headroom", self.headroom), ("burst_headroom", self.burst_headroom)):
            if share > 1:
                raise BadQuota(f"{self.scope}: {what} is {share!r}: must be at most 1")
        _positive(self.recovery.total_seconds(), f"{self.scope}: recovery in seconds")
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    @property
    def outer(self) -> str | None:
        """The scope that this one lies within."""
        return self.scope[:-2] if self.within is None and self.template else self.within

    @property
    def template(self) -> bool:
        """Whether it stands for all scopes below its own."""
        return self.scope.endswith("/*")

    def of(self, scope: str) -> Self:
        """The quota of one scope of a template."""
        return replace(self, scope=scope, within=self.outer, passing=True, starts_full=True)

    def rate(self, name: str) -> float:
        """Units per second at full pace. Of what is in flight: as if every call took the whole lease."""
        limit = self.limits[name]
        if limit.kind is Kind.IN_FLIGHT:
            return limit.capacity / limit.period.total_seconds()
        period = MEAN_MONTH if limit.kind is Kind.MONTHS else limit.period
        return limit.capacity * self.headroom / period.total_seconds()

    def burst(self, name: str) -> float:
        """Most units at once, headroom included."""
        limit = self.limits[name]
        if limit.kind is Kind.IN_FLIGHT:
            return limit.capacity
        planned = limit.capacity * self.headroom
        if limit.kind is not Kind.CONTINUOUS:
            return planned
        burst = limit.capacity if limit.burst is None else limit.burst
        return min(burst * self.burst_headroom, planned)

    def spec(self) -> Spec:
        """As the state knows it."""
        return Spec(
            1 / self.recovery.total_seconds(),
            self.passing,
            {
                name: (
                    self.rate(name),
                    self.burst(name),
                    limit.kind,
                    limit.period.total_seconds(),
                    limit.offset.total_seconds(),
                    limit.shadow,
                )
                for name, limit in self.limits.items()
            },
        )

    def document(self) -> str:
        """As JSON, for the store."""
        limits = {
            name: {
                "capacity": limit.capacity,
                "period_s": limit.period.total_seconds(),
                "burst": limit.burst,
                "kind": limit.kind.name.lower(),
                "offset_s": limit.offset.total_seconds(),
                "shadow": limit.shadow,
            }
            for name, limit in self.limits.items()
        }
        shares = {"headroom": self.headroom, "burst_headroom": self.burst_headroom}
        place = {"within": self.within, "passing": self.passing, "starts_full": self.starts_full}
        return json.dumps({"limits": limits, **place, **shares, "recovery_s": self.recovery.total_seconds()})

    @classmethod
    def of_document(cls, scope: str, document: str) -> Self:
        """The reverse of `document`."""
        found = json.loads(document)
        return cls(
            scope=scope,
            limits={
                name: Limit(
                    capacity=limit["capacity"],
                    period=timedelta(seconds=limit["period_s"]),
                    burst=limit["burst"],
                    kind=Kind[limit["kind"].upper()],
                    offset=timedelta(seconds=limit["offset_s"]),
                    shadow=limit["shadow"],
                )
                for name, limit in found["limits"].items()
            },
            within=found["within"],
            passing=found["passing"],
            starts_full=found["starts_full"],
            headroom=found["headroom"],
            burst_headroom=found["burst_headroom"],
            recovery=timedelta(seconds=found["recovery_s"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a scope's quota."""

    at: float
    """Seconds since 1970 on the store's clock."""
    version: int
    by: str
    reason: str
    quota: Quota
    """In force since."""
    action: str = "set"
    """`set`; `end` of one that was set for a while; `freeze`, `billing`, `thaw`: the scope was closed or opened."""
    for_s: float | None = None
    """Set for so many seconds; None: for good."""


def _provider(scope: str) -> str:
    return scope.partition("/")[0]


def counts_flight(limit: str) -> bool:
    """Whether a limit of that name counts what is in flight."""
    return limit == "in_flight" or limit.endswith("_in_flight")


def is_scope(text: str) -> bool:
    """Whether it may name a scope."""
    return _SCOPE.fullmatch(text) is not None


def check_scope(scope: str) -> None:
    """Refuse what is no scope.

    Raises:
        BadQuota: with one line that says what a scope looks like.
    """
    if not is_scope(scope):
        raise BadQuota(f"scope {scope!r}: must look like provider/model (letters, digits, _ . : -)")


def check_nesting(quotas: Mapping[str, Quota]) -> None:
    """Refuse quotas that contradict each other.

    Raises:
        BadQuota: a scope lies within one that has no quota, or within itself; or is granted more of something than the
            scope around it, so that its own limit means nothing.
    """
    for quota in quotas.values():
        outer, seen = quota.outer, [quota.scope]
        while outer is not None:
            if outer in seen:
                raise BadQuota(f"{quota.scope}: lies within itself: {' -> '.join([*seen, outer])}")
            seen.append(outer)
            if len(seen) > DEEPEST:
                raise BadQuota(f"{quota.scope}: nested {len(seen)} deep: {' -> '.join(seen)}; at most {DEEPEST}")
            around = quotas.get(outer)
            if around is None:
                raise BadQuota(f"{quota.scope}: lies within {outer!r}, which has no quota")
            for name in quota.limits:
                if name in around.limits and quota.rate(name) > around.rate(name):
                    raise BadQuota(
                        f"{quota.scope}: {name} {quota.rate(name):g}/s is more than the {around.rate(name):g}/s of "
                        f"{outer} around it: lower the one or raise the other"
                    )
            outer = around.outer


def check_cost(cost: Cost) -> dict[str, float]:
    """The cost as doubles.

    Raises:
        BadCost: negative or not a number.
        CostTooLarge: no bucket can count that far.
    """
    checked = {}
    for name, units in cost.items():
        value = float(units)
        if math.isnan(value) or value < 0:
            raise BadCost(f"cost of {name} is {value!r}: must be 0 or more")
        if value > LARGEST_COST:
            raise CostTooLarge(f"cost of {name} is {value!r}: no quota grants more than 2**53 at once")
        checked[name] = value
    return checked
