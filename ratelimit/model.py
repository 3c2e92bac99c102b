"""All verbs in pure Python: the reference that the Lua must equal with `==`.

Every expression here, in `flow.py` and in `booking.py` has its twin in `lua/`, with the same order of operations. A
bucket's `level` may go below zero: it then owes units to the places that are booked. Its `clock` counts all units ever
refilled; a place is due when the clock reaches the place's `due`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from ratelimit import booking, flow
from ratelimit.arithmetic import FIRST_COOLDOWN_S, LONGEST_COOLDOWN_S, SLOWEST_PACE, unit_of
from ratelimit.headers import Observed
from ratelimit.places import (
    SILENCE,
    Ask,
    Bookings,
    Claim,
    ClockReading,
    Closed,
    Counters,
    Dial,
    Heard,
    Kind,
    LimitSnapshot,
    Readings,
    Rejection,
    Snapshot,
)
from ratelimit.quota import Quota
from ratelimit.state import Record, Scope


def permit_id(key: str, generation: int) -> str:
    """The id of a place that was booked under a key."""
    return f"{key}#{generation}"


class Model:
    """All verbs over state in memory. Instants are arguments."""

    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}
        self.places: dict[tuple[str, str], Record] = {}
        self.done: dict[tuple[str, str], float] = {}

    def configure(
        self,
        quota: Quota,
        *,
        full: bool,
        seed: bool,
        now: float,
        expect: int | None = None,
        for_s: float | None = None,
    ) -> bool:
        """Set the quota, for good or for a while; new limits start cold unless `full`.

        With `seed` only if there is none, with `expect` only if that is the version in force.
        """
        scope = self.scopes.get(quota.scope)
        if scope is not None:
            flow.begin(scope, now)
        version = 0 if scope is None else scope.version
        if (scope is not None and seed) or (expect is not None and expect != version):
            return False
        if scope is None:
            scope = self.scopes[quota.scope] = Scope(buckets={}, recovery=0.0, born=now, at=now)
        elif for_s is None:
            scope.before, scope.ends = None, 0.0
        else:
            if scope.ends == 0:
                scope.before = flow.spec_of(scope)
            scope.ends = scope.at + for_s
        flow.set_limits(scope, quota.spec(), full=full)
        return True

    def reserve(self, scopes: Sequence[str], asks: Sequence[Ask], *, now: float) -> Bookings | None:
        """Charge each ask to every limit of every scope or to none, in order. None: a scope is not configured."""
        chain = self._begin(scopes, now)
        if chain is None:
            return None
        found = []
        for ask in asks:
            old = self.places.get((scopes[0], ask.key)) if ask.key is not None else None
            made, record = booking.reserve(scopes, chain, ask, old)
            if record is not None and ask.key is not None:
                self.places[scopes[0], ask.key] = record
            found.append(made)
        return Bookings(readings(chain), found)

    def clock(self, scopes: Sequence[str], *, now: float) -> Readings | None:
        """Refill and read the clocks."""
        chain = self._begin(scopes, now)
        return None if chain is None else readings(chain)

    def settle(
        self,
        scopes: Sequence[str],
        claim: Claim,
        *,
        actual: Mapping[str, float],
        observed: Mapping[str, Observed] = SILENCE,
        heard: int = 0,
        now: float,
    ) -> tuple[str, Readings | None]:
        """Move level and clock by what was estimated too much or too little, then take note of what is left."""
        chain = self._begin(scopes, now)
        if chain is None:
            return "unconfigured", None
        outcome = self._finish(scopes[0], chain, claim)
        if outcome == "again":
            return outcome, readings(chain)
        found = False
        for scope, part in zip(chain, claim.parts, strict=True):
            if claim.booked_at < scope.born:
                continue
            found = True
            for name, bucket in scope.buckets.items():
                estimate = part.cost.get(name, 0.0)
                spent = actual.get(name, actual.get(unit_of(name)))
                # what a shadow limit would have refused was not charged
                ghost = bucket.shadow and estimate == 0
                if spent is not None and not ghost and bucket.kind is not Kind.IN_FLIGHT and outcome == "done":
                    flow.pour(bucket, estimate - spent)
            flow.end_lease(scope, part.lease, over=True)
        if not found:
            outcome = "lost"
        elif outcome == "done":
            _observe(chain[heard], observed)
        return outcome, readings(chain)

    def observe(self, name: str, *, told: Mapping[str, Observed], now: float) -> tuple[bool, ClockReading | None]:
        """Lower what the provider says is less."""
        chain = self._begin([name], now)
        if chain is None:
            return False, None
        return _observe(chain[0], told), reading(chain[0])

    def cancel(self, scopes: Sequence[str], claim: Claim, *, now: float) -> tuple[str, Readings | None]:
        """Give the cost back to the level only."""
        chain = self._begin(scopes, now)
        if chain is None:
            return "unconfigured", None
        outcome = self._finish(scopes[0], chain, claim)
        if outcome == "again":
            return outcome, readings(chain)
        found = False
        for scope, part in zip(chain, claim.parts, strict=True):
            if claim.booked_at < scope.born:
                continue
            found = True
            for name, units in part.cost.items():
                bucket = scope.buckets.get(name)
                if bucket is not None and bucket.kind is not Kind.IN_FLIGHT and outcome == "done":
                    bucket.level = min(bucket.burst, bucket.level + units)
                    flow.call_up(bucket)
            flow.end_lease(scope, part.lease, over=False)
        return (outcome if found else "lost"), readings(chain)

    def renew(self, name: str, leases: Sequence[int], *, now: float) -> tuple[int, ClockReading | None]:
        """Keep leases of calls that are in flight; answers how many of them were there."""
        chain = self._begin([name], now)
        if chain is None:
            return 0, None
        kept = [lease for lease in leases if lease in chain[0].leases]
        for lease in kept:
            flow.renew_lease(chain[0], lease, 0.0)
        return len(kept), reading(chain[0])

    def cool_down(self, name: str, rejection: Rejection, *, now: float) -> tuple[bool, float, ClockReading | None]:
        """Close the scope or one limit of it; cut the pace unless the call's epoch is past.

        Answers whether the pace was cut, and for how many seconds the scope is closed.
        """
        chain = self._begin([name], now)
        if chain is None:
            return False, 0.0, None
        scope, key = chain[0], rejection.key
        current = rejection.epoch is None or rejection.epoch == scope.epoch
        scope.rejections += 1
        place = self.places.get((key[0], key[1])) if key is not None else None
        if place is not None and place.generation > rejection.generation:
            return False, 0.0, reading(scope)
        for_s = rejection.for_s
        if for_s is None:
            # one burst is one event: what the first of its rejections said holds for all
            grown = min(LONGEST_COOLDOWN_S, FIRST_COOLDOWN_S * 2.0**scope.strikes)
            for_s = grown * (0.75 + rejection.jitter / 2) if current else 0.0
        only = scope.buckets.get(rejection.limit or "")
        if only is not None and only.kind is not Kind.IN_FLIGHT:
            only.until = max(only.until, scope.at + for_s)
        else:
            only = None
            scope.cooldown_until = max(scope.cooldown_until, scope.at + for_s)
        cuts = rejection.cut and current
        if cuts:
            scope.pace = max(SLOWEST_PACE, scope.pace / 2)
            scope.epoch += 1
            scope.strikes += 1
        for bucket in scope.buckets.values():
            if bucket.kind is Kind.CONTINUOUS and (only is None or only is bucket):
                bucket.level = min(bucket.level, 0.0)
        return cuts, for_s, reading(scope)

    def close(self, name: str, cause: Closed, *, now: float) -> tuple[bool, ClockReading | None]:
        """Close the scope until somebody opens it, or open it; answers whether that is new."""
        chain = self._begin([name], now)
        if chain is None:
            return False, None
        scope = chain[0]
        if scope.closed == cause and (cause is not Closed.NO or scope.cooldown_until <= scope.at):
            return False, reading(scope)
        scope.closed = cause
        scope.cooldown_until = scope.at if cause is Closed.NO else math.inf
        return True, reading(scope)

    def inspect(self, name: str, *, now: float) -> Snapshot:
        """Look; leaves no trace in the counters."""
        scope = self.scopes.get(name)
        if scope is None:
            return Snapshot(scope=name, configured=False)
        flow.begin(scope, now)
        return snapshot(name, scope)

    def forget(self, *, before: float) -> None:
        """Drop settled places and markers of permits that were settled before an instant; Redis lets them expire."""
        old = {permit for permit, settled_at in self.done.items() if settled_at < before}
        for permit in old:
            del self.done[permit]
        self.places = {
            place: record
            for place, record in self.places.items()
            if record.mode != "S" or (place[0], permit_id(place[1], record.generation)) in self.done
        }

    def _begin(self, names: Sequence[str], now: float) -> list[Scope] | None:
        chain = [scope for name in names if (scope := self.scopes.get(name)) is not None]
        if len(chain) < len(names):
            return None
        for scope in chain:
            flow.begin(scope, now)
            scope.calls += 1
        return chain

    def _finish(self, name: str, chain: Sequence[Scope], claim: Claim) -> str:
        if (name, claim.permit) in self.done:
            return "again"
        self.done[name, claim.permit] = max(scope.at for scope in chain)
        record = self.places.get((name, claim.key)) if claim.key is not None else None
        if record is not None and record.generation > claim.generation:
            return "stale"
        if record is not None and record.generation == claim.generation:
            record.mode = "S"
        return "done"


def readings(chain: Sequence[Scope]) -> Readings:
    """The clocks as they stand."""
    return tuple(reading(scope) for scope in chain)


def reading(scope: Scope) -> ClockReading:
    """The scope's clock as it stands."""
    return ClockReading(
        now=scope.at,
        cooldown_until=scope.cooldown_until,
        pace=scope.pace,
        epoch=scope.epoch,
        closed=scope.closed,
        born=scope.born,
        recovery=scope.recovery,
        dials={
            n: Dial(b.clock, b.rate, b.burst, b.level, b.until, b.kind, b.period, b.anchor, b.shadow)
            for n, b in scope.buckets.items()
        },
    )


def snapshot(name: str, scope: Scope) -> Snapshot:
    """A scope as it stands."""
    return Snapshot(
        scope=name,
        configured=True,
        limits={
            n: LimitSnapshot(
                level=b.level,
                burst=b.burst,
                rate=b.rate,
                clock=b.clock,
                tail=b.tail,
                kind=b.kind,
                closed_for=span(b.until - scope.at),
                shadow=b.shadow,
                shadowed=b.shadowed,
            )
            for n, b in scope.buckets.items()
        },
        pace=scope.pace,
        closed_for=span(scope.cooldown_until - scope.at),
        closed=scope.closed,
        epoch=scope.epoch,
        strikes=scope.strikes,
        version=scope.version,
        ends_in=span(scope.ends - scope.at) if scope.ends else None,
        counters=Counters(
            calls=scope.calls,
            grants=scope.grants,
            denials=scope.denials,
            rebooked=scope.rebooked,
            rejections=scope.rejections,
            waited_s=scope.waited,
        ),
        heard={name: replace(one) for name, one in scope.heard.items()},
    )


def span(seconds: float) -> timedelta:
    """What remains; `timedelta.max` for ever."""
    return timedelta.max if seconds > timedelta.max.total_seconds() else timedelta(seconds=max(0.0, seconds))


def _observe(scope: Scope, observed: Mapping[str, Observed]) -> bool:
    lowered = False
    for limit, told in observed.items():
        heard = scope.heard.setdefault(limit, Heard())
        heard.at = scope.at
        if told.limit is not None:
            heard.granted = told.limit
        if told.period_s is not None:
            heard.period = told.period_s
        if told.remaining is None:
            continue
        heard.remaining = told.remaining
        bucket = scope.buckets.get(limit)
        if bucket is not None and bucket.kind is not Kind.IN_FLIGHT:
            moved = min(0.0, told.remaining - bucket.level)
            if moved < 0:
                bucket.level = bucket.level + moved
                bucket.clock = bucket.clock + moved
                heard.taken = heard.taken - moved
                lowered = True
    return lowered
