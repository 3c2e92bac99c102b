"""Plain values that travel between a limiter, its store and its callers. Instants are the store's, in seconds.

Those of the hot path are values by agreement, not frozen: freezing would triple the cost of making one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from ratelimit.headers import Observed


class Kind(IntEnum):
    """How a limit gives back what was spent."""

    CONTINUOUS = 0
    """Bit by bit, all the time."""
    IN_FLIGHT = 1
    """When the call ends, or its lease."""
    FIXED = 2
    """All at once, every `period`."""
    MONTHS = 3
    """All at once, with each calendar month."""


class Closed(IntEnum):
    """Why a scope is closed until somebody opens it."""

    NO = 0
    FROZEN = 1
    """Somebody said so."""
    BILLING = 2
    """The provider wants money."""


class Outcome(StrEnum):
    """What became of one reservation."""

    TAKEN = "taken"
    """Charged; may start when the clock reaches `due`."""
    HELD = "held"
    """Charged; a later ask must take it before anything starts."""
    DENIED = "denied"
    """Nothing was charged."""
    UNKNOWN = "unknown"
    """No limit counts what the ask names; nothing was charged."""
    TOO_LARGE = "too_large"
    """The limit can never grant so much; nothing was charged."""


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
class Part:
    """What a place is charged in one scope."""

    epoch: int
    """The scope's epoch: a 429 for a call of an earlier one cuts nothing more."""
    lease: int
    """Number of the lease of what it holds in flight; 0: nothing."""
    cost: Mapping[str, float]
    due: Mapping[str, float]


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
    booked_at: float = 0.0
    first_at: float = 0.0
    """When the first place of this key was booked."""
    parts: Sequence[Part] = ()
    """What is charged in each scope, innermost first."""


@dataclass(slots=True)
class Claim:
    """What is known of a place when it ends."""

    permit: str
    key: str | None
    generation: int
    booked_at: float
    parts: Sequence[Part]


@dataclass(slots=True)
class Rejection:
    """A call that the provider has turned away."""

    for_s: float | None
    """Seconds until the next try; None: nobody said."""
    epoch: int | None = None
    """Of the call's permit; None: unknown, counts as the current one."""
    cut: bool = True
    """Halve the pace."""
    limit: str | None = None
    """Only this limit is closed."""
    jitter: float = 0.0
    """A random number in [0, 1)."""
    key: tuple[str, str] | None = None
    """Scope and key of the call's place: once it is booked anew the rejection of the earlier call changes nothing."""
    generation: int = 0


@dataclass(slots=True)
class Dial:
    """One limit's clock."""

    clock: float
    """All units ever refilled or settled back."""
    rate: float
    """Units per second at full pace."""
    burst: float
    level: float
    """Units available; below zero, units owed to those in line."""
    until: float = 0.0
    """Closed until then."""
    kind: Kind = Kind.CONTINUOUS
    period: float = 0.0
    anchor: float = 0.0
    shadow: bool = False


@dataclass(slots=True)
class ClockReading:
    """A scope's clock, as every answer of the store carries it."""

    now: float
    """The store's instant, in seconds."""
    cooldown_until: float
    pace: float
    epoch: int
    closed: Closed
    born: float
    """When the state was created; places booked earlier are lost."""
    recovery: float
    """Pace regained per second."""
    dials: Mapping[str, Dial]

    @property
    def closed_for(self) -> float:
        """Seconds of cooldown that remain."""
        return max(0.0, self.cooldown_until - self.now)


Readings = tuple[ClockReading, ...]
"""Of each scope of a chain, innermost first."""


@dataclass(slots=True)
class Bookings:
    """The answer to a batch, in the order of the asks."""

    readings: Readings
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
    waited_s: float = 0.0
    """Seconds that booked places had to wait, by what was known when they were booked."""


@dataclass(slots=True)
class Heard:
    """What the provider has said of one limit, last."""

    at: float = 0.0
    """When: the store's instant."""
    remaining: float | None = None
    granted: float | None = None
    """Units per period."""
    period: float | None = None
    """Seconds."""
    taken: float = 0.0
    """By how many units levels were lowered in all because less was left than was thought: what others have used, or
    the provider has counted otherwise."""


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
    kind: Kind = Kind.CONTINUOUS
    closed_for: timedelta = timedelta(0)
    """This limit alone."""
    shadow: bool = False
    shadowed: int = 0
    """Calls that the shadow limit would have refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A scope, as it stands."""

    scope: str
    configured: bool
    """False: the store knows nothing of the scope yet."""
    limits: Mapping[str, LimitSnapshot] = field(default_factory=dict)
    pace: float = 1.0
    closed_for: timedelta = timedelta(0)
    """Cooldown that remains; `timedelta.max` until somebody opens it."""
    closed: Closed = Closed.NO
    epoch: int = 0
    strikes: int = 0
    """Cuts since the pace was last at 1."""
    version: int = 0
    """How often the quota was set; 0: never."""
    heard: Mapping[str, Heard] = field(default_factory=dict)
    """What the provider has said, by limit: also of limits that the quota does not have."""
    ends_in: timedelta | None = None
    """When the quota before this one is back."""
    counters: Counters = Counters()


@dataclass(slots=True, weakref_slot=True)
class Place:
    """A place in line; the cost is charged."""

    scope: str
    cost: Mapping[str, float]
    """As asked for."""
    id: str
    """Names the place for settling and cancelling."""
    key: str | None
    asker: str
    generation: int
    booked_at: float
    parts: Sequence[Part]
    """What is charged in the scope and in those around it."""
    waited: timedelta
    """Since the first booking of this key, across attempts, on the store's clock."""
    wait: timedelta
    """Expected until the place is due; zero: it may start now."""
    limit: str = ""
    """The limit that makes the wait this long."""


@dataclass(slots=True, weakref_slot=True)
class Permit:
    """A place whose time has come. To be settled."""

    scope: str
    cost: Mapping[str, float]
    """As asked for."""
    id: str
    key: str | None
    asker: str
    generation: int
    booked_at: float
    parts: Sequence[Part]
    """What is charged in the scope and in those around it."""
    waited: timedelta
    """Since the first booking of this key, across attempts, on the store's clock."""
    limit: str = ""
    """The limit that made it wait, as it was booked; empty where it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What a call that asks now has before it."""

    wait: timedelta
    """Until it may start, however little it costs."""
    per_call: timedelta
    """By how much a call of this process has made the line longer of late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Somebody who stands in line under a key."""

    key: str
    wait: timedelta
    """Expected until the place is due."""
    limit: str
    """The limit that makes the wait."""
    since: float
    """When the key's first place was booked: the store's instant."""
    held: bool
    """Comes back for the place; else waits where it is."""
    cost: Mapping[str, float]
    """By limit, of the scope itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """The wait would exceed `max_wait`."""

    scope: str
    limit: str
    retry_after: timedelta
    held: bool
    """A place is booked under the key, and `retry_after` is that place's time."""


SILENCE: Final[Mapping[str, Observed]] = MappingProxyType({})
"""The provider has said nothing."""
