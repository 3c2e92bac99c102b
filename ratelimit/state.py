"""What a scope remembers: the model's state, and by its names the Lua's."""

from dataclasses import dataclass, field

from ratelimit.places import Closed, Heard, Kind, Part


@dataclass(slots=True)
class Bucket:
    """One limit's quota and state."""

    rate: float
    """Units per second at full pace; of what is in flight the burst by the mean time that a unit is held."""
    burst: float
    level: float = 0.0
    clock: float = 0.0
    tail: float = 0.0
    until: float = 0.0
    """Closed until then."""
    kind: Kind = Kind.CONTINUOUS
    period: float = 0.0
    """Of a window its length, of what is in flight the time after which its lease ends; seconds."""
    anchor: float = 0.0
    """Where windows begin: an instant, in seconds."""
    shadow: bool = False
    shadowed: int = 0
    """Calls that the shadow limit would have refused."""


@dataclass(slots=True)
class Lease:
    """What one call holds in flight."""

    ends: float
    began: float | None
    """None: unknown."""
    held: list[tuple[str, float, float]]
    """Limit, units, due."""


@dataclass(slots=True)
class Spec:
    """A quota as the state knows it."""

    recovery: float
    passing: bool
    limits: dict[str, tuple[float, float, Kind, float, float, bool]]
    """Rate, burst, kind, period, anchor, shadow."""


@dataclass(slots=True)
class Scope:
    """A scope's quota and state."""

    buckets: dict[str, Bucket]
    recovery: float
    """Pace regained per second."""
    born: float
    at: float
    cooldown_until: float = 0.0
    pace: float = 1.0
    epoch: int = 0
    strikes: int = 0
    closed: Closed = Closed.NO
    calls: int = 0
    grants: int = 0
    denials: int = 0
    rebooked: int = 0
    rejections: int = 0
    version: int = 0
    ends: float = 0.0
    """When the quota before this one is back; 0: never."""
    leased: int = 0
    """The last lease's number."""
    passing: bool = False
    """Forgotten once it is as new."""
    waited: float = 0.0
    """Seconds that places which were booked had to wait, by what was known then."""
    heard: dict[str, Heard] = field(default_factory=dict)
    """By limit."""
    before: Spec | None = None
    leases: dict[int, Lease] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """The place booked under a key. Modes: H held, T taken, S settled."""

    mode: str
    generation: int
    booked_at: float
    first_at: float
    asker: str
    parts: list[Part] = field(default_factory=list)
