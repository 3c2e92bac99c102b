"""What one table of the manifest says of another: every name must lead somewhere. On the raw file, so that all
problems are told at once."""

import re
from collections.abc import Iterator
from typing import Any

from fleet.conditions import BadCondition, check, is_pattern
from fleet.contracts.tools import TOOLS, WEBHOOK_SEND
from fleet.rates import SCOPE, UNITS, unit_of
from fleet.tables import AGENTS_POOL, APPROVALS_POOL, LLM_POOL, MEMORY_POOL, POOLS, REFERENCE, WEBHOOK_POOL
from fleet.tables_schedules import schedule_references


def references(raw: dict[str, Any]) -> Iterator[str]:
    """Every name that leads nowhere, and every setting without effect, a line each."""
    providers, pools = _table(raw, "providers"), _table(raw, "pools")
    yield from _pool_references(providers, pools)
    yield from _quota_references(_table(raw, "quotas"), providers)
    for name, agent in _table(raw, "agents").items():
        if isinstance(agent, dict):
            yield from _agent_references(name, agent, providers, pools)
            yield from _asking_references(name, agent, raw)
    yield from _endpoint_references(_table(raw, "endpoints"), providers, raw)
    yield from _addresses(providers, _table(raw, "approvals"))
    for model in _table(raw, "prices"):
        kind = _table(providers, model.partition("/")[0]).get("kind")
        if kind not in ("openai", "anthropic"):
            yield f'prices."{model}": there is no [providers.{model.partition("/")[0]}] of kind openai or anthropic'
    yield from _money(raw)
    for pool in _table(_table(raw, "deploy"), "pools"):
        if pool not in pools:
            yield f"{_key('deploy.pools', pool)}: there is no [{_key('pools', pool)}]"
    yield from schedule_references(raw)
    approvals = _table(raw, "approvals")
    yield from _notified("approvals", approvals, _list(approvals, "approvers"), _table(raw, "endpoints"))


def _money(raw: dict[str, Any]) -> Iterator[str]:
    """Money is counted only where every model has a price, and added only where all are in one currency."""
    agents, tenants, prices = _table(raw, "agents"), _table(raw, "tenants"), _table(raw, "prices")
    models = dict.fromkeys(model for name in agents for _, model in _models(_table(agents, name)))
    daily = [name for name in tenants if "money" in _table(_table(tenants, name), "daily")]
    for tenant in daily:
        for model in models:
            if model not in prices:
                yield f'{_key("tenants", tenant)}.daily.money: needs [prices."{model}"]'
    currencies = sorted({str(_table(prices, model).get("currency", "USD")) for model in prices})
    if len(currencies) > 1 and (daily or any("money" in _table(_table(agents, name), "budget") for name in agents)):
        yield f"prices: are in {', '.join(currencies)}: where money is budgeted, all are in one currency"


def _key(table: str, name: str) -> str:
    return f"{table}.{name}" if re.fullmatch(r"[\w-]+", name) else f'{table}."{name}"'


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
    if isinstance(outer, str) and outer not in quotas:
        yield f'quotas."{scope}": lies within {outer!r}, which has no quota'


_CHARGED = {
    "openai": ("requests", "tokens", "input_tokens", "output_tokens"),
    "anthropic": ("requests", "tokens", "input_tokens", "output_tokens"),
    "smtp": ("messages", "recipients"),
    "resend": ("messages", "recipients"),
    "bank": ("requests",),
}


def _pool_references(providers: dict[str, Any], pools: dict[str, Any]) -> Iterator[str]:
    for pool in pools:
        if pool not in POOLS:
            yield f"pools.{pool}: no such pool; there are: {', '.join(POOLS)}"
    for pool, kinds in (("search", _SEARCH_KINDS), ("email", _MAIL_KINDS), ("payments", ("bank",))):
        if pool not in pools:
            continue
        provider = str(_table(pools, pool).get("provider", pool))
        kind = _table(providers, provider).get("kind")
        if provider not in providers:
            yield f"pools.{pool}.provider: there is no [providers.{provider}]"
        elif kind not in kinds:
            yield f"pools.{pool}.provider: providers.{provider} is of kind {kind!r}, not one of {', '.join(kinds)}"
    yield from _without_effect(pools)
    yield from _shared_queues(pools)
    if AGENTS_POOL not in pools:
        yield f"pools.{AGENTS_POOL}: is required: it runs the workflows"


def _shared_queues(pools: dict[str, Any]) -> Iterator[str]:
    taken: dict[str, str] = {}
    for pool in pools:
        queue = str(_table(pools, pool).get("task_queue") or pool)
        # its versions would be one Worker Deployment, named as `fleet.versions.deployment_of` says
        other = taken.setdefault(re.sub("[.:]", "-", queue), pool)
        if other != pool:
            yield f"pools.{pool}.task_queue: {queue!r} is that of pools.{other} too (`.`, `:` and `-` count as one)"


def _without_effect(pools: dict[str, Any]) -> Iterator[str]:
    for pool in pools:
        if pool != AGENTS_POOL and "max_active" in _table(pools, pool):
            yield f"pools.{pool}.max_active: has no effect: set it on pools.{AGENTS_POOL}"
    for pool in (AGENTS_POOL, LLM_POOL):
        if "provider" in _table(pools, pool):
            yield f"pools.{pool}.provider: has no effect: an agent's `model` names the provider"
    for pool in (APPROVALS_POOL, MEMORY_POOL, WEBHOOK_POOL):
        if "provider" in _table(pools, pool):
            yield f"pools.{pool}.provider: has no effect"


_SEARCH_KINDS = ("corpus", "searxng", "brave", "tavily")
_MAIL_KINDS = ("smtp", "resend")


def _models(agent: dict[str, Any]) -> list[tuple[str, str]]:
    """The models that an agent calls, each with where it is named."""
    summing_up = _table(agent, "context").get("model")
    return [("model", str(agent.get("model", ""))), *([("context.model", str(summing_up))] if summing_up else [])]


def _agent_references(
    name: str, agent: dict[str, Any], providers: dict[str, Any], pools: dict[str, Any]
) -> Iterator[str]:
    for where, model in _models(agent):
        provider = model.partition("/")[0]
        if provider and _table(providers, provider).get("kind") not in ("openai", "anthropic"):
            yield f"agents.{name}.{where}: there is no [providers.{provider}] of kind openai or anthropic"
    if LLM_POOL not in pools:
        yield f"agents.{name}: needs [pools.{LLM_POOL}]"
    tools = agent.get("tools", [])
    for tool in tools if isinstance(tools, list) else []:
        contract = TOOLS.get(tool) if isinstance(tool, str) else None
        if contract is None:
            yield f"agents.{name}.tools: unknown tool {tool!r}; there are: {', '.join(TOOLS)}"
        elif contract.stub.pool not in pools:
            yield f"agents.{name}.tools: {tool} needs [pools.{contract.stub.pool}]"


def _asking_references(name: str, agent: dict[str, Any], raw: dict[str, Any]) -> Iterator[str]:
    """Whom an agent asks, and what it remembers."""
    pools, endpoints = _table(raw, "pools"), _table(raw, "endpoints")
    tools = [tool for tool in _list(agent, "tools") if isinstance(tool, str) and tool in TOOLS]
    effects = any(TOOLS[tool].effect for tool in tools)
    guarded = any(TOOLS[tool].guarded for tool in tools)
    # `resend` asks as well, when it has been tried in vain
    asks = (effects and agent.get("on_unknown", "ask") != "skip") or (guarded and agent.get("trust_found") is not True)
    if (asks or agent.get("approvals")) and APPROVALS_POOL not in pools:
        yield f"agents.{name}: needs [pools.{APPROVALS_POOL}], through which humans are asked"
    if "memory" in agent and MEMORY_POOL not in pools:
        yield f"agents.{name}.memory: needs [pools.{MEMORY_POOL}]"
    budget = _table(agent, "budget")
    for _, model in _models(agent):
        if "money" in budget and model not in _table(raw, "prices"):
            yield f'agents.{name}.budget.money: needs [prices."{model}"]'
    told = [_table(endpoints, endpoint).get("kind") for endpoint in endpoints]
    if WEBHOOK_SEND in [TOOLS[tool].stub for tool in tools] and "webhook" not in told:
        yield f"agents.{name}.tools: send_webhook needs an endpoint of kind 'webhook'"
    for number, rule in enumerate(_list(agent, "approvals")):
        if isinstance(rule, dict):
            yield from _rule_references(f"agents.{name}.approvals.{number}", rule, tools, endpoints)


def _rule_references(where: str, rule: dict[str, Any], tools: list[str], endpoints: dict[str, Any]) -> Iterator[str]:
    tool = rule.get("tool")
    if tool not in tools:
        yield f"{where}.tool: the agent has no tool {tool!r}; it has: {', '.join(tools) or 'none'}"
        return
    arguments = TOOLS[str(tool)].spec.parameters["properties"]
    for key in ("when", "amend"):
        expression = rule.get(key)
        if isinstance(expression, str) and expression:
            try:
                check(expression, arguments)
            except BadCondition as bad:
                yield f"{where}.{key}: {bad}"
    for key, argument in (("over", "amount"), ("outside", "to")):
        if rule.get(key) and argument not in arguments:
            yield f"{where}.{key}: {tool} has no argument {argument!r}"
    people = [*_list(rule, "approvers"), *_list(_table(rule, "escalate"), "to")]
    yield from _notified(where, rule, people, endpoints)


def _notified(where: str, rule: dict[str, Any], people: list[Any], endpoints: dict[str, Any]) -> Iterator[str]:
    addresses = [who for who in people if isinstance(who, str) and "@" in who and not is_pattern(who)]
    for endpoint in _list(rule, "notify"):
        if not isinstance(endpoint, str):
            continue
        if endpoint not in endpoints:
            yield f"{where}.notify: there is no [endpoints.{endpoint}]"
        elif _table(endpoints, endpoint).get("kind") == "email" and not addresses:
            yield f"{where}.notify: {endpoint} writes to each approver, and there is none by address"


def _endpoint_references(endpoints: dict[str, Any], providers: dict[str, Any], raw: dict[str, Any]) -> Iterator[str]:
    for name in endpoints:
        endpoint = _table(endpoints, name)
        if endpoint.get("kind") == "email":
            provider = str(endpoint.get("provider"))
            if _table(providers, provider).get("kind") not in _MAIL_KINDS:
                kinds = " or ".join(_MAIL_KINDS)
                yield f"endpoints.{name}.provider: there is no [providers.{provider}] of kind {kinds}"
        url = str(endpoint.get("url", ""))
        referred = re.match(REFERENCE, url) is not None
        if endpoint.get("kind") == "webhook" and not (referred or re.match(r"^https?://", url)):
            yield f"endpoints.{name}.url: must begin with https:// or http://, or be 'env:NAME' or 'file:/path'"
        # the address of a Slack webhook is all that one needs to post there: never shown
        if endpoint.get("kind") == "slack" and not referred:
            yield f"endpoints.{name}.url: must say where the address is: 'env:NAME' or 'file:/path'"
    if endpoints and APPROVALS_POOL not in _table(raw, "pools") and WEBHOOK_POOL not in _table(raw, "pools"):
        yield f"endpoints: need [pools.{APPROVALS_POOL}] or [pools.{WEBHOOK_POOL}], which serve them"


def _addresses(providers: dict[str, Any], approvals: dict[str, Any]) -> Iterator[str]:
    found = {f"providers.{name}.base_url": _table(providers, name).get("base_url") for name in providers}
    for where, url in (found | {"approvals.url": approvals.get("url")}).items():
        if isinstance(url, str) and not re.match(r"https?://.", url):
            yield f"{where}: must begin with https:// or http://"


def _list(raw: dict[str, Any], key: str) -> list[Any]:
    value = raw.get(key)
    return value if isinstance(value, list) else []


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}
