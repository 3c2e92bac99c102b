"""What several oracles read from the evidence: who was there, when work was queued, what was asked of a provider."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Protocol

from load.trial import Arrival, Call, Evidence, Finding, Mark

Span = tuple[float, float]
"""Wall-clock seconds: begin, end."""
REFUSED = "429"
UNSEEN_S = 5.0
"""A longer time without a look is no evidence that work was queued meanwhile."""


class Named(Protocol):
    """What a finding repeats of its oracle."""

    @property
    def name(self) -> str:
        """As in the report."""

    @property
    def bound(self) -> float:
        """The most, or the least, that will do."""


def finding(oracle: Named, value: float, says: str, *, least: bool = False) -> Finding:
    """Hold a value against the oracle's bound."""
    ok = value >= oracle.bound if least else value <= oracle.bound
    return Finding(name=oracle.name, value=round(value, 4), bound=oracle.bound, ok=ok, says=says, least=least)


def nothing(oracle: Named, says: str, *, value: float = 0.0, ok: bool = True, least: bool = False) -> Finding:
    """The evidence has nothing to judge."""
    return Finding(name=oracle.name, value=value, bound=oracle.bound, ok=ok, says=says, least=least, judged=False)


def arrived(evidence: Evidence, arrival: Arrival) -> float:
    """Wall-clock seconds at which a run was offered."""
    return evidence.began + arrival.at_s


def turnarounds(evidence: Evidence) -> dict[str, float]:
    """Seconds from arrival to end, by run. What has not ended has lasted until the trial was finished.

    Of an interrupted trial only runs that have ended are there.
    """
    ended = evidence.ended
    return {
        a.run_id: max(0.0, (ended[a.run_id].at if a.run_id in ended else evidence.finished) - arrived(evidence, a))
        for a in evidence.arrivals
        if a.run_id in ended or not evidence.interrupted
    }


def ours(evidence: Evidence, scope: str) -> list[Call]:
    """The fleet's calls of a scope."""
    return [call for call in evidence.calls.get(scope, ()) if not call.outsider]


def demanded(call: Call, limit: str) -> float:
    """Units that a call is to the provider: what it asked for if it was refused, else what it was charged."""
    return (call.asked if call.outcome == REFUSED else call.charged).get(limit, 0.0)


def between(calls: Sequence[Call], begin: float, end: float) -> Sequence[Call]:
    """Calls with `begin` <= `at` < `end`, of calls in that order."""
    return calls[bisect_left(calls, begin, key=lambda c: c.at) : bisect_left(calls, end, key=lambda c: c.at)]


def struck(evidence: Evidence, after_s: float, scope: str = "") -> list[Span]:
    """While faults lasted, and `after_s` beyond; those of another scope's provider left out."""
    return merged((m.at, m.until + after_s) for m in evidence.marks if not m.scope or not scope or hit(m, scope))


def hit(mark: Mark, scope: str) -> bool:
    """Whether a fault names the scope or its provider."""
    return bool(mark.scope) and f"{scope}/".startswith(f"{mark.scope}/")


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that touch made one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def inside(at: float, spans: Sequence[Span]) -> bool:
    """Whether an instant lies in one of the spans, which are in order and apart."""
    place = bisect_right(spans, at, key=lambda span: span[0])
    return place > 0 and at <= spans[place - 1][1]


def queued(
    evidence: Evidence, scope: str, *, busy_from: int | None, spared: Sequence[Span], least_s: float
) -> list[Span]:
    """Spells of at least `least_s` in which every look has found work queued.

    Args:
        evidence: its looks.
        scope: whose line.
        busy_from: as many active runs are queued work too, whatever the line owes. None: only the line counts.
        spared: looks within them are passed over, and end a spell.
        least_s: shorter spells are left out.
    """
    found: list[Span] = []
    begin = last = None
    for look in evidence.looks:
        waits = look.waiting.get(scope, 0.0) > 0 or (busy_from is not None and look.active >= busy_from)
        if waits and not inside(look.at, spared):
            if begin is None or last is None or look.at - last > UNSEEN_S:
                found.append((look.at, look.at))
                begin = look.at
            last = look.at
            found[-1] = (begin, last)
        else:
            begin = None
    return [span for span in found if span[1] - span[0] >= least_s]


def quantile(values: Iterable[float], share: float) -> float:
    """The value that a share (0-1) of all do not exceed; 0 if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Presence:
    """How many runs were there at any instant."""

    def __init__(self, evidence: Evidence) -> None:
        self._came = sorted(arrived(evidence, a) for a in evidence.arrivals)
        self._went = sorted(e.at for run, e in evidence.ended.items())

    def at(self, instant: float) -> int:
        """Runs that have arrived and not ended."""
        return bisect_right(self._came, instant) - bisect_right(self._went, instant)
