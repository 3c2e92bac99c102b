"""What a preview of schedules has found: rates minute by minute, their peaks and means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One schedule's runs: who, and at which instants."""

    id: str
    name: str
    agent: str
    tenant: str = "default"
    priority: int = 3
    plain: Sequence[float] = ()
    """Without jitter, in seconds from the begin."""
    jittered: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Units per minute, one minute after the other."""

    minutes: Sequence[float]
    step: int
    """So many minutes are counted together for `steps`."""
    window: int = 1
    """So many minutes are counted together for `peak`: those of the quota's own limit."""
    limit: float | None = None
    """What the quota grants in a minute; None: nothing bounds it."""

    @property
    def steps(self) -> list[float]:
        """The mean rate of each step, per minute."""
        return self._rates(self.step)

    def _rates(self, together: int) -> list[float]:
        every = range(0, len(self.minutes), together)
        return [math.fsum(part) / len(part) for part in (self.minutes[at : at + together] for at in every)]

    @property
    def peak(self) -> float:
        """The highest rate of one window, per minute."""
        return max(self._rates(self.window), default=0.0)

    @property
    def worst(self) -> float:
        """The most of one minute."""
        return max(self.minutes, default=0.0)

    @property
    def mean(self) -> float:
        """Per minute, of the whole time."""
        return math.fsum(self.minutes) / len(self.minutes) if self.minutes else 0.0

    @property
    def ratio(self) -> float:
        """Peak over mean; 0 where nothing is offered."""
        return self.peak / self.mean if self.mean else 0.0

    @property
    def smooth(self) -> float:
        """The highest rate of one step over the mean; 0 where nothing is offered."""
        return max(self.steps) / self.mean if self.mean else 0.0

    @property
    def above(self) -> int:
        """Minutes in which more is offered than the quota grants."""
        if self.limit is None:
            return 0
        return sum(value > self.limit * (1 + 1e-9) for value in self.minutes)

    def document(self) -> dict[str, Any]:
        """As plain values, rates per minute."""
        figures = {
            "peak": self.peak,
            "worst_minute": self.worst,
            "mean": self.mean,
            "peak_over_mean": self.ratio,
            "peak_of_steps_over_mean": self.smooth,
            "minutes_above": self.above,
        }
        return {
            **{name: round(value, 3) for name, value in figures.items()},
            "window_s": self.window * MINUTE_S,
            "steps": [round(value, 3) for value in self.steps],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One thing that is counted, without and with jitter."""

    scope: str
    limit: str
    """`runs` of the scope `schedules`, else a limit of the scope's quota."""
    planned: float | None
    """Per minute, the headroom taken off; None: nothing bounds it."""
    plain: Series
    jittered: Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What the schedules will offer."""

    begin: datetime
    for_s: float
    step: int
    """Minutes that are counted together for the steps of each series."""
    due: Sequence[Due]
    offered: Sequence[Offered]
    windows: Sequence[Mapping[str, Any]]
    """Limits of a day or a month: what is offered in the whole time, and what a window grants."""
    waits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`without_jitter` and `with_jitter`: the planner's waits. Empty: nobody asked, or there were too many runs."""
    left_out: str = ""
    """Why the waits that were asked for are not there."""
    alone: Sequence[Mapping[str, Any]] = ()
    """By name: its runs, and whether a round of it alone is done before the next."""

    def document(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "from": self.begin,
            "for_s": self.for_s,
            "step_s": self.step * MINUTE_S,
            "schedules": len(self.due),
            "quotas": [
                {
                    "scope": one.scope,
                    "limit": one.limit,
                    "planned_per_minute": one.planned,
                    "without_jitter": one.plain.document(),
                    "with_jitter": one.jittered.document(),
                }
                for one in self.offered
            ],
            "windows": self.windows,
            "waits": self.waits,
            "waits_left_out": self.left_out,
            "names": self.alone,
        }


def columns(values: Sequence[float], width: int) -> list[float]:
    """So many columns, each with the largest of its values."""
    if len(values) <= width:
        return list(values)
    edges = [number * len(values) // width for number in range(width + 1)]
    return [max(values[a:b]) for a, b in pairwise(edges)]
