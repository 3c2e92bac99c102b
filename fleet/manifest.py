"""What is the fleet? `fleet.toml`, typed: providers, quotas, pools, agents. Unknown keys are errors with their path."""

import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fleet.contracts.tools import TOOLS
from fleet.errors import BadInput
from fleet.rates import SCOPE, UNITS, Duration, QuotaSpec, Table, Wait, unit_of


class ModelProvider(Table):
    """An OpenAI- or Anthropic-compatible API."""

    kind: Literal["openai", "anthropic"]
    base_url: str | None = None
    api_key: str = Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")
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
    api_key: str | None = Field(default=None, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")
    allow_private: bool = False
    """Whether `fetch` may read from private and loopback addresses."""


class MailProvider(Table):
    """An SMTP relay."""

    kind: Literal["smtp"]
    host: str
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    username: str | None = None
    password: str | None = Field(default=None, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")
    sender: str
    lookup_url: str | None = None
    """`GET lookup_url?message_id=…` answers a JSON list of accepted messages: settles what a lost worker left open."""
    timeout: Duration = timedelta(seconds=30)


Provider = Annotated[ModelProvider | SearchProvider | MailProvider, Field(discriminator="kind")]


class PoolSpec(Table):
    """A worker pool: one task queue, any number of processes."""

    task_queue: str | None = None
    """Default: the pool's name."""
    slots: int = Field(default=50, ge=1, le=10_000)
    """Calls at once per process; of the pool `agents`, workflow tasks at once."""
    max_inline_wait: Wait = timedelta(seconds=2)
    """Longest wait for quota inside a slot; a longer one gives the slot back."""
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
    deadline: Duration = timedelta(hours=24)


class PolicySpec(Table):
    """How long one call may take and how often a provider may fail."""

    max_failures: int = Field(default=10, ge=1)
    attempt_timeout: Duration = timedelta(minutes=10)
    heartbeat: Duration = timedelta(seconds=20)
    call_deadline: Duration = timedelta(hours=24)


class AgentSpec(Table):
    """An agent: instructions, a model, tools, a budget."""

    model: str = Field(pattern=r"^[^/\s]+/\S+$")
    instructions: str = Field(min_length=1)
    tools: list[str] = Field(default_factory=list)
    max_output_tokens: int = Field(default=1024, ge=1)
    budget: BudgetSpec = BudgetSpec()
    policy: PolicySpec = PolicySpec()


class TenantSpec(Table):
    """Somebody whose runs share the fleet with others'."""

    weight: float = Field(default=1.0, ge=0.001, le=1000)
    """Share of what is short, against other tenants' of the same priority: Temporal's fairness weight."""


class LimiterSpec(Table):
    """How the limiter behaves."""

    posture: Literal["pause", "degrade"] = "pause"
    """Without Redis: nothing is granted, or each process paces itself by its share of the quotas."""
    safety: float = Field(default=0.5, gt=0, lt=1)
    """Share of the quotas that all processes together use meanwhile, with the posture `degrade`."""


class Manifest(Table):
    """The whole file."""

    providers: dict[str, Provider]
    quotas: dict[str, QuotaSpec] = Field(default_factory=dict)
    pools: dict[str, PoolSpec]
    agents: dict[str, AgentSpec]
    limiter: LimiterSpec = LimiterSpec()
    tenants: dict[str, TenantSpec] = Field(default_factory=dict)
    """Those that are not named weigh 1."""

    @property
    def max_active(self) -> int | None:
        """Most runs that are active at once; None: any number."""
        spec = self.pools.get(AGENTS_POOL)
        return spec.max_active if spec else None

    def weight(self, tenant: str) -> float:
        """A tenant's weight."""
        spec = self.tenants.get(tenant)
        return spec.weight if spec else 1.0

    def scopes(self) -> list[str]:
        """The scopes that have a quota, but for templates of tenants' shares."""
        return [scope for scope in self.quotas if not scope.endswith("/*")]

    def task_queue(self, pool: str) -> str:
        """Task queue that the pool serves."""
        spec = self.pools.get(pool)
        return (spec.task_queue if spec else None) or pool


AGENTS_POOL = "agents"
LLM_POOL = "llm"
POOLS = (AGENTS_POOL, LLM_POOL, "search", "email")
"""Pools that this release can serve."""


def load(path: Path) -> Manifest:
    """Read and check the manifest.

    Raises:
        BadInput: it cannot be read, or has problems: all of them, a line each.
    """
    manifest, problems = examine(path)
    if manifest is None:
        raise BadInput("\n".join(f"{path}: {p}" for p in problems))
    return manifest


def examine(path: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest, or every problem in it."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, [f"cannot be read ({error.strerror}): name another with --manifest or FLEET_MANIFEST"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return None, [f"is not TOML: {error}"]
    problems: list[str] = []
    manifest = None
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        problems += [f"{_path(e['loc'])}: {_message(dict(e))}" for e in error.errors()]
    problems += _references(raw)
    return (None if problems else manifest), problems


def _path(loc: tuple[int | str, ...]) -> str:
    # pydantic names the chosen member of a union as a step of the path; the file has no such step
    # nor one for the limits of a quota
    steps = [
        s for i, s in enumerate(loc) if not (i == 2 and (loc[0] == "providers" or (loc[0], s) == ("quotas", "rates")))
    ]
    return ".".join(f'"{s}"' if isinstance(s, str) and not re.fullmatch(r"[\w-]+", s) else str(s) for s in steps)


def _message(error: dict[str, Any]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is required"
        case "value_error":
            return str(error["ctx"]["error"])
        case "union_tag_invalid" | "literal_error":
            return f"{_shown(error)} is not one of {error['ctx'].get('expected_tags') or error['ctx'].get('expected')}"
        case "string_pattern_mismatch" if "env:" in error["ctx"]["pattern"]:
            # what stands here may be the key itself: never shown
            return "must say where the secret is: 'env:NAME' or 'file:/path'"
        case "string_pattern_mismatch":
            return f"{_shown(error)} is not of the form provider/model"
        case _:
            return f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {_shown(error)}"


def _shown(error: dict[str, Any]) -> str:
    value = error["ctx"].get("tag", error["input"]) if error["type"] == "union_tag_invalid" else error["input"]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _references(raw: dict[str, Any]) -> Iterator[str]:
    providers, pools = _table(raw, "providers"), _table(raw, "pools")
    yield from _pool_references(providers, pools)
    yield from _quota_references(_table(raw, "quotas"), providers)
    for name, agent in _table(raw, "agents").items():
        if isinstance(agent, dict):
            yield from _agent_references(name, agent, providers, pools)


def _quota_references(quotas: dict[str, Any], providers: dict[str, Any]) -> Iterator[str]:
    whole: dict[str, str] = {}
    for scope in quotas:
        if not SCOPE.fullmatch(scope):
            yield f'quotas."{scope}": must look like provider/model (letters, digits, _ . : -), or end in /*'
            continue
        provider = scope.partition("/")[0]
        kind = _table(providers, provider).get("kind")
        # a pool's provider is one scope, however it is named; a model provider has one for each model
        charged = _CHARGED.get(str(kind), ("requests",) if kind in _SEARCH_KINDS else UNITS)
        limits = [name for name in _table(quotas, scope) if unit_of(name) in UNITS]
        whole_of = kind in ("openai", "anthropic") or scope.endswith("/*") or _is_outer(scope, quotas)
        if provider not in providers:
            yield f'quotas."{scope}": there is no [providers.{provider}]'
        elif not limits:
            yield f'quotas."{scope}": has no limit; set one of {", ".join(charged)}'
        elif not whole_of and whole.setdefault(provider, scope) != scope:
            yield f'quotas."{scope}": providers.{provider} has its quota in "{whole[provider]}" already'
        for name in limits:
            if unit_of(name) not in charged:
                yield f'quotas."{scope}".{name}: is never charged by kind {kind!r}; set one of {", ".join(charged)}'
        yield from _nesting(scope, quotas)


def _is_outer(scope: str, quotas: dict[str, Any]) -> bool:
    return any(_table(quotas, other).get("within") == scope for other in quotas)


def _nesting(scope: str, quotas: dict[str, Any]) -> Iterator[str]:
    outer = _table(quotas, scope).get("within", scope[:-2] if scope.endswith("/*") else None)
    if outer is not None and outer not in quotas:
        yield f'quotas."{scope}": lies within {outer!r}, which has no quota'


_CHARGED = {
    "openai": ("requests", "tokens", "input_tokens", "output_tokens"),
    "anthropic": ("requests", "tokens", "input_tokens", "output_tokens"),
    "smtp": ("messages", "recipients"),
}


def _pool_references(providers: dict[str, Any], pools: dict[str, Any]) -> Iterator[str]:
    for pool in pools:
        if pool not in POOLS:
            yield f"pools.{pool}: no such pool; there are: {', '.join(POOLS)}"
    for pool, kinds in (("search", _SEARCH_KINDS), ("email", ("smtp",))):
        if pool not in pools:
            continue
        provider = str(_table(pools, pool).get("provider", pool))
        kind = _table(providers, provider).get("kind")
        if provider not in providers:
            yield f"pools.{pool}.provider: there is no [providers.{provider}]"
        elif kind not in kinds:
            yield f"pools.{pool}.provider: providers.{provider} is of kind {kind!r}, not one of {', '.join(kinds)}"
    for pool in pools:
        if pool != AGENTS_POOL and "max_active" in _table(pools, pool):
            yield f"pools.{pool}.max_active: has no effect: set it on pools.{AGENTS_POOL}"
    for pool in (AGENTS_POOL, LLM_POOL):
        if "provider" in _table(pools, pool):
            yield f"pools.{pool}.provider: has no effect: an agent's `model` names the provider"
    if AGENTS_POOL not in pools:
        yield f"pools.{AGENTS_POOL}: is required: it runs the workflows"


_SEARCH_KINDS = ("corpus", "searxng", "brave", "tavily")


def _agent_references(
    name: str, agent: dict[str, Any], providers: dict[str, Any], pools: dict[str, Any]
) -> Iterator[str]:
    provider = str(agent.get("model", "")).partition("/")[0]
    if provider and _table(providers, provider).get("kind") not in ("openai", "anthropic"):
        yield f"agents.{name}.model: there is no [providers.{provider}] of kind openai or anthropic"
    if LLM_POOL not in pools:
        yield f"agents.{name}: needs [pools.{LLM_POOL}]"
    tools = agent.get("tools", [])
    for tool in tools if isinstance(tools, list) else []:
        contract = TOOLS.get(tool) if isinstance(tool, str) else None
        if contract is None:
            yield f"agents.{name}.tools: unknown tool {tool!r}; there are: {', '.join(TOOLS)}"
        elif contract.stub.pool not in pools:
            yield f"agents.{name}.tools: {tool} needs [pools.{contract.stub.pool}]"


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}
