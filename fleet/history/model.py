"""A run's history as people think of it: steps, questions to humans, and where the time went."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from fleet import budget
from fleet.contracts.approvals import Approval, ApprovalState, Ask
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.runs import Price, RunInput, RunResult
from fleet.contracts.tools import ToolRequest, ToolResult


class Cause(StrEnum):
    """What a stretch of time was spent on. `fleet.history.clocks` says how each is told."""

    PROVIDER = "provider"
    """The provider or the tool worked, as the worker measured it."""
    QUOTA = "quota"
    """In line for quota, as the limiter measured it, or sent away by the provider."""
    RETRIES = "retries"
    """Attempts that failed and the delays between them: Temporal keeps only their number and the last failure."""
    QUEUE = "queue"
    """Scheduled, and no worker had a free slot; also at the door, where only so many runs are active."""
    HUMAN = "human"
    """A question was open, or the run was paused, and nothing else was under way."""
    ENGINE = "engine"
    """What remains: workflow tasks, Temporal's own latency, what is written down on the side."""
    RESET = "reset"
    """Thrown away by a reset: between the last event that was kept and the reset."""
    UNTOLD = "untold"
    """A call that has not ended, or an effect whose own history is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time and its cause."""

    cause: Cause
    begins: datetime
    ends: datetime

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.ends - self.begins).total_seconds()


@dataclass(slots=True, kw_only=True)
class Question:
    """Something the run has asked humans."""

    step: str
    """Name of the step that it is about."""
    approval: Approval
    """As it stood last."""
    told: list[tuple[datetime, str]] = field(default_factory=list)
    """What befell it, in order: `opened`, `reminded`, `voted`, `approved`, …"""

    @property
    def ended_at(self) -> datetime | None:
        """When somebody had decided, or nobody could any more; None while it is open."""
        if self.approval.decided_at is None and self.approval.state is not ApprovalState.OPEN and self.told:
            return self.told[-1][0]
        return self.approval.decided_at

    @property
    def settles(self) -> bool:
        """It asks whether an effect was had, not whether a call may be made."""
        return self.approval.ask is Ask.SETTLE


@dataclass(slots=True, kw_only=True)
class Step:
    """One call of a model or a tool, or one effect, from its scheduling to its end."""

    number: int
    """Running number within the story."""
    what: str
    """Name of the activity; of an effect, of the one that has it."""
    task_queue: str
    request: ChatRequest | ToolRequest | EffectRequest | None
    scheduled_at: datetime
    name: str = ""
    """The run's own name of it: `3` for the third call of the model, `3.1` for the first tool of its answer, `0.1` for
    what is recalled first, `compact`, `door`. What is done again under a name gets `-2`, `-3`, …"""
    started_at: datetime | None = None
    """Start of the last attempt."""
    ended_at: datetime | None = None
    attempts: int = 0
    outcome: str = "pending"
    """`pending`, `completed`, `failed`, `timed out` or `cancelled`; of an effect, its state. `cancel requested`: what
    became of it was not waited for."""
    failure: str = ""
    """Why it failed, or why the attempt before the last one did."""
    failure_type: str = ""
    """The type of that failure on the wire."""
    result: ChatResult | ToolResult | EffectResult | None = None
    worker: str = ""
    execution: int = 0
    """Which execution of the chain, from 0, has scheduled it."""
    event_id: int = 0
    """The event in that execution by which it was scheduled."""
    task_event_id: int = 0
    """The completion of the workflow task that has scheduled it: where a reset would begin."""
    child: tuple[str, str] | None = None
    """Of an effect: the id and the execution of its own workflow."""
    calls: list["Step"] = field(default_factory=list)
    """Of an effect: the calls of its own workflow, where its history was read."""
    spans: list[Span] = field(default_factory=list)
    """Where its time went, in order, from its scheduling to its end."""
    asked: list[Question] = field(default_factory=list)
    """What humans were asked before it was begun."""
    cost: str = "0"
    """Of a call of a model: money, a decimal in the currency of the run's price."""

    @property
    def duration_s(self) -> float | None:
        """Seconds from scheduling to end, waits and retries included."""
        return None if self.ended_at is None else (self.ended_at - self.scheduled_at).total_seconds()

    @property
    def quota_wait_s(self) -> float:
        """Seconds of it spent in line for quota."""
        use = self.result.quota if self.result else None
        return use.waited_s if use else 0.0

    @property
    def base(self) -> str:
        """Its name without the number of the repetition."""
        return self.name.partition("-")[0]

    @property
    def is_model(self) -> bool:
        """It is a call of the model that decides what is next, not a compaction."""
        return isinstance(self.request, ChatRequest) and self.name.isdecimal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One link of a run's chain."""

    run_id: str
    """Temporal's id of the execution."""
    events: int = 0
    started_at: datetime | None = None
    gone: bool = False
    """Retention has removed it."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """What a run has used."""

    steps: int = 0
    tokens: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)
    currency: str = ""
    untold_tokens: int = 0
    """Of `tokens`, those of executions that are gone: not told apart."""


@dataclass(slots=True, kw_only=True)
class Story:
    """A run from beginning to end."""

    run_id: str
    run: RunInput | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    state: str = "running"
    """`running`, the outcome, `failed`, `cancelled`, `terminated`, `timed out`, or `continued`: the story of one
    execution that goes on in another."""
    failure: str = ""
    steps: list[Step] = field(default_factory=list)
    notes: list[tuple[datetime, str]] = field(default_factory=list)
    """What reached the run, and what became of what it asked humans."""
    result: RunResult | None = None
    questions: list[Question] = field(default_factory=list)
    pauses: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    """From `pause` to `resume`."""
    resets: list[tuple[datetime, datetime]] = field(default_factory=list)
    """What resets have thrown away: from the last event that was kept to the reset."""
    executions: list[Execution] = field(default_factory=list)
    time: dict[Cause, float] = field(default_factory=dict)
    """Where the time went, in seconds: adds up to the wall clock."""
    read_at: datetime | None = None
    """When a run that has not ended was read: its time is told until then."""
    untold: tuple[datetime, datetime] | None = None
    """From the run's start to the first execution that is left."""
    before: Totals = field(default_factory=Totals)
    """What executions that are gone have used, as the first one that is left carried it over."""

    @property
    def duration_s(self) -> float | None:
        """Seconds from the start to the end, or to when it was read."""
        end = self.ended_at or self.read_at
        return (end - self.started_at).total_seconds() if end and self.started_at else None

    @property
    def price(self) -> Price | None:
        """What the model costs, as it was snapshotted."""
        return self.run.agent.price if self.run else None

    def cost_of(self, step: Step) -> Decimal:
        """What one call of a model has cost, by the run's own price of that model."""
        if not isinstance(step.result, ChatResult) or self.run is None:
            return Decimal(0)
        context = self.run.agent.context
        compacts = context is not None and not step.is_model and context.model
        return budget.cost(context.price if context is not None and compacts else self.price, step.result.usage)

    def totals(self) -> Totals:
        """What its calls of models have used, as the run itself counts it."""
        told = Totals(
            steps=self.before.steps,
            tokens=self.before.tokens,
            cost=self.before.cost,
            untold_tokens=self.before.tokens,
            currency=self.price.currency if self.price else "",
        )
        for step in self.steps:
            if isinstance(step.result, ChatResult):
                usage = step.result.usage
                told.steps += step.is_model
                told.tokens += usage.total_tokens
                told.input_tokens += usage.input_tokens
                told.cached_tokens += usage.cached_tokens
                told.output_tokens += usage.output_tokens
                told.cost += self.cost_of(step)
        return told

    def step(self, name: str) -> Step | None:
        """The step of that name; None if there is none."""
        return next((step for step in self.steps if step.name == name), None)
