"""Who arrives: agents of the manifest and a few of the harness's own, their goals, and what must come of them."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.tables import APPROVALS_POOL
from load.trial import Arrival
from load.workload import Call

DOMAIN = "example.com"
APPROVER = f"approver@{DOMAIN}"
CALLER, MAILER, PAYER, PETITIONER = "load-caller", "load-mailer", "load-payer", "load-petitioner"
"""The harness's own agents: one call of the model; one e-mail; one transfer; one transfer that a human must approve."""

_INSTRUCTIONS = {
    CALLER: "You answer in one sentence.",
    MAILER: "You send what you are given to the address you are given, once. Then say what you sent.",
    PAYER: "You pay what you are asked to pay, once. Then say what you paid.",
    PETITIONER: "You pay what you are asked to pay, once. Then say what you paid.",
}
_TOOLS: dict[str, list[str]] = {CALLER: [], MAILER: ["send_email"], PAYER: ["transfer"], PETITIONER: ["transfer"]}
_NEEDS = {CALLER: (), MAILER: ("email",), PAYER: ("payments",), PETITIONER: ("payments", APPROVALS_POOL)}
"""Pools without which an agent would wait for ever."""
MAX_OUTPUT_TOKENS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run of an agent costs, as a rehearsal has shown."""

    units: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By scope and limit."""
    largest: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of one call, by scope and limit."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """By scope."""
    activities: int = 0
    took_s: float = 0.0
    """With nobody else there."""
    profile: tuple[Call, ...] = ()
    """Its calls that are charged to a quota, for the planner."""


def agents(manifest: Manifest) -> dict[str, Any]:
    """The harness's own agents as tables of a manifest: those whose pools it has.

    Raises:
        BadInput: no agent of the manifest has a model with a quota.
    """
    model = next((a.model for a in manifest.agents.values() if a.model in manifest.quotas), None)
    if model is None:
        raise BadInput("no agent of the manifest has a model with a quota: there is nothing to press on")
    return {
        name: {
            "model": model,
            "tools": _TOOLS[name],
            "max_output_tokens": MAX_OUTPUT_TOKENS,
            "instructions": _INSTRUCTIONS[name],
            "budget": {"steps": 6, "tokens": 20_000, "deadline": "24h"},
            **(
                {"approvals": [{"tool": "transfer", "approvers": [APPROVER], "expires": "24h"}]}
                if name == PETITIONER
                else {}
            ),
        }
        for name in _TOOLS
        if all(pool in manifest.pools for pool in _NEEDS[name])
    }


def parse_mix(text: str) -> dict[str, float]:
    """`researcher=2,mailer=1` as a mapping; a weight of 1 may be left out.

    Raises:
        BadInput: it has another form.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if not name or not re.fullmatch(r"\d*\.?\d+|", weight):
            raise BadInput(f"mix={text}: {part.strip()!r} is no agent with a weight, as in researcher=2,mailer=1")
        found[name] = float(weight or 1)
    if sum(found.values()) <= 0:
        raise BadInput(f"mix={text}: one weight at least must be above 0")
    return found


def arrivals(
    manifest: Manifest,
    times: Sequence[float],
    *,
    mix: Mapping[str, float],
    tenants: Mapping[str, float],
    priorities: Sequence[int],
    questions: Sequence[str],
    prefix: str,
    dice: random.Random,
) -> list[Arrival]:
    """One arrival for each time. Agents and tenants come as often as their weights say, in an order drawn by `dice`.

    Raises:
        BadInput: the mix names an agent that the manifest does not have.
    """
    for name in mix:
        if name not in manifest.agents:
            raise BadInput(f"mix: no agent {name!r} here; there are: {', '.join(sorted(manifest.agents))}")
    who, whose = _dealt(mix, len(times), dice), _dealt(tenants, len(times), dice)
    return [
        arrival(
            manifest,
            agent,
            f"{prefix}-{number:05}",
            questions[number % len(questions)],
            at_s=at,
            tenant=tenant,
            priority=dice.choice(priorities),
        )
        for number, (at, agent, tenant) in enumerate(zip(times, who, whose, strict=True))
    ]


def arrival(
    manifest: Manifest,
    agent: str,
    run_id: str,
    question: str,
    *,
    at_s: float = 0.0,
    tenant: str = "default",
    priority: int = 3,
) -> Arrival:
    """One run, its goal by what its agent can do, and what must come of it."""
    tools = manifest.agents[agent].tools
    mails_to = pays = None
    if "transfer" in tools:
        pays = f"DE{run_id.replace('-', '').upper()}"
        goal = f"Pay 12.00 EUR to {pays} for invoice {run_id}"
    elif "send_email" in tools:
        mails_to = f"{run_id}@{DOMAIN}"
        asked = question if "search" in tools else f"Greetings from {run_id}."
        goal = f"{asked} E-mail {'the brief' if 'search' in tools else 'this'} to {mails_to}."
    else:
        goal = question
    return Arrival(
        at_s=at_s, run_id=run_id, agent=agent, goal=goal, tenant=tenant, priority=priority, mails_to=mails_to, pays=pays
    )


def _dealt(weights: Mapping[str, float], count: int, dice: random.Random) -> list[str]:
    """`count` names in the proportions of their weights, shuffled."""
    total, names = sum(weights.values()), list(weights)
    ends = [round(count * upto / total) for upto in accumulate(weights.values())]
    begins = [0, *ends[:-1]]
    dealt = [name for name, begin, end in zip(names, begins, ends, strict=True) for _ in range(end - begin)]
    dice.shuffle(dealt)
    return dealt
