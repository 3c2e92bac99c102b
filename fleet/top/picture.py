"""What `fleet top` shows: frozen values, of one look each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from fleet.client import RunInfo
from fleet.contracts.approvals import Approval
from fleet.contracts.runs import RunStatus
from fleet.history import Step
from fleet.pools import PoolView

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSeen:
    """One limit of a quota."""

    name: str
    rate: str
    """As people write it: `600/m`."""
    level: float
    """Units left; below zero, units owed to those in line."""
    burst: float
    waiting: int | None
    """Calls in line for it; None where calls spend unlike much of it."""
    closed_s: float
    shadow: bool
    shadowed: int
    said: str
    """What the provider has said of it last; empty: nothing."""

    @property
    def used(self) -> float:
        """Share (0-1) of what can be spent at once that is spent."""
        return min(1.0, max(0.0, 1 - self.level / self.burst)) if self.burst > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSeen:
    """One scope."""

    scope: str
    within: str
    """The scope around it; empty: none."""
    version: int
    """How often it was set; 0: never."""
    limits: tuple[LimitSeen, ...]
    pace: float
    """Share of the rate in force."""
    closed: str
    """`frozen` or `billing`; empty: it is not closed."""
    closed_s: float
    """Cooldown that remains."""
    line_s: float
    """Until a call that asks now may start."""
    grants: int
    rejections: int
    """By the provider, mostly 429s, since the scope is known."""
    lately: int
    """Of those, the ones of the last minute, as far as it was watched."""
    calls_per_s: float | None
    """Over the last seconds; None at the first look."""
    wait_s: float | None
    """Mean booked wait of the calls of these seconds; None if there were none."""

    @property
    def tightest(self) -> LimitSeen | None:
        """The limit that is used most; None: none is set yet."""
        real = [limit for limit in self.limits if not limit.shadow] or list(self.limits)
        return max(real, key=lambda limit: (limit.used, -limit.level), default=None)

    @property
    def in_line(self) -> int | None:
        """Calls that stand in line; None where they wait for a limit of which calls spend unlike much."""
        owed = [limit for limit in self.limits if limit.level < 0]
        known = [limit.waiting for limit in owed if limit.waiting is not None]
        return max(known, default=None if owed else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """One run of the page."""

    info: RunInfo
    waits: str = ""
    """What it waits for or does; empty: nobody has looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsSeen:
    """Runs: counts of all, and a page of them."""

    running: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Running ones by status: `working`, `approval`, `paused`."""
    agents: Mapping[str, int] = field(default_factory=dict)
    """Running ones by agent of the manifest."""
    ended: Mapping[str, int] = field(default_factory=dict)
    """Those that ended within the last hour, by outcome."""
    rows: tuple[RunSeen, ...] = ()
    """The newest and the oldest running ones, those that failed lately, and those that were looked for."""
    note: str = ""
    """Why something of this is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalsSeen:
    """Open approvals, the next to expire first."""

    rows: tuple[Approval, ...]
    more: bool
    """There are more than these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[T]):
    """What a source has last said, and whether it still answers."""

    source: str
    """Who is asked: `Redis`, `Temporal`, `the database`."""
    data: T | None = None
    at: datetime | None = None
    """When the data was read; None: never."""
    error: str = ""
    """Why the last look found nothing; empty: it answers."""

    @property
    def asked(self) -> bool:
        """Whether anybody has looked yet."""
        return self.at is not None or bool(self.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything at the moment."""

    quotas: Seen[tuple[QuotaSeen, ...]] = Seen(source="Redis")
    pools: Seen[tuple[PoolView, ...]] = Seen(source="Temporal")
    runs: Seen[RunsSeen] = Seen(source="Temporal")
    approvals: Seen[ApprovalsSeen] = Seen(source="the database")

    @property
    def whole(self) -> bool:
        """Whether every source answers."""
        return not any(seen.error for seen in (self.quotas, self.pools, self.runs, self.approvals))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSeen:
    """Somebody in line."""

    key: str
    wait_s: float
    limit: str
    held: bool
    """Comes back for the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSeen:
    """Somebody has set, frozen or thawed a quota."""

    at: datetime
    action: str
    by: str
    reason: str
    limits: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaDetail:
    """One scope, who stands in line, and who has changed it."""

    quota: QuotaSeen
    line: tuple[PlaceSeen, ...]
    changes: tuple[ChangeSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """One run: where it stands, what it waits for, its last steps."""

    info: RunInfo
    status: RunStatus | None
    """None: it has ended, or no worker of its pool answers."""
    waits: tuple[str, ...]
    steps: tuple[Step, ...]
    """Of its newest execution, oldest first."""
    note: str = ""
    """Why there are no steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDetail:
    """One approval as its run says, else as the audit does."""

    approval: Approval
    source: str
    """`run` or `audit`."""
    lines: tuple[str, ...]
    """As `fleet approvals show` prints it."""
    note: str = ""


Document = dict[str, Any]
"""Of JSON."""
