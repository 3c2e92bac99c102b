"""Who is served next: the order of Temporal's task queues, and the levels of a scope as the limiter counts them."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from ratelimit import flow
from ratelimit.arithmetic import unit_of, wait_for
from ratelimit.model import Model
from ratelimit.places import Kind, Snapshot
from ratelimit.quota import Quota
from ratelimit.state import Scope

ALWAYS = 1e-6
"""Seconds: a wait as short as this is none. The levels are sums of fractions."""


class _Rank:
    """Work of one priority: tenants by virtual time, each first come, first served."""

    __slots__ = ("clock", "order", "parked", "times", "waiting")

    def __init__(self) -> None:
        self.clock = 0.0
        self.times: dict[str, float] = {}
        self.waiting: dict[str, deque[tuple[int, int]]] = {}
        self.order: list[tuple[float, int, str]] = []
        self.parked: dict[str, tuple[float, int, str]] = {}


class FairQueue:
    """A task queue: lower priorities first, among equals fairly by tenant and weight, then first come, first served.

    Fairness counts tasks, as Temporal's does, and not what they cost. See Temporal's documentation, "Task Queue
    Priority and Fairness".
    """

    def __init__(self, *, ordered: bool = True) -> None:
        """Args:
        ordered: False: first come, first served, whoever comes.
        """
        self._ordered = ordered
        self._ranks: dict[int, _Rank] = {}
        self._priorities: list[int] = []
        self._number = 0
        self.size = 0
        """How many wait, parked ones included."""

    def push(self, item: int, priority: int, tenant: str) -> None:
        """Join the queue."""
        if not self._ordered:
            priority, tenant = 0, ""
        rank = self._ranks.get(priority)
        if rank is None:
            rank = self._ranks[priority] = _Rank()
            self._priorities = sorted(self._ranks)
        self._number += 1
        self.size += 1
        waiting = rank.waiting.get(tenant)
        if waiting is None:
            waiting = rank.waiting[tenant] = deque()
        waiting.append((self._number, item))
        if len(waiting) == 1:
            # who was away has no claim to what others were given meanwhile
            time = max(rank.clock, rank.times.get(tenant, 0.0))
            heappush(rank.order, (time, self._number, tenant))

    def head(self) -> int | None:
        """Who is next; None while all who wait are parked."""
        for priority in self._priorities:
            rank = self._ranks[priority]
            if rank.order:
                return rank.waiting[rank.order[0][2]][0][1]
        return None

    def head_rank(self) -> tuple[int, int]:
        """Priority and number of the head, to compare queues that share their slots."""
        for priority in self._priorities:
            rank = self._ranks[priority]
            if rank.order:
                return priority, rank.order[0][1]
        return 2**31, 0

    def pop(self, weight: float) -> int:
        """Serve the head, whose tenant has this weight."""
        rank = next(r for p in self._priorities if (r := self._ranks[p]).order)
        time, _, tenant = heappop(rank.order)
        rank.clock = time
        rank.times[tenant] = time + 1 / weight
        waiting = rank.waiting[tenant]
        _, item = waiting.popleft()
        if waiting:
            heappush(rank.order, (rank.times[tenant], waiting[0][0], tenant))
        self.size -= 1
        return item

    def park(self) -> tuple[int, str]:
        """Let others pass the head's tenant, whose own share is used up; answers what `unpark` takes."""
        priority = next(p for p in self._priorities if self._ranks[p].order)
        rank = self._ranks[priority]
        entry = heappop(rank.order)
        rank.parked[entry[2]] = entry
        return priority, entry[2]

    def unpark(self, priority: int, tenant: str) -> None:
        """Let the tenant come again."""
        rank = self._ranks[priority]
        entry = rank.parked.pop(tenant, None)
        if entry is not None:
            heappush(rank.order, entry)


def scope_state(quota: Quota, at: float, *, full: bool, seen: Snapshot | None = None) -> Scope:
    """A scope as `ratelimit.model` would make it; in flight is nothing.

    Args:
        quota: its limits.
        at: the instant.
        full: begin with full bursts, not with empty ones.
        seen: begin with the levels, the pace and the cooldown of a live scope.
    """
    model = Model()
    model.configure(quota, full=True, seed=True, now=at)
    scope = model.scopes[quota.scope]
    for bucket in scope.buckets.values():
        if not full and bucket.kind is not Kind.IN_FLIGHT and not bucket.shadow:
            bucket.level = 0.0
    if seen is not None and seen.configured:
        scope.pace = seen.pace
        scope.cooldown_until = at + seen.closed_for.total_seconds() if seen.closed_for else 0.0
        for name, live in seen.limits.items():
            known = scope.buckets.get(name)
            # limits that are new are left out; what is in flight belongs to runs that are simulated themselves
            if known is None or known.kind is not live.kind or known.kind is Kind.IN_FLIGHT:
                continue
            known.rate, known.burst, known.level = live.rate, live.burst, live.level
            known.until = at + live.closed_for.total_seconds() if live.closed_for else 0.0
    return scope


def charges(scope: Scope, cost: Mapping[str, float]) -> dict[str, float]:
    """What a cost charges to each limit of the scope: by its name, else by what it counts."""
    found = {}
    for name in scope.buckets:
        units = cost.get(name, cost.get(unit_of(name), 0.0))
        if units > 0:
            found[name] = units
    return found


def wait(chain: Sequence[Scope], charged: Sequence[Mapping[str, float]], now: float) -> tuple[float, int, str]:
    """Seconds until all limits can pay, the scope in the chain that makes the wait and its limit.

    Infinite where only the end of another call helps. Brings the scopes to the instant; charges nothing.
    """
    longest, where, binding = 0.0, 0, ""
    for i, scope in enumerate(chain):
        flow.refill(scope, now)
        owed: dict[str, float] = {}
        for name, units in charged[i].items():
            bucket = scope.buckets[name]
            lacking = units - bucket.level
            if bucket.shadow:
                continue
            if bucket.kind is Kind.IN_FLIGHT:
                if lacking > 0:
                    return math.inf, i, name
                continue
            owed[name] = max(0.0, lacking)
        found, limit = wait_for(scope.buckets, owed, scope.at, scope.cooldown_until, scope.pace, scope.recovery)
        if found > longest:
            longest, where, binding = found, i, limit or "cooldown"
    return longest, where, binding


def charge(scope: Scope, charged: Mapping[str, float]) -> None:
    """Take the units. A shadow limit is charged only with what it would have let through."""
    for name, units in charged.items():
        bucket = scope.buckets[name]
        if bucket.shadow and units > bucket.level:
            bucket.shadowed += 1
        else:
            bucket.level = bucket.level - units


def settle(scope: Scope, charged: Mapping[str, float], actual: Mapping[str, float], now: float) -> bool:
    """Replace the estimate by the actual, end what is in flight; answers whether anything came back."""
    flow.refill(scope, now)
    freed = False
    for name, units in charged.items():
        bucket = scope.buckets[name]
        if bucket.kind is Kind.IN_FLIGHT:
            flow.pour(bucket, units)
            freed = True
            continue
        back = units - actual.get(name, actual.get(unit_of(name), units))
        if back != 0:
            flow.pour(bucket, back)
            freed = freed or back > 0
    return freed
