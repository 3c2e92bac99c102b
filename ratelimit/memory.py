"""The store's protocol over the model: one process, nothing shared, nothing kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ratelimit.estimates import Learnt
from ratelimit.headers import Observed
from ratelimit.model import Model
from ratelimit.places import SILENCE, Ask, Claim, ClockReading, Closed, Readings, Rejection, Snapshot
from ratelimit.quota import Change, Quota
from ratelimit.state import Record
from ratelimit.store import ACTIONS, Answer

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
        self._learnt: dict[tuple[str, str], Learnt] = {}
        self._live: dict[str, dict[str, float]] = {}
        self._before: dict[str, tuple[Quota, float]] = {}

    def book(self, scopes: Sequence[str], asks: Sequence[Ask], answer: Answer, *, now: float | None = None) -> None:
        """Take places in line, in order; each is charged to every limit or to none. `answer` is called once."""
        answer(self.model.reserve(scopes, asks, now=self._now(now)))

    async def clock(self, scopes: Sequence[str], *, now: float | None = None) -> Readings | None:
        """Refill and read the clocks of a chain."""
        return self.model.clock(scopes, now=self._now(now))

    async def settle(
        self,
        scopes: Sequence[str],
        claim: Claim,
        *,
        actual: Mapping[str, float],
        observed: Mapping[str, Observed] = SILENCE,
        heard: int = 0,
        now: float | None = None,
    ) -> tuple[str, Readings | None]:
        """Replace the estimate by the actual, once; then observe."""
        return self.model.settle(scopes, claim, actual=actual, observed=observed, heard=heard, now=self._now(now))

    async def observe(
        self, scope: str, *, told: Mapping[str, Observed], now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Take note of what the provider says is left; answers whether that is less than was thought."""
        return self.model.observe(scope, told=told, now=self._now(now))

    async def cancel(
        self, scopes: Sequence[str], claim: Claim, *, now: float | None = None
    ) -> tuple[str, Readings | None]:
        """Give a place back, once."""
        return self.model.cancel(scopes, claim, now=self._now(now))

    async def renew(
        self, scope: str, leases: Sequence[int], *, now: float | None = None
    ) -> tuple[int, ClockReading | None]:
        """Keep leases of calls that are in flight; answers how many of them were there."""
        return self.model.renew(scope, leases, now=self._now(now))

    async def learnt(self, scope: str, role: str) -> Learnt | None:
        """What is known of what calls of a role use."""
        found = self._learnt.get((scope, role))
        return None if found is None else replace(found)

    async def learn(
        self, scope: str, role: str, *, characters: float, input_tokens: float, output_tokens: float
    ) -> Learnt:
        """Take note of what a call has used; answers what is known since."""
        found = self._learnt.setdefault((scope, role), Learnt(output=0.0))
        found.learn(characters, input_tokens, output_tokens)
        return replace(found)

    async def present(self, scope: str, process: str, within_s: float, *, now: float | None = None) -> int:
        """Say that a process uses the scope; answers how many have said so within so many seconds."""
        at = self._now(now)
        seen = self._live.setdefault(scope, {})
        seen[process] = at
        self._live[scope] = {one: last for one, last in seen.items() if last >= at - within_s}
        return len(self._live[scope])

    async def cool_down(
        self, scope: str, rejection: Rejection, *, now: float | None = None
    ) -> tuple[bool, float, ClockReading | None]:
        """Close the scope for a while; answers whether the pace was cut, and for how many seconds it is closed."""
        return self.model.cool_down(scope, rejection, now=self._now(now))

    async def close(
        self, scope: str, cause: Closed, *, by: str = "", reason: str = "", now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope until somebody opens it, or open it; answers whether that is new."""
        done, reading = self.model.close(scope, cause, now=self._now(now))
        if done:
            self._note(self._changes[scope][0].quota, by, reason, ACTIONS[cause], None)
        return done, reading

    async def configure(
        self,
        quota: Quota,
        *,
        full: bool,
        seed: bool,
        expect: int | None = None,
        for_s: float | None = None,
        by: str = "",
        reason: str = "",
        now: float | None = None,
    ) -> bool:
        """Set the quota; with `seed` only if there is none, with `expect` only over that version."""
        at = self._now(now)
        if quota.scope in self.model.scopes:
            self.model.inspect(quota.scope, now=at)
        self._sync(quota.scope)
        before = self._changes[quota.scope][0].quota if quota.scope in self._changes else quota
        done = self.model.configure(quota, full=full, seed=seed, expect=expect, for_s=for_s, now=at)
        if done:
            scope = self.model.scopes[quota.scope]
            if scope.ends == 0:
                self._before.pop(quota.scope, None)
            else:
                self._before[quota.scope] = (self._before.get(quota.scope, (before, 0.0))[0], scope.ends)
            self._note(quota, by, reason, "set", for_s)
        return done

    async def quota(self, scope: str) -> Quota | None:
        """The quota in force."""
        self._sync(scope)
        found = self._changes.get(scope)
        return found[0].quota if found else None

    async def changes(self, scope: str, limit: int) -> list[Change]:
        """Changes of the quota, newest first."""
        self._sync(scope)
        return self._changes.get(scope, [])[:limit]

    def _sync(self, scope: str) -> None:
        # a quota that was set for a while has ended by itself
        kept = self.model.scopes.get(scope)
        if kept is not None and kept.ends == 0 and scope in self._before:
            quota, at = self._before.pop(scope)
            ended = Change(at=at, version=kept.version, by="", reason="", quota=quota, action="end")
            self._changes[scope].insert(0, ended)

    def _note(self, quota: Quota, by: str, reason: str, action: str, for_s: float | None) -> None:
        scope = self.model.scopes[quota.scope]
        changed = Change(
            at=scope.at, version=scope.version, by=by, reason=reason, quota=quota, action=action, for_s=for_s
        )
        self._changes.setdefault(quota.scope, []).insert(0, changed)

    async def places(self, scope: str, limit: int) -> dict[str, Record]:
        """Places that are held or taken under a key, by the key; in no order, `limit` at most."""
        found = {key: record for (one, key), record in self.model.places.items() if one == scope and record.mode != "S"}
        return dict(list(found.items())[:limit])

    async def inspect(self, scope: str, *, now: float | None = None) -> Snapshot:
        """Look; leaves no trace in the counters."""
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
