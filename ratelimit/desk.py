"""What those who run a fleet do with a limiter: set, look, close, open."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from ratelimit import events
from ratelimit.arithmetic import unit_of
from ratelimit.chains import Chains
from ratelimit.errors import BadQuota, QuotaChanged, UnknownScope
from ratelimit.estimates import Learnt
from ratelimit.line import Line
from ratelimit.permits import upwards
from ratelimit.places import Booking, ClockReading, Closed, Origin, Outcome, Snapshot, Standing
from ratelimit.quota import Change, Quota, is_scope
from ratelimit.store import Store
from ratelimit.waits import expected


class Desk:
    """The part of a limiter that hands out no permits."""

    def __init__(
        self, store: Store, quotas: Mapping[str, Quota], observer: Callable[[events.Event], None] | None
    ) -> None:
        """Args:
        store: shared state.
        quotas: by scope.
        observer: told of everything that happens.
        """
        self._store = store
        self._chains = Chains(quotas)
        self._observer = observer
        self._lines: dict[str, Line] = {}
        self._learnt: dict[tuple[str, str], Learnt] = {}

    async def close(self, scope: str, cause: Closed = Closed.FROZEN, *, by: str = "", reason: str = "") -> bool:
        """Close the scope for the whole fleet until somebody opens it. Kept in `changes`.

        Args:
            scope: what the provider counts by.
            cause: somebody said so, or the provider wants money.
            by: who closes it.
            reason: why.

        Returns:
            Whether that is new.

        Raises:
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        done, reading = await self._store.close(scope, cause, by=by, reason=reason)
        if reading is None:
            await self._seed([scope])
            done, reading = await self._store.close(scope, cause, by=by, reason=reason)
        self._heard(scope, reading)
        if done:
            self._tell(events.Shut(scope=scope, cause=cause))
        return done

    async def open(self, scope: str, *, by: str = "", reason: str = "") -> bool:
        """Open a scope that was closed, and end its cooldown. Answers whether it was closed. Raises as `close`."""
        return await self.close(scope, Closed.NO, by=by, reason=reason)

    async def inspect(self, scope: str) -> Snapshot:
        """Look at a scope; leaves no trace in its counters.

        Raises:
            StoreLost: the store does not answer.
        """
        return await self._store.inspect(scope)

    async def configure(
        self,
        quota: Quota,
        *,
        full: bool = False,
        expect: int | None = None,
        for_: timedelta | None = None,
        by: str = "",
        reason: str = "",
    ) -> None:
        """Set a scope's quota for every process; levels stay as they are. The change is kept in `changes`.

        Args:
            quota: takes effect with the very next call of any process.
            full: limits that are new start with a full burst instead of cold. Only where nothing was spent yet.
            expect: the version that must be in force, as `inspect` tells it; None: any.
            for_: afterwards the quota before it is back; None: for good.
            by: who changes it.
            reason: why.

        Raises:
            BadQuota: `for_` is not above 0.
            QuotaChanged: another version than `expect` is in force; nothing was set.
            StoreLost: the store does not answer.
        """
        for_s = None if for_ is None else for_.total_seconds()
        if for_s is not None and for_s <= 0:
            raise BadQuota(f"{quota.scope}: for_ is {for_s:g} s: must be above 0")
        if not await self._store.configure(
            quota, full=full, seed=False, expect=expect, for_s=for_s, by=by, reason=reason
        ):
            version = (await self._store.inspect(quota.scope)).version
            raise QuotaChanged(f"{quota.scope}: version {version} is in force, not {expect}: look again, then decide")
        self._chains.set(quota)

    async def seed(self, quota: Quota, *, by: str = "") -> bool:
        """Set a scope's quota unless it has one. Answers whether it was set.

        Raises:
            StoreLost: the store does not answer.
        """
        self._chains.set(quota, over=False)
        return await self._store.configure(quota, full=quota.starts_full, seed=True, by=by)

    async def quota(self, scope: str) -> Quota | None:
        """The quota in force; None if the store knows none.

        Raises:
            StoreLost: the store does not answer.
        """
        return await self._store.quota(scope)

    async def changes(self, scope: str, limit: int = 20) -> list[Change]:
        """Who set the scope's quota to what and why, newest first.

        Raises:
            StoreLost: the store does not answer.
        """
        return await self._store.changes(scope, limit)

    async def standing(self, scope: str, most: int = 1000) -> list[Standing]:
        """Who stands in line under a key, first to start first. Walks the store's keys: for people, not for programs.

        Args:
            scope: what the provider counts by.
            most: so many places are looked at.

        Raises:
            StoreLost: the store does not answer.
        """
        chain = self._chains.of(scope)
        readings = await self._store.clock(chain)
        if readings is None:
            return []
        found = []
        for key, record in (await self._store.places(scope, most)).items():
            if len(record.parts) != len(chain):
                continue
            booking = Booking(Outcome.TAKEN, Origin.SAME, 0.0, "", parts=record.parts)
            wait, limit = expected(chain, booking, readings)
            if wait > 0:
                found.append(
                    Standing(
                        key=key,
                        wait=upwards(wait),
                        limit=limit,
                        since=record.first_at,
                        held=record.mode == "H",
                        cost=record.parts[0].cost,
                    )
                )
        return sorted(found, key=lambda one: one.wait)

    def counts(self, scope: str) -> frozenset[str]:
        """What a cost in the scope may name: its limits and what they count, and those of the scopes around it.

        Empty for a scope that has no quota: it is not limited.
        """
        chain = self._chains.of(scope)
        names = {name for one in chain if (quota := self._chains.quota(one)) for name in quota.limits}
        line = self._lines.get(scope)
        if line is not None:
            # limits that were set live
            names.update(name for i in range(len(chain)) for name in line.dials(i))
        return frozenset(names | {unit_of(name) for name in names})

    def counted(self, scope: str) -> str:
        """The scope around this one, or itself, that the provider counts by: a tenant's share is only ours."""
        return self._chains.of(scope)[self._chains.counted(scope)]

    def share_of(self, scope: str, tenant: str) -> str:
        """The scope that a tenant's calls are charged to: its own share, if tenants have one."""
        share = f"{scope}/{tenant}"
        return share if is_scope(share) and self._chains.quota(share) is not None else scope

    def _quotas_of(self, scope: str) -> dict[str, Quota]:
        """Those of the scope and of the scopes around it, innermost first; empty if it has none."""
        return {one: quota for one in self._chains.of(scope) if (quota := self._chains.quota(one)) is not None}

    async def _seed(self, scopes: Sequence[str]) -> None:
        for scope in scopes:
            quota = self._chains.quota(scope)
            if quota is None:
                raise UnknownScope(f"{scope}: no quota is configured")
            if quota.passing:
                # the template may have been changed since
                template = await self._store.quota(f"{scope.rpartition('/')[0]}/*")
                quota = quota if template is None else template.of(scope)
            await self._store.configure(quota, full=quota.starts_full, seed=True)

    def _heard(self, scope: str, reading: ClockReading | None) -> None:
        for line in self._lines.values():
            line.hear(scope, reading)

    def _tell(self, event: events.Event) -> None:
        if self._observer is not None:
            self._observer(event)
