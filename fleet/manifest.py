"""What is the fleet? `fleet.toml`, typed: providers, quotas, pools, agents. Unknown keys are errors with their path."""

import math
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fleet.contracts.tools import TOOLS
from fleet.errors import BadInput

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)([kM]?)/(s|m|h|d)")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kM]?)")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6}


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if not found:
            raise ValueError(f"{value!r} is not a duration such as '500ms', '2s', '30m', '24h'")
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    return value


def _count(value: Any) -> Any:
    if isinstance(value, str):
        found = _COUNT.fullmatch(value)
        if not found:
            raise ValueError(f"{value!r} is not a count such as '500', '90k', '1.5M'")
        return float(found[1]) * _SCALE[found[2]]
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0))]
Wait = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(0))]
Count = Annotated[float, BeforeValidator(_count), Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Table):
    """One limit of a quota: `"500/m"`, or a table with a burst."""

    units: Count
    per: Duration = timedelta(minutes=1)
    burst: Count | None = None
    """Most units at once after idling. Default: `units`. Smaller where a provider enforces shorter windows."""


def _rate(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("rate"), str):
        rest = {k: v for k, v in value.items() if k != "rate"}
        return {**_rate(value["rate"]), **rest}
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value)
    if not found:
        raise ValueError(f"{value!r} is not a rate such as '500/m', '200k/m', '5/s'")
    units = float(found[1]) * _SCALE[found[2]]
    if not (units > 0 and math.isfinite(units)):
        raise ValueError(f"{value!r}: a rate must be greater than zero")
    return {"units": units, "per": timedelta(seconds=_UNITS[found[3]])}


RateSpec = Annotated[Rate, BeforeValidator(_rate)]


class QuotaSpec(_Table):
    """What a provider grants for one scope, all limits together."""

    requests: RateSpec | None = None
    tokens: RateSpec | None = None
    input_tokens: RateSpec | None = None
    output_tokens: RateSpec | None = None
    messages: RateSpec | None = None
    headroom: float = Field(default=0.98, gt=0, le=1)
    """Share of the provider's limit that the fleet plans to use."""

    def limits(self) -> dict[str, Rate]:
        """The limits that are set, by name."""
        return {name: rate for name in LIMITS if (rate := getattr(self, name)) is not None}


LIMITS = ("requests", "tokens", "input_tokens", "output_tokens", "messages")


class ModelProvider(_Table):
    """An OpenAI- or Anthropic-compatible API."""

    kind: Literal["openai", "anthropic"]
    base_url: str | None = None
    api_key: str = Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")
    """`env:NAME` or `file:/path`: where the key is, never the key."""
    timeout: Duration = timedelta(minutes=5)


class SearchProvider(_Table):
    """A search API, or the local corpus."""

    kind: Literal["corpus", "searxng", "brave", "tavily"]
    path: Path | None = None
    """For `corpus`: the index. Default: `corpus.db` in the state folder."""
    base_url: str | None = None
    api_key: str | None = Field(default=None, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")
    allow_private: bool = False
    """Whether `fetch` may read from private and loopback addresses."""


class MailProvider(_Table):
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


class PoolSpec(_Table):
    """A worker pool: one task queue, any number of processes."""

    task_queue: str | None = None
    """Default: the pool's name."""
    slots: int = Field(default=50, ge=1, le=10_000)
    """Calls at once per process; of the pool `agents`, workflow tasks at once."""
    max_inline_wait: Wait = timedelta(seconds=2)
    """Longest wait for quota inside a slot; a longer one gives the slot back."""
    drain: Wait = timedelta(seconds=20)
    """How long SIGTERM waits for work under way."""
    provider: str | None = None
    """Which provider serves the pool's tools. Default: the pool's name."""


class BudgetSpec(_Table):
    """What one run may spend."""

    steps: int = Field(default=20, ge=1, le=10_000)
    tokens: int = Field(default=200_000, ge=1)
    deadline: Duration = timedelta(hours=24)


class PolicySpec(_Table):
    """How long one call may take and how often a provider may fail."""

    max_failures: int = Field(default=10, ge=1)
    attempt_timeout: Duration = timedelta(minutes=10)
    heartbeat: Duration = timedelta(seconds=20)
    call_deadline: Duration = timedelta(hours=24)


class AgentSpec(_Table):
    """An agent: instructions, a model, tools, a budget."""

    model: str = Field(pattern=r"^[^/\s]+/\S+$")
    instructions: str = Field(min_length=1)
    tools: list[str] = Field(default_factory=list)
    max_output_tokens: int = Field(default=1024, ge=1)
    budget: BudgetSpec = BudgetSpec()
    policy: PolicySpec = PolicySpec()


class Manifest(_Table):
    """The whole file."""

    providers: dict[str, Provider]
    quotas: dict[str, QuotaSpec] = Field(default_factory=dict)
    pools: dict[str, PoolSpec]
    agents: dict[str, AgentSpec]

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
    steps = [s for i, s in enumerate(loc) if not (i == 2 and loc[0] == "providers")]
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
            yield f'quotas."{scope}": must look like provider/model (letters, digits, _ . : -)'
            continue
        provider = scope.partition("/")[0]
        kind = _table(providers, provider).get("kind")
        # a pool's provider is one scope, however it is named; a model provider has one for each model
        charged = _CHARGED.get(str(kind), ("requests",) if kind in _SEARCH_KINDS else LIMITS)
        limits = [name for name in LIMITS if name in _table(quotas, scope)]
        if provider not in providers:
            yield f'quotas."{scope}": there is no [providers.{provider}]'
        elif not limits:
            yield f'quotas."{scope}": has no limit; set one of {", ".join(charged)}'
        elif kind not in ("openai", "anthropic") and whole.setdefault(provider, scope) != scope:
            yield f'quotas."{scope}": providers.{provider} has its quota in "{whole[provider]}" already'
        for name in limits:
            if name not in charged:
                yield f'quotas."{scope}".{name}: is never charged by kind {kind!r}; set one of {", ".join(charged)}'


_CHARGED = {
    "openai": ("requests", "tokens", "input_tokens", "output_tokens"),
    "anthropic": ("requests", "tokens", "input_tokens", "output_tokens"),
    "smtp": ("messages",),
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
    for pool in (AGENTS_POOL, LLM_POOL):
        if "provider" in _table(pools, pool):
            yield f"pools.{pool}.provider: has no effect: an agent's `model` names the provider"
    if AGENTS_POOL not in pools:
        yield f"pools.{AGENTS_POOL}: is required: it runs the workflows"


SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}){1,4}")
"""What a quota may be named; the limiter's own rule, told here so that `fleet check` knows it."""

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
