"""A batch: one piece of work for each of many inputs, where it stands, how its items have ended."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from fleet.contracts.runs import AgentDefinition, CallPolicy, ToolBinding
from fleet.contracts.tools import Stub

RESULTS_QUERY: Final = "results"
WINDOW_SIGNAL: Final = "window"
AGAIN_SIGNAL: Final = "again"
"""Items that had ended are to be done again, or the batch is started: what is left is read from the beginning."""

WINDOW: Final = 100
MOST_WINDOW: Final = 1000
"""Temporal takes 2,000 activities or children of one workflow at once; what waits to be written is not among them."""
MOST_ITEM: Final = 256 * 1024
"""Bytes of one input as JSON: it travels through the history of its batch."""


class WorkKind(StrEnum):
    """What is done with an item."""

    AGENT = "agent"
    """A run of an agent towards a goal made from the item."""
    TOOL = "tool"
    """One call of a tool; the item is its arguments."""
    MODEL = "model"
    """One call of a model with a prompt made from the item."""


class ItemOutcome(StrEnum):
    """How an item ended."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    """Its run was stopped, with the batch or by itself."""
    UNKNOWN = "unknown"
    """Its effect may have been had, and nobody can say."""


class OnFailure(StrEnum):
    """What an item that failed for good means for the batch."""

    SKIP = "skip"
    """It is written down, and the others go on. So it is after `retry` too."""
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done with each item."""

    kind: WorkKind
    template: str = ""
    """Of an agent's goal, or of the prompt: `{field}` stands for a field of the item."""
    agent: AgentDefinition | None = None
    tool: ToolBinding | None = None
    model: str = ""
    task_queue: str = ""
    """Of the model."""
    max_output_tokens: int = 1024
    policy: CallPolicy = field(default_factory=CallPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What failed items mean."""

    then: OnFailure = OnFailure.SKIP
    retries: int = 0
    """Attempts after the first. Each is a whole call or run; what the call itself repeats does not count."""
    most: int | None = None
    """Failed items, since the start or the last resume, beyond which the batch pauses. None: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One input that has no result yet."""

    number: int
    """Its place among the inputs, from 0."""
    input: dict[str, Any]
    tried: int = 0
    """Attempts whose end was written down before somebody wanted it done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """How one item ended."""

    number: int
    outcome: ItemOutcome
    attempts: int = 1
    """All of them, earlier ones included."""
    error: str = ""
    result: Any = None
    """A JSON value: what the tool answered, or `answer` of a model or an agent with what it used."""
    run: str = ""
    """Id of its run, if it has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCarried:
    """What an execution hands to the next."""

    executions: int = 0
    after: int = -1
    """Items up to this number have ended or are in flight."""
    flying: dict[str, int] = field(default_factory=dict)
    """Number of each item whose run goes on, and its attempt."""
    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0
    failed_lately: int = 0
    paused: str | None = None
    window: int = WINDOW
    latest: list[ItemResult] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInput:
    """The one argument of `BatchWorkflow`."""

    batch: str
    """Its id, which is that of the workflow too."""
    token: str
    """Of its staging: another batch under this id, later, is not taken for it."""
    work: Work
    task_queue: str
    """Of the pool that reads items and writes results."""
    tenant: str = "default"
    priority: int = 4
    weight: float = 1.0
    door: bool = False
    window: int = WINDOW
    """Items in flight at most."""
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    per_execution: int = 2000
    """Items after which an execution ends and the next goes on, whatever its history has room for."""
    carried: BatchCarried | None = None


class BatchState(StrEnum):
    """What a batch is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """Answer of the `status` query, and the workflow's result."""

    state: BatchState
    reason: str = ""
    """Why it is paused, or was stopped."""
    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Items that have ended, by outcome."""
    in_flight: int = 0
    window: int = WINDOW
    per_s: float = 0.0
    """Items that ended in a second, lately. 0: not known."""
    executions: int = 1
    """Of the workflow, this one included."""

    @property
    def ended(self) -> int:
        """Items that have ended, however."""
        return sum(self.counts.values())

    @property
    def eta_s(self) -> float | None:
        """Seconds until all have ended, if it goes on as lately; None where that is not known."""
        if self.state is not BatchState.RUNNING or not self.per_s:
            return None
        return max(0, self.total - self.ended) / self.per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many items a batch has, and how many of them have ended."""

    batch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Answer to `Count`."""

    total: int
    counts: dict[str, int]
    """By outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The next items without a result."""

    batch: str
    after: int
    limit: int
    only: list[int] = field(default_factory=list)
    """Only these, wherever they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Items in order. Empty: there are no more."""

    items: list[BatchItem]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Results to be written down, each once."""

    batch: str
    results: list[ItemResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Workflows whose ends are waited for that are no children of this execution."""

    runs: list[str]
    patience_s: float = 30.0
    """How long, until the first has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one of them has ended."""

    run: str
    result: dict[str, Any] | None = None
    """Its result as JSON; None: it has none."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Those that have ended; none if the patience was up."""

    ended: list[Ended]


BATCH_COUNT: Final = Stub("batch.count", "memory", Count, Counted)
BATCH_READ: Final = Stub("batch.read", "memory", Read, Page)
BATCH_WRITE: Final = Stub("batch.write", "memory", Write, type(None))
BATCH_WATCH: Final = Stub("batch.watch", "memory", Watch, Watched)
BATCH_STUBS: Final = (BATCH_COUNT, BATCH_READ, BATCH_WRITE, BATCH_WATCH)
"""Served by the pools that no quota holds up: `memory`, and `agents` for fleets without one."""
