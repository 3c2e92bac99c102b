"""What a provider could have granted: its limits replayed as buckets that may owe."""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from load.oracles.reading import REFUSED, Span, arrived, inside, merged, quantile, turnarounds
from load.trial import Evidence

Limits = dict[tuple[str, str], dict[str, float]]
"""Units by scope and limit, then by run."""


@dataclass(frozen=True, slots=True)
class Supply:
    """Units of one limit over time."""

    steps: tuple[tuple[float, float, float], ...]
    """From when on, units per second, most at once. In order; the first is from the beginning of time."""

    @classmethod
    def of(cls, evidence: Evidence, scope: str, limit: str, *, closed: Sequence[Span] = (), share: float = 1.0) -> Self:
        """The limit as the provider has enforced it.

        Args:
            evidence: its limits and their changes.
            scope: whose.
            limit: which.
            closed: nothing is returned meanwhile.
            share: of it all.
        """
        first = evidence.limits[scope][limit]
        told = [(-math.inf, first)]
        told += [(c.at, c.to) for c in evidence.changes if (c.scope, c.limit) == (scope, limit)]
        closed = merged(closed)
        steps = []
        for at in sorted({at for at, _ in told} | {edge for span in closed for edge in span}):
            rated = [to for since, to in told if since <= at][-1]
            # a span's end is open
            shut = inside(at, closed) and all(at != end for _, end in closed)
            steps.append((at, 0.0 if shut else rated.rate * share, rated.burst * share))
        return cls(tuple(steps))

    def burst(self, at: float) -> float:
        """Most units at once."""
        return next(burst for since, _, burst in reversed(self.steps) if since <= at)

    def between(self, begin: float, end: float) -> float:
        """Units that return between two instants."""
        if len(self.steps) == 1:
            return (end - begin) * self.steps[0][1]
        edges = [*self.steps, (math.inf, 0.0, 0.0)]
        return sum(
            max(0.0, min(end, until) - max(begin, since)) * rate for (since, rate, _), (until, _, _) in pairwise(edges)
        )

    def when(self, begin: float, units: float) -> float:
        """The instant at which `units` have returned since `begin`; infinite if they never do."""
        for (since, rate, _), (until, _, _) in pairwise([*self.steps, (math.inf, 0.0, 0.0)]):
            if until <= begin:
                continue
            first = max(since, begin)
            if units <= 0:
                return first
            if rate and units <= (until - first) * rate:
                return first + units / rate
            units -= (until - first) * rate if rate else 0.0
        return math.inf


class Bucket:
    """A supply being spent: full at first, up to the burst, into debt if need be."""

    def __init__(self, supply: Supply, at: float) -> None:
        self.supply = supply
        self.level = supply.burst(at)
        self._at = at

    def advance(self, at: float) -> float:
        """Refill; returns the units that came back, those that overflowed included."""
        if at <= self._at:
            return 0.0
        came = self.supply.between(self._at, at)
        self.level = min(self.supply.burst(at), self.level + came)
        self._at = at
        return came

    def spend(self, at: float, units: float) -> float:
        """Take units; returns the level, below zero what is owed."""
        self.advance(at)
        self.level -= units
        return self.level


def work(evidence: Evidence) -> Limits:
    """Units that each run was charged, refused calls left out."""
    found: Limits = {}
    runs = {arrival.run_id for arrival in evidence.arrivals}
    for scope, limits in evidence.limits.items():
        for call in evidence.calls.get(scope, ()):
            if call.outsider or call.outcome == REFUSED or call.run_id not in runs:
                continue
            for limit in limits:
                if units := call.charged.get(limit):
                    mine = found.setdefault((scope, limit), defaultdict(float))
                    mine[call.run_id] += units
    return found


def others(evidence: Evidence, scope: str, limit: str, *, outsiders_only: bool) -> list[tuple[float, float]]:
    """What nobody who arrived has used: outsiders, and calls that the provider could not tell whose they are."""
    runs = {arrival.run_id for arrival in evidence.arrivals}
    return [
        (call.at, units)
        for call in evidence.calls.get(scope, ())
        if (call.outsider or (not outsiders_only and call.run_id not in runs and call.outcome != REFUSED))
        and (units := call.charged.get(limit))
    ]


def ideal(
    evidence: Evidence, *, closed: Sequence[Span] = (), tenant: str | None = None, share: float = 1.0
) -> dict[str, float]:
    """When each run could have ended, by the quota alone: wall-clock seconds.

    A fluid: every run brings all that it was charged when it arrives, first come, first served, and takes no time
    otherwise. Others are served before it. Of several limits the slowest counts. Runs that were charged nothing end as
    they arrive.

    Args:
        evidence: arrivals and calls.
        closed: spans in which providers grant nothing.
        tenant: only its runs, as if nobody else were there but the outsiders.
        share: of every limit.
    """
    runs = sorted((a for a in evidence.arrivals if tenant in (None, a.tenant)), key=lambda a: a.at_s)
    came = {a.run_id: arrived(evidence, a) for a in runs}
    found = dict(came)
    for (scope, limit), mine in work(evidence).items():
        supply = Supply.of(evidence, scope, limit, closed=closed, share=share)
        served = [
            (at, units * share) for at, units in others(evidence, scope, limit, outsiders_only=tenant is not None)
        ]
        # at one instant: others, then runs as they are listed
        events: list[tuple[float, int, str, float]] = [(at, 0, "", units) for at, units in served]
        events += [(at, n, run, mine[run]) for n, (run, at) in enumerate(came.items(), 1) if run in mine]
        for run, at in _served(supply, sorted(events), evidence.began):
            found[run] = max(found[run], at)
    return found


def implied(evidence: Evidence, slack_s: float, *, closed: Sequence[Span] = ()) -> dict[str, float]:
    """Each run's turnaround as the quota implies it: its wait in the fluid, what it takes alone, some slack."""
    best, alone = ideal(evidence, closed=closed), latencies(evidence)
    return {a.run_id: best[a.run_id] - arrived(evidence, a) + alone[a.agent] + slack_s for a in evidence.arrivals}


def latencies(evidence: Evidence) -> dict[str, float]:
    """What a run of each agent takes with nobody else there: as rehearsed, else what the quickest twentieth took."""
    took = turnarounds(evidence)
    found: dict[str, list[float]] = {arrival.agent: [] for arrival in evidence.arrivals}
    for arrival in evidence.arrivals:
        if arrival.run_id in evidence.ended:
            found[arrival.agent].append(took[arrival.run_id])
    return {agent: evidence.alone_s.get(agent, quantile(times, 0.05)) for agent, times in found.items()}


def _served(
    supply: Supply, events: Iterable[tuple[float, int, str, float]], began: float
) -> Iterable[tuple[str, float]]:
    """When each run has got its units: by a clock of all units ever returned, which others set back."""
    bucket, clock, last = Bucket(supply, began), 0.0, began
    line: deque[tuple[float, str]] = deque()
    for at, place, run, units in events:
        came = bucket.advance(at)
        while line and line[0][0] <= clock + came:
            due, first = line.popleft()
            yield first, supply.when(last, due - clock)
        clock, last = clock + came, max(last, at)
        level = bucket.spend(at, units)
        if not place:
            clock -= units if line else 0.0
        elif level >= 0:
            yield run, at
        else:
            line.append((clock - level, run))
    for due, run in line:
        yield run, supply.when(last, due - clock)
