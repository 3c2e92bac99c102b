"""How soon does the fleet work again after a fault?"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from load.oracles.reading import Presence, finding, nothing, ours
from load.oracles.supply import Supply
from load.trial import Evidence, Finding, Mark

STEP_S = 0.5
MOST_SMOOTH_S = 10.0
ENOUGH = 20
"""So many calls tell a rate; a window that holds fewer is widened, up to `MOST_SMOOTH_S`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Seconds from a fault's end until calls go through as before it.

    As before: `share` of the rate of good calls in the last `before_s` before the fault, or of what the quota returns
    if that is less; in proportion less if fewer runs are there than then. With nobody left it has recovered. Where
    nothing had gone through before, the mean of the whole trial stands in. Faults that overlap are one. If a fault
    strikes before the last one was recovered from, what was before that one still counts.
    """

    name: ClassVar[str] = "recovery"
    says: ClassVar[str] = "seconds until calls went through as before a fault, counted from its end; the worst fault"

    within_s: float = 30.0
    """Most seconds."""
    share: float = 0.8
    before_s: float = 20.0
    smooth_s: float = 3.0
    """Rates are taken over so long at least."""
    kinds: frozenset[str] | None = None
    """Of faults that are judged. None: all."""

    @property
    def bound(self) -> float:
        """Most seconds."""
        return self.within_s

    def judge(self, evidence: Evidence) -> Finding:
        """The worst fault."""
        marks = [mark for mark in evidence.marks if self.kinds is None or mark.kind in self.kinds]
        if not marks:
            return nothing(self, "no fault struck")
        good = {scope: [call.at for call in ours(evidence, scope) if call.outcome == "ok"] for scope in evidence.calls}
        if not any(good.values()):
            return nothing(self, "no call ever went through", ok=False)
        whole = _Whole(evidence, good)
        worst, says, broken = -1.0, "", False
        healthy_since, usual, since = evidence.began, None, None
        struck = _apart(marks)
        for number, group in enumerate(struck):
            at, until = group[0].at, max(mark.until for mark in group)
            begin = max(healthy_since, at - self.before_s)
            if at - begin >= self.smooth_s:
                usual = whole.usual(begin, at)
                usual = usual if usual[0] else None
            following = struck[number + 1][0].at if number + 1 < len(struck) else evidence.finished
            recovered = self._recovered(whole, usual or whole.ever(), until, following)
            # what the fault before has broken is this one's to mend as well
            since = until if since is None else since
            took = max(0.0, (following if recovered is None else recovered) - since)
            healthy_since = following if recovered is None else recovered
            last = number + 1 == len(struck)
            broken = broken or (recovered is None and last and whole.presence.at(evidence.finished) > 0)
            if took > worst or (broken and last):
                never = "" if recovered is not None else ", not recovered when it ended or the next fault struck"
                worst, says = took, f"{group[-1].what}, {at - evidence.began:.0f} s after the begin{never}"
            since = since if recovered is None else None
        found = finding(self, worst, says)
        return replace(found, ok=False) if broken else found

    def _recovered(self, whole: "_Whole", usual: tuple[float, float], until: float, following: float) -> float | None:
        rate, crowd = usual
        # a rate needs some calls to be told
        width = min(MOST_SMOOTH_S, max(self.smooth_s, ENOUGH / rate if rate else 0.0))
        instant = until
        while instant <= following:
            end = min(instant + width, whole.finished)
            there = whole.presence.at(end)
            need = self.share * rate * min(1.0, there / crowd if crowd else 1.0)
            if there <= 0 or (end > instant and whole.count(instant, end) >= need * (end - instant)):
                return instant
            instant += STEP_S
        return None


class _Whole:
    """Good calls of all scopes, and who was there."""

    def __init__(self, evidence: Evidence, good: dict[str, list[float]]) -> None:
        self.evidence = evidence
        self.finished = evidence.finished
        self.presence = Presence(evidence)
        self._good = good
        self._all = sorted(at for times in good.values() for at in times)
        self._most = {scope: _most(evidence, scope) for scope in good}

    def count(self, begin: float, end: float) -> int:
        return _count(self._all, begin, end)

    def usual(self, begin: float, end: float) -> tuple[float, float]:
        """Calls per second, what the quotas return at most, and active runs on average."""
        length = end - begin
        rate = sum(min(_count(times, begin, end) / length, self._most[scope]) for scope, times in self._good.items())
        steps = max(1, int(length / STEP_S))
        return rate, sum(self.presence.at(begin + (n + 0.5) * length / steps) for n in range(steps)) / steps

    def ever(self) -> tuple[float, float]:
        """The same of the whole time in which calls went through."""
        return self.usual(self._all[0], max(self._all[-1], self._all[0] + 1.0))


def _most(evidence: Evidence, scope: str) -> float:
    """Calls a second that the scope's quota returns, by what calls cost on average."""
    calls = [call for call in ours(evidence, scope) if call.outcome == "ok"]
    rates = []
    for limit in evidence.limits.get(scope, {}):
        mean = sum(call.charged.get(limit, 0.0) for call in calls) / max(1, len(calls))
        length = max(1.0, evidence.finished - evidence.began)
        if mean:
            rates.append(
                Supply.of(evidence, scope, limit).between(evidence.began, evidence.began + length) / length / mean
            )
    return min(rates, default=float("inf"))


def _count(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def _apart(marks: Sequence[Mark]) -> list[list[Mark]]:
    """Faults in order, those that overlap together."""
    found: list[list[Mark]] = []
    for mark in sorted(marks, key=lambda one: one.at):
        if found and mark.at <= max(one.until for one in found[-1]):
            found[-1].append(mark)
        else:
            found.append([mark])
    return found
