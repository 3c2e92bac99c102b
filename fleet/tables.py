"""The tables of the manifest: providers, pools, agents and whom they ask."""

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fleet.conditions import is_pattern, person
from fleet.rates import Duration, Table, Wait

REFERENCE = r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"
"""`env:NAME` or `file:/path`: where a secret is, never the secret."""

AGENTS_POOL = "agents"
LLM_POOL = "llm"
APPROVALS_POOL = "approvals"
MEMORY_POOL = "memory"
WEBHOOK_POOL = "webhook"
POOLS = (AGENTS_POOL, LLM_POOL, "search", "email", "payments", APPROVALS_POOL, MEMORY_POOL, WEBHOOK_POOL)
"""Pools that this release can serve."""
EFFECT_POOLS = ("email", "payments", WEBHOOK_POOL)
"""They serve the effects' workflow too: an effect needs its own pool, and no other."""


def _decimal(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f"{value!r} is a float, which is not exact: write it as text, '{value}'")
    return value


Money = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, allow_inf_nan=False, max_digits=24)]
"""An exact amount: text or a whole number."""


def _currency(text: str) -> str:
    if not re.fullmatch("[A-Z]{3}", text):
        raise ValueError(f"{text[:40]!r} is not a currency: three capital letters (ISO 4217), as USD")
    return text


Currency = Annotated[str, AfterValidator(_currency)]


class ModelProvider(Table):
    """An OpenAI- or Anthropic-compatible API."""

    kind: Literal["openai", "anthropic"]
    base_url: str | None = None
    api_key: str = Field(pattern=REFERENCE)
    """`env:NAME` or `file:/path`: where the key is, never the key."""
    timeout: Duration = timedelta(minutes=5)
    counts: Literal["openai", "azure", "anthropic", "groq", "cerebras"] | None = None
    """Whose way to count tokens it has (`ratelimit/profiles.py`). Default: that of its kind."""


class SearchProvider(Table):
    """A search API, or the local corpus."""

    kind: Literal["corpus", "searxng", "brave", "tavily"]
    path: Path | None = None
    """For `corpus`: the index. Default: `corpus.db` in the state folder."""
    base_url: str | None = None
    api_key: str | None = Field(default=None, pattern=REFERENCE)
    allow_private: bool = False
    """Whether `fetch` may read from private and loopback addresses."""


class BankProvider(Table):
    """A payments API: `POST base_url/transfers` with an `Idempotency-Key`."""

    kind: Literal["bank"]
    base_url: str
    api_key: str = Field(pattern=REFERENCE)
    honours_keys: bool = True
    """A repeated `Idempotency-Key` books once: an attempt that broke off is repeated."""
    key_lifetime: Duration = timedelta(hours=24)
    """How long the provider remembers a key. After that a repetition would book again."""
    looks_up: bool = True
    """`GET base_url/transfers?idempotency_key=…` says whether it was booked."""
    payees: list[str] = Field(default_factory=list)
    """Accounts that may be paid at all, or patterns as `DE*`, whatever agents may. Empty: all."""
    timeout: Duration = timedelta(seconds=30)


class MailApiProvider(Table):
    """An HTTP e-mail API that honours idempotency keys."""

    kind: Literal["resend"]
    base_url: str = "https://api.resend.com"
    api_key: str = Field(pattern=REFERENCE)
    sender: str
    key_lifetime: Duration = timedelta(hours=24)
    """How long the provider remembers an idempotency key."""
    recipients: list[str] = Field(default_factory=list)
    """Addresses that may be written to at all, or `*@example.com`. Empty: all."""
    timeout: Duration = timedelta(seconds=30)


class MailProvider(Table):
    """An SMTP relay."""

    kind: Literal["smtp"]
    host: str
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    username: str | None = None
    password: str | None = Field(default=None, pattern=REFERENCE)
    sender: str
    lookup_url: str | None = None
    """`GET lookup_url?message_id=…` answers a JSON list of accepted messages: settles what a lost worker left open."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    recipients: list[str] = Field(default_factory=list)
    """Addresses that may be written to at all, or `*@example.com`. Empty: all."""
    timeout: Duration = timedelta(seconds=30)


Provider = Annotated[
    ModelProvider | SearchProvider | MailProvider | MailApiProvider | BankProvider, Field(discriminator="kind")
]


class WebhookEndpoint(Table):
    """Where JSON is posted, signed as Standard Webhooks says."""

    kind: Literal["webhook"]
    url: str
    """The address, or `env:NAME` or `file:/path` where it is."""
    secret: str = Field(pattern=REFERENCE)
    """Where the signing secret is, as `whsec_…`."""
    allow_private: bool = False
    """Whether it may be a private or loopback address."""
    timeout: Duration = timedelta(seconds=15)
    deadline: Duration = timedelta(days=3)
    """How long a delivery is tried before it is a dead letter."""


class SlackEndpoint(Table):
    """A Slack-compatible incoming webhook."""

    kind: Literal["slack"]
    url: str
    """`env:NAME` or `file:/path` where the address is: it is a secret."""
    allow_private: bool = False
    timeout: Duration = timedelta(seconds=15)


class EmailEndpoint(Table):
    """E-mail to each approver."""

    kind: Literal["email"]
    provider: str
    """Which of the manifest's mail providers sends it."""


Endpoint = Annotated[WebhookEndpoint | SlackEndpoint | EmailEndpoint, Field(discriminator="kind")]


class ApprovalsSpec(Table):
    """How humans reach the fleet."""

    url: str | None = None
    """Where `fleet console` can be reached by approvers: what links begin with. Without it notices have no link."""
    link_key: str | None = Field(default=None, pattern=REFERENCE)
    """Where the key is that links are signed with: 32 characters or more, the same for workers and console."""
    approvers: list[str] = Field(default_factory=list)
    """Who is asked about a tool that no rule of its agent names: after strangers' text, and whether an effect was
    had. Empty: whoever can reach the run."""
    notify: list[str] = Field(default_factory=list)
    """Endpoints that are told of such a question."""
    expires: Duration = timedelta(days=7)
    """How long such a question waits. Without this, `approvers` and `notify`: 30 days whether an effect was had."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.url is None) != (self.link_key is None):
            raise ValueError("url and link_key are needed together")
        return self


class PoolSpec(Table):
    """A worker pool: one task queue, any number of processes."""

    task_queue: str | None = None
    """Default: the pool's name."""
    slots: int = Field(default=50, ge=1, le=10_000)
    """Calls at once per process; of the pool `agents`, workflow tasks at once."""
    max_inline_wait: Wait = timedelta(seconds=2)
    """Longest wait for quota inside a slot; a longer one gives the slot back."""
    cached: int = Field(default=500, ge=0, le=100_000)
    """Workflows kept in memory between their steps. Others are read from their histories when they go on."""
    drain: Wait = timedelta(seconds=20)
    """How long SIGTERM waits for work under way."""
    max_active: int | None = Field(default=None, ge=1)
    """Of the pool `agents`: most runs active at once, in the whole fleet; others wait at the door. A run that has
    called no model for ten minutes, because a human sleeps over it, is not active."""
    provider: str | None = None
    """Which provider serves the pool's tools. Default: the pool's name."""


class BudgetSpec(Table):
    """What one run may spend."""

    steps: int = Field(default=20, ge=1, le=10_000)
    tokens: int = Field(default=200_000, ge=1)
    money: Money | None = None
    """In the currency of the model's price."""
    deadline: Duration = timedelta(hours=24)
    """Waits for humans are not counted."""


class PolicySpec(Table):
    """How long one call may take and how often a provider may fail."""

    max_failures: int = Field(default=10, ge=1)
    attempt_timeout: Duration = timedelta(minutes=10)
    heartbeat: Duration = timedelta(seconds=20)
    call_deadline: Duration = timedelta(hours=24)
    max_refusals: int = Field(default=5, ge=1, le=100)
    """Calls in a row that cannot be made before a run is given up."""
    continue_after: int | None = Field(default=None, ge=50, le=40_000)
    """Events of its history after which a run continues as new. Default: when Temporal suggests it."""


class ContextSpec(Table):
    """How long the conversation of a run with its model may become."""

    tokens: int = Field(default=100_000, ge=1_000)
    """About so many; beyond it, older turns are summed up."""
    keep: int = Field(default=6, ge=1, le=100)
    """Turns at the end that stay as they are."""
    result_chars: int = Field(default=50_000, ge=200)
    """Characters of one tool's answer that the model sees."""
    model: str | None = Field(default=None, pattern=r"^[^/\s]+/\S+$")
    """Who sums up. Default: the agent's own model."""
    max_output_tokens: int = Field(default=2_000, ge=100)
    """Of the summary."""


class EscalationSpec(Table):
    """Whom to ask when those who were asked do not answer."""

    after: Duration
    to: list[str] = Field(min_length=1)


class ApprovalSpec(Table):
    """When a call of a tool needs a human, and which. All conditions that are given must hold; without any, always."""

    tool: str
    when: str = ""
    """Expression over the arguments, as `amount > 500 or domain(to) != "example.com"`."""
    over: dict[Currency, Money] = Field(default_factory=dict)
    """Currency to the largest amount that needs nobody. Other currencies always do."""
    outside: list[str] = Field(default_factory=list)
    """Domains whose recipients need nobody."""
    approvers: list[str] = Field(default_factory=list)
    """Addresses of those who may decide, or `*@example.com`. Empty: whoever can reach the run."""
    needed: int = Field(default=1, ge=1, le=10)
    """How many must agree: 2 is four eyes."""
    expires: Duration = timedelta(days=7)
    remind: list[Duration] = Field(default_factory=list)
    escalate: EscalationSpec | None = None
    amend: str = ""
    """Expression that amended arguments must satisfy."""
    notify: list[str] = Field(default_factory=list)
    """Endpoints that are told."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        people = {person(who) for who in self.approvers}
        if self.needed > 1 and not people:
            raise ValueError(f"needed = {self.needed}: name the approvers, without whom anybody is several")
        if people and len(people) < self.needed and not any(map(is_pattern, people)):
            raise ValueError(f"needed = {self.needed}, but only {len(people)} approvers")
        if any(after >= self.expires for after in self.remind):
            raise ValueError(f"remind: {max(self.remind)} is not before the end, after {self.expires}")
        if self.escalate is not None and self.escalate.after >= self.expires:
            raise ValueError(f"escalate.after: {self.escalate.after} is not before the end, after {self.expires}")
        return self


class AllowSpec(Table):
    """Whom runs may write to and pay. Empty: nobody is excluded."""

    recipients: list[str] = Field(default_factory=list)
    payees: list[str] = Field(default_factory=list)


class MemorySpec(Table):
    """What an agent remembers from run to run."""

    recall: int = Field(default=5, ge=0, le=50)
    findings: bool = True
    outcome: bool = True
    expires: Duration = timedelta(days=30)
    max_bytes: int = Field(default=1_000_000, ge=1_000)


class PriceSpec(Table):
    """What a model costs, for a million tokens."""

    input: Money
    output: Money
    cached: Money | None = None
    """Input tokens that the provider had in its cache. Default: as `input`."""
    currency: Currency = "USD"


class AgentSpec(Table):
    """An agent: instructions, a model, tools, a budget."""

    model: str = Field(pattern=r"^[^/\s]+/\S+$")
    instructions: str = Field(min_length=1)
    tools: list[str] = Field(default_factory=list)
    max_output_tokens: int = Field(default=1024, ge=1)
    budget: BudgetSpec = BudgetSpec()
    policy: PolicySpec = PolicySpec()
    approvals: list[ApprovalSpec] = Field(default_factory=list)
    allow: AllowSpec = AllowSpec()
    on_unknown: Literal["ask", "resend", "skip"] = "ask"
    """What to do about an effect of which nobody knows whether it was had."""
    trust_found: bool = False
    """Tools that move money need no human merely because strangers' text was read."""
    memory: MemorySpec | None = None
    context: ContextSpec = ContextSpec()


class DailySpec(Table):
    """What a tenant may spend in a day. What is not named is not counted."""

    steps: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    money: Money | None = None
    time: Duration | None = None
    """Seconds of model calls, waits for quota not counted."""


class TenantSpec(Table):
    """Somebody whose runs share the fleet with others'."""

    weight: float = Field(default=1.0, ge=0.001, le=1000)
    """Share of what is short, against other tenants' of the same priority: Temporal's fairness weight."""
    daily: DailySpec | None = None
    """What all its runs may spend on models in one day, from midnight UTC."""


class LimiterSpec(Table):
    """How the limiter behaves."""

    posture: Literal["pause", "degrade"] = "pause"
    """Without Redis: nothing is granted, or each process paces itself by its share of the quotas."""
    safety: float = Field(default=0.5, gt=0, lt=1)
    """Share of the quotas that all processes together use meanwhile, with the posture `degrade`."""
