"""What a scope remembers: the model's state, and by its names the Lua's."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Bucket:
    """One limit's quota and state."""

    rate: float
    burst: float
    level: float = 0.0
    clock: float = 0.0
    tail: float = 0.0


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
    calls: int = 0
    grants: int = 0
    denials: int = 0
    rebooked: int = 0
    rejections: int = 0
    version: int = 0


@dataclass(slots=True)
class Record:
    """The place booked under a key. Modes: H held, T taken, S settled."""

    mode: str
    generation: int
    epoch: int
    booked_at: float
    first_at: float
    asker: str
    cost: dict[str, float] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
