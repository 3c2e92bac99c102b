"""How a provider counts: a continuous token bucket, a fixed or a sliding window. Pure: every call is told the time."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from load.simulators.limits import LimitOptions

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
    burst: float = field(init=False)
    """Most units at once."""
    rate: float = field(init=False)
    """Units per second."""

    def __post_init__(self) -> None:
        # computed once: they are asked for several times in every call
        self.burst = self.options.at_once
        self.rate = self.options.limit / self.options.period_s

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
    """Counts from zero at every multiple of the window; debt is carried into the next windows."""

    options: LimitOptions
    window: int
    used: float = 0.0

    def _roll(self, now: float) -> None:
        window = int(now // self.options.window_s)
        if window > self.window:
            granted = self.options.granted
            self.used = max(0.0, self.used - (window - self.window) * granted) if self.used > granted else 0.0
            self.window = window

    def available(self, now: float) -> float:
        """Units that may be spent now."""
        self._roll(now)
        return self.options.granted - self.used

    def wait(self, units: float, now: float) -> float:
        """Seconds until the window in which `units` are available."""
        missing = units - self.available(now)
        if missing <= _EPSILON:
            return 0.0
        granted = self.options.granted
        if units > granted:
            return math.inf
        windows = max(1, math.ceil(missing / granted)) if self.used > granted else 1
        return (self.window + windows) * self.options.window_s - now

    def spend(self, units: float, now: float) -> None:
        """Take the units."""
        self._roll(now)
        self.used += units

    def full_in(self, now: float) -> float:
        """Seconds until the next window; 0 if nothing is used."""
        self._roll(now)
        return (self.window + 1) * self.options.window_s - now if self.used else 0.0


@dataclass(slots=True)
class SlidingWindow:
    """Remembers everything that was spent within the last window: exact, at the price of a pair for each call."""

    options: LimitOptions
    log: deque[tuple[float, float]] = field(default_factory=deque)
    """When and how much, oldest first."""
    used: float = 0.0

    def _forget(self, now: float) -> None:
        log, since = self.log, now - self.options.window_s
        while log and log[0][0] <= since:
            self.used -= log.popleft()[1]
        if not log:
            # sums of fractions leave a rest
            self.used = 0.0

    def available(self, now: float) -> float:
        """Units that may be spent now."""
        self._forget(now)
        return self.options.granted - self.used

    def wait(self, units: float, now: float) -> float:
        """Seconds until enough of what was spent is older than the window."""
        missing = units - self.available(now)
        if missing <= _EPSILON:
            return 0.0
        if units > self.options.granted:
            return math.inf
        for at, spent in self.log:
            missing -= spent
            if missing <= _EPSILON:
                return at + self.options.window_s - now
        return self.full_in(now)

    def spend(self, units: float, now: float) -> None:
        """Take the units."""
        self._forget(now)
        self.log.append((now, units))
        self.used += units

    def full_in(self, now: float) -> float:
        """Seconds until all that was spent is older than the window."""
        self._forget(now)
        return self.log[-1][0] + self.options.window_s - now if self.log else 0.0


def new_bucket(options: LimitOptions, now: float) -> Bucket:
    """A full bucket."""
    if options.window == "fixed":
        return FixedWindow(options=options, window=int(now // options.window_s))
    if options.window == "sliding":
        return SlidingWindow(options=options)
    return ContinuousBucket(options=options, level=options.at_once, updated=now)


def changed(bucket: Bucket, options: LimitOptions, now: float) -> Bucket:
    """The bucket under new options. What is spent stays spent; another kind of window starts full.

    A fixed window of another length takes over what the old one has counted, as far as it grants that much.
    """
    if bucket.options == options:
        return bucket
    if isinstance(bucket, ContinuousBucket) and options.window == "continuous":
        return ContinuousBucket(options=options, level=min(bucket.available(now), options.at_once), updated=now)
    if isinstance(bucket, SlidingWindow) and options.window == "sliding":
        bucket.available(now)
        return SlidingWindow(options=options, log=bucket.log, used=bucket.used)
    if isinstance(bucket, FixedWindow) and options.window == "fixed":
        bucket.available(now)
        if bucket.options.window_s == options.window_s:
            return FixedWindow(options=options, window=bucket.window, used=bucket.used)
        used = min(bucket.used, options.granted)
        return FixedWindow(options=options, window=int(now // options.window_s), used=used)
    return new_bucket(options, now)
