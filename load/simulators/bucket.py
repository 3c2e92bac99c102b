"""How a provider counts: a continuous token bucket or a fixed window. Pure: every call is told the time."""

import math
from dataclasses import dataclass
from typing import Protocol

from load.simulators.options import LimitOptions

_EPSILON = 1e-9
"""Refills are sums of fractions: a millionth of a thousandth of a unit is not missed."""


class Bucket(Protocol):
    """One limit's count. `now` is wall-clock seconds and never goes back."""

    options: LimitOptions

    def available(self, now: float) -> float:
        """Units that may be spent now. Below zero: debt."""

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` are available; infinite if they never are."""

    def spend(self, units: float, now: float) -> None:
        """Take the units, into debt if need be."""

    def full_in(self, now: float) -> float:
        """Seconds until everything is available again."""


@dataclass(slots=True)
class ContinuousBucket:
    """Refills all the time, up to the burst."""

    options: LimitOptions
    level: float
    updated: float

    @property
    def burst(self) -> float:
        """Most units at once."""
        return self.options.burst or self.options.limit

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.options.limit / self.options.period_s

    def available(self, now: float) -> float:
        """Units that may be spent now."""
        if now > self.updated:
            self.level = min(self.burst, self.level + (now - self.updated) * self.rate)
            self.updated = now
        return self.level

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` are available."""
        missing = units - self.available(now)
        if missing <= _EPSILON:
            return 0.0
        return math.inf if units > self.burst else missing / self.rate

    def spend(self, units: float, now: float) -> None:
        """Take the units."""
        self.level = self.available(now) - units

    def full_in(self, now: float) -> float:
        """Seconds until everything is available again."""
        return max(0.0, self.burst - self.available(now)) / self.rate


@dataclass(slots=True)
class FixedWindow:
    """Counts from zero at every multiple of the period; debt is carried into the next windows."""

    options: LimitOptions
    window: int
    used: float = 0.0

    def _roll(self, now: float) -> None:
        window = int(now // self.options.period_s)
        if window > self.window:
            self.used = max(0.0, self.used - (window - self.window) * self.options.limit) if self._owes() else 0.0
            self.window = window

    def _owes(self) -> bool:
        return self.used > self.options.limit

    def available(self, now: float) -> float:
        """Units that may be spent now."""
        self._roll(now)
        return self.options.limit - self.used

    def wait(self, units: float, now: float) -> float:
        """Seconds until the window in which `units` are available."""
        missing = units - self.available(now)
        if missing <= _EPSILON:
            return 0.0
        if units > self.options.limit:
            return math.inf
        windows = max(1, math.ceil((self.used - (self.options.limit - units)) / self.options.limit))
        if not self._owes():
            windows = 1
        return (self.window + windows) * self.options.period_s - now

    def spend(self, units: float, now: float) -> None:
        """Take the units."""
        self._roll(now)
        self.used += units

    def full_in(self, now: float) -> float:
        """Seconds until the next window; 0 if nothing is used."""
        self._roll(now)
        return (self.window + 1) * self.options.period_s - now if self.used else 0.0


def new_bucket(options: LimitOptions, now: float) -> Bucket:
    """A full bucket."""
    if options.window == "fixed":
        return FixedWindow(options=options, window=int(now // options.period_s))
    return ContinuousBucket(options=options, level=options.burst or options.limit, updated=now)


def changed(bucket: Bucket, options: LimitOptions, now: float) -> Bucket:
    """The bucket under new options. What is spent stays spent; another kind of window starts full."""
    if bucket.options == options:
        return bucket
    if isinstance(bucket, ContinuousBucket) and options.window == "continuous":
        level = min(bucket.available(now), options.burst or options.limit)
        return ContinuousBucket(options=options, level=level, updated=now)
    if isinstance(bucket, FixedWindow) and options.window == "fixed" and bucket.options.period_s == options.period_s:
        bucket.available(now)
        return FixedWindow(options=options, window=bucket.window, used=bucket.used)
    return new_bucket(options, now)
