"""The load that schedules will offer against each quota, with and without their jitter. Nothing is started.

What is offered is counted when a call would be made if nothing were ever waited for: a run's calls follow each other by
their own latencies. What waiting does with it, the planner simulates.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nlargest
from typing import Any

from fleet.errors import BadInput
from fleet.instants import instants
from fleet.manifest import Manifest
from fleet.rates import unit_of
from fleet.schedules import parts, times
from load import planner
from load.behaviour import Habits, script
from load.previewed import MINUTE_S, Due, Offered, Preview, Series
from load.workload import MOST_RUNS, Call, Run
from ratelimit.places import Kind
from ratelimit.quota import Limit, Quota
from workers.bootstrap import quotas
from workers.door import DOOR

BANK = 512
"""So many runs of each agent are drawn; a larger load repeats them."""
SIMULATED = 20_000
"""With more runs than these the waits take longer to simulate than anybody waits."""
MOST_S = 60 * 86_400.0
"""Nobody looks further ahead."""


def resolution(for_s: float) -> int:
    """How many minutes are counted together: one of some hours, five of a day, sixty of a week."""
    return 1 if for_s <= 3 * 3600 else 5 if for_s <= 2 * 86_400 else 60


def due(manifest: Manifest, begin: datetime, for_s: float, *, names: Iterable[str] = (), seed: int = 1) -> list[Due]:
    """The runs of the manifest's schedules, of those that are not paused.

    Jitter is drawn evenly by the seed, the schedule and the instant. Temporal derives its own from them as well, with
    another function: the instants differ, their distribution does not.

    Raises:
        BadInput: more than 100,000 runs.
    """
    chosen = set(names)
    end = begin + timedelta(seconds=for_s)
    found: list[Due] = []
    total = 0
    for name, entry in manifest.schedules.items():
        if entry.paused or (chosen and name not in chosen):
            continue
        for part in parts(name, entry):
            spec = times(part)
            # an instant before the begin may fire after it
            at = list(instants(spec, begin - entry.jitter, end + entry.period))
            plain = [(one - begin).total_seconds() for one in at]
            late = jittered(part.id, plain, entry.jitter.total_seconds(), seed)
            kept = Due(
                id=part.id,
                name=name,
                agent=entry.agent,
                tenant=entry.tenant,
                priority=entry.priority,
                plain=[one for one in plain if 0 <= one < for_s],
                jittered=[one for one in late if 0 <= one < for_s],
            )
            total += max(len(kept.plain), len(kept.jittered))
            if total > MOST_RUNS:
                raise BadInput(f"more than {MOST_RUNS:,} runs in {for_s / 3600:g} h: preview a shorter time with --for")
            found.append(kept)
    return found


def jittered(id_: str, at: Sequence[float], jitter_s: float, seed: int) -> list[float]:
    """Each instant later by less than the jitter, and never past the next."""
    if not jitter_s:
        return list(at)
    late = []
    for number, one in enumerate(at):
        most = min(jitter_s, at[number + 1] - one) if number + 1 < len(at) else jitter_s
        late.append(one + most * random.Random(f"{seed}/{id_}/{one:.0f}").random())
    return late


def banks(
    manifest: Manifest, agents: Iterable[str], *, recorded: Sequence[Run] = (), seed: int = 1
) -> dict[str, list[tuple[Call, ...]]]:
    """Runs of each agent, call by call: those recorded, else drawn from its definition as forecasts draw them.

    Raises:
        BadInput: there is no such agent.
    """
    found: dict[str, list[tuple[Call, ...]]] = {}
    for agent in dict.fromkeys(agents):
        own = [tuple(run.calls) for run in recorded if run.agent in ("", agent)]
        source = random.Random(f"{seed}/{agent}")
        draw = script(manifest, agent, Habits())
        found[agent] = own or [draw(source) for _ in range(BANK)]
    return found


def preview(
    manifest: Manifest,
    scheduled: Sequence[Due],
    begin: datetime,
    for_s: float,
    *,
    step: int | None = None,
    recorded: Sequence[Run] = (),
    waits: bool = True,
    seed: int = 1,
) -> Preview:
    """Count what they offer.

    Args:
        manifest: the quotas.
        scheduled: whose runs begin when.
        begin: of the time that is looked at.
        for_s: how long it is.
        step: how many minutes are counted together for the steps. Default: `resolution`.
        recorded: runs as a trial has recorded them, instead of by definition.
        waits: also simulate the waits.
        seed: draws what runs cost.

    Raises:
        BadInput: an unknown agent, no runs, or more than sixty days.
    """
    if not 0 < for_s <= MOST_S:
        raise BadInput(f"--for {for_s:g} s: must be more than nothing, and 60 days at most")
    together, count = step or resolution(for_s), math.ceil(for_s / MINUTE_S)
    drawn = banks(manifest, (one.agent for one in scheduled), recorded=recorded, seed=seed)
    given = {scope: quota for scope, quota in quotas(manifest).items() if scope != DOOR and not scope.endswith("/*")}
    both = [_runs(scheduled, drawn, jitter=jitter) for jitter in (False, True)]
    if not any(both):
        raise BadInput(f"no schedule has a run in these {for_s / 3600:g} h")
    plain, late = (_counted(runs, given, count) for runs in both)
    offered = [
        Offered(
            scope="schedules",
            limit="runs",
            planned=None,
            plain=_series((run.at_s for run in both[0]), together, count),
            jittered=_series((run.at_s for run in both[1]), together, count),
        )
    ]
    windows: list[Mapping[str, Any]] = []
    for scope, name in sorted({*plain, *late}):
        limit = given[scope].limits[name]
        values = [side.get((scope, name), [0.0] * count) for side in (plain, late)]
        planned = limit.capacity * given[scope].headroom
        if limit.kind is Kind.CONTINUOUS:
            rate = planned * MINUTE_S / limit.period.total_seconds()
            # what is counted here is never finer than a minute
            window = min(count, max(1, round(limit.period.total_seconds() / MINUTE_S)))
            series = [Series(minutes=one, step=together, window=window, limit=rate) for one in values]
            offered.append(Offered(scope=scope, limit=name, planned=rate, plain=series[0], jittered=series[1]))
        else:
            windows.append(_window(scope, name, limit, planned, values[1]))
    largest = max(map(len, both))
    return Preview(
        begin=begin,
        for_s=for_s,
        step=together,
        due=scheduled,
        offered=offered,
        windows=windows,
        waits=_waits(manifest, both) if waits and largest <= SIMULATED else {},
        left_out=f"{largest:,} runs are more than {SIMULATED:,}" if waits and largest > SIMULATED else "",
    )


def _window(scope: str, name: str, limit: Limit, planned: float, offered: Sequence[float]) -> dict[str, Any]:
    days = None if limit.kind is Kind.MONTHS else limit.period.total_seconds() / 86_400
    return {"scope": scope, "limit": name, "offered": round(math.fsum(offered), 3), "planned": planned, "days": days}


def _runs(scheduled: Sequence[Due], drawn: Mapping[str, Sequence[tuple[Call, ...]]], *, jitter: bool) -> list[Run]:
    """In the order of their begins. A schedule's n-th run costs the same with and without jitter."""
    found = []
    for number, one in enumerate(scheduled):
        bank = drawn[one.agent]
        for turn, at in enumerate(one.jittered if jitter else one.plain):
            calls = bank[(number * 31 + turn) % len(bank)]
            run = Run(at_s=at, calls=calls, agent=one.agent, tenant=one.tenant, priority=one.priority, run_id=one.id)
            found.append(run)
    return sorted(found, key=lambda run: run.at_s)


def _calls(run: Run) -> Iterator[tuple[float, Call]]:
    at = run.at_s
    for call in run.calls:
        at += planner.DISPATCH_S + call.gap_s
        yield at, call
        at += call.latency_s


def _counted(runs: Sequence[Run], given: Mapping[str, Quota], count: int) -> dict[tuple[str, str], list[float]]:
    """Units by scope and limit, minute by minute. What is in flight at once is no rate, and left out."""
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * count)
    chains = {scope: _chain(scope, given) for scope in given}
    for run in runs:
        for at, call in _calls(run):
            number = int(at // MINUTE_S)
            if number >= count:
                continue
            cost = call.estimate if call.actual is None else call.actual
            for scope in chains.get(call.scope, ()):
                for name, limit in given[scope].limits.items():
                    units = cost.get(name, cost.get(unit_of(name), 0.0))
                    if units and limit.kind is not Kind.IN_FLIGHT:
                        found[scope, name][number] += units
    return found


def _chain(scope: str, given: Mapping[str, Quota]) -> list[str]:
    found: list[str] = []
    one: str | None = scope
    while one is not None and one in given and one not in found:
        found.append(one)
        one = given[one].within
    return found


def _series(at: Iterable[float], step: int, count: int) -> Series:
    values = [0.0] * count
    for one in at:
        values[int(one // MINUTE_S)] += 1
    return Series(minutes=values, step=step)


def _waits(manifest: Manifest, both: Sequence[Sequence[Run]]) -> dict[str, dict[str, Any]]:
    given = planner.conditions(manifest, processes={})
    found = {}
    for name, runs in zip(("without_jitter", "with_jitter"), both, strict=True):
        if runs:
            told = planner.plan(runs, given)
            found[name] = {key: told[key] for key in ("first_call_s", "call_wait_s", "run_s")} | {"for": told["waits"]}
    return found


def alone(manifest: Manifest, scheduled: Sequence[Due], *, most: int) -> list[dict[str, Any]]:
    """By name: its runs, and what one round of it would meet if nothing else ran. Of so many with the most runs."""
    counts: dict[str, int] = defaultdict(int)
    for one in scheduled:
        counts[one.name] += len(one.jittered)
    found = []
    for name, runs in nlargest(most, counts.items(), key=lambda one: one[1]):
        entry = manifest.schedules[name]
        period, many = entry.period.total_seconds(), entry.count or 1
        over = (entry.spread or entry.widest).total_seconds() if many > 1 else 0.0
        told = planner.forecast_schedule(
            manifest,
            entry.agent,
            runs=many,
            every_s=period,
            jitter_s=min(period, over + entry.jitter.total_seconds()),
            tenant=entry.tenant,
            priority=entry.priority,
        )
        wait = told["first_call_s"]["p99"]
        found.append(
            {
                "name": name,
                "agent": entry.agent,
                "runs": runs,
                "every_s": period,
                "wait_p99_s": wait,
                "fits": told["fits"],
            }
        )
    return found
