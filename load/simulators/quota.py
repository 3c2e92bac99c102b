"""The limits of one key and model, taken together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from load.simulators.bucket import Bucket, changed, new_bucket
from load.simulators.options import LimitOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a call does not fit."""

    limit: str
    """Which limit: `requests`, `tokens`, …"""
    options: LimitOptions
    requested: float
    available: float
    retry_after_s: float
    """Infinite: the call is larger than the limit can ever grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One limit as headers tell it."""

    limit: float
    remaining: float
    full_in_s: float


class Meter:
    """Counts what one key has spent on one model."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def update(self, limits: Mapping[str, LimitOptions], now: float) -> None:
        """Adopt the limits in force."""
        for name in self._buckets.keys() - limits.keys():
            del self._buckets[name]
        for name, options in limits.items():
            bucket = self._buckets.get(name)
            self._buckets[name] = new_bucket(options, now) if bucket is None else changed(bucket, options, now)

    def admit(self, cost: Mapping[str, float], now: float) -> Refusal | None:
        """Charge every limit, or none and say which limit is in the way: the one with the longest wait."""
        worst: tuple[float, str] | None = None
        for name, bucket in self._buckets.items():
            units = cost.get(name)
            if units is None:
                continue
            wait = bucket.wait(units, now)
            if wait > 0 and (worst is None or wait > worst[0]):
                worst = (wait, name)
        if worst is None:
            for name, units in cost.items():
                self.charge(name, units, now)
            return None
        wait, name = worst
        bucket = self._buckets[name]
        return Refusal(
            limit=name,
            options=bucket.options,
            requested=cost[name],
            available=bucket.available(now),
            retry_after_s=wait,
        )

    def owing(self, names: tuple[str, ...], now: float) -> Refusal | None:
        """The first of the limits that has not one unit left."""
        for name in names:
            bucket = self._buckets.get(name)
            if bucket is not None and (wait := bucket.wait(1.0, now)) > 0:
                return Refusal(
                    limit=name,
                    options=bucket.options,
                    requested=1.0,
                    available=bucket.available(now),
                    retry_after_s=wait,
                )
        return None

    def charge(self, name: str, units: float, now: float) -> None:
        """Spend, into debt if need be. A limit that is not set counts nothing."""
        if bucket := self._buckets.get(name):
            bucket.spend(units, now)

    def charge_if_left(self, name: str, units: float, now: float) -> float:
        """Spend only what fits; returns what was spent. Refused calls count, but dig no debt."""
        bucket = self._buckets.get(name)
        if bucket is None or bucket.wait(units, now) > 0:
            return 0.0
        bucket.spend(units, now)
        return units

    def standing(self, now: float) -> dict[str, Standing]:
        """Every limit, as headers tell it."""
        return {
            name: Standing(
                limit=bucket.options.limit,
                remaining=max(0.0, math.floor(bucket.available(now) + 1e-6)),
                full_in_s=bucket.full_in(now),
            )
            for name, bucket in self._buckets.items()
        }
