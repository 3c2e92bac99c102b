"""Quotas that fit a load: the manifest's own, scaled by one factor, so that proportions stay."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import Rate, unit_of
from load.crowd import Cost
from load.trial import Rated

LEAST_CALLS = 4
"""A burst that holds fewer of the largest calls would be another trial."""
ASIDE_PRESSURE = 0.5
"""What is no model's scope must not be in the way, unless the manifest's own quotas are asked for."""

Units = Mapping[str, Mapping[str, float]]
"""By scope and limit."""


def demand(costs: Mapping[str, Cost], agents: Iterable[str]) -> dict[str, dict[str, float]]:
    """What the runs of these agents cost together."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for agent in agents:
        for scope, units in costs[agent].units.items():
            for limit, count in units.items():
                found[scope][limit] += count
    return {scope: dict(units) for scope, units in found.items()}


def largest(costs: Iterable[Cost]) -> dict[str, dict[str, float]]:
    """The largest call of each scope."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for cost in costs:
        for scope, units in cost.largest.items():
            for limit, count in units.items():
                found[scope][limit] = max(count, found[scope].get(limit, 0.0))
    return dict(found)


def mean_call(costs: Iterable[Cost], scope: str) -> dict[str, float]:
    """What a call of the scope costs on average, by limit; every agent weighs the same."""
    units: dict[str, float] = defaultdict(float)
    calls = 0
    for cost in costs:
        calls += cost.calls.get(scope, 0)
        for limit, count in cost.units.get(scope, {}).items():
            units[limit] += count
    return {limit: count / calls for limit, count in units.items()} if calls else {}


def sized(
    manifest: Manifest,
    demand: Units,
    *,
    largest: Units,
    over_s: float,
    pressure: float,
    scale: float | None,
    burst_s: float,
) -> dict[str, dict[str, Rated]]:
    """What each scope grants.

    Args:
        manifest: its quotas keep their proportions within a scope.
        demand: what all arrivals cost.
        largest: their largest call: a limit that could never grant it is refused.
        over_s: in what time a model's quota would grant the demand at a pressure of 1.
        pressure: demand over what the tightest limit of a model's scope grants in `over_s`.
        scale: multiplies every scope of a model instead.
        burst_s: most seconds' worth of a model's quota at once.

    Raises:
        BadInput: a limit could never grant the largest call.
    """
    found = {}
    for scope in manifest.scopes():
        limits = rates(manifest, scope)
        asked = demand.get(scope, {})
        tightest = max((asked.get(name, 0.0) / (one.rate * over_s) for name, one in limits.items()), default=0.0)
        if scope.partition("/")[0] not in _models(manifest):
            # out of the way, but never less than the manifest grants
            factor = 1.0 if scale is not None else max(1.0, tightest / ASIDE_PRESSURE)
            found[scope] = {
                name: Rated(rate=one.rate * factor, burst=one.burst * factor) for name, one in limits.items()
            }
            continue
        factor = scale or (tightest / pressure if tightest else 1.0)
        calls = largest.get(scope, {})
        found[scope] = {
            name: _scaled(one, factor, burst_s, LEAST_CALLS * calls.get(name, 0.0), own=scale == 1.0)
            for name, one in limits.items()
        }
        for name, one in found[scope].items():
            if calls.get(name, 0.0) > one.burst:
                raise BadInput(
                    f"quota {scope}: {name}: one call costs {calls[name]:g}, a burst is {one.burst:g}: it could never"
                    " be granted; give a larger -o scale"
                )
    return found


def _scaled(one: Rated, factor: float, burst_s: float, least: float, *, own: bool) -> Rated:
    if own:
        return one
    rate = one.rate * factor
    return Rated(rate=rate, burst=max(min(one.burst * factor, rate * burst_s), least))


def rates(manifest: Manifest, scope: str) -> dict[str, Rated]:
    """The limits of a scope that the simulators enforce, as the manifest has them."""
    return {
        name: Rated(rate=one.units / one.per.total_seconds(), burst=one.burst or one.units)
        for name, one in manifest.quotas[scope].limits().items()
        if enforced(name, one)
    }


def enforced(name: str, rate: Rate) -> bool:
    """Whether a limit refills all the time and is charged by the call."""
    return unit_of(name) == name and not rate.shadow and rate.returns == "continuously"


def _models(manifest: Manifest) -> set[str]:
    return {name for name, one in manifest.providers.items() if one.kind in ("openai", "anthropic")}
