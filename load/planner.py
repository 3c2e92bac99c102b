"""What a fleet of so many agents will meet under these quotas: waits, ends, use, money. By simulation."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import UNITS, read_rate, unit_of
from load import behaviour, figures
from load.behaviour import Habits
from load.measures import Simulated
from load.simulation import Conditions, simulate
from load.trial import Arrival
from load.workload import Call, Mix, Run, Shape, offered
from ratelimit.errors import BadQuota
from ratelimit.places import Closed, Snapshot
from ratelimit.quota import Quota, check_nesting
from workers.bootstrap import limit, quotas
from workers.door import DOOR

ACTIVITIES_PER_S = 100.0
"""What an embedded Temporal server carries on one small machine."""
DISPATCH_S = 0.05
"""From the end of a call to the next one in its queue: two workflow tasks."""
FORECAST_CALLS = 6_000
"""Most calls that are simulated for one forecast: about a quarter of a second."""
FORECAST_OTHERS = 1_000
"""Most other runs in one of its simulations. With more in flight the quotas are scaled down instead."""


def conditions(
    manifest: Manifest, *, processes: Mapping[str, int], activities_per_s: float | None = ACTIVITIES_PER_S
) -> Conditions:
    """What the manifest's fleet offers.

    Args:
        manifest: quotas, slots, `max_active`, weights.
        processes: of each pool. Pools that are missing have any number of slots.
        activities_per_s: what the engine carries. None: anything.

    Raises:
        BadInput: a pool that the manifest does not have.
    """
    for pool in processes:
        if pool not in manifest.pools:
            raise BadInput(f"unknown pool {pool!r}; the manifest has: {', '.join(manifest.pools)}")
    return Conditions(
        quotas={scope: quota for scope, quota in quotas(manifest).items() if scope != DOOR},
        slots={pool: count * manifest.pools[pool].slots for pool, count in processes.items()},
        patience_s={pool: spec.max_inline_wait.total_seconds() for pool, spec in manifest.pools.items()},
        max_active=manifest.max_active,
        weights={tenant: spec.weight for tenant, spec in manifest.tenants.items()},
        activities_per_s=activities_per_s,
        dispatch_s=DISPATCH_S,
    )


def with_limits(given: Mapping[str, Quota], changes: Sequence[str]) -> dict[str, Quota]:
    """Quotas with other limits, each written `scope:limit=rate` as in `openai/gpt-5:tokens=180k/m`.

    A burst stays unless it would be more than the new capacity, as with `fleet quota set`.

    Raises:
        BadInput: another form, an unknown scope, a rate that makes no sense, quotas that contradict each other.
    """
    found = dict(given)
    for text in changes:
        left, equals, rate = text.partition("=")
        scope, colon, name = left.rpartition(":")
        if not (equals and colon) or unit_of(name) not in UNITS:
            raise BadInput(f"--set {text!r} does not look like scope:limit=rate, as in openai/gpt-5:tokens=180k/m")
        if scope not in found:
            raise BadInput(f"--set {text}: no quota {scope!r}; there are: {', '.join(found) or 'none'}")
        changed, quota = limit(read_rate(name, rate)), found[scope]
        old = quota.limits.get(name)
        if old is not None and old.kind is changed.kind:
            stays = old.burst if old.burst and old.burst <= changed.capacity else None
            changed = replace(changed, burst=stays, shadow=old.shadow, offset=old.offset)
        found[scope] = replace(quota, limits={**quota.limits, name: changed})
    try:
        check_nesting(found)
    except BadQuota as bad:
        raise BadInput(f"--set: {bad}") from None
    return found


def workload(manifest: Manifest, mix: Mix, shape: Shape, agents: int, *, habits: Habits, seed: int = 1) -> list[Run]:
    """So many agents, by their definitions.

    Raises:
        BadInput: an unknown agent, or a number of runs that is not 1 to 100,000.
    """
    scripts = {name: behaviour.script(manifest, name, habits) for name in mix.agents}
    return offered(mix, scripts, shape.arrivals(agents, seed), seed)


def plan(runs: Sequence[Run], given: Conditions, *, curves: bool = False) -> dict[str, Any]:
    """Simulate, and tell everything as a document (`load/figures.py`).

    Raises:
        BadInput: a call costs more than a limit ever grants.
    """
    return figures.document(simulate(runs, given), given, curves=curves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the planner says of runs that are known call by call. Seconds from the begin of the load."""

    finished_s: float
    """The last run's end."""
    ended_s: Mapping[str, float]
    """By run id."""
    first_call_s: Mapping[str, float]
    """Start of the first call, by run id."""
    document: Mapping[str, Any] = field(repr=False)
    """All figures, as `fleet load simulate --json` prints them."""


def predict(
    arrivals: Sequence[Arrival],
    run_profiles: Mapping[str, Sequence[Call]],
    given: Mapping[str, Quota],
    *,
    slots: Mapping[str, int] | None = None,
    max_active: int | None = None,
    weights: Mapping[str, float] | None = None,
    activities_per_s: float | None = None,
    dispatch_s: float = 0.0,
    full: bool = True,
    ordered: bool = True,
) -> Prediction:
    """When runs end whose calls are known: to hold a simulation against a real run.

    Args:
        arrivals: who arrives when, as a trial's evidence has them.
        run_profiles: the calls of each run, with estimates, actuals, latencies and gaps: by run id, else by agent.
        given: the quotas in force, as `workers.bootstrap.quotas` makes them.
        slots: by pool, all processes together. Missing: any number.
        max_active: most runs between door and end.
        weights: of tenants.
        activities_per_s: what the engine carries. None: anything.
        dispatch_s: added to the gap before every call.
        full: the levels at the begin: full bursts, or none.
        ordered: by priority, in-flight runs first and fair by tenant, as behind a gate; else first come, first served.

    Raises:
        BadInput: a run without a profile, no runs, or a call that no limit ever grants.
    """
    if not arrivals:
        raise BadInput("nobody arrives: there is nothing to predict")
    runs = []
    for one in arrivals:
        calls = run_profiles.get(one.run_id, run_profiles.get(one.agent))
        if calls is None:
            raise BadInput(
                f"run {one.run_id!r} of agent {one.agent!r} has no profile: name its calls by run or by agent"
            )
        runs.append(
            Run(
                at_s=one.at_s, calls=calls, agent=one.agent, tenant=one.tenant, priority=one.priority, run_id=one.run_id
            )
        )
    met = Conditions(
        quotas=given, slots=slots or {}, max_active=max_active, weights=weights or {}, dispatch_s=dispatch_s,
        activities_per_s=activities_per_s, full=full, ordered=ordered,
    )  # fmt: skip
    found = simulate(runs, met)
    return Prediction(
        finished_s=found.finished,
        ended_s={run.run_id: at for run, at in zip(runs, found.ended_at, strict=True)},
        first_call_s={run.run_id: at for run, at in zip(runs, found.first_at, strict=True)},
        document=figures.document(found, met),
    )


def forecast(
    manifest: Manifest,
    agent: str,
    *,
    seen: Mapping[str, Snapshot],
    running: int,
    tenant: str = "default",
    priority: int = 3,
) -> dict[str, float] | None:
    """When a run that starts now would make its first call and be done. Registered as a `fleet.forecasters`.

    The other runs are taken to be of the same agent and tenant, somewhere between their first and last call.

    Args:
        manifest: the fleet.
        agent: whose run it is.
        seen: the live limiter's scopes.
        running: how many other runs are in flight.
        tenant: whose run it is.
        priority: 1 (first) to 4.

    Returns:
        Seconds from now: `first_call_s` and `done_s` (medians) and `done_p90_s`. None if a scope that the run needs is
        closed until somebody opens it.
    """
    source = random.Random(1)
    draw = behaviour.script(manifest, agent, Habits())
    scopes = {call.scope for call in draw(source) if call.scope}
    if any(seen[s].closed is not Closed.NO or seen[s].closed_for.days > 0 for s in scopes if s in seen):
        return None
    others = min(running, FORECAST_OTHERS)
    share = 1.0 if others == running else others / running
    given = conditions(manifest, processes={})
    given = replace(given, quotas=scaled(given.quotas, share), seen=_scaled(seen, share))
    if given.max_active is not None:
        given = replace(given, max_active=max(1, round(given.max_active * share)))
    if given.activities_per_s is not None:
        given = replace(given, activities_per_s=given.activities_per_s * share)
    first: list[float] = []
    done: list[float] = []
    simulated = 0
    while simulated < FORECAST_CALLS and len(done) < 40:
        runs = _in_flight(draw, others, given.max_active, tenant, source)
        probes = max(1, min(8, others // 50))
        runs += [Run(at_s=1e-6, calls=draw(source), tenant=tenant, priority=priority) for _ in range(probes)]
        found = simulate(runs, given)
        first += found.first_at[-probes:]
        done += found.ended_at[-probes:]
        simulated += len(found.waits)
    return {
        "first_call_s": round(figures.quantile(sorted(first), 0.5), 1),
        "done_s": round(figures.quantile(sorted(done), 0.5), 1),
        "done_p90_s": round(figures.quantile(sorted(done), 0.9), 1),
    }


def _in_flight(draw: Any, others: int, max_active: int | None, tenant: str, source: random.Random) -> list[Run]:
    inside = others if max_active is None else min(others, max_active)
    runs = []
    for number in range(others):
        calls = draw(source)
        begun = number < inside
        rest = calls[source.randrange(len(calls)) :] if begun else calls
        # the call under way ends some time during its latency; those at the door stood there before
        at = source.random() * rest[0].latency_s if begun else 0.0
        runs.append(Run(at_s=at, calls=rest, tenant=tenant, begun=begun))
    return runs


def forecast_schedule(
    manifest: Manifest,
    agent: str,
    *,
    runs: int,
    every_s: float,
    jitter_s: float = 0.0,
    rounds: int = 1,
    processes: Mapping[str, int] | None = None,
    seen: Mapping[str, Snapshot] | None = None,
    tenant: str = "default",
    priority: int = 3,
) -> dict[str, Any]:
    """What so many schedules of one agent, all of one period, would meet.

    Args:
        manifest: the fleet.
        agent: whose schedules they are.
        runs: how many fire in each period.
        every_s: the period.
        jitter_s: each fires later by a random time up to this.
        rounds: how many periods are simulated.
        processes: of each pool. Missing: any number of slots.
        seen: begin with the levels of a live limiter.
        tenant: whose runs they are.
        priority: 1 (first) to 4.

    Returns:
        The planner's document, and `fits`: whether each round would be done before the next begins.

    Raises:
        BadInput: an unknown agent, no run or more than 100,000, a jitter longer than the period.
    """
    if jitter_s > every_s:
        raise BadInput(f"jitter of {jitter_s:g} s: must be at most the period of {every_s:g} s")
    shape = Shape(kind="every", span_s=every_s, jitter_s=jitter_s, rounds=rounds)
    mix = Mix(agents={agent: 1.0}, tenants={tenant: 1.0}, priorities={priority: 1.0})
    offer = workload(manifest, mix, shape, runs, habits=Habits())
    found = simulate(offer, given := replace(conditions(manifest, processes=processes or {}), seen=seen or {}))
    return {**figures.document(found, given), "fits": fits(found, every_s)}


def fits(found: Simulated, every_s: float) -> bool:
    """Whether all runs of a round are done before the next round begins."""
    return all(
        ended <= (math.floor(run.at_s / every_s) + 1) * every_s
        for run, ended in zip(found.runs, found.ended_at, strict=True)
    )


def scaled(given: Mapping[str, Quota], factor: float, *, scope: str | None = None) -> dict[str, Quota]:
    """Quotas with every limit times a factor, bursts that are set too; with a scope, only of that one."""
    if factor == 1:
        return dict(given)

    def one(quota: Quota) -> Quota:
        limits = {
            name: replace(
                limit, capacity=limit.capacity * factor, burst=None if limit.burst is None else limit.burst * factor
            )
            for name, limit in quota.limits.items()
        }
        return replace(quota, limits=limits)

    return {name: one(quota) if scope in (None, name) else quota for name, quota in given.items()}


def _scaled(seen: Mapping[str, Snapshot], factor: float) -> dict[str, Snapshot]:
    if factor == 1:
        return dict(seen)
    return {
        name: replace(
            one,
            limits={
                limit: replace(live, rate=live.rate * factor, burst=live.burst * factor, level=live.level * factor)
                for limit, live in one.limits.items()
            },
        )
        for name, one in seen.items()
    }
