"""What a simulation counts while it runs: curves, slots, queues, use of limits."""

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from load.queueing import FairQueue
from load.workload import Run
from ratelimit.state import Bucket

BINS = 240
"""Most points of a curve."""


class Curve:
    """Sums over time in at most `BINS` bins, whose width doubles as time goes on."""

    __slots__ = ("values", "width")

    def __init__(self) -> None:
        self.width = 0.25
        self.values = [0.0] * BINS

    def add(self, at: float, value: float) -> None:
        """Count something at an instant, from 0 on."""
        n = int(at / self.width)
        while n >= BINS:
            self.width *= 2
            self.values = [sum(self.values[i : i + 2]) for i in range(0, BINS, 2)] + [0.0] * (BINS // 2)
            n = int(at / self.width)
        self.values[n] += value


@dataclass(slots=True)
class Pool:
    """The slots of one pool."""

    free: float
    busy: int = 0
    since: float = 0.0
    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    """How long so many calls were under way."""
    lines: "list[Line]" = field(default_factory=list)
    starved: bool = False
    """Somebody waits for a slot."""


@dataclass(slots=True, eq=False)
class Line:
    """What waits in one pool's queue for one scope."""

    pool_name: str
    scope: str
    pool: Pool
    queue: FairQueue
    wakes_at: float = math.inf
    reason: str = ""
    """What the head waits for."""
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of all calls by what they waited for."""
    queued: Curve = field(default_factory=Curve)
    """Calls that joined less those that started."""
    sharing: "list[Line] | None" = None
    """All lines that what comes back helps, this one included."""


@dataclass(slots=True)
class Metered:
    """One limit of a scope, with what was used of it."""

    bucket: Bucket
    begins: float
    """Its level at the begin."""
    used: float = 0.0
    """Units; of what is in flight unit-seconds."""
    first: float = math.inf
    last: float = 0.0
    """First and last start of a call."""
    curve: Curve = field(default_factory=Curve)


@dataclass(slots=True)
class Simulated:
    """What has happened. Instants are seconds from the begin."""

    runs: Sequence[Run]
    first_at: list[float]
    """By run: the start of its first call."""
    ended_at: list[float]
    entered_at: list[float]
    """By run: when it passed the door."""
    waits: "array[float]"
    """By call, in the order of their starts: from being asked for to its start."""
    of_run: "array[int]"
    """By call: the run's number."""
    of_line: "array[int]"
    """By call: the line's number."""
    lines: list[Line]
    pools: dict[str, Pool]
    meters: dict[str, dict[str, Metered]]
    """By scope and limit. Scopes of tenants' shares are not told."""
    active: Curve
    """Runs that entered less those that ended."""
    refused: dict[str, int]
    """Calls that the provider would have refused, by scope."""
    activities: float = 0.0

    @property
    def finished(self) -> float:
        """When the last run ended."""
        return max(self.ended_at)
