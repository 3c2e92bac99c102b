"""What a simulation has shown, as a document: waits, ends, use of limits and pools, money."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from load.measures import Curve, Line, Metered, Pool, Simulated
from load.simulation import Conditions
from load.workload import Run
from ratelimit.places import Kind
from ratelimit.windows import window_of

PLACES = 3
"""Decimal places that are kept."""


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that so large a share (0-1] of the values does not exceed; of values in ascending order."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def spread(values: Iterable[float]) -> dict[str, float]:
    """Count, mean, p50, p90, p95, p99 and the largest."""
    ordered = sorted(values)
    found = {f"p{share}": quantile(ordered, share / 100) for share in (50, 90, 95, 99)}
    mean = math.fsum(ordered) / len(ordered) if ordered else 0.0
    return {
        "count": len(ordered),
        **{name: round(value, PLACES) for name, value in {"mean": mean, **found, "max": quantile(ordered, 1)}.items()},
    }


def document(found: Simulated, conditions: Conditions, *, curves: bool = False) -> dict[str, Any]:
    """Everything, as plain values; durations in seconds."""
    runs = found.runs
    arrived = min(run.at_s for run in runs)
    begins = [first - run.at_s for first, run in zip(found.first_at, runs, strict=True)]
    takes = [ended - run.at_s for ended, run in zip(found.ended_at, runs, strict=True)]
    told: dict[str, Any] = {
        "runs": len(runs),
        "calls": len(found.waits),
        "finished_s": round(found.finished - arrived, PLACES),
        "last_start_s": round(max(found.first_at) - arrived, PLACES),
        "first_call_s": spread(begins),
        "run_s": spread(takes),
        "call_wait_s": spread(found.waits),
        "door_s": spread(at - run.at_s for at, run in zip(found.entered_at, runs, strict=True)),
        "waits": waits(found),
        "limits": limits(found),
        "pools": {name: pool_use(name, pool, conditions) for name, pool in found.pools.items() if name},
        "engine": engine(found, conditions),
        "money": money(runs),
    }
    for name, of in _GROUPS.items():
        told[name] = grouped(found, of)
    if conditions.provider:
        told["refused"] = found.refused
    if curves:
        told["curves"] = drawn(found)
    return told


_GROUPS: Mapping[str, Callable[[Run], str]] = {
    "agents": lambda run: run.agent,
    "tenants": lambda run: run.tenant,
    "priorities": lambda run: str(run.priority),
}


def name_of(line: Line) -> str:
    """What a line is called: its scope, else its pool."""
    return line.scope or f"pool {line.pool_name}"


def waits(found: Simulated) -> dict[str, dict[str, Any]]:
    """By scope, or by pool where there is none: how long calls waited, and for what."""
    by_line: dict[int, list[float]] = defaultdict(list)
    for number, wait in zip(found.of_line, found.waits, strict=True):
        by_line[number].append(wait)
    told: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(found.lines):
        total = math.fsum(line.waited.values())
        shares = sorted(line.waited.items(), key=lambda one: -one[1])
        told[name_of(line)] = {
            **spread(by_line[number]),
            "for": {reason: round(seconds / total, 4) for reason, seconds in shares if seconds > 0.001 * total},
        }
    return told


def limits(found: Simulated) -> dict[str, dict[str, dict[str, float]]]:
    """By scope and limit: what was used, of what was granted from the first call's start to the last one's."""
    return {
        scope: {name: _limit(meter) for name, meter in metered.items()}
        for scope, metered in found.meters.items()
        if any(meter.used for meter in metered.values())
    }


def _limit(meter: Metered) -> dict[str, float]:
    granted = _granted(meter)
    return {
        "rate": round(meter.bucket.rate, 6),
        "burst": meter.bucket.burst,
        "used": round(meter.used, PLACES),
        "utilisation": round(meter.used / granted, 4) if granted > 0 else 0.0,
    }


def _granted(meter: Metered) -> float:
    bucket, span = meter.bucket, max(0.0, meter.last - meter.first)
    if math.isinf(meter.first):
        return 0.0
    match bucket.kind:
        case Kind.IN_FLIGHT:
            return bucket.burst * span
        case Kind.CONTINUOUS:
            return meter.begins + bucket.rate * meter.last
        case _:
            windows = window_of(bucket, meter.last) - window_of(bucket, 0.0)
            return meter.begins + windows * bucket.burst


def pool_use(name: str, pool: Pool, conditions: Conditions) -> dict[str, float | None]:
    """Calls at once, weighted by time."""
    total = math.fsum(pool.seconds.values())
    mean = math.fsum(busy * seconds for busy, seconds in pool.seconds.items()) / total if total else 0.0
    passed, p99 = 0.0, 0
    for busy, seconds in sorted(pool.seconds.items()):
        passed, p99 = passed + seconds, busy
        if passed >= 0.99 * total:
            break
    return {
        "slots": conditions.slots.get(name),
        "busy_mean": round(mean, PLACES),
        "busy_p99": p99,
        "busy_max": max((busy for busy, seconds in pool.seconds.items() if seconds > 0), default=0),
    }


def engine(found: Simulated, conditions: Conditions) -> dict[str, float | None]:
    """Activities offered a second from the begin to the end, and what the engine carries."""
    rate = conditions.activities_per_s
    calls = math.fsum(call.activities for run in found.runs for call in run.calls)
    length = found.finished - min(run.at_s for run in found.runs)
    return {
        "activities_per_s": rate,
        "activities": calls,
        "utilisation": round(calls / (rate * length), 4) if rate and length > 0 else None,
    }


def money(runs: Sequence[Run]) -> dict[str, float]:
    """What the providers ask for all runs, by currency."""
    by_script: dict[int, tuple[Run, int]] = {}
    for run in runs:
        _, count = by_script.get(id(run.calls), (run, 0))
        by_script[id(run.calls)] = (run, count + 1)
    found: dict[str, float] = defaultdict(float)
    for run, count in by_script.values():
        for call in run.calls:
            if call.money:
                found[call.currency] += call.money * count
    return {currency: round(amount, 4) for currency, amount in found.items()}


def grouped(found: Simulated, of: Callable[[Run], str]) -> dict[str, dict[str, Any]]:
    """Runs and waits by what a run has in common with others."""
    names = [of(run) for run in found.runs]
    calls: dict[str, list[float]] = defaultdict(list)
    for number, wait in zip(found.of_run, found.waits, strict=True):
        calls[names[number]].append(wait)
    members: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        members[name].append(number)
    arrived = min(run.at_s for run in found.runs)
    return {
        name: {
            "runs": len(numbers),
            "first_call_s": spread(found.first_at[n] - found.runs[n].at_s for n in numbers),
            "run_s": spread(found.ended_at[n] - found.runs[n].at_s for n in numbers),
            "call_wait_s": spread(calls[name]),
            "finished_s": round(max(found.ended_at[n] for n in numbers) - arrived, PLACES),
            "money": money([found.runs[n] for n in numbers]),
        }
        for name, numbers in sorted(members.items())
    }


def drawn(found: Simulated) -> dict[str, Any]:
    """Over time, as lists of (second, value): runs active, calls queued, units used a second."""
    end = found.finished
    return {
        "active": _levels(found.active, end),
        "queued": {name_of(line): _levels(line.queued, end) for line in found.lines},
        "used_per_s": {
            scope: {name: _rates(meter.curve, end) for name, meter in metered.items() if meter.used}
            for scope, metered in found.meters.items()
        },
    }


def _levels(curve: Curve, end: float) -> list[tuple[float, float]]:
    return [(at, value) for (at, _), value in zip(_points(curve, end), accumulate(curve.values), strict=False)]


def _rates(curve: Curve, end: float) -> list[tuple[float, float]]:
    return [(at, round(value / curve.width, PLACES)) for at, value in _points(curve, end)]


def _points(curve: Curve, end: float) -> list[tuple[float, float]]:
    return [(n * curve.width, value) for n, value in enumerate(curve.values) if n * curve.width <= end]
