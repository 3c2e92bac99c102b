"""What a trial is: load that is offered, faults that strike, and the evidence it is judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FaultKind = Literal[
    "kill", "freeze", "redis_down", "redis_cut", "redis_delay", "redis_failover",
    "temporal_down", "temporal_cut", "temporal_delay", "provider", "deploy", "restart",
]  # fmt: skip
"""`kill`: kill -9. `freeze`: SIGSTOP, then SIGCONT. `…_down`: kill -9 of the server, then a restart. `…_cut` and
`…_delay`: the network between workers and server. `redis_failover`: kill -9 of the primary under Sentinel. `provider`:
a step of the simulators' script. `deploy`: no fault, but it strikes as one: workers of another version start, new runs
begin on it, the old ones end and so do their workers. `restart`: the processes of a pool are restarted one after the
other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, by the timeline."""

    at_s: float
    """Seconds from the begin of the load."""
    kind: FaultKind
    for_s: float = 0.0
    """How long it lasts. 0: an instant, as a kill."""
    target: str = ""
    """The pool of which one process is hit, or its provider. Empty: any pool, drawn by the seed; not of `restart`."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """`delay_s` of a delayed network; `surge` of a restart: whether a replacement is ready first; of `provider` the
    step of the script (`docs/simulators.md`), without times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One agent that is asked to work, whatever the system does."""

    at_s: float
    """Seconds from the begin of the load."""
    run_id: str
    agent: str
    goal: str
    tenant: str = "default"
    priority: int = 3
    mails_to: str | None = None
    """An address that must get exactly one e-mail because of this run."""
    pays: str | None = None
    """A payee who must get exactly one transfer because of this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One limit of a scope, as the provider enforces it."""

    rate: float
    """Units per second."""
    burst: float
    """Most units at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A limit that its provider has changed while the trial ran."""

    at: float
    """Wall-clock seconds."""
    scope: str
    limit: str
    to: Rated


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request in a provider's ledger."""

    at: float
    """Wall-clock seconds at which it was charged."""
    ended: float
    outcome: str
    """`ok`, `dropped`, or the status as text."""
    asked: Mapping[str, float]
    """Units by limit that it asked for, refused or not."""
    charged: Mapping[str, float]
    run_id: str = ""
    """Whose call it was, as the provider was told; empty if it was not."""
    outsider: bool = False
    """Somebody else used the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended."""

    outcome: str
    """`completed`, `stopped`, `failed`, … (`fleet.contracts.runs.Outcome`)."""
    at: float
    """Wall-clock seconds."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A fault as it struck."""

    kind: str
    what: str
    """For people: `kill -9 of llm-1 (pid 4711)`."""
    at: float
    """Wall-clock seconds."""
    until: float
    """When it was over: equal to `at` for an instant."""
    scope: str = ""
    """The scope, or the provider, that failed. Empty: no provider did, or nobody can tell which."""
    target: str = ""
    """The pool or the provider that was aimed at. Empty: a server, or any pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """How another version took over."""

    before: str
    after: str
    promoting_at: float
    """Wall-clock seconds. Runs that begin earlier are on `before`."""
    promoted_at: float
    """Runs that begin later are on `after`."""
    drained_at: float | None = None
    """When Temporal has said of every pool that no run needs `before`. None: it never has."""
    left: str = ""
    """What still needed it then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the fleet, twice a second."""

    at: float
    """Wall-clock seconds."""
    active: int
    """Runs that have arrived and not ended."""
    waiting: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the line of each scope owes."""
    pace: Mapping[str, float] = field(default_factory=dict)
    """Share of the configured rate in force, by scope."""
    rss_mb: Mapping[str, float] = field(default_factory=dict)
    """Resident memory of each worker process, by name and pid: `llm-1/4711`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a bare workflow reaches on this machine: the bound of every fleet on it."""

    activities_per_s: float
    """Workflows with one empty activity each, as many as the engine carries."""
    offered_per_s: float = 0.0
    """Activities that the trial offered a second while the load lasted."""

    @property
    def share(self) -> float:
        """Of what the engine carries. Above about 0.8 the engine, not the fleet, is the bound."""
        return self.offered_per_s / self.activities_per_s if self.activities_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything a verdict is drawn from: the providers' ledgers, mailbox and bank, Temporal's word of each run."""

    began: float
    """Wall-clock seconds at which the load began."""
    load_s: float
    """How long load was offered."""
    finished: float
    """Wall-clock seconds at which the last run ended, or the harness gave up."""
    arrivals: Sequence[Arrival]
    """What was offered until `finished`; an interrupted trial has fewer than planned."""
    ended: Mapping[str, Ended]
    """By run id. Runs that have not ended are missing."""
    calls: Mapping[str, Sequence[Call]]
    """By scope, in the order of `at`."""
    limits: Mapping[str, Mapping[str, Rated]]
    """By scope and limit, as the provider enforces them from the begin."""
    changes: Sequence[Change] = ()
    """In the order of `at`."""
    mails: Mapping[str, int] = field(default_factory=dict)
    """E-mails delivered, by address."""
    transfers: Mapping[str, int] = field(default_factory=dict)
    """Transfers booked, by payee."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the tenants. Missing: 1."""
    looks: Sequence[Look] = ()
    marks: Sequence[Mark] = ()
    deploys: Sequence[Deploy] = ()
    """In the order of time."""
    builds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By run id: the versions of the workers that its decisions were made by. Only where versions were deployed."""
    started: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds at which Temporal has started each run; of those that have ended."""
    engine: Engine | None = None
    alone_s: Mapping[str, float] = field(default_factory=dict)
    """What a run of each agent took with nobody else there. Missing: what the quickest of them took."""
    interrupted: bool = False
    """Somebody has stopped the trial: runs under way are not lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an oracle found."""

    name: str
    value: float
    bound: float
    ok: bool
    says: str = ""
    """One line for people: which run, which scope, since when."""
    least: bool = False
    """The bound is the least that will do. False: the most."""
    judged: bool = True
    """False: the evidence has nothing that could be judged; `says` tells what is missing."""
