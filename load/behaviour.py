"""What a run of an agent does, guessed from the agent's definition: calls of its model, and its tools between them."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet import agents
from fleet.contracts.runs import AgentDefinition
from fleet.contracts.tools import SEARCH_FETCH, TOOLS
from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.tables import LLM_POOL, MEMORY_POOL, ModelProvider
from load.workload import Call, Script, Spread
from ratelimit.estimates import Estimate, Used
from ratelimit.profiles import PROFILES, Profile

CHARACTERS_PER_TOKEN = 4
GOAL_CHARACTERS = 200
EFFECT_ACTIVITIES = 2.0
"""An effect is a workflow of its own, with one activity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What the definition does not say."""

    calls: int | None = None
    """Of the model. None: one more than the agent has tools, memory aside, within its budget."""
    output_share: float = 0.4
    """Of `max_output_tokens`, that the median call writes."""
    sigma: float = 0.5
    """Of the logarithm of what calls write."""
    found_tokens: float = 500.0
    """What the answer of a tool that finds adds to the conversation."""
    told_tokens: float = 50.0
    """What another tool's answer adds."""
    first_token_s: float = 0.8
    tokens_per_s: float = 60.0
    """How fast models write."""
    latency: Spread | None = None
    """Of a model's call. None: by what it writes."""
    tool_latency: Spread = field(default_factory=lambda: Spread(median=0.3, sigma=0.4))


def script(manifest: Manifest, name: str, habits: Habits) -> Script:
    """How to draw the calls of one run.

    Raises:
        BadInput: there is no such agent, or no pool serves one of its tools.
    """
    agent = agents.definition(manifest, name)
    profile = _profile(manifest, agent.model)
    tools = [tool for tool in manifest.agents[name].tools if TOOLS[tool].stub.pool != MEMORY_POOL]
    count = habits.calls or min(len(tools) + 1, agent.budget.steps)
    steps = [tools[n % len(tools)] for n in range(count - 1)] if tools else []
    for tool in steps:
        if TOOLS[tool].stub.pool not in manifest.pools:
            raise BadInput(f"agents.{name}: tool {tool!r} needs [pools.{TOOLS[tool].stub.pool}]")
    before = [_tool(manifest, tool, habits) for tool in steps]

    def draw(source: random.Random) -> tuple[Call, ...]:
        said = _opening(agent) / CHARACTERS_PER_TOKEN
        found: list[Call] = []
        for number in range(count):
            wrote = max(1.0, _output(agent, habits).draw(source))
            found.append(_model(manifest, agent, profile, habits, said, wrote, source))
            said += wrote
            if number < len(before):
                call, adds = before[number]
                found.append(_timed(call, habits.tool_latency.draw(source)))
                said += adds
        return tuple(found)

    return draw


def _profile(manifest: Manifest, model: str) -> Profile:
    spec = manifest.providers.get(model.partition("/")[0])
    if not isinstance(spec, ModelProvider):
        raise BadInput(f"model {model!r}: the manifest has no such provider of models")
    return PROFILES[spec.counts or spec.kind]


def _opening(agent: AgentDefinition) -> int:
    """Characters of the first call: instructions, tools, goal."""
    offered = sum(len(t.spec.name) + len(t.spec.description) + len(json.dumps(t.spec.parameters)) for t in agent.tools)
    return len(agent.instructions) + offered + GOAL_CHARACTERS


def _output(agent: AgentDefinition, habits: Habits) -> Spread:
    return Spread(
        median=habits.output_share * agent.max_output_tokens, sigma=habits.sigma, most=float(agent.max_output_tokens)
    )


def _model(
    manifest: Manifest,
    agent: AgentDefinition,
    profile: Profile,
    habits: Habits,
    said: float,
    wrote: float,
    source: random.Random,
) -> Call:
    # the fleet's estimator has learnt what calls read, and what nine of ten write
    estimate = Estimate(
        input_tokens=float(round(said)),
        output_tokens=float(round(_output(agent, habits).quantile_90())),
        characters=round(said * CHARACTERS_PER_TOKEN),
    )
    charged = profile.cost(estimate, agent.max_output_tokens)
    used = Used(input_tokens=round(said), output_tokens=round(wrote))
    price = manifest.prices.get(agent.model)
    money = 0.0 if price is None else (used.input_tokens * float(price.input) + wrote * float(price.output)) / 1e6
    latency = (
        habits.first_token_s + wrote / habits.tokens_per_s if habits.latency is None else habits.latency.draw(source)
    )
    return Call(
        latency_s=latency,
        pool=LLM_POOL,
        scope=agent.model,
        estimate=charged,
        actual=profile.actual(charged, used),
        money=money,
        currency=price.currency if price else "",
    )


def _tool(manifest: Manifest, tool: str, habits: Habits) -> tuple[Call, float]:
    contract = TOOLS[tool]
    pool = contract.stub.pool
    # reading what was found is charged nothing
    scope = "" if contract.stub is SEARCH_FETCH else scope_of(manifest, pool)
    call = Call(
        latency_s=0.0,
        pool=pool,
        scope=scope,
        estimate={"requests": 1.0, "messages": 1.0, "recipients": 1.0},
        activities=EFFECT_ACTIVITIES if contract.effect else 1.0,
    )
    return call, habits.found_tokens if contract.finds else habits.told_tokens


def _timed(call: Call, latency_s: float) -> Call:
    return Call(
        latency_s=latency_s, pool=call.pool, scope=call.scope, estimate=call.estimate, activities=call.activities
    )


def scope_of(manifest: Manifest, pool: str) -> str:
    """What calls of a pool that serves no models are counted in; empty: nothing."""
    spec = manifest.pools.get(pool)
    provider = (spec.provider if spec else None) or pool
    return next((scope for scope in manifest.scopes() if scope.partition("/")[0] == provider), "")


def pool_of(manifest: Manifest, scope: str) -> str:
    """The pool whose calls are counted in a scope; empty: none of the manifest's."""
    provider = scope.partition("/")[0]
    if isinstance(manifest.providers.get(provider), ModelProvider):
        return LLM_POOL
    names: Sequence[str] = [name for name, spec in manifest.pools.items() if (spec.provider or name) == provider]
    return names[0] if names else ""
