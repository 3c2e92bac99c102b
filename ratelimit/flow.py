"""What changes a scope besides reservations: refill, leases, quotas. The twin of `lua/_clock.lua` and others."""

import math

from ratelimit.arithmetic import EPSILON, seconds_at_full_pace
from ratelimit.places import Kind
from ratelimit.state import Bucket, Lease, Scope, Spec
from ratelimit.windows import DAY_S, window_of, window_start

PIECES = 16
"""In how many pieces the presumed calls in flight end."""


def call_up(bucket: Bucket) -> None:
    """Everything booked is paid for: whoever still stands behind a cancelled place may start."""
    if bucket.level >= 0 and bucket.clock < bucket.tail:
        bucket.clock = bucket.tail


def pour(bucket: Bucket, units: float) -> None:
    """Units that come, or are taken away: nothing overflows the burst."""
    moved = min(units, bucket.burst - bucket.level)
    bucket.level = bucket.level + moved
    bucket.clock = bucket.clock + moved
    call_up(bucket)


def refill(scope: Scope, now: float) -> None:
    """Bring a scope to an instant."""
    last, start = scope.at, max(scope.at, scope.cooldown_until)
    # an instant before the last one is a server's clock that was set back: time stands still until it has caught up
    scope.at = max(scope.at, now)
    dt, pace, full = scope.at - start, scope.pace, 0.0
    if dt > 0:
        full = seconds_at_full_pace(dt, pace, scope.recovery)
        scope.pace = min(1.0, pace + scope.recovery * dt)
        if scope.pace == 1:
            scope.strikes = 0
    for bucket in scope.buckets.values():
        if bucket.kind is Kind.CONTINUOUS:
            open_for, shut = full, bucket.until - start
            if shut > 0:
                open_for = full - seconds_at_full_pace(min(shut, max(0.0, dt)), pace, scope.recovery)
            if open_for > 0:
                pour(bucket, bucket.rate * open_for)
        elif bucket.kind is not Kind.IN_FLIGHT:
            windows = window_of(bucket, scope.at) - window_of(bucket, last)
            if windows > 0:
                pour(bucket, windows * bucket.burst)


def begin(scope: Scope, now: float) -> None:
    """Bring a scope to an instant, with all that ends by itself until then."""
    if scope.ends != 0 and now >= scope.ends:
        revert(scope)
    refill(scope, now)
    sweep(scope)


def release(bucket: Bucket, units: float, due: float, held: float | None) -> None:
    """Give back what was in flight.

    That of a call which had started calls up the next in line. That of a place in line only lowers what is owed:
    whoever stands before it must not start early.
    """
    if due <= bucket.clock + EPSILON * max(1.0, abs(due)):
        if held is not None:
            mean = bucket.burst / bucket.rate
            bucket.rate = bucket.burst / max(0.001, mean + 0.1 * (held - mean))
        pour(bucket, units)
    else:
        bucket.level = min(bucket.burst, bucket.level + units)
        call_up(bucket)


def end_lease(scope: Scope, number: int, *, over: bool) -> bool:
    """Give a lease back; answers whether it was still there."""
    lease = scope.leases.pop(number, None)
    if lease is None:
        return False
    for name, units, due in lease.held:
        bucket = scope.buckets.get(name)
        if bucket is not None and bucket.kind is Kind.IN_FLIGHT:
            held = max(0.0, scope.at - lease.began) if over and lease.began is not None else None
            release(bucket, units, due, held)
    return True


def lease_s(scope: Scope) -> float | None:
    """How long leases of the scope last; None if it has none."""
    return max((b.period for b in scope.buckets.values() if b.kind is Kind.IN_FLIGHT), default=None)


def take_lease(scope: Scope, wait: float, cost: dict[str, float], due: dict[str, float]) -> int:
    """The lease of a place that waits so long: its number, 0 if nothing is held."""
    held = [
        (name, cost[name], due[name])
        for name, bucket in scope.buckets.items()
        if bucket.kind is Kind.IN_FLIGHT and name in cost
    ]
    if not held:
        return 0
    scope.leased += 1
    begins = scope.at + min(wait, DAY_S)
    scope.leases[scope.leased] = Lease(begins + (lease_s(scope) or 0.0), begins, held)
    return scope.leased


def renew_lease(scope: Scope, number: int, wait: float) -> None:
    """Let a lease last as if it were taken now."""
    scope.leases[number].ends = scope.at + min(wait, DAY_S) + (lease_s(scope) or 0.0)


def sweep(scope: Scope) -> None:
    """Give back what nobody renews."""
    if lease_s(scope) is not None:
        over = [(lease.ends, str(number), number) for number, lease in scope.leases.items() if lease.ends <= scope.at]
        for _, _, number in sorted(over):
            end_lease(scope, number, over=False)


def spec_of(scope: Scope) -> Spec:
    """The quota in force."""
    return Spec(
        scope.recovery,
        scope.passing,
        {n: (b.rate, b.burst, b.kind, b.period, b.anchor, b.shadow) for n, b in scope.buckets.items()},
    )


def set_limits(scope: Scope, spec: Spec, *, full: bool) -> None:
    """Put a scope under another quota. Limits that stay keep their state, new ones start full or cold."""
    scope.recovery, scope.passing = spec.recovery, spec.passing
    scope.version += 1
    buckets = {}
    for name, (rate, burst, kind, period, anchor, shadow) in spec.limits.items():
        fresh = Bucket(rate=rate, burst=burst, kind=kind, period=period, anchor=anchor, shadow=shadow)
        old = scope.buckets.get(name)
        if old is not None and old.kind is kind:
            _keep(fresh, old)
        elif full or shadow:
            fresh.level = burst
        elif kind is Kind.IN_FLIGHT:
            _presume(scope, name, fresh)
        elif kind is not Kind.CONTINUOUS:
            fresh.level = _rest_of_window(fresh, scope.at)
        buckets[name] = fresh
    scope.buckets = buckets


def revert(scope: Scope) -> None:
    """End a quota that was set for a while, on its instant and not with the first call after it."""
    refill(scope, scope.ends)
    scope.ends = 0.0
    before, scope.before = scope.before, None
    if before is not None:
        set_limits(scope, before, full=False)


def _presume(scope: Scope, name: str, bucket: Bucket) -> None:
    # nobody knows what is in flight: as much as can be is taken to be, and to end one after the other
    pieces = math.ceil(min(bucket.burst, PIECES))
    for i in range(1, pieces + 1):
        scope.leased += 1
        ends = scope.at + bucket.period * i / pieces
        scope.leases[scope.leased] = Lease(ends, None, [(name, bucket.burst / pieces, bucket.clock)])


def _rest_of_window(bucket: Bucket, at: float) -> float:
    # what was used of the window is taken to have been used evenly
    window = window_of(bucket, at)
    start, ends = window_start(bucket, window), window_start(bucket, window + 1)
    return bucket.burst * ((ends - at) / (ends - start))


def _keep(fresh: Bucket, old: Bucket) -> None:
    fresh.level, fresh.clock, fresh.tail = old.level, old.clock, old.tail
    fresh.until, fresh.shadowed = old.until, old.shadowed
    if fresh.kind is Kind.IN_FLIGHT:
        # what is in flight stays; the mean time that it is held, too
        fresh.rate = fresh.burst / (old.burst / old.rate)
        fresh.level = fresh.level + (fresh.burst - old.burst)
        fresh.clock = fresh.clock + (fresh.burst - old.burst)
    else:
        fresh.level = min(fresh.level, fresh.burst)
    call_up(fresh)
