"""A run: what it is given, where it stands, how it ended."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalRule, Notice
from fleet.contracts.llm import Message, ToolSpec
from fleet.contracts.memories import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may spend. Running out is a result, not an error."""

    steps: int = 20
    """Calls of the model."""
    tokens: int = 200_000
    """Input and output tokens of all calls, as the provider counted them."""
    deadline_s: float = 86_400.0
    """Seconds from the start of the run, waits included; waits for humans are not."""
    money: str | None = None
    """A decimal, in the currency of the manifest's prices. None: not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs: decimals, for a million tokens each."""

    input: str
    output: str
    cached: str
    """Input tokens that the provider had in its cache."""
    currency: str = "USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowLists:
    """Whom a run may write to and pay. Empty: nobody is excluded."""

    recipients: list[str] = field(default_factory=list)
    """Addresses, or `*@example.com`."""
    payees: list[str] = field(default_factory=list)
    """Accounts, or patterns as `DE*`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPolicy:
    """What an agent remembers, and for how long."""

    task_queue: str
    recall: int = 5
    """Most memories that a run begins with. 0: none, the tool `recall` aside."""
    findings: bool = True
    """What tools have found is remembered as it is found."""
    outcome: bool = True
    """The answer of a completed run is remembered."""
    expires_s: float = 2_592_000.0
    max_bytes: int = 1_000_000
    """Of all memories of one tenant's agent; beyond it the oldest go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """How long one call may take and how often the provider may fail."""

    max_failures: int = 10
    """Real failures before a call is given up. Waits for quota do not count."""
    start_to_close_s: float = 600.0
    """Slowest honest answer of one attempt."""
    heartbeat_s: float = 20.0
    """A worker silent for so long is dead; the call starts again elsewhere."""
    schedule_to_close_s: float = 86_400.0
    """All attempts and waits of one call together."""
    max_refusals: int = 5
    """Calls in a row that cannot be made (no such tool, wrong arguments, not allowed) before the run is given up."""
    continue_after: int | None = None
    """Events of its history after which a run continues as new. None: when Temporal suggests it (4,096 events or 4 MB
    by default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPolicy:
    """How long the conversation with the model may become."""

    tokens: int = 100_000
    """About so many; beyond it, older turns become a summary."""
    keep: int = 6
    """Turns at the end that stay as they are: an answer of the model with what its calls have returned."""
    result_chars: int = 50_000
    """Characters of one tool's answer that the model sees: the middle of a longer one is left out. The history has all
    of it."""
    model: str = ""
    """Who writes the summary, as `provider/model`. Empty: the agent's own model."""
    price: Price | None = None
    """Of that model."""
    max_output_tokens: int = 2000
    """Of the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBinding:
    """A tool in an agent's hands: what the model sees and who serves it."""

    spec: ToolSpec
    activity: str
    task_queue: str
    effect: bool = False
    """It changes the outside world: it runs as a child workflow, with the ledger."""
    finds: bool = False
    """What it answers was written by strangers: data, never instructions. Worth remembering."""
    guarded: bool = False
    """It moves money: once strangers' text was read, every call needs a human."""
    lists: dict[str, str] = field(default_factory=dict)
    """Argument to the allow-list that it must be on: `recipients` or `payees`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDefinition:
    """An agent, as it was when the run started. A change of the manifest leaves it alone."""

    name: str
    instructions: str
    model: str
    llm_task_queue: str
    tools: list[ToolBinding] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)
    policy: CallPolicy = field(default_factory=CallPolicy)
    max_output_tokens: int = 1024
    approvals: list[ApprovalRule] = field(default_factory=list)
    asks: ApprovalRule | None = None
    """Who is asked about a tool that no rule names; its `tool` is empty. None: anybody may answer, nobody is told."""
    approvals_task_queue: str = "approvals"
    """Where approvals are written down and humans are told."""
    on_unknown: str = "ask"
    """`OnUnknown`: what to do about an effect that nobody knows of."""
    trust_found: bool = False
    """Guarded tools need no human merely because strangers' text was read."""
    allow: AllowLists = field(default_factory=AllowLists)
    memory: MemoryPolicy | None = None
    price: Price | None = None
    context: ContextPolicy | None = None
    """None: the conversation grows until the provider refuses it."""


RULES = 1
"""Those that runs begin with now."""

LAST_PRIORITY = 4
"""Temporal knows five: a run's first call comes one behind its others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedCase:
    """A question to humans that an earlier execution of the run has asked."""

    approval: Approval
    rule: ApprovalRule
    found: bool
    events: list[ApprovalEvent] = field(default_factory=list)
    """Not yet written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What one execution of a run hands to the next, when it continues as new."""

    executions: int
    """How many came before."""
    began_at: datetime
    """When the run began."""
    idle_s: float
    """Seconds until now in which it has waited for people."""
    mark: str
    """What strangers' text is fenced with."""
    messages: list[Message]
    told: list[str] = field(default_factory=list)
    """Said to the run, and not yet heard."""
    found: bool = False
    """Strangers' text was read."""
    tokens_per_char: float | None = None
    """As the provider has counted the last call."""
    steps: int = 0
    tokens: int = 0
    money: str = "0"
    waits_s: list[float] = field(default_factory=list)
    refusals: int = 0
    recalled: int = 0
    cases: list[CarriedCase] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    """Not yet told."""
    keeps: list[Keep] = field(default_factory=list)
    """Not yet remembered."""
    effects: dict[str, dict[str, str]] = field(default_factory=dict)
    """What became of each, by its step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """The one argument of `AgentWorkflow`: everything that configures the run."""

    agent: AgentDefinition
    goal: str
    tenant: str = "default"
    priority: int = 3
    """1 (first) to 4. Temporal's priority key of a run's calls; its first call, which lets a new run in, comes one
    behind: a quota that is short finishes runs instead of starting ever more."""
    weight: float = 1.0
    """Temporal's fairness weight of the tenant: its share of what is short, against others' of the same priority."""
    door: bool = False
    """Only so many runs are active at once: the run waits at the door first."""
    tell: list["Told"] = field(default_factory=list)
    """Who is told when the run has ended."""
    rules: int = 0
    """Which of the workflow's ways the run follows: those of when it began. From 1 on it continues as new and tells its
    status and its cost as search attributes. Whatever changes the commands of a workflow needs another number."""
    carried: Carried | None = None
    """Set from the second execution of a run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An endpoint of the manifest that is told how a run ended, as a CloudEvent."""

    endpoint: str
    task_queue: str


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    STOPPED = "stopped"
    FAILED = "failed"


class Phase(StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    THINKING = "thinking"
    COMPACTING = "compacting"
    """Its conversation has grown long: a model sums it up."""
    ACTING = "acting"
    APPROVAL = "approval"
    """A human is asked."""
    PAUSED = "paused"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Answer of the `status` query."""

    phase: Phase
    doing: str = ""
    """What it waits for: the model or the names of the tools."""
    steps: int = 0
    tokens: int = 0
    quota_wait_s: float = 0.0
    stop_requested: bool = False
    paused: str | None = None
    """Why it was paused; None when it was not."""
    cost: str = "0"
    """Money spent, a decimal in the currency of the prices."""
    approvals: list[str] = field(default_factory=list)
    """Ids of open approvals."""
    executions: int = 1
    """Executions so far: one more each time it has continued as new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended, and what it made."""

    outcome: Outcome
    answer: str
    reason: str = ""
    """Which budget ran out, who stopped it, or what failed."""
    steps: int = 0
    tokens: int = 0
    quota_waits_s: list[float] = field(default_factory=list)
    """Wait for quota of each call, in order."""
    effects: list[dict[str, str]] = field(default_factory=list)
    """Each effect: tool, step, state and what proves it."""
    approvals: list[dict[str, str]] = field(default_factory=list)
    """Each approval: id, tool, state, by whom."""
    cost: str = "0"
    """Money spent, a decimal in `currency`."""
    currency: str = ""
    recalled: int = 0
    """Memories that the run began with."""
