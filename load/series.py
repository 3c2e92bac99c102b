"""Evidence as figures, and as series over time: what a report draws and a comparison lays over each other."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fleet.contracts.runs import Outcome
from load.oracles.reading import Span, between, quantile, queued, turnarounds
from load.oracles.supply import Supply
from load.trial import Call, Evidence, Look

MOST_BINS = 120
BINS_S = (1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0)
"""Round lengths: whoever reads a bin reads its begin."""
PLACES = 4
"""Decimal places that are kept."""

_NAMED = (Outcome.COMPLETED, Outcome.FAILED, Outcome.STOPPED)

Values = list[float | None]
"""One for each bin. None: nobody looked, or there is nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSeries:
    """One limit of a scope, in units a second."""

    quota: Values
    """What the provider returns. None: it is not known."""
    offered: Values
    """Asked of the provider, refused or not, by us."""
    granted: Values
    """Charged for our calls that went well."""
    outside: Values
    """Charged for those of others with the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeSeries:
    """One scope."""

    limits: dict[str, LimitSeries]
    refused: Values
    """Our calls that were answered 429, by bin."""
    errors: Values
    """Our calls that failed in another way, by bin."""
    wait_s: Values
    """The longest line that a look of the bin has seen, in seconds."""
    pace: Values
    """The lowest share of the configured rate in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A fault, in seconds from the begin of the load."""

    kind: str
    what: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Everything over time, in bins of `bin_s` seconds from the begin of the load; the last one may be shorter."""

    bin_s: float
    length_s: float
    arrived: Values
    """Runs that have arrived until the end of the bin."""
    ended: Values
    """Runs that have ended until then."""
    backlog: Values
    """Arrived and not ended, by the ends that are known."""
    active: Values
    """The same as the looks saw it: most of the bin."""
    memory_mb: dict[str, Values]
    """Most resident memory of each worker process, by name and pid."""
    scopes: dict[str, ScopeSeries]
    marks: list[Band]


def series(evidence: Evidence) -> Series:
    """Put the evidence into bins. Pure."""
    bins = _Bins(evidence)
    arrived = bins.count(evidence.began + arrival.at_s for arrival in evidence.arrivals)
    ended = bins.count(end.at for end in evidence.ended.values())
    arrived, ended = _running(arrived), _running(ended)
    workers = sorted({name for look in evidence.looks for name in look.rss_mb})
    looks = bins.looks(evidence.looks)
    names = sorted({*evidence.calls, *evidence.limits})
    return Series(
        bin_s=bins.width_s,
        length_s=round(bins.length_s, PLACES),
        arrived=_kept(arrived),
        ended=_kept(ended),
        backlog=_kept([a - e for a, e in zip(arrived, ended, strict=True)]),
        active=_of_looks(looks, lambda look: float(look.active), max),
        memory_mb={name: _memory(looks, name) for name in workers},
        scopes={name: _scope(bins, looks, evidence, name) for name in names},
        marks=[
            Band(
                kind=mark.kind,
                what=mark.what,
                from_s=round(mark.at - evidence.began, PLACES),
                until_s=round(max(mark.at, mark.until) - evidence.began, PLACES),
            )
            for mark in sorted(evidence.marks, key=lambda mark: mark.at)
        ],
    )


class _Bins:
    """Where an instant belongs."""

    def __init__(self, evidence: Evidence) -> None:
        # what is charged after the last run's end is part of the picture too
        lasts = [calls[-1].at for calls in evidence.calls.values() if calls]
        lasts += [end.at for end in evidence.ended.values()]
        self.began = evidence.began
        self.length_s = max(evidence.finished - self.began, *(last - self.began for last in lasts), BINS_S[0])
        self.width_s = next(
            (width for width in BINS_S if self.length_s <= MOST_BINS * width), self.length_s / MOST_BINS
        )
        self.number = max(1, math.ceil(self.length_s / self.width_s - 1e-9))

    def index(self, at: float) -> int | None:
        """The bin of an instant; None if it lies outside."""
        found = int((at - self.began) // self.width_s)
        if found == self.number and at - self.began <= self.length_s + 1e-9:
            found -= 1
        return found if 0 <= found < self.number else None

    def count(self, instants: Iterable[float]) -> list[float]:
        """How many instants are in each bin. Those before the first are counted in it."""
        counted = [0.0] * self.number
        for at in instants:
            index = self.index(max(at, self.began))
            if index is not None:
                counted[index] += 1
        return counted

    def rates(self, parts: Iterable[tuple[float, float]]) -> Values:
        """Instants and units as units a second."""
        summed = [0.0] * self.number
        for at, units in parts:
            index = self.index(at)
            if index is not None:
                summed[index] += units
        return _kept([units / (end - begin) for units, (begin, end) in zip(summed, self._edges(), strict=True)])

    def supplied(self, supply: Supply) -> Values:
        """What comes back of a limit, in units a second."""
        return _kept([supply.between(begin, end) / (end - begin) for begin, end in self._edges()])

    def _edges(self) -> list[tuple[float, float]]:
        """When each bin begins and ends."""
        edges = [self.began + min(self.length_s, n * self.width_s) for n in range(self.number + 1)]
        return list(pairwise(edges))

    def looks(self, looks: Sequence[Look]) -> list[list[Look]]:
        """The looks of each bin."""
        found: list[list[Look]] = [[] for _ in range(self.number)]
        for look in looks:
            index = self.index(look.at)
            if index is not None:
                found[index].append(look)
        return found


def _scope(bins: _Bins, looks: Sequence[Sequence[Look]], evidence: Evidence, name: str) -> ScopeSeries:
    calls = evidence.calls.get(name, ())
    ours = [call for call in calls if not call.outsider]
    rated = evidence.limits.get(name, {})
    counted = sorted({*rated, *(limit for call in calls for limit in call.asked)})

    def one(limit: str) -> LimitSeries:
        return LimitSeries(
            quota=bins.supplied(Supply.of(evidence, name, limit)) if limit in rated else [None] * bins.number,
            offered=bins.rates((call.at, call.asked.get(limit, 0.0)) for call in ours),
            granted=bins.rates(charges(ours, limit)),
            outside=bins.rates(charges([call for call in calls if call.outsider], limit)),
        )

    return ScopeSeries(
        limits={limit: one(limit) for limit in counted},
        refused=_kept(bins.count(call.at for call in ours if call.outcome == "429")),
        errors=_kept(bins.count(call.at for call in ours if call.outcome not in ("ok", "429"))),
        wait_s=_of_looks(looks, lambda look: look.waiting.get(name), max),
        pace=_of_looks(looks, lambda look: look.pace.get(name), min),
    )


def charges(calls: Iterable[Call], limit: str) -> list[tuple[float, float]]:
    """When and how many units of a limit were charged for calls that went well."""
    return [(call.at, call.charged.get(limit, 0.0)) for call in calls if call.outcome == "ok"]


def together(workers: Mapping[str, Sequence[float | None]]) -> dict[str, Values]:
    """One line for each worker: its processes follow each other. The largest where two share a bin."""
    found: dict[str, Values] = {}
    for name, values in workers.items():
        worker = name.partition("/")[0]
        before = found.get(worker, [None] * len(values))
        found[worker] = [_most(pair) for pair in zip(before, values, strict=True)]
    return found


def _memory(looks: Sequence[Sequence[Look]], name: str) -> Values:
    return _of_looks(looks, lambda look: look.rss_mb.get(name), max)


def _of_looks(
    looks: Sequence[Sequence[Look]],
    read: Callable[[Look], float | None],
    choose: Callable[[list[float]], float],
) -> Values:
    found: list[float | None] = []
    for bin_ in looks:
        seen = [value for look in bin_ if (value := read(look)) is not None and math.isfinite(value)]
        found.append(round(choose(seen), PLACES) if seen else None)
    return found


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _running(values: Sequence[float]) -> list[float]:
    total, found = 0.0, []
    for value in values:
        total += value
        found.append(total)
    return found


def _kept(values: Sequence[float]) -> Values:
    return [round(value, PLACES) if math.isfinite(value) else None for value in values]


def agents(evidence: Evidence) -> dict[str, float | None]:
    """How many runs started, ended and how, and how long they took.

    Those that have not ended are lost, or open if the trial was interrupted.
    """
    outcomes = Counter(end.outcome for end in evidence.ended.values())
    gone = sum(arrival.run_id not in evidence.ended for arrival in evidence.arrivals)
    took = sorted(turnarounds(evidence).values())
    rest = {name: count for name, count in sorted(outcomes.items()) if name not in _NAMED}
    return {
        "started": len(evidence.arrivals),
        "completed": outcomes[Outcome.COMPLETED],
        "failed": outcomes[Outcome.FAILED],
        "stopped": outcomes[Outcome.STOPPED],
        **rest,
        "lost": 0 if evidence.interrupted else gone,
        "open": gone if evidence.interrupted else 0,
        "took_p50_s": _quantile(took, 0.5),
        "took_p99_s": _quantile(took, 0.99),
    }


def quota(evidence: Evidence, scope: str, waits: Sequence[float] | None) -> dict[str, Any]:
    """What was used of a scope's limits, and what that has cost in refusals and waits.

    Args:
        evidence: of the trial.
        scope: its name.
        waits: seconds that each call waited. None: as long as the line was when it was looked at.
    """
    calls = evidence.calls.get(scope, ())
    limits = evidence.limits.get(scope, {})
    ours = [call for call in calls if not call.outsider]
    good = [call for call in calls if call.outcome == "ok"]
    busy = (good[0].at, good[-1].at) if good else (0.0, 0.0)
    # the longest spell in which every look found somebody in line
    spells = queued(evidence, scope, busy_from=None, spared=(), least_s=0.0)
    spell = max(spells, key=lambda span: span[1] - span[0], default=(0.0, 0.0))
    shares = {name: _share(evidence, scope, name, busy) for name in limits}
    while_queued = max((_share(evidence, scope, name, spell) for name in limits), default=0.0)
    seen = sorted(waits) if waits is not None else _line(evidence, scope)
    outcomes = Counter(call.outcome for call in ours)
    return {
        "limit": {name: {"per_s": limit.rate, "burst": limit.burst} for name, limit in limits.items()},
        "binding": max(shares, key=lambda name: shares[name], default=""),
        "granted": outcomes["ok"],
        "provider_429": outcomes["429"],
        "errors": outcomes.total() - outcomes["ok"] - outcomes["429"],
        "outsiders": len(calls) - len(ours),
        "utilisation": round(max(shares.values(), default=0.0), 4),
        "queued_s": round(spell[1] - spell[0], 1),
        "utilisation_queued": round(while_queued, 4) if spell[1] > spell[0] else None,
        "wait_p50_s": _quantile(seen, 0.5),
        "wait_p99_s": _quantile(seen, 0.99),
        "waits_of": "calls" if waits is not None else "looks",
    }


def _share(evidence: Evidence, scope: str, limit: str, window: Span) -> float:
    """Of what the limit returns in a window, what the provider charged, others' calls included."""
    begin, end = window
    came = Supply.of(evidence, scope, limit).between(begin, end) if end > begin else 0.0
    used = sum(units for _, units in charges(between(evidence.calls.get(scope, ()), begin, end), limit))
    return min(1.0, used / came) if came > 0 else 0.0


def _line(evidence: Evidence, scope: str) -> list[float]:
    """What whoever came at a look had to wait, while the trial lasted."""
    return sorted(look.waiting.get(scope, 0.0) for look in evidence.looks if look.at <= evidence.finished)


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(quantile(values, share), 3) if values else None
