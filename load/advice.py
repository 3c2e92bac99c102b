"""What to change so that calls wait no longer than wanted: jitter, processes, quotas. By bisection over simulations."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from load import figures
from load.measures import Simulated
from load.planner import scaled
from load.simulation import Conditions, simulate
from load.workload import Run, Shape
from ratelimit.arithmetic import unit_of
from ratelimit.places import Kind
from ratelimit.quota import Quota

THINNED = 5_000
"""Most runs of one simulation of a search: of a larger load every n-th run meets an n-th of everything."""
CLOSE = 0.04
"""A bisection ends when the bounds are so near to each other."""
MOST = 256.0
"""By so much a quota is raised at most."""
QUEUE_FREE_S = 0.05
"""A wait that nobody notices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One figure, and why."""

    what: str
    """`jitter`, `pools.llm`, `quotas."openai/gpt-5".tokens`."""
    value: str
    """As it is written in the manifest or on the command line. Empty: nothing helps."""
    reason: str


def wait_p99(found: Simulated) -> float:
    """The p99 of what calls wait, or of what runs wait at the door if that is more."""
    door = [entered - run.at_s for entered, run in zip(found.entered_at, found.runs, strict=True)]
    return max(figures.quantile(sorted(found.waits), 0.99), figures.quantile(sorted(door), 0.99))


@dataclass(frozen=True, slots=True)
class Question:
    """The load that advice is wanted for."""

    offer: Callable[[Shape], Sequence[Run]]
    """Draws the runs for a shape."""
    shape: Shape
    conditions: Conditions
    wait_s: float
    """The p99 that is wanted."""
    slots: Mapping[str, int]
    """Of one process, by pool."""

    def waits(self, shape: Shape, given: Conditions) -> float:
        """The p99 under other conditions."""
        return wait_p99(self.simulated(shape, given))

    def simulated(self, shape: Shape, given: Conditions) -> Simulated:
        """What happens under other conditions."""
        runs, share = self.thinned(self.offer(shape))
        return simulate(runs, _shared(given, share, runs))

    def thinned(self, runs: Sequence[Run]) -> tuple[Sequence[Run], float]:
        """Runs that are few enough, and which share of all they are."""
        every = math.ceil(len(runs) / THINNED)
        return (runs, 1.0) if every == 1 else (runs[::every], len(runs[::every]) / len(runs))


def advise(question: Question) -> list[Advice]:
    """All that is to be said."""
    runs = question.offer(question.shape)
    found = simulate(runs, question.conditions)
    now = wait_p99(found)
    told = [_jitter(question, found, now)]
    told += _pools(question)
    told += _quotas(question, now)
    return told


def _jitter(question: Question, found: Simulated, now: float) -> Advice:
    shape, wanted = question.shape, question.wait_s
    if now <= wanted and shape.jitter_s == 0:
        return Advice(what="jitter", value="0s", reason=f"p99 wait is {_s(now)} without any, {_s(wanted)} are wanted")

    def p99(jitter_s: float) -> float:
        return question.waits(replace(shape, jitter_s=jitter_s), question.conditions)

    work = found.finished - min(run.at_s for run in found.runs)
    most = shape.span_s if shape.kind == "every" else 4 * max(work, 1.0)
    if p99(most) > wanted:
        bound = "the whole period" if shape.kind == "every" else f"{_s(most)}, four times what the work takes,"
        return Advice(
            what="jitter",
            value="",
            reason=f"{bound} leaves a p99 wait of {_s(p99(most))}, {_s(wanted)} are wanted: the work takes {_s(work)}",
        )
    least = 0.0
    if p99(0.0) <= wanted:
        return Advice(what="jitter", value="0s", reason=f"p99 wait is {_s(p99(0.0))} without any")
    while most - least > max(CLOSE * most, 0.5):
        middle = (least + most) / 2
        least, most = (least, middle) if p99(middle) <= wanted else (middle, most)
    most = float(math.ceil(most))
    reason = f"the smallest that keeps the p99 wait under {_s(wanted)}: {_s(p99(most))}, without any {_s(p99(0.0))}"
    return Advice(what="jitter", value=f"{most:g}s", reason=reason)


def _pools(question: Question) -> list[Advice]:
    """By Little's law: calls at once are calls a second times the seconds that one takes."""
    # of all runs: a few calls at once, counted in a part of them, would be noise
    given = replace(question.conditions, slots={})
    found = simulate(question.offer(question.shape), given)
    told = []
    for name, pool in found.pools.items():
        slots = question.slots.get(name)
        if not name or slots is None:
            continue
        use = figures.pool_use(name, pool, given)
        busy = math.ceil(use["busy_p99"] or 0)
        total = math.fsum(pool.seconds.values())
        calls = sum(1 for line in found.of_line if found.lines[line].pool is pool)
        rate = calls / total if total else 0.0
        mean = use["busy_mean"] or 0.0
        held = mean / rate if rate else 0.0
        processes = max(1, math.ceil(busy / slots))
        law = f"{rate:.1f} calls/s x {_s(held)} = {mean:.1f} at once (Little's law)"
        reason = f"{law}, {busy} at p99; {slots} slots a process"
        told.append(Advice(what=f"pools.{name}", value=f"{processes} x {slots}", reason=reason))
    return told


def _quotas(question: Question, now: float) -> list[Advice]:
    wanted, given = question.wait_s, question.conditions
    if now <= wanted:
        reason = f"p99 wait is {_s(now)}, {_s(wanted)} are wanted: nothing to raise"
        return [Advice(what="quotas", value="", reason=reason)]

    def p99(changed: Mapping[str, Quota]) -> float:
        return question.waits(question.shape, replace(given, quotas=changed))

    best = question.simulated(question.shape, replace(given, quotas=scaled(given.quotas, MOST)))
    if wait_p99(best) > wanted:
        waited = {reason: s for line in best.lines for reason, s in line.waited.items()}
        by = max(waited, key=lambda reason: waited[reason], default="the door")
        reason = f"{MOST:g} times every quota leaves a p99 wait of {_s(wait_p99(best))}: calls wait for {by}"
        return [Advice(what="quotas", value="", reason=reason)]
    # first by how much all, then each as little as will do
    most = _least(lambda factor: p99(_raised(given.quotas, dict.fromkeys(_all(given.quotas), factor))) <= wanted, MOST)
    factors = dict.fromkeys(_all(given.quotas), most)
    for one in factors:

        def enough(factor: float, one: tuple[str, str] = one) -> bool:
            return p99(_raised(given.quotas, {**factors, one: factor})) <= wanted

        factors[one] = _least(enough, most)
    after = p99(_raised(given.quotas, factors))
    return [
        Advice(
            what=f'quotas."{scope}".{name}',
            value=_written(given.quotas[scope], name, factor),
            reason=f"x {factor:.2f}: all take the p99 wait from {_s(now)} to {_s(after)}, wanted: {_s(wanted)}",
        )
        for (scope, name), factor in factors.items()
        if factor > 1
    ]


def _least(enough: Callable[[float], bool], most: float) -> float:
    """The least factor from 1 on that is enough, where `most` is."""
    least = 1.0
    if enough(least):
        return least
    while most - least > CLOSE * most:
        middle = math.sqrt(least * most)
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def _all(given: Mapping[str, Quota]) -> list[tuple[str, str]]:
    return [(scope, name) for scope, quota in given.items() for name, limit in quota.limits.items() if not limit.shadow]


def _raised(given: Mapping[str, Quota], factors: Mapping[tuple[str, str], float]) -> dict[str, Quota]:
    """Rates times their factors; bursts stay."""
    return {
        scope: replace(
            quota,
            limits={
                name: replace(limit, capacity=limit.capacity * factors.get((scope, name), 1.0))
                for name, limit in quota.limits.items()
            },
        )
        for scope, quota in given.items()
    }


def _shared(given: Conditions, share: float, runs: Sequence[Run]) -> Conditions:
    """A part of everything, for a part of the runs. A burst still holds the largest call."""
    if share == 1:
        return given
    quotas = scaled(given.quotas, share)
    largest: dict[tuple[str, str], float] = {}
    for run in runs:
        for call in run.calls:
            for unit, units in call.estimate.items():
                largest[call.scope, unit] = max(units, largest.get((call.scope, unit), 0.0))
    return replace(
        given,
        quotas={scope: _holding(given.quotas[scope], quota, largest) for scope, quota in quotas.items()},
        slots={pool: max(1, round(slots * share)) for pool, slots in given.slots.items()},
        max_active=None if given.max_active is None else max(1, round(given.max_active * share)),
        activities_per_s=None if given.activities_per_s is None else given.activities_per_s * share,
    )


def _holding(whole: Quota, part: Quota, largest: Mapping[tuple[str, str], float]) -> Quota:
    limits = dict(part.limits)
    for name, limit in part.limits.items():
        need = largest.get((part.scope, name), largest.get((part.scope, unit_of(name)), 0.0))
        if part.burst(name) >= need:
            continue
        if limit.kind is Kind.CONTINUOUS:
            limits[name] = replace(limit, burst=min(limit.capacity, need / (part.burst_headroom * part.headroom)))
        else:
            limits[name] = replace(limit, capacity=min(whole.limits[name].capacity, math.ceil(need / part.headroom)))
    return replace(part, limits=limits)


def _written(quota: Quota, name: str, factor: float) -> str:
    limit = quota.limits[name]
    units = limit.capacity * factor
    if limit.kind is Kind.IN_FLIGHT:
        return f"{math.ceil(units)}"
    seconds = limit.period.total_seconds()
    if limit.kind is Kind.MONTHS:
        return f"{math.ceil(units)}/month"
    if limit.kind is Kind.FIXED:
        window = {60.0: "minute", 3600.0: "hour", 86400.0: "day"}.get(seconds, f"{seconds:g}s")
        return f"{math.ceil(units)}/{window}"
    period = {1.0: "s", 60.0: "m", 3600.0: "h", 86400.0: "d"}.get(seconds, f"{seconds:g}s")
    return f"{_rounded(units)}/{period}"


def _rounded(units: float) -> str:
    """Three digits, upwards."""
    if units < 1000:
        return f"{math.ceil(units)}"
    scale, letter = (1e6, "M") if units >= 1e6 else (1e3, "k")
    step = 10.0 ** max(0, math.floor(math.log10(units / scale)) - 2)
    digits = (
        math.ceil(units / scale / step * 10 - 1e-9) / 10 * step if units / scale < 100 else math.ceil(units / scale)
    )
    return f"{digits:g}{letter}"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
