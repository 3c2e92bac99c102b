"""The store's protocol over the model: one process, nothing shared, nothing kept."""

import time
from collections.abc import Callable, Mapping, Sequence

from ratelimit.model import Model
from ratelimit.places import NOTHING, Ask, ClockReading, Snapshot
from ratelimit.quota import Change, Quota
from ratelimit.store import Answer

KEPT_S = 600.0
"""How long it is remembered that a permit is settled."""


class MemoryStore:
    """State in memory, for tests and for a fleet of one process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Args:
        clock: seconds since the epoch.
        """
        self.model = Model()
        self._clock = clock
        self._swept_at = clock()
        self._changes: dict[str, list[Change]] = {}

    def book(self, scope: str, asks: Sequence[Ask], answer: Answer, *, now: float | None = None) -> None:
        """Take places in line, in order; each is charged to every limit or to none. `answer` is called once."""
        answer(self.model.reserve(scope, asks, now=self._now(now)))

    async def clock(self, scope: str, *, now: float | None = None) -> ClockReading | None:
        """Refill and read the clock."""
        return self.model.clock(scope, now=self._now(now))

    async def settle(
        self,
        scope: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        actual: Mapping[str, float],
        observed: Mapping[str, float] = NOTHING,
        now: float | None = None,
    ) -> tuple[str, ClockReading | None]:
        """Replace the estimate by the actual, once; then observe."""
        return self.model.settle(
            scope,
            permit=permit,
            key=key,
            generation=generation,
            booked_at=booked_at,
            cost=cost,
            actual=actual,
            observed=observed,
            now=self._now(now),
        )

    async def observe(
        self, scope: str, *, remaining: Mapping[str, float], now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Take note of what the provider says is left; answers whether that is less than was thought."""
        return self.model.observe(scope, remaining=remaining, now=self._now(now))

    async def cancel(
        self,
        scope: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        now: float | None = None,
    ) -> tuple[str, ClockReading | None]:
        """Give a place back, once."""
        return self.model.cancel(
            scope, permit=permit, key=key, generation=generation, booked_at=booked_at, cost=cost, now=self._now(now)
        )

    async def cool_down(
        self, scope: str, *, for_s: float, epoch: int | None, cut: bool, now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope for a while; answers whether the pace was cut."""
        return self.model.cool_down(scope, for_s=for_s, epoch=epoch, cut=cut, now=self._now(now))

    async def configure(
        self,
        quota: Quota,
        *,
        full: bool,
        seed: bool,
        expect: int | None = None,
        by: str = "",
        reason: str = "",
        now: float | None = None,
    ) -> bool:
        """Set the quota; with `seed` only if there is none, with `expect` only over that version."""
        done = self.model.configure(quota, full=full, seed=seed, expect=expect, now=self._now(now))
        if done:
            scope = self.model.scopes[quota.scope]
            changed = Change(at=scope.at, version=scope.version, by=by, reason=reason, quota=quota)
            self._changes.setdefault(quota.scope, []).insert(0, changed)
        return done

    async def quota(self, scope: str) -> Quota | None:
        """The quota in force."""
        found = self._changes.get(scope)
        return found[0].quota if found else None

    async def changes(self, scope: str, limit: int) -> list[Change]:
        """Changes of the quota, newest first."""
        return self._changes.get(scope, [])[:limit]

    async def inspect(self, scope: str, *, now: float | None = None) -> Snapshot:
        """Look without touching."""
        return self.model.inspect(scope, now=self._now(now))

    async def ping(self) -> None:
        """Memory answers."""

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _now(self, given: float | None) -> float:
        if given is not None:
            return given
        now = self._clock()
        if now - self._swept_at > KEPT_S:
            self._swept_at = now
            self.model.forget(before=now - KEPT_S)
        return now
