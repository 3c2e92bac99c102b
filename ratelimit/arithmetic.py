"""Waits and paces as formulas, for the model, the codec and a process's own line. Their twins are in `lua/`."""

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

GRACE_S = 0.5
"""A place may be picked up this late however small the burst is."""
SLOWEST_PACE = 0.05
EPSILON = 1e-9
"""Relative error of a clock that is compared with a due value."""


def seconds_at_full_pace(dt: float, pace: float, recovery: float) -> float:
    """The integral of the pace over `dt`."""
    ramp = (1 - pace) / recovery
    if dt <= ramp:
        return pace * dt + recovery * dt * dt / 2
    return pace * ramp + recovery * ramp * ramp / 2 + (dt - ramp)


def seconds_until(full: float, pace: float, recovery: float) -> float:
    """The inverse of `seconds_at_full_pace`: how long until `full` seconds' worth has come."""
    ramp = (1 - pace) / recovery
    ramped = pace * ramp + recovery * ramp * ramp / 2
    if full <= ramped:
        return 2 * full / (pace + math.sqrt(pace * pace + 2 * recovery * full))
    return ramp + (full - ramped)


class Rated(Protocol):
    """Anything that refills."""

    @property
    def rate(self) -> float:
        """Units per second at full pace."""


def wait_for(
    limits: Mapping[str, Rated], owed: Mapping[str, float], closed_for: float, pace: float, recovery: float
) -> tuple[float, str]:
    """Seconds until every limit has got what it is owed, and the limit that takes longest."""
    longest, binding = 0.0, "cooldown"
    for limit, bucket in limits.items():
        full = owed.get(limit, 0.0) / bucket.rate
        if full > longest:
            longest, binding = full, limit
    return closed_for + seconds_until(longest, pace, recovery), binding


def shortfall(due: float, clock: float) -> float:
    """Units that the clock still lacks; zero within the rounding error of long sums."""
    lacking = due - clock
    if lacking <= EPSILON * max(1.0, abs(due)):
        return 0.0
    return lacking


def expired(limits: Iterable[tuple[float, float, float, float]]) -> bool:
    """The place is picked up so late that the provider's own bucket has long forgotten it.

    Args:
        limits: clock, due, rate and burst of each limit that was charged. While one of them is not due yet the place
            waits, however long ago the others were; once all are, half a burst of the tightest may pass.
    """
    late, tolerated = math.inf, math.inf
    for clock, due, rate, burst in limits:
        late = min(late, (clock - due) / rate)
        tolerated = min(tolerated, burst / 2 / rate)
    return late > max(tolerated, GRACE_S)
