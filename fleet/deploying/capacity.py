"""How many calls at once a quota keeps busy, by Little's law: calls a second times the seconds that one holds its slot.

Pure arithmetic over the manifest. Each step is told in a line, so that a reader can do it again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from fleet.manifest import Manifest
from fleet.rates import Rate, in_flight, unit_of
from fleet.tables import AGENTS_POOL, APPROVALS_POOL, LLM_POOL, MEMORY_POOL, WEBHOOK_POOL

INPUT_TOKENS = 1_500
"""What a call is taken to say to a model: instructions, the conversation so far, results. `fleet load simulate` and
`fleet quota advise` know it better once runs have been seen."""

CALL_S: Mapping[str, float] = {
    AGENTS_POOL: 0.05,
    LLM_POOL: 8.0,
    "search": 1.0,
    "email": 2.0,
    "payments": 2.0,
    APPROVALS_POOL: 1.0,
    MEMORY_POOL: 0.1,
    WEBHOOK_POOL: 2.0,
}
"""How long one call takes, where the manifest does not say: of a model some hundred tokens of output, of others one
exchange with a server elsewhere."""

LONGEST_WINDOW = timedelta(minutes=1)
"""What returns with longer windows says how much a day may have, not how much at once: a day's quota may be spent in
an hour."""

SLACK = 2.0
"""Standard deviations above the mean: of arrivals at random the calls at once vary by the square root of their mean."""

_UNITLESS = ("requests", "messages", "recipients")


@dataclass(frozen=True, slots=True, kw_only=True)
class Useful:
    """What the quotas of a pool can keep busy."""

    scopes: tuple[str, ...]
    slots: int | None
    """None: some of its calls are limited by nothing."""
    lines: tuple[str, ...]


def useful(manifest: Manifest, pool: str, call_s: float) -> Useful:
    """Calls at once that the pool's quotas keep busy.

    Args:
        manifest: with the quotas.
        pool: one of its pools.
        call_s: how long one call takes.
    """
    leaves = charged(manifest, pool)
    if not leaves:
        return Useful(scopes=(), slots=None, lines=("no quota bounds it",))
    scopes = list(dict.fromkeys(outer for leaf in leaves for outer in chain(manifest, leaf)))
    if free := [leaf for leaf in leaves if leaf not in manifest.quotas]:
        lines = [f"{', '.join(free)}: has no quota, so nothing bounds it"]
        return Useful(scopes=tuple(scopes), slots=None, lines=tuple(lines))
    held_s = call_s + manifest.pools[pool].max_inline_wait.total_seconds()
    lines = []
    counting = _Counting(manifest=manifest, leaves=leaves, call_s=call_s, held_s=held_s, lines=lines)
    roots = list(dict.fromkeys(chain(manifest, leaf)[-1] for leaf in leaves))
    at_once = math.fsum(counting.at_once(root) for root in roots)
    if math.isinf(at_once):
        lines.append("none of its limits bounds what happens at once")
        return Useful(scopes=tuple(scopes), slots=None, lines=tuple(lines))
    slots = max(1, math.ceil(round(at_once, 6)))
    lines.append(f"{slots} slots are useful")
    return Useful(scopes=tuple(scopes), slots=slots, lines=tuple(lines))


def charged(manifest: Manifest, pool: str) -> dict[str, float]:
    """Scopes that the pool's calls are charged to first, with the tokens of one call; those without a quota too."""
    if pool == LLM_POOL:
        tokens: dict[str, float] = {}
        for agent in manifest.agents.values():
            asked = [(agent.model, agent.max_output_tokens)]
            if agent.context.model:
                asked.append((agent.context.model, agent.context.max_output_tokens))
            for model, output in asked:
                # the smallest: it is the most calls that the quota could grant
                tokens[model] = min(tokens.get(model, math.inf), float(INPUT_TOKENS + output))
        return tokens
    if pool in (AGENTS_POOL, APPROVALS_POOL, MEMORY_POOL, WEBHOOK_POOL):
        return {}
    provider = manifest.pools[pool].provider or pool
    found = next((scope for scope in manifest.scopes() if scope.partition("/")[0] == provider), None)
    return {} if found is None else {found: 0.0}


def chain(manifest: Manifest, scope: str) -> list[str]:
    """The scope and those around it, innermost first."""
    found = [scope]
    while (spec := manifest.quotas.get(found[-1])) is not None and spec.within and spec.within not in found:
        found.append(spec.within)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counting:
    """One pool's count, from the innermost scopes outwards."""

    manifest: Manifest
    leaves: Mapping[str, float]
    call_s: float
    held_s: float
    lines: list[str]

    def at_once(self, scope: str) -> float:
        """Calls at once that the scope allows, with what lies within it."""
        inner = [
            name
            for name, spec in self.manifest.quotas.items()
            if spec.within == scope and any(name in chain(self.manifest, leaf) for leaf in self.leaves)
        ]
        within = math.fsum(self.at_once(name) for name in inner)
        own = self._own(scope)
        # what is called by its own name is charged to it alone
        found = own if scope in self.leaves else min(own, within)
        if inner and scope not in self.leaves and within < own:
            self.lines.append(f"{scope}: what lies within it allows {within:.1f}, which is less")
        return found

    def _own(self, scope: str) -> float:
        spec = self.manifest.quotas[scope]
        tokens = min(
            (amount for leaf, amount in self.leaves.items() if scope in chain(self.manifest, leaf)),
            default=0.0,
        )
        bounds = [self._bound(scope, name, rate, spec.headroom, tokens) for name, rate in spec.limits().items()]
        return min((bound for bound in bounds if bound is not None), default=math.inf)

    def _bound(self, scope: str, name: str, rate: Rate, headroom: float, tokens: float) -> float | None:
        """Calls at once by one limit; None: it bounds none."""
        each = self._each(name, tokens)
        if rate.shadow:
            self.lines.append(f"{scope} {name}: a shadow refuses nothing")
            return None
        if in_flight(name):
            most = rate.units * headroom / each
            self.lines.append(f"{scope} {name}: {rate.units:g} x {headroom:g} / {each:g} a call = {most:.1f} at once")
            return most
        if rate.returns != "continuously" and (rate.returns == "with_month" or rate.per > LONGEST_WINDOW):
            self.lines.append(f"{scope} {name}: says how much in a window, not how much at once")
            return None
        per_s = rate.per.total_seconds()
        calls_per_s = rate.units * headroom / per_s / each
        mean = calls_per_s * self.held_s
        most = mean + SLACK * math.sqrt(mean)
        self.lines.append(
            f"{scope} {name}: {rate.units:g} in {per_s:g} s x {headroom:g} / {each:g} a call = {calls_per_s:.3g}"
            f" calls/s; x {self.held_s:g} s in a slot, {self.held_s - self.call_s:g} s of them in line,"
            f" = {mean:.1f} at once, + {SLACK:g} x sqrt = {most:.1f}"
        )
        return most

    def _each(self, name: str, tokens: float) -> float:
        """What one call is charged of a limit."""
        match unit_of(name):
            case unit if unit in _UNITLESS or not tokens:
                return 1.0
            case "input_tokens":
                return float(INPUT_TOKENS)
            case "output_tokens":
                return max(1.0, tokens - INPUT_TOKENS)
            case _:
                return tokens


def allowed(slots: int, useful_slots: int | None) -> int | None:
    """Most processes of which each has something to do: one at least. None: any number."""
    return None if useful_slots is None else max(1, math.ceil(useful_slots / slots))


def idle(
    pool: str, *, replicas: int, max_replicas: int, slots: int, useful_slots: int | None, lines: Sequence[str]
) -> str | None:
    """Why so many processes would only wait, in one line; None: they would not."""
    most = allowed(slots, useful_slots)
    if most is None or useful_slots is None or max_replicas <= most:
        return None
    fewer = max(1, useful_slots // max_replicas)
    named = "max_replicas" if max_replicas > replicas else "replicas"
    bound = min((line for line in lines if "at once" in line), key=_told, default="")
    return (
        f"deploy.pools.{pool}.{named}: {max_replicas} x {slots} slots = {max_replicas * slots}, but the quota keeps"
        f" {useful_slots} busy ({bound}): let it be at most {most}, or pools.{pool}.slots at most {fewer}, or raise the"
        f" quota; --allow-idle-slots writes it all the same"
    )


def _told(line: str) -> float:
    """The number that a line of the arithmetic ends with."""
    try:
        return float(line.removesuffix(" at once").rpartition("= ")[2])
    except ValueError:
        return math.inf
