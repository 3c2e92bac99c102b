"""What a provider grants: limits, quotas, costs."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Self

from ratelimit.errors import BadCost, BadQuota, CostTooLarge

Cost = Mapping[str, float]
"""What one call spends, by limit. A limit that is missing is not spent from."""

LARGEST_COST = 2.0**53
"""Beyond this a double no longer counts single units."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}){1,4}")
_RATE = re.compile(r"(\d+(?:\.\d+)?)([kM]?)/(s|m|h|d)")
_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6}


def _positive(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise BadQuota(f"{what} is {value!r}: must be a finite number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One thing a provider counts, and how fast it forgives."""

    capacity: float
    """Units granted per `period`, as the provider documents them (tokens, requests)."""

    period: timedelta = timedelta(minutes=1)
    """How long `capacity` units take to return."""

    burst: float | None = None
    """Most units that can be spent at once after idling. Default: `capacity`. Smaller where a provider enforces a
    minute's quota over shorter windows."""

    def __post_init__(self) -> None:
        _positive(self.capacity, "capacity")
        _positive(self.period.total_seconds(), "period in seconds")
        if self.capacity > LARGEST_COST:
            raise BadQuota(f"capacity is {self.capacity!r}: must be at most 2**53")
        if self.burst is not None:
            _positive(self.burst, "burst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """All limits of a scope, taken together: a call is charged to every one of them or to none."""

    scope: str
    """What the provider counts by: `provider/model`, `provider/model/organisation`."""

    limits: Mapping[str, Limit]
    """By name: requests, input_tokens, recipients."""

    headroom: float = 1.0
    """The share (0-1] of the provider's limits that is planned to be used."""

    burst_headroom: float = 1.0
    """The share (0-1] of each burst that is planned to be used: a call may reach the provider a little earlier than the
    one before it allows."""

    recovery: timedelta = field(default=timedelta(minutes=1))
    """How long the pace would take from 0 back to 1."""

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if not self.limits:
            raise BadQuota(f"{self.scope}: a quota needs at least one limit")
        for name in self.limits:
            if not _NAME.fullmatch(name):
                raise BadQuota(f"{self.scope}: limit {name!r}: a name is lower-case letters, digits and _")
        _positive(self.headroom, f"{self.scope}: headroom")
        _positive(self.burst_headroom, f"{self.scope}: burst_headroom")
        for what, share in (("headroom", self.headroom), ("burst_headroom", self.burst_headroom)):
            if share > 1:
                raise BadQuota(f"{self.scope}: {what} is {share!r}: must be at most 1")
        _positive(self.recovery.total_seconds(), f"{self.scope}: recovery in seconds")
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    def rate(self, name: str) -> float:
        """Units per second at full pace."""
        limit = self.limits[name]
        return limit.capacity * self.headroom / limit.period.total_seconds()

    def burst(self, name: str) -> float:
        """Most units at once, headroom included."""
        limit = self.limits[name]
        planned = limit.capacity * self.headroom
        burst = limit.capacity if limit.burst is None else limit.burst
        return min(burst * self.burst_headroom, planned)

    def document(self) -> str:
        """As JSON, for the store."""
        limits = {
            name: {"capacity": limit.capacity, "period_s": limit.period.total_seconds(), "burst": limit.burst}
            for name, limit in self.limits.items()
        }
        shares = {"headroom": self.headroom, "burst_headroom": self.burst_headroom}
        return json.dumps({"limits": limits, **shares, "recovery_s": self.recovery.total_seconds()})

    @classmethod
    def of_document(cls, scope: str, document: str) -> Self:
        """The reverse of `document`."""
        found = json.loads(document)
        return cls(
            scope=scope,
            limits={
                name: Limit(
                    capacity=limit["capacity"], period=timedelta(seconds=limit["period_s"]), burst=limit["burst"]
                )
                for name, limit in found["limits"].items()
            },
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


def check_scope(scope: str) -> None:
    """Refuse what is no scope.

    Raises:
        BadQuota: with one line that says what a scope looks like.
    """
    if not _SCOPE.fullmatch(scope):
        raise BadQuota(f"scope {scope!r}: must look like provider/model (letters, digits, _ . : -)")


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


def parse_rate(text: str) -> Limit:
    """Read `500/m`, `200k/m`, `5/s`, `10k/d`, `1.5M/h`.

    Raises:
        BadQuota: anything else.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise BadQuota(f"rate {text!r}: must look like 500/m, 200k/m, 5/s or 10k/d")
    number, factor, period = match.groups()
    return Limit(capacity=float(number) * _FACTORS[factor], period=_PERIODS[period])
