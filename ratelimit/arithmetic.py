"""Waits and paces as formulas, for the model, the codec and a process's own line. Their twins are in `lua/`."""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Protocol

from ratelimit.places import Closed, Kind
from ratelimit.windows import window_of, window_start

GRACE_S = 0.5
"""A place may be picked up this late however small the burst is."""
SLOWEST_PACE = 0.05
EPSILON = 1e-9
"""Relative error of a clock that is compared with a due value."""
FIRST_COOLDOWN_S, LONGEST_COOLDOWN_S = 2.0, 60.0
"""Cooldowns that the provider gives no hint for: the first, doubled with each strike, and the longest."""


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


class Refilled(Protocol):
    """Anything that gives back what was spent."""

    @property
    def rate(self) -> float:
        """Units per second at full pace."""

    @property
    def burst(self) -> float:
        """Most units at once."""

    @property
    def until(self) -> float:
        """Closed until then."""

    @property
    def kind(self) -> Kind:
        """How it gives back."""

    @property
    def period(self) -> float:
        """A window's length in seconds."""

    @property
    def anchor(self) -> float:
        """Where windows begin."""


def wait_for(
    limits: Mapping[str, Refilled],
    owed: Mapping[str, float],
    at: float,
    cooldown_until: float,
    pace: float,
    recovery: float,
) -> tuple[float, str | None]:
    """Seconds until every limit has got what it is owed, and the limit that takes longest.

    Args:
        limits: of one scope, in their order.
        owed: units by limit; limits that are not charged are missing.
        at: the scope's instant.
        cooldown_until: when its cooldown ends.
        pace: in force.
        recovery: pace regained per second.
    """
    longest, binding, slowest, last = 0.0, None, 0.0, None
    opens = max(at, cooldown_until)
    for name, limit in limits.items():
        lacking = owed.get(name)
        if lacking is None:
            continue
        wait = 0.0
        if limit.kind is Kind.CONTINUOUS:
            full, shut = lacking / limit.rate, limit.until - opens
            if shut > 0:
                full = full + seconds_at_full_pace(shut, pace, recovery)
            if full > longest:
                longest, binding = full, name
        elif limit.kind is Kind.IN_FLIGHT:
            wait = lacking / limit.rate
        else:
            wait = max(0.0, limit.until - at)
            if lacking > 0:
                window = window_of(limit, at) + math.ceil(lacking / limit.burst)
                wait = max(wait, window_start(limit, window) - at)
        if wait > slowest:
            slowest, last = wait, name
    wait = max(0.0, cooldown_until - at) + seconds_until(longest, pace, recovery)
    if slowest > wait:
        return slowest, last
    return wait, binding


def bound_by(limit: str | None, closed: Closed) -> str:
    """What makes a wait: a limit, or whatever closes the scope."""
    if closed is not Closed.NO:
        return "frozen" if closed is Closed.FROZEN else "billing"
    return limit or "cooldown"


@cache
def unit_of(limit: str) -> str:
    """What a limit counts: `tokens_per_day` and `tokens_in_flight` count tokens, `in_flight` counts requests."""
    if limit == "in_flight":
        return "requests"
    if limit.endswith("_in_flight"):
        return limit.removesuffix("_in_flight")
    unit, _, period = limit.rpartition("_per_")
    return unit if unit and period.isalnum() else limit


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
    return late < math.inf and late > max(tolerated, GRACE_S)
