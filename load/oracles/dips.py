"""Does the fleet go on using its quota while its workers change?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

from load.oracles.reading import Span, between, finding, nothing, queued
from load.oracles.supply import Supply
from load.trial import Call, Evidence, Finding, Mark

STEP_S = 0.1
ROUNDING = 1e-6
"""Units that a sum may be wrong by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dip:
    """The longest stretch in which every window of the providers' ledger shows too little use while work was queued.

    Of a scope's limits the one that was used most counts. The units of a call that went well, or of an outsider's, are
    counted over the time in which the quota returned them, up to the call: a large call is no burst after a pause. A
    stretch lasts from the middle of its first window to that of its last. If nothing at all goes through for T
    seconds, and then calls at the quota's rate, it is T + `window_s` * (2 * `share` - 1): by default 0.4 s longer.

    What is judged are restarts: a stretch is the last one's that had begun when its first window ended, up to
    `after_s` from the restart's end.
    """

    name: ClassVar[str] = "dip"
    says: ClassVar[str] = "seconds on end in which too little of a quota was used while work was queued, by restarts"

    bound: float = 5.0
    """Most seconds."""
    share: float = 0.6
    """Less than this, of what the quota returns, is too little."""
    window_s: float = 2.0
    scopes: tuple[str, ...] = ()
    """That must have been saturated. Empty: whichever were."""
    busy_from: int | None = None
    """So many active runs are queued work, wherever they wait. None: only a line in the limiter is."""
    least_s: float = 5.0
    """Shorter spells of queueing are not judged."""
    after_s: float = 10.0
    """A stretch that begins so long after a restart is none of it."""
    kind: str = "restart"
    """Of the marks."""
    targets: tuple[str, ...] = ()
    """Each must have been restarted while work was queued, from the begin of it to its end."""

    def judge(self, evidence: Evidence) -> Finding:
        """The longest of all; a pool that was not restarted under load does not hold."""
        marks = sorted((mark for mark in evidence.marks if mark.kind == self.kind), key=lambda mark: mark.at)
        if not marks:
            return nothing(self, "nothing was restarted", ok=evidence.interrupted)
        found = [0.0] * len(marks)
        worst = ""
        loaded: list[set[str]] = []
        for scope in self.scopes or evidence.limits:
            spans = queued(evidence, scope, busy_from=self.busy_from, spared=(), least_s=self.least_s)
            if not spans or not evidence.limits.get(scope):
                if self.scopes:
                    says = f"never saturated: {scope} had work queued for {self.least_s:g} s on end"
                    return nothing(self, says, ok=evidence.interrupted)
                continue
            loaded.append({m.target for m in marks if any(at <= m.at and m.until <= end for at, end in spans)})
            for at, length in self._stretches(evidence, scope, spans):
                owner = self._owner(marks, at, length)
                if owner is not None and length > found[owner]:
                    if length > max(found):
                        worst = f"; the longest begins {at - evidence.began:.1f} s after the begin, {scope}"
                    found[owner] = length
        told = ", ".join(f"{mark.target} {length:.1f} s" for mark, length in zip(marks, found, strict=True)) + worst
        if missing := [target for target in self.targets if not any(target in under for under in loaded)]:
            told = f"no restart of {', '.join(missing)} lay in a time in which work was queued; {told}"
            return replace(finding(self, max(found), told), ok=evidence.interrupted)
        return finding(self, max(found), told)

    def _owner(self, marks: Sequence[Mark], at: float, length: float) -> int | None:
        """Whose restart a stretch is."""
        near = [n for n, mark in enumerate(marks) if mark.at <= at + length and at <= mark.until + self.after_s]
        seen = at + self.window_s / 2
        return max((n for n in near if marks[n].at <= seen), default=min(near, default=None))

    def _stretches(self, evidence: Evidence, scope: str, spans: Sequence[Span]) -> list[Span]:
        """When each begins, and how long it is."""
        calls = [call for call in evidence.calls.get(scope, ()) if call.outsider or call.outcome == "ok"]
        limit = _binding(evidence, scope, calls, spans)
        supply = Supply.of(evidence, scope, limit)
        width = round(self.window_s / STEP_S)
        found: list[Span] = []
        for begin, end in spans:
            used = [0.0, *accumulate(_used(calls, limit, supply, (begin, end)))]
            first: int | None = None
            for n in range(len(used) - width):
                at = begin + n * STEP_S
                least = self.share * supply.between(at, at + self.window_s)
                if used[n + width] - used[n] >= least - ROUNDING:
                    first = None
                    continue
                if first is None:
                    first = n
                    found.append((at + self.window_s / 2, 0.0))
                found[-1] = (found[-1][0], (n - first + 1) * STEP_S)
        return found


def _used(calls: Sequence[Call], limit: str, supply: Supply, span: Span) -> list[float]:
    """Units by steps of the span, each call's over the time in which they returned."""
    begin, end = span
    found = [0.0] * math.floor((end - begin) / STEP_S)
    for call in calls:
        units = call.charged.get(limit, 0.0)
        # what returned in so long before it; at a rate of nothing it is the step itself
        rate = supply.between(call.at - STEP_S, call.at) / STEP_S
        took = max(STEP_S, units / rate if rate else 0.0)
        first, last = (call.at - took - begin) / STEP_S, (call.at - begin) / STEP_S
        for n in range(max(0, math.floor(first)), min(len(found), math.ceil(last))):
            found[n] += units * (min(last, n + 1) - max(first, n)) / (last - first)
    return found


def _binding(evidence: Evidence, scope: str, calls: Sequence[Call], spans: Sequence[Span]) -> str:
    """The limit of which the greatest share was used in the spans."""

    def share(limit: str) -> float:
        granted = sum(Supply.of(evidence, scope, limit).between(*span) for span in spans)
        used = sum(call.charged.get(limit, 0.0) for span in spans for call in between(calls, *span))
        return used / granted if granted else 0.0

    return max(evidence.limits[scope], key=share)
