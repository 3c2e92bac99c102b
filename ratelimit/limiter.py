"""The limiter: what callers use."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from ratelimit import events
from ratelimit.clock import Clock, MonotonicClock
from ratelimit.errors import BadCost, Denied, QuotaChanged, StoreLost, UnknownLimit, UnknownScope
from ratelimit.line import Gone, Late, Line, Ready
from ratelimit.permits import Permits, ask_for, permit_of, upwards
from ratelimit.places import (
    Ask,
    Booking,
    ClockReading,
    Counters,
    Denial,
    LimitSnapshot,
    Origin,
    Outcome,
    Permit,
    Place,
    Snapshot,
)
from ratelimit.quota import Change, Cost, Quota, check_cost
from ratelimit.store import Store

__all__ = [
    "ClockReading",
    "Counters",
    "Denial",
    "LimitSnapshot",
    "Limiter",
    "Permit",
    "Place",
    "Snapshot",
]


class Limiter:
    """Grants permits for scopes shared by every process that uses the same store.

    A permit is granted only if *every* limit of the quota can pay for it; a denial spends nothing. Safe to share
    between tasks of one event loop. Quotas live in the store: those given here seed a scope that the store does not
    know, and such a scope starts cold.
    """

    def __init__(
        self,
        store: Store,
        quotas: Mapping[str, Quota],
        *,
        observer: Callable[[events.Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Args:
        store: shared state. It stays open when the limiter closes.
        quotas: by scope.
        observer: told of everything that happens; must not block or raise.
        clock: local time, for tests.
        """
        self._store = store
        self._quotas = dict(quotas)
        self._observer = observer
        self._clock = clock or MonotonicClock()
        self._lines: dict[str, Line] = {}
        self._permits = Permits()
        self._returns: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the background tasks; whoever still waits gets `StoreLost`."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.aclose()
        await asyncio.gather(*self._returns, return_exceptions=True)

    async def reserve(
        self,
        scope: str,
        cost: Cost,
        *,
        max_wait: timedelta,
        key: str | None = None,
        asker: str = "",
        hold: bool = False,
    ) -> Place | Denial:
        """Take a place in line, without waiting for it.

        Args:
            scope: what the provider counts by.
            cost: what the call will spend, by limit.
            max_wait: longest wait worth taking the place for.
            key: asking again under the same key returns the same place and charges once.
            asker: names the attempt. A place taken by another asker may have been used and is booked anew.
            hold: keep a place under `key` even if its wait exceeds `max_wait`; the denial then says when to come back.

        Raises:
            CostTooLarge: no amount of waiting would help.
            BadCost: a cost is negative or not a number.
            UnknownScope: nobody configured the scope.
            UnknownLimit: the cost names a limit that the quota does not have.
            StoreLost: the store does not answer.
        """
        ask = ask_for(cost, max_wait, key, asker, hold=hold)
        booking = await self._book(scope, ask)
        if booking.outcome is Outcome.TAKEN:
            return self._permits.place(scope, booking, ask)
        return Denial(
            scope=scope,
            limit=booking.limit,
            retry_after=upwards(booking.wait),
            held=booking.outcome is Outcome.HELD,
        )

    async def acquire(
        self,
        scope: str,
        cost: Cost,
        *,
        max_wait: timedelta,
        key: str | None = None,
        asker: str = "",
        hold: bool = False,
    ) -> Permit:
        """Take a place in line and wait for it, at most `max_wait`. Arguments as for `reserve`.

        A caller that is cancelled gives its place back: the cost returns, the place in line is lost.

        Raises:
            Denied: the wait would exceed `max_wait`; nothing was spent, or with `hold` the place is kept;
                `retry_after` says when to come back.
            CostTooLarge: no amount of waiting would help.
            BadCost: a cost is negative or not a number.
            UnknownScope: nobody configured the scope.
            UnknownLimit: the cost names a limit that the quota does not have.
            StoreLost: the store does not answer.
        """
        ask = self._permits.plain(cost, max_wait) if key is None else ask_for(cost, max_wait, key, asker, hold=hold)
        deadline: float | None = None
        line = self._line(scope)
        first_at: float | None = None
        while True:
            booking = await self._book(scope, ask)
            if booking.outcome is not Outcome.TAKEN:
                raise Denied(upwards(booking.wait), scope, booking.limit)
            if booking.wait == 0 and booking.origin is Origin.BOOKED and first_at is None:
                # due at once, by the very answer that has just come
                self._tell_granted(scope, 0.0)
                return self._permits.at_once(scope, booking, ask)
            if deadline is None:
                deadline = self._clock.time() + ask.max_wait
            first_at = booking.first_at if first_at is None else min(first_at, booking.first_at)
            place = self._permits.place(scope, booking, ask)
            try:
                verdict = await line.wait(booking, deadline)
            except asyncio.CancelledError:
                await asyncio.shield(self._give_back(place))
                raise
            match verdict:
                case Ready(now=now):
                    waited = max(0.0, now - first_at)
                    self._tell_granted(scope, waited)
                    return permit_of(place, waited)
                case Late(wait=wait, limit=limit) if not (hold and key is not None):
                    await self._cancel(place)
                    self._tell(events.Denied(scope=scope, limit=limit, retry_after_s=wait, held=False))
                    raise Denied(upwards(wait), scope, limit)
                case Late() | Gone():
                    # the store keeps the place for later or books it anew
                    left = max(0.0, deadline - self._clock.time())
                    ask = Ask(cost=ask.cost, max_wait=left, hold=hold, key=key, asker=asker)

    async def settle(
        self, permit: Permit | Place, actual: Cost, observed: Cost | None = None, *, age: timedelta = timedelta(0)
    ) -> None:
        """Replace the estimate by the actual cost. Settling again changes nothing.

        Args:
            permit: what was granted.
            actual: by limit; a limit that is missing keeps its estimate.
            observed: units that the answer's headers say are left, by limit; as for `observe`, in the same call.
            age: how old that count may be: since the call was made. What may have come back meanwhile is added.

        Raises:
            BadCost: a cost is negative or not a number.
            StoreLost: the store does not answer; the estimate stands.
        """
        outcome, reading = await self._store.settle(
            permit.scope,
            permit=permit.id,
            key=permit.key,
            generation=permit.generation,
            booked_at=permit.booked_at,
            cost=permit.cost,
            actual=check_cost(actual),
            observed=self._aged(permit.scope, check_cost(observed or {}), age),
        )
        self._line(permit.scope).refresh(reading)
        if outcome == "done":
            self._tell(events.Settled(scope=permit.scope))

    async def observe(self, scope: str, remaining: Cost) -> bool:
        """Take note of what a provider's headers say is left: a count below ours lowers ours, never raises it.

        Everybody in line starts later by the same amount. Answers whether anything was lowered: somebody else uses
        the key, or an answer was charged more than was thought.

        Args:
            scope: what the provider counts by.
            remaining: units left, by limit; limits that the quota does not have are ignored.

        Raises:
            BadCost: a count is negative or not a number.
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        left = check_cost(remaining)
        lowered, reading = await self._store.observe(scope, remaining=left)
        if reading is None:
            await self._seed(scope)
            lowered, reading = await self._store.observe(scope, remaining=left)
        self._line(scope).refresh(reading)
        if lowered:
            self._tell(events.Lowered(scope=scope))
        return lowered

    async def cool_down(
        self, scope: str, *, retry_after: timedelta, permit: Permit | Place | None = None, cut: bool = True
    ) -> None:
        """Close the scope for the whole fleet because the provider said so. A cooldown is never shortened.

        Args:
            scope: what the provider counts by.
            retry_after: for how long, from now.
            permit: of the call that was rejected: many 429s of one burst cut the pace once.
            cut: also halve the pace, to recover with time.

        Raises:
            BadCost: `retry_after` is negative.
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        for_s = retry_after.total_seconds()
        if for_s < 0:
            raise BadCost(f"retry_after is {for_s:g} s: must be 0 or more")
        epoch = None if permit is None else permit.epoch
        done, reading = await self._store.cool_down(scope, for_s=for_s, epoch=epoch, cut=cut)
        if reading is None:
            await self._seed(scope)
            done, reading = await self._store.cool_down(scope, for_s=for_s, epoch=None, cut=cut)
        self._line(scope).refresh(reading)
        self._tell(events.Cooled(scope=scope, for_s=for_s, cut=done))

    async def clock(self, scope: str) -> ClockReading:
        """Read a scope's clock.

        Raises:
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        reading = await self._store.clock(scope)
        if reading is None:
            await self._seed(scope)
            reading = await self._store.clock(scope)
        if reading is None:
            raise StoreLost(f"{scope}: the store forgets its configuration")
        self._line(scope).refresh(reading)
        return reading

    async def inspect(self, scope: str) -> Snapshot:
        """Look at a scope without touching it.

        Raises:
            StoreLost: the store does not answer.
        """
        return await self._store.inspect(scope)

    async def configure(
        self, quota: Quota, *, full: bool = False, expect: int | None = None, by: str = "", reason: str = ""
    ) -> None:
        """Set a scope's quota for every process; levels stay as they are. The change is kept in `changes`.

        Args:
            quota: takes effect with the very next call of any process.
            full: limits that are new start with a full burst instead of cold. Only where nothing was spent yet.
            expect: the version that must be in force, as `inspect` tells it; None: any.
            by: who changes it.
            reason: why.

        Raises:
            QuotaChanged: another version than `expect` is in force; nothing was set.
            StoreLost: the store does not answer.
        """
        if not await self._store.configure(quota, full=full, seed=False, expect=expect, by=by, reason=reason):
            version = (await self._store.inspect(quota.scope)).version
            raise QuotaChanged(f"{quota.scope}: version {version} is in force, not {expect}: look again, then decide")
        self._quotas[quota.scope] = quota

    async def seed(self, quota: Quota, *, by: str = "") -> bool:
        """Set a scope's quota unless it has one. Answers whether it was set.

        Raises:
            StoreLost: the store does not answer.
        """
        self._quotas.setdefault(quota.scope, quota)
        return await self._store.configure(quota, full=False, seed=True, by=by)

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

    async def _book(self, scope: str, ask: Ask) -> Booking:
        line = self._line(scope)
        answer = line.ask(ask)
        try:
            booking = await answer
        except asyncio.CancelledError:
            line.left(ask, answer)
            raise
        if booking.outcome is Outcome.TAKEN and self._observer is None:
            return booking
        match booking.outcome:
            case Outcome.UNKNOWN:
                raise UnknownLimit(f"{scope}: the quota has no limit {booking.limit!r}")
            case Outcome.TAKEN:
                if booking.origin in (Origin.BOOKED, Origin.REBOOKED):
                    rebooked = booking.origin is Origin.REBOOKED
                    self._tell(events.Booked(scope=scope, wait_s=booking.wait, rebooked=rebooked))
            case Outcome.HELD | Outcome.DENIED:
                held = booking.outcome is Outcome.HELD
                self._tell(events.Denied(scope=scope, limit=booking.limit, retry_after_s=booking.wait, held=held))
        return booking

    def _line(self, scope: str) -> Line:
        line = self._lines.get(scope)
        if line is None:

            def give_back(booking: Booking, ask: Ask) -> None:
                self._give_back(self._permits.place(scope, booking, ask))

            line = Line(scope, self._store, self._clock, lambda: self._seed(scope), give_back)
            self._lines[scope] = line
        return line

    async def _seed(self, scope: str) -> None:
        quota = self._quotas.get(scope)
        if quota is None:
            raise UnknownScope(f"{scope}: no quota is configured")
        await self._store.configure(quota, full=False, seed=True)

    def _aged(self, scope: str, observed: dict[str, float], age: timedelta) -> dict[str, float]:
        dials = self._line(scope).dials()
        seconds = max(0.0, age.total_seconds())
        return {name: left + dials[name].rate * seconds for name, left in observed.items() if name in dials}

    def _give_back(self, place: Place) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._cancel(place))
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)
        return task

    async def _cancel(self, place: Place) -> None:
        try:
            outcome, reading = await self._store.cancel(
                place.scope,
                permit=place.id,
                key=place.key,
                generation=place.generation,
                booked_at=place.booked_at,
                cost=place.cost,
            )
        except StoreLost:
            return  # the cost stays charged, which is safe
        if outcome == "done":
            self._tell(events.Cancelled(scope=place.scope))
        line = self._lines.get(place.scope)
        if line is not None:
            line.refresh(reading)

    def _tell_granted(self, scope: str, waited: float) -> None:
        if self._observer is not None:
            self._observer(events.Granted(scope=scope, waited_s=waited))

    def _tell(self, event: events.Event) -> None:
        if self._observer is not None:
            self._observer(event)
