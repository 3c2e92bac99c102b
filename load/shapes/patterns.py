"""Patterns of arrivals. The dice decide everything that is chance: the same dice, the same times."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fleet.errors import BadInput

MOST = 1_000_000
"""More arrivals than that are refused: a mistyped rate would fill the memory first."""
_HALVINGS = 40


class Shape(Protocol):
    """A pattern of arrivals."""

    @property
    def ends_s(self) -> float:
        """No arrival is later than that, in seconds from the begin of the load."""

    def times(self, dice: random.Random) -> list[float]:
        """When each agent arrives, in seconds from the begin of the load, in order. The same dice, the same times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The same rate all the time."""

    for_s: float
    rate: float | None = None
    """Arrivals a second; their number is a matter of chance unless they are even. Either this or `count`."""
    count: int | None = None
    """Exactly so many."""
    poisson: bool = True
    """At random instants. False: evenly spaced."""
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.count is None):
            raise BadInput("a constant load needs a rate or a count, and not both, as in constant:5/s or constant:500")
        above_zero(for_s=self.for_s, **({} if self.rate is None else {"rate": self.rate}))
        not_below_zero(jitter_s=self.jitter_s)
        refuse_too_many(self.count if self.rate is None else self.rate * self.for_s)

    @property
    def ends_s(self) -> float:
        """The end of the time and of the last one's jitter."""
        return self.for_s + self.jitter_s

    def times(self, dice: random.Random) -> list[float]:
        """Order statistics of the uniform distribution: what a Poisson process is, given its count."""
        if self.rate is not None:
            units = _units(self.rate * self.for_s, dice if self.poisson else None)
            return jittered([unit / self.rate for unit in units], self.jitter_s, dice)
        assert self.count is not None
        if self.poisson:
            return jittered([dice.uniform(0, self.for_s) for _ in range(self.count)], self.jitter_s, dice)
        return jittered([(n + 0.5) * self.for_s / self.count for n in range(self.count)], self.jitter_s, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A rate that rises or falls in a straight line."""

    first: float
    """Arrivals a second at the begin."""
    last: float
    for_s: float
    poisson: bool = True
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        above_zero(for_s=self.for_s)
        not_below_zero(first=self.first, last=self.last, jitter_s=self.jitter_s)
        refuse_too_many((self.first + self.last) / 2 * self.for_s)

    @property
    def ends_s(self) -> float:
        """The end of the time and of the last one's jitter."""
        return self.for_s + self.jitter_s

    def times(self, dice: random.Random) -> list[float]:
        """A Poisson process whose rate changes, by inversion of the arrivals expected until then."""
        slope = (self.last - self.first) / self.for_s
        found = _inverted(lambda t: self.first * t + slope * t * t / 2, self.for_s, dice if self.poisson else None)
        return jittered(found, self.jitter_s, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """A rate that goes up and down, as a day does."""

    mean: float
    """Arrivals a second."""
    amplitude: float
    """How far the rate goes up and down from there; at most the mean."""
    period_s: float
    for_s: float
    poisson: bool = True
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        above_zero(mean=self.mean, period_s=self.period_s, for_s=self.for_s)
        not_below_zero(amplitude=self.amplitude, jitter_s=self.jitter_s)
        if self.amplitude > self.mean:
            raise BadInput(
                f"amplitude {self.amplitude:g}/s: at most the mean of {self.mean:g}/s, as in wave:5/s+-4/s/60s"
            )
        refuse_too_many(self.mean * self.for_s)

    @property
    def ends_s(self) -> float:
        """The end of the time and of the last one's jitter."""
        return self.for_s + self.jitter_s

    def times(self, dice: random.Random) -> list[float]:
        """A Poisson process whose rate is a sine."""
        turn = math.tau / self.period_s
        found = _inverted(
            lambda t: self.mean * t + self.amplitude / turn * (1 - math.cos(turn * t)),
            self.for_s,
            dice if self.poisson else None,
        )
        return jittered(found, self.jitter_s, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Many at once."""

    count: int
    at_s: float = 0.0
    width_s: float = 0.0
    """They are spread over so long."""
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        not_below_zero(at_s=self.at_s, width_s=self.width_s, jitter_s=self.jitter_s)
        refuse_too_many(self.count)

    @property
    def ends_s(self) -> float:
        """The end of the burst and of the last one's jitter."""
        return self.at_s + self.width_s + self.jitter_s

    def times(self, dice: random.Random) -> list[float]:
        """At random instants of the width."""
        found = [self.at_s + dice.uniform(0, self.width_s) for _ in range(self.count)]
        return jittered(found, self.jitter_s, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """So many agents, each with a schedule of its own: all on the hour, each with its own jitter.

    Jitter is that of Temporal's `ScheduleSpec`: every start is later by a random time up to it.
    """

    count: int
    """Schedules."""
    every_s: float
    for_s: float
    at_s: float = 0.0
    """The first turn."""
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        above_zero(every_s=self.every_s, for_s=self.for_s)
        not_below_zero(at_s=self.at_s, jitter_s=self.jitter_s)
        refuse_too_many(self.count)
        refuse_too_many(self.count * self.turns)

    @property
    def turns(self) -> int:
        """How often each agent starts: at every turn before the end of the time."""
        return max(0, math.ceil((self.for_s - self.at_s) / self.every_s))

    @property
    def ends_s(self) -> float:
        """The last turn and its jitter, or the end of the time."""
        return max(self.for_s, self.at_s + max(0, self.turns - 1) * self.every_s + self.jitter_s)

    def times(self, dice: random.Random) -> list[float]:
        """Every agent at every turn."""
        found = [self.at_s + turn * self.every_s for turn in range(self.turns) for _ in range(self.count)]
        return jittered(found, self.jitter_s, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Several shapes at the same time, each with dice of its own: changing one moves no arrival of the others."""

    parts: tuple[Shape, ...]

    @property
    def ends_s(self) -> float:
        """The end of the longest."""
        return max((part.ends_s for part in self.parts), default=0.0)

    def times(self, dice: random.Random) -> list[float]:
        """All arrivals of all parts."""
        seeds = [dice.getrandbits(64) for _ in self.parts]
        drawn = (part.times(random.Random(seed)) for part, seed in zip(self.parts, seeds, strict=True))
        return sorted(at for times in drawn for at in times)


def _units(total: float, dice: random.Random | None) -> list[float]:
    """Arrivals of a process of rate 1 until `total`: at random, or evenly."""
    if dice is None:
        return [n + 0.5 for n in range(round(total))]
    found, at = [], dice.expovariate(1.0)
    while at < total:
        found.append(at)
        at += dice.expovariate(1.0)
    return found


def _inverted(expected: Callable[[float], float], for_s: float, dice: random.Random | None) -> list[float]:
    """Where the arrivals expected until then (`expected`, never falling) reach those of a process of rate 1."""
    found: list[float] = []
    low = 0.0
    for unit in _units(expected(for_s), dice):
        high = for_s
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if expected(middle) < unit else (low, middle)
        found.append(low)
    return found


def jittered(times: list[float], jitter_s: float, dice: random.Random) -> list[float]:
    """Each up to `jitter_s` later; in order."""
    return sorted(at + dice.uniform(0, jitter_s) for at in times) if jitter_s else sorted(times)


def above_zero(**values: float) -> None:
    """Refuse what is not above zero, or infinite."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise BadInput(f"{name} {value:g}: must be above 0")


def not_below_zero(**values: float) -> None:
    """Refuse what is below zero, or infinite."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise BadInput(f"{name} {value:g}: must be 0 or above")


def refuse_too_many(count: float | None) -> None:
    """Refuse more arrivals than a trial can have."""
    if count is not None and not 0 <= count <= MOST:
        raise BadInput(f"{count:g} arrivals: at most {MOST:,} in one trial; lower the rate or the time")
