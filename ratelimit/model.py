"""The arithmetic in pure Python: the reference that the Lua must equal with `==`.

Every expression here has its twin in `lua/`, with the same order of operations. A bucket's `level` may go below
zero: it then owes units to the places that are booked. Its `clock` counts all units ever refilled; a place is due when
the clock reaches the place's `due`.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from ratelimit.arithmetic import SLOWEST_PACE, expired, seconds_at_full_pace, shortfall, wait_for
from ratelimit.places import (
    NOTHING,
    Ask,
    Booking,
    Bookings,
    ClockReading,
    Counters,
    Dial,
    LimitSnapshot,
    Origin,
    Outcome,
    Snapshot,
)
from ratelimit.quota import Quota
from ratelimit.state import Bucket, Record, Scope


def permit_id(key: str, generation: int) -> str:
    """The id of a place that was booked under a key."""
    return f"{key}#{generation}"


class Model:
    """All verbs over state in memory. Instants are arguments."""

    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}
        self.places: dict[tuple[str, str], Record] = {}
        self.done: dict[tuple[str, str], float] = {}

    def configure(self, quota: Quota, *, full: bool, seed: bool, now: float, expect: int | None = None) -> bool:
        """Set the quota; new limits start cold unless `full`.

        With `seed` only if there is none, with `expect` only if that is the version in force.
        """
        old = self.scopes.get(quota.scope)
        version = 0 if old is None else old.version
        if (old is not None and seed) or (expect is not None and expect != version):
            return False
        if old is None:
            scope = Scope(buckets={}, recovery=0.0, born=now, at=now)
            self.scopes[quota.scope] = scope
        else:
            scope = old
            self._refill(scope, now)
        scope.recovery = 1 / quota.recovery.total_seconds()
        scope.version = version + 1
        buckets = {}
        for name in quota.limits:
            rate, burst = quota.rate(name), quota.burst(name)
            bucket = scope.buckets.get(name)
            if bucket is None:
                bucket = Bucket(rate=rate, burst=burst, level=burst if full else 0.0)
            bucket.rate = rate
            bucket.burst = burst
            bucket.level = min(bucket.level, burst)
            buckets[name] = bucket
        scope.buckets = buckets
        return True

    def reserve(self, name: str, asks: Sequence[Ask], *, now: float) -> Bookings | None:
        """Charge each ask to every limit or to none, in order. None: not configured."""
        scope = self._begin(name, now)
        if scope is None:
            return None
        bookings = [self._reserve(name, scope, ask) for ask in asks]
        return Bookings(reading(scope), bookings)

    def clock(self, name: str, *, now: float) -> ClockReading | None:
        """Refill and read the clock."""
        scope = self._begin(name, now)
        return None if scope is None else reading(scope)

    def settle(
        self,
        name: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        actual: Mapping[str, float],
        observed: Mapping[str, float] = NOTHING,
        now: float,
    ) -> tuple[str, ClockReading | None]:
        """Move level and clock by what was estimated too much or too little, then take note of what is left."""
        scope = self._begin(name, now)
        if scope is None:
            return "unconfigured", None
        outcome = self._finish(name, scope, permit, key, generation, booked_at)
        if outcome == "done":
            for limit, bucket in scope.buckets.items():
                if limit in actual:
                    refund = cost.get(limit, 0.0) - actual[limit]
                    moved = min(refund, bucket.burst - bucket.level)
                    bucket.level = bucket.level + moved
                    bucket.clock = bucket.clock + moved
                    _call_up(bucket)
            _observe(scope, observed)
        return outcome, reading(scope)

    def observe(self, name: str, *, remaining: Mapping[str, float], now: float) -> tuple[bool, ClockReading | None]:
        """Lower what the provider says is less."""
        scope = self._begin(name, now)
        if scope is None:
            return False, None
        return _observe(scope, remaining), reading(scope)

    def cancel(
        self,
        name: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        now: float,
    ) -> tuple[str, ClockReading | None]:
        """Give the cost back to the level only."""
        scope = self._begin(name, now)
        if scope is None:
            return "unconfigured", None
        outcome = self._finish(name, scope, permit, key, generation, booked_at)
        if outcome == "done":
            for limit, bucket in scope.buckets.items():
                bucket.level = min(bucket.burst, bucket.level + cost.get(limit, 0.0))
                _call_up(bucket)
        return outcome, reading(scope)

    def cool_down(
        self, name: str, *, for_s: float, epoch: int | None, cut: bool, now: float
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope; cut the pace unless the call's epoch is past."""
        scope = self._begin(name, now)
        if scope is None:
            return False, None
        scope.rejections += 1
        scope.cooldown_until = max(scope.cooldown_until, scope.at + for_s)
        cuts = cut and (epoch is None or epoch == scope.epoch)
        if cuts:
            scope.pace = max(SLOWEST_PACE, scope.pace / 2)
            scope.epoch += 1
            scope.strikes += 1
        for bucket in scope.buckets.values():
            bucket.level = min(bucket.level, 0.0)
        return cuts, reading(scope)

    def inspect(self, name: str, *, now: float) -> Snapshot:
        """Look without touching."""
        kept = self.scopes.get(name)
        if kept is None:
            return Snapshot(scope=name, configured=False)
        scope = Scope(
            buckets={n: Bucket(b.rate, b.burst, b.level, b.clock, b.tail) for n, b in kept.buckets.items()},
            recovery=kept.recovery,
            born=kept.born,
            at=kept.at,
            cooldown_until=kept.cooldown_until,
            pace=kept.pace,
            strikes=kept.strikes,
        )
        self._refill(scope, now)
        return Snapshot(
            scope=name,
            configured=True,
            limits={
                n: LimitSnapshot(level=b.level, burst=b.burst, rate=b.rate, clock=b.clock, tail=b.tail)
                for n, b in scope.buckets.items()
            },
            pace=scope.pace,
            closed_for=timedelta(seconds=_closed_for(scope)),
            epoch=kept.epoch,
            strikes=scope.strikes,
            version=kept.version,
            counters=Counters(
                calls=kept.calls,
                grants=kept.grants,
                denials=kept.denials,
                rebooked=kept.rebooked,
                rejections=kept.rejections,
            ),
        )

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

    def _begin(self, name: str, now: float) -> Scope | None:
        scope = self.scopes.get(name)
        if scope is not None:
            self._refill(scope, now)
            scope.calls += 1
        return scope

    @staticmethod
    def _refill(scope: Scope, now: float) -> None:
        start = max(scope.at, scope.cooldown_until)
        # an instant before the last one is a server's clock that was set back: time stands still until it has caught up
        scope.at = max(scope.at, now)
        dt = scope.at - start
        if dt <= 0:
            return
        full = seconds_at_full_pace(dt, scope.pace, scope.recovery)
        scope.pace = min(1.0, scope.pace + scope.recovery * dt)
        if scope.pace == 1:
            scope.strikes = 0
        for bucket in scope.buckets.values():
            moved = min(bucket.rate * full, bucket.burst - bucket.level)
            bucket.level = bucket.level + moved
            bucket.clock = bucket.clock + moved
            _call_up(bucket)

    def _reserve(self, name: str, scope: Scope, ask: Ask) -> Booking:
        for limit in ask.cost:
            if limit not in scope.buckets:
                return Booking(outcome=Outcome.UNKNOWN, origin=Origin.NONE, wait=0.0, limit=limit)
        generation, first_at, origin = 1, scope.at, Origin.BOOKED
        old = self.places.get((name, ask.key)) if ask.key is not None else None
        if old is not None:
            same = old.mode == "H" or (old.mode == "T" and old.asker == ask.asker)
            if same and not self._expired(scope, old):
                return self._ask_again(scope, old, ask)
            generation = old.generation + 1
            if old.mode != "S":
                first_at, origin = old.first_at, Origin.REBOOKED
        place = Record(
            mode="T",
            generation=generation,
            epoch=scope.epoch,
            booked_at=scope.at,
            first_at=first_at,
            asker=ask.asker,
            cost={limit: ask.cost[limit] for limit in scope.buckets if ask.cost.get(limit, 0.0) > 0},
        )
        owed = {limit: max(0.0, cost - scope.buckets[limit].level) for limit, cost in place.cost.items()}
        wait, binding = _wait_for(scope, owed)
        if wait <= ask.max_wait:
            scope.grants += 1
        else:
            scope.denials += 1
            place.mode = "H"
            if not (ask.hold and ask.key is not None):
                return Booking(outcome=Outcome.DENIED, origin=Origin.NONE, wait=wait, limit=binding)
        for limit, cost in place.cost.items():
            bucket = scope.buckets[limit]
            place.due[limit] = bucket.clock + owed[limit]
            bucket.level = bucket.level - cost
            bucket.tail = max(bucket.tail, place.due[limit])
        if origin is Origin.REBOOKED:
            scope.rebooked += 1
        if ask.key is not None:
            self.places[name, ask.key] = place
        return _booking(place, origin, wait, binding)

    @staticmethod
    def _expired(scope: Scope, place: Record) -> bool:
        if place.booked_at < scope.born:
            return True
        charged = ((scope.buckets[limit], due) for limit, due in place.due.items() if limit in scope.buckets)
        return expired((bucket.clock, due, bucket.rate, bucket.burst) for bucket, due in charged)

    @staticmethod
    def _ask_again(scope: Scope, place: Record, ask: Ask) -> Booking:
        owed = {
            limit: shortfall(due, scope.buckets[limit].clock)
            for limit, due in place.due.items()
            if limit in scope.buckets
        }
        wait, binding = _wait_for(scope, owed)
        origin = Origin.PICKED if place.mode == "H" else Origin.SAME
        if wait <= ask.max_wait:
            if place.mode == "H":
                scope.grants += 1
            place.mode = "T"
            place.asker = ask.asker
        else:
            scope.denials += 1
            # whoever is told to come back has not started: anybody may pick the place up
            place.mode = "H"
        return _booking(place, origin, wait, binding)

    def _finish(self, name: str, scope: Scope, permit: str, key: str | None, generation: int, booked_at: float) -> str:
        if (name, permit) in self.done:
            return "again"
        self.done[name, permit] = scope.at
        record = self.places.get((name, key)) if key is not None else None
        if record is not None and record.generation == generation:
            record.mode = "S"
        return "lost" if booked_at < scope.born else "done"


def reading(scope: Scope) -> ClockReading:
    """The scope's clock as it stands."""
    return ClockReading(
        now=scope.at,
        closed_for=_closed_for(scope),
        pace=scope.pace,
        epoch=scope.epoch,
        born=scope.born,
        recovery=scope.recovery,
        dials={n: Dial(b.clock, b.rate, b.burst) for n, b in scope.buckets.items()},
    )


def _closed_for(scope: Scope) -> float:
    return max(0.0, scope.cooldown_until - scope.at)


def _wait_for(scope: Scope, owed: Mapping[str, float]) -> tuple[float, str]:
    return wait_for(scope.buckets, owed, _closed_for(scope), scope.pace, scope.recovery)


def _call_up(bucket: Bucket) -> None:
    # everything booked is paid for: whoever still stands behind a cancelled place may start
    if bucket.level >= 0 and bucket.clock < bucket.tail:
        bucket.clock = bucket.tail


def _observe(scope: Scope, remaining: Mapping[str, float]) -> bool:
    lowered = False
    for limit, left in remaining.items():
        bucket = scope.buckets.get(limit)
        if bucket is not None:
            moved = min(0.0, left - bucket.level)
            bucket.level = bucket.level + moved
            bucket.clock = bucket.clock + moved
            lowered = lowered or moved < 0
    return lowered


def _booking(record: Record, origin: Origin, wait: float, limit: str) -> Booking:
    return Booking(
        outcome=Outcome.TAKEN if record.mode == "T" else Outcome.HELD,
        origin=origin,
        wait=wait,
        limit=limit,
        generation=record.generation,
        epoch=record.epoch,
        booked_at=record.booked_at,
        first_at=record.first_at,
        cost=dict(record.cost),
        due=dict(record.due),
    )
