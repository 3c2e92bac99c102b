"""Every quota as it stands, as the limiter's store tells it."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from fleet.contracts.metrics import (
    QUOTA_BURST,
    QUOTA_CLOSED,
    QUOTA_COOLDOWN,
    QUOTA_DENIALS,
    QUOTA_DRIFT,
    QUOTA_GRANTS,
    QUOTA_LEVEL,
    QUOTA_LINE,
    QUOTA_PACE,
    QUOTA_RATE,
    QUOTA_REJECTIONS,
)
from ratelimit.arithmetic import SLOWEST_PACE
from ratelimit.limiter import Limiter, LimitSnapshot, Snapshot
from ratelimit.places import Closed, Kind
from ratelimit.quota import MEAN_MONTH, Limit, Quota
from workers.exporter.looking import Sample

HEARD_WITHIN_S: Final = 3600.0
"""What the provider said longer ago may be no longer so: a limit that was raised since, a key that nobody uses."""
_CAUSES = {Closed.BILLING: "billing", Closed.FROZEN: "frozen"}


class Scopes:
    """Looks at scopes without a trace in their counters. A scope that the store does not know yet is not told."""

    def __init__(self, shared: Limiter, scopes: Sequence[str], *, clock: Callable[[], float] = time.time) -> None:
        """Args:
        shared: reaches the store.
        scopes: which.
        clock: Unix time, as the store's.
        """
        self._shared = shared
        self._scopes = scopes
        self._clock = clock

    async def look(self) -> list[Sample]:
        """Raises:
        StoreLost: the store does not answer.
        """
        rows = await asyncio.gather(*(self._of(scope) for scope in self._scopes))
        return [sample for row in rows for sample in row]

    async def _of(self, scope: str) -> list[Sample]:
        seen, quota = await asyncio.gather(self._shared.inspect(scope), self._shared.quota(scope))
        return [*_told(seen), *_granted(seen, quota, self._clock() - HEARD_WITHIN_S)] if seen.configured else []


def _told(seen: Snapshot) -> Iterator[Sample]:
    scope = (seen.scope,)
    for name, limit in seen.limits.items():
        yield Sample(QUOTA_RATE, (seen.scope, name), limit.rate)
        yield Sample(QUOTA_BURST, (seen.scope, name), limit.burst)
        yield Sample(QUOTA_LEVEL, (seen.scope, name), limit.level)
        if limit.kind is not Kind.IN_FLIGHT:
            yield Sample(QUOTA_LINE, (seen.scope, name), line_s(limit, seen.pace))
    yield Sample(QUOTA_PACE, scope, seen.pace)
    # a scope that is closed until somebody opens it has no end that could be told in seconds
    cooling = 0.0 if seen.closed is not Closed.NO else seen.closed_for.total_seconds()
    yield Sample(QUOTA_COOLDOWN, scope, cooling)
    for cause, name in _CAUSES.items():
        yield Sample(QUOTA_CLOSED, (seen.scope, name), float(seen.closed is cause))
    yield Sample(QUOTA_GRANTS, scope, seen.counters.grants)
    yield Sample(QUOTA_DENIALS, scope, seen.counters.denials)
    yield Sample(QUOTA_REJECTIONS, scope, seen.counters.rejections)


def line_s(limit: LimitSnapshot, pace: float) -> float:
    """Seconds until the last in line is due, by this limit alone; 0: nobody waits for it.

    Of a window, which returns all at once, it is by the mean rate, which no pace changes. Calls in flight have none:
    their rate is that of leases that nobody ends, not of calls.
    """
    if limit.shadow:
        return 0.0
    rate = limit.rate * max(pace, SLOWEST_PACE) if limit.kind is Kind.CONTINUOUS else limit.rate
    return max(0.0, limit.tail - limit.clock) / rate


def _granted(seen: Snapshot, quota: Quota | None, since: float) -> Iterator[Sample]:
    for name, heard in seen.heard.items():
        limit = quota.limits.get(name) if quota else None
        if limit is None or heard.granted is None or limit.kind is Kind.IN_FLIGHT or heard.at < since:
            continue
        # without a period the provider's count is taken to be of the configured one
        granted = heard.granted / (heard.period or _period_s(limit))
        yield Sample(QUOTA_DRIFT, (seen.scope, name), granted / (limit.capacity / _period_s(limit)))


def _period_s(limit: Limit) -> float:
    return (MEAN_MONTH if limit.kind is Kind.MONTHS else limit.period).total_seconds()
