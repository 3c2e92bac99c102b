"""Plain values that travel between a limiter, its store and its callers. Instants are the store's, in seconds.

Those of the hot path are values by agreement, not frozen: freezing would triple the cost of making one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class Outcome(StrEnum):
    """What became of one reservation."""

    TAKEN = "taken"
    """Charged; may start when the clock reaches `due`."""
    HELD = "held"
    """Charged; a later ask must take it before anything starts."""
    DENIED = "denied"
    """Nothing was charged."""
    UNKNOWN = "unknown"
    """The quota has no limit of that name; nothing was charged."""


class Origin(StrEnum):
    """Where a place comes from."""

    BOOKED = "booked"
    """Charged by this ask."""
    SAME = "same"
    """The same asker asked again."""
    PICKED = "picked"
    """A held place was taken."""
    REBOOKED = "rebooked"
    """Charged by this ask because the earlier place had expired or may have been used."""
    NONE = "none"
    """There is no place."""


@dataclass(slots=True)
class Ask:
    """One reservation that is asked for."""

    cost: Mapping[str, float]
    max_wait: float
    """Seconds."""
    hold: bool = False
    key: str | None = None
    asker: str = ""


@dataclass(slots=True)
class Booking:
    """The answer to one `Ask`."""

    outcome: Outcome
    origin: Origin
    wait: float
    """Seconds until the place is due, or would have been."""
    limit: str
    """The limit that makes the wait this long."""
    generation: int = 0
    epoch: int = 0
    booked_at: float = 0.0
    first_at: float = 0.0
    """When the first place of this key was booked."""
    cost: Mapping[str, float] = field(default_factory=dict)
    due: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Dial:
    """One limit's clock."""

    clock: float
    """All units ever refilled or settled back."""
    rate: float
    """Units per second at full pace."""
    burst: float


@dataclass(slots=True)
class ClockReading:
    """A scope's clock, as every answer of the store carries it."""

    now: float
    """The store's instant, in seconds."""
    closed_for: float
    """Seconds of cooldown that remain."""
    pace: float
    epoch: int
    born: float
    """When the state was created; places booked earlier are lost."""
    recovery: float
    """Pace regained per second."""
    dials: Mapping[str, Dial]


@dataclass(slots=True)
class Bookings:
    """The answer to a batch, in the order of the asks."""

    reading: ClockReading
    bookings: Sequence[Booking]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a scope has counted since its state was created."""

    calls: int = 0
    """Script calls."""
    grants: int = 0
    """Places taken, to be started when they are due."""
    denials: int = 0
    rebooked: int = 0
    rejections: int = 0
    """Cooldowns reported, mostly 429s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSnapshot:
    """One limit, as it stands."""

    level: float
    """Units available; below zero, units owed to those in line."""
    burst: float
    rate: float
    """Units per second at full pace."""
    clock: float
    tail: float
    """The clock's value at which the last place in line is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A scope, as it stands."""

    scope: str
    configured: bool
    """False: the store knows nothing of the scope yet."""
    limits: Mapping[str, LimitSnapshot] = field(default_factory=dict)
    pace: float = 1.0
    closed_for: timedelta = timedelta(0)
    """Cooldown that remains."""
    epoch: int = 0
    strikes: int = 0
    """Cuts since the pace was last at 1."""
    version: int = 0
    """How often the quota was set; 0: never."""
    counters: Counters = Counters()


@dataclass(slots=True)
class Place:
    """A place in line; the cost is charged."""

    scope: str
    cost: Mapping[str, float]
    id: str
    """Names the place for settling and cancelling."""
    key: str | None
    asker: str
    generation: int
    epoch: int
    booked_at: float
    waited: timedelta
    """Since the first booking of this key, across attempts, on the store's clock."""
    wait: timedelta
    """Expected until the place is due; zero: it may start now."""
    due: Mapping[str, float]


@dataclass(slots=True)
class Permit:
    """A place whose time has come. To be settled."""

    scope: str
    cost: Mapping[str, float]
    id: str
    key: str | None
    asker: str
    generation: int
    epoch: int
    """The scope's epoch when the place was booked: a 429 for a call of an earlier epoch cuts nothing more."""
    booked_at: float
    waited: timedelta
    """Since the first booking of this key, across attempts, on the store's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """The wait would exceed `max_wait`."""

    scope: str
    limit: str
    retry_after: timedelta
    held: bool
    """A place is booked under the key, and `retry_after` is that place's time."""
