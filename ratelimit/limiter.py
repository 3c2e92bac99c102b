"""The limiter: what callers use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from ratelimit import events
from ratelimit.arithmetic import unit_of
from ratelimit.clock import Clock, MonotonicClock
from ratelimit.credit import Credit, Credits, Unfit
from ratelimit.endings import Endings
from ratelimit.errors import CostTooLarge, Denied, StoreLost, UnknownLimit
from ratelimit.line import Line
from ratelimit.outage import Outage, Posture, Shares
from ratelimit.permits import Permits, Use, ask_for, permit_of, upwards
from ratelimit.places import (
    Ask,
    Booking,
    ClockReading,
    Closed,
    Counters,
    Denial,
    LimitSnapshot,
    Origin,
    Outcome,
    Permit,
    Place,
    Snapshot,
)
from ratelimit.quota import Cost, Quota
from ratelimit.store import RedisStore, Store
from ratelimit.verdicts import Gone, Late, Ready

__all__ = [
    "ClockReading",
    "Closed",
    "Counters",
    "Denial",
    "LimitSnapshot",
    "Limiter",
    "Permit",
    "Place",
    "Snapshot",
    "Use",
]


LINES = 4096
"""So many scopes are remembered while nobody asks for them: each tenant may have one."""

Holder = TypeVar("Holder", Place, Permit)


class Limiter(Endings):
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
        posture: Posture = Posture.PAUSE,
        safety: float = 0.5,
        credit_window: int = 0,
        clock: Clock | None = None,
    ) -> None:
        """Args:
        store: shared state. It stays open when the limiter closes.
        quotas: by scope.
        observer: told of everything that happens; must not block or raise.
        posture: what happens while the store does not answer.
        safety: share (0-1) of the quotas that all processes together use meanwhile, with the posture `degrade`.
        credit_window: places booked ahead for calls without a key that all cost the same (see `ratelimit.credit`).
        clock: local time, for tests.

        Raises:
            BadQuota: the quotas contradict each other, or a number is out of bounds.
        """
        self._clock = clock or MonotonicClock()
        super().__init__(store, quotas, observer, self._clock)
        self._permits = Permits()
        self._outage = Outage(Shares(safety)) if posture is Posture.DEGRADE else None
        self._credits = Credits(
            self._clock, credit_window, self._line, lambda *booked: self._give_back(self._permits.place(*booked))
        )
        self._owns_store = False

    @classmethod
    def from_url(cls, url: str, quotas: Mapping[str, Quota], **more: Any) -> Self:
        """A limiter with a store of its own, which it closes. Connects with the first call.

        Args:
            url: as for `RedisStore.from_url`.
            quotas: by scope.
            more: as for the limiter itself.

        Raises:
            ValueError: it is no such URL.
            BadQuota: the quotas contradict each other.
        """
        limiter = cls(RedisStore.from_url(url), quotas, **more)
        limiter._owns_store = True
        return limiter

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the background tasks; whoever still waits gets `StoreLost`."""
        await self._credits.aclose()
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.aclose()
        await self._leases.aclose()
        if self._outage is not None:
            await self._outage.aclose()
        await asyncio.gather(*self._returns, return_exceptions=True)
        if self._owns_store:
            await self._store.aclose()

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
            return self._held(self._permits.place(scope, booking, ask))
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
        away = self._outage is not None and self._outage.lasts
        booking = self._credits.take(scope, ask) if key is None and not away else None
        if booking is not None:
            self._tell_granted(self._line(scope), 0.0)
            return self._permits.bound(scope, booking, ask, 0.0)
        if self._outage is None:
            return await self._acquire(scope, ask)
        began = self._clock.time()
        if not self._outage.lasts:
            self._outage.uses(self._chains.of(scope)[self._chains.counted(scope) :], self._store)
            try:
                return await self._acquire(scope, ask)
            except StoreLost:
                self._outage.began()
        left = timedelta(seconds=max(0.0, ask.max_wait - (self._clock.time() - began)))
        closed_s, cause = self._line(scope).closed_s()
        if closed_s > left.total_seconds():
            # what was closed when the store was last heard stays closed
            raise Denied(upwards(closed_s), scope, cause)
        permit = self._permits.local(scope, ask)
        await self._outage.grant(self._quotas_of(scope), ask.cost, left, self._line(scope).rates(), permit.id)
        permit.waited = timedelta(seconds=self._clock.time() - began)
        self._tell(events.Degraded(scope=self._line(scope).label))
        return permit

    async def _acquire(self, scope: str, ask: Ask) -> Permit:
        key, asker, hold, cost = ask.key, ask.asker, ask.hold, ask.cost
        deadline: float | None = None
        line = self._line(scope)
        credit = self._credits.of(scope, ask)
        if credit is not None:
            with suppress(Unfit):
                return await self._from_window(credit, scope, ask)
        first_at: float | None = None
        while True:
            booking = await self._book(scope, ask)
            if booking.outcome is not Outcome.TAKEN:
                raise Denied(upwards(booking.wait), scope, booking.limit)
            if booking.wait == 0 and booking.origin is Origin.BOOKED and first_at is None:
                # due at once, by the very answer that has just come
                self._tell_granted(line, 0.0)
                return self._held(self._permits.bound(scope, booking, ask, 0.0))
            if deadline is None:
                deadline = self._clock.time() + ask.max_wait
            first_at = booking.first_at if first_at is None else min(first_at, booking.first_at)
            place = self._held(self._permits.place(scope, booking, ask))
            try:
                verdict = await line.wait(booking, deadline)
            except asyncio.CancelledError:
                await asyncio.shield(self._give_back(place))
                raise
            match verdict:
                case Ready(now=now):
                    waited = max(0.0, now - first_at)
                    self._tell_granted(line, waited)
                    return self._held(permit_of(place, waited))
                case Late(wait=wait, limit=limit) if not (hold and key is not None):
                    await self._end(place)
                    self._tell(events.Denied(scope=line.label, limit=limit, retry_after_s=wait, held=False))
                    raise Denied(upwards(wait), scope, limit)
                case Late() | Gone():
                    # the store keeps the place for later or books it anew
                    left = max(0.0, deadline - self._clock.time())
                    ask = Ask(cost=cost, max_wait=left, hold=hold, key=key, asker=asker)

    async def _from_window(self, credit: Credit, scope: str, ask: Ask) -> Permit:
        line = self._line(scope)
        booking, waited = await credit.wait(self._clock.time() + ask.max_wait)
        self._note(line, booking, ask)
        if booking.outcome is not Outcome.TAKEN:
            raise Denied(upwards(booking.wait), scope, booking.limit)
        self._tell_granted(line, waited)
        return self._held(self._permits.bound(scope, booking, ask, waited))

    @asynccontextmanager
    async def using(
        self, scope: str, cost: Cost, *, max_wait: timedelta, key: str | None = None, asker: str = ""
    ) -> AsyncIterator[Use]:
        """Acquire for the length of a block. Arguments and errors as for `acquire`.

        The block says with `sent()` that the call leaves, and sets `actual` to what it has cost. A call that was never
        sent is given back; one that was sent and whose cost nobody has told keeps its estimate.
        """
        use = Use(await self.acquire(scope, cost, max_wait=max_wait, key=key, asker=asker))
        try:
            yield use
        finally:
            await self.end(use)

    async def _book(self, scope: str, ask: Ask) -> Booking:
        line = self._line(scope)
        answer = line.ask(ask)
        try:
            booking = await answer
        except asyncio.CancelledError:
            line.left(ask, answer)
            raise
        if booking.outcome is Outcome.TAKEN and line.label != scope:
            # a gate looks at the scope that the provider counts by
            self._line(line.label).learn(booking.parts[line.scopes.index(line.label) :])
        self._note(line, booking, ask)
        return booking

    def _note(self, line: Line, booking: Booking, ask: Ask) -> None:
        """Tell of a booking.

        Raises:
            UnknownLimit: the cost names a limit that the quota does not have.
            CostTooLarge: no amount of waiting would help.
        """
        scope = line.scopes[0]
        if booking.outcome is Outcome.TAKEN and self._observer is None:
            return
        match booking.outcome:
            case Outcome.UNKNOWN:
                raise UnknownLimit(f"{scope}: no limit of the quota counts {booking.limit!r}")
            case Outcome.TOO_LARGE:
                raise CostTooLarge(f"{scope}: {self._too_large(scope, booking.limit)}")
            case Outcome.TAKEN:
                if booking.origin in (Origin.BOOKED, Origin.REBOOKED):
                    rebooked = booking.origin is Origin.REBOOKED
                    self._tell(events.Booked(scope=line.label, wait_s=booking.wait, rebooked=rebooked))
                    self._tell_shadowed(line, booking, ask)
            case Outcome.HELD | Outcome.DENIED:
                held = booking.outcome is Outcome.HELD
                self._tell(events.Denied(scope=line.label, limit=booking.limit, retry_after_s=booking.wait, held=held))

    def _too_large(self, scope: str, limit: str) -> str:
        name, _, outer = limit.partition("@")
        line = self._line(scope)
        dial = line.dials(line.scopes.index(outer) if outer else 0).get(name)
        most = "" if dial is None else f": at most {dial.burst:g} at once"
        return f"{limit} can never grant so much{most}"

    def _line(self, scope: str) -> Line:
        line = self._lines.get(scope)
        if line is None:

            def give_back(booking: Booking, ask: Ask) -> None:
                self._give_back(self._permits.place(scope, booking, ask))

            chain = self._chains.of(scope)
            patient = self._outage is None
            line = Line(chain, self._store, self._clock, lambda: self._seed(chain), give_back, patient=patient)
            line.label = chain[self._chains.counted(scope)]
            if len(self._lines) >= LINES:
                self._lines = {name: kept for name, kept in self._lines.items() if not kept.idle}
            self._lines[scope] = line
        return line

    def _held(self, holder: Holder) -> Holder:
        if any(part.lease for part in holder.parts):
            self._leases.track(holder, self._line(holder.scope).lease_s())
        return holder

    def _tell_shadowed(self, line: Line, booking: Booking, ask: Ask) -> None:
        for i, part in enumerate(booking.parts):
            for name, dial in line.dials(i).items():
                units = ask.cost.get(name, ask.cost.get(unit_of(name), 0.0))
                if dial.shadow and units > 0 and name not in part.cost:
                    self._tell(events.Shadowed(scope=line.label if i == 0 else line.scopes[i], limit=name))

    def _tell_granted(self, line: Line, waited: float) -> None:
        if self._observer is not None:
            self._observer(events.Granted(scope=line.label, waited_s=waited))
