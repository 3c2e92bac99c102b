"""Did the fleet keep to the quota, and did it use it? Counted in the providers' ledgers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from load.oracles.reading import (
    REFUSED,
    Span,
    between,
    demanded,
    finding,
    hit,
    inside,
    nothing,
    ours,
    queued,
    struck,
)
from load.oracles.supply import Bucket, Supply
from load.trial import Call, Evidence, Finding

SPENT = 0.25
"""A burst of which so little is left is spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """Replays a bucket of rate and burst over all that the fleet asked for, refused calls included."""

    name: ClassVar[str] = "overrun"
    says: ClassVar[str] = "how far the fleet went over any limit, in bursts of that limit"

    bound: float = 1.0
    """Deepest debt, in bursts."""
    outsiders: bool = False
    """Count what others used with the same key as well."""

    def judge(self, evidence: Evidence) -> Finding:
        """The deepest debt of all limits."""
        worst, says, calls = 0.0, "", 0
        for scope, limits in evidence.limits.items():
            mine = evidence.calls.get(scope, ()) if self.outsiders else ours(evidence, scope)
            calls += len(mine)
            for limit in limits:
                supply = Supply.of(evidence, scope, limit)
                bucket = Bucket(supply, evidence.began)
                for call in mine:
                    if not (units := demanded(call, limit)):
                        continue
                    debt = -bucket.spend(call.at, units) / supply.burst(call.at)
                    if debt > worst:
                        worst, says = debt, f"{scope}, {limit}, {call.at - evidence.began:.1f} s after the begin"
        if not calls:
            return nothing(self, "no calls")
        return finding(self, worst, says or f"{calls} calls, none beyond a limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """Holds what calls that went well were charged against what the provider returned while work was queued.

    Of a scope's limits the one that was used most counts: it is what bound. What outsiders used is used.
    """

    name: ClassVar[str] = "utilisation"
    says: ClassVar[str] = "share of the binding limit that was used while work was queued, in the worst scope"

    bound: float = 0.95
    """Least share."""
    least_s: float = 10.0
    """Shorter spells of queueing are not counted: one call more or less would decide."""
    scopes: tuple[str, ...] = ()
    """Each of them must have been saturated. Empty: one of all must."""
    busy_from: int | None = None
    """So many active runs are queued work too, wherever they wait. None: only a line in the limiter is."""
    spared_s: float | None = None
    """Faults, and so long after them, are not counted. None: they are."""

    def judge(self, evidence: Evidence) -> Finding:
        """A scope that was never saturated does not hold."""
        shares: dict[str, tuple[float, str]] = {}
        for scope in self.scopes or evidence.limits:
            spared = [] if self.spared_s is None else struck(evidence, self.spared_s, scope)
            spans = queued(evidence, scope, busy_from=self.busy_from, spared=spared, least_s=self.least_s)
            if spans and evidence.limits.get(scope):
                shares[scope] = _share(evidence, scope, spans)
            elif self.scopes:
                return self._never(scope)
        if not shares:
            return self._never("no scope")
        scope, (share, says) = min(shares.items(), key=lambda item: item[1][0])
        return finding(self, min(1.0, share), f"{scope}: {says}", least=True)

    def _never(self, scope: str) -> Finding:
        says = f"never saturated: {scope} had work queued for {self.least_s:g} s on end"
        return nothing(self, says, ok=False, least=True)


def _share(evidence: Evidence, scope: str, spans: Sequence[Span]) -> tuple[float, str]:
    calls = [call for call in evidence.calls.get(scope, ()) if call.outsider or call.outcome == "ok"]
    best = (0.0, "nothing was used")
    for limit in evidence.limits[scope]:
        supply = Supply.of(evidence, scope, limit)
        spent = [_since_spent(supply, calls, limit, evidence.began, span) for span in spans]
        granted = sum(supply.between(*span) for span in spent)
        used = sum(call.charged.get(limit, 0.0) for span in spent for call in between(calls, *span))
        if granted and used / granted > best[0]:
            length = sum(end - begin for begin, end in spent)
            best = (used / granted, f"{used:,.0f} of {granted:,.0f} {limit} while work was queued for {length:.0f} s")
    return best


def _since_spent(supply: Supply, calls: Sequence[Call], limit: str, began: float, span: Span) -> Span:
    """The span from when the burst was spent: what was saved before it would count as used above what returned."""
    bucket, (begin, end) = Bucket(supply, began), span
    for call in calls:
        if call.at >= end:
            break
        if bucket.spend(call.at, call.charged.get(limit, 0.0)) <= SPENT * supply.burst(call.at) and call.at >= begin:
            return call.at + 1e-9, end
    return span


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals429:
    """Counts answers of 429 to the fleet's calls."""

    name: ClassVar[str] = "refusals_429"
    says: ClassVar[str] = "share of the fleet's calls that the provider answered with 429, in the worst scope"

    bound: float = 0.001
    """Most of all calls of a scope."""
    after_s: float = 0.0
    """Calls of the first seconds of load are not counted."""
    spared_s: float | None = None
    """Calls during faults, and so long after them, are not counted. None: they are."""

    def judge(self, evidence: Evidence) -> Finding:
        """The worst scope's share."""
        worst, counts, every = -1.0, "", 0
        for scope in evidence.calls:
            spared = [] if self.spared_s is None else struck(evidence, self.spared_s, scope)
            since = evidence.began + self.after_s
            calls = [c for c in ours(evidence, scope) if c.at >= since and not (spared and inside(c.at, spared))]
            refused = sum(call.outcome == REFUSED for call in calls)
            every += len(calls)
            if calls and refused / len(calls) > worst:
                worst, counts = refused / len(calls), f"{scope}: {refused} of {len(calls)} calls"
        if not every:
            return nothing(self, "no calls")
        return finding(self, worst, counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsWhileClosed:
    """Counts what the fleet asks of a provider that has closed, but for a few calls that ask whether it is open."""

    name: ClassVar[str] = "calls_while_closed"
    says: ClassVar[str] = "what was asked of a provider while it was closed, as a share of what its quota returns"

    bound: float = 0.1
    """Most, of what the binding limit returns meanwhile."""
    kinds: frozenset[str] = frozenset({"provider"})
    """Marks that close a scope."""
    learning_s: float = 2.0
    """Calls of the first seconds are not counted: the fleet learns by them."""
    probes: int = 3
    """Calls that are always allowed."""

    def judge(self, evidence: Evidence) -> Finding:
        """The worst of all times at which a scope was closed.

        Where a mark does not say which, those were closed most of whose calls went wrong.
        """
        worst, says = 0.0, ""
        for mark in evidence.marks:
            begin = mark.at + self.learning_s
            if mark.kind not in self.kinds or begin >= mark.until:
                continue
            for scope, limits in evidence.limits.items():
                asked = between(ours(evidence, scope), begin, mark.until)
                good = sum(call.outcome == "ok" for call in asked)
                if not hit(mark, scope) if mark.scope else good * 2 > len(asked):
                    continue
                share = 0.0
                for limit in limits:
                    returned = Supply.of(evidence, scope, limit).between(begin, mark.until)
                    units = sum(demanded(call, limit) for call in asked[self.probes :])
                    share = max(share, units / returned if returned else 0.0)
                if share > worst or not says:
                    worst, says = share, f"{scope}: {len(asked)} calls in {mark.until - begin:.1f} s of {mark.what}"
        if not says:
            return nothing(self, "no scope was closed for long enough")
        return finding(self, worst, says)
