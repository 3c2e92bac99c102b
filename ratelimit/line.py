"""One scope's line within one process: asks that travel together, waiters, and a copy of the clock."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ratelimit.arithmetic import bound_by
from ratelimit.clock import Clock
from ratelimit.errors import StoreLost
from ratelimit.places import Ask, Booking, Bookings, ClockReading, Dial, Kind, Outcome, Part, Readings
from ratelimit.store import Store, reserve
from ratelimit.verdicts import Gone, Late, Ready, Verdict
from ratelimit.waits import expected, expired, wait_of

T = TypeVar("T")

TICK_S = 0.25
"""While anyone waits, the clock is read at least this often."""
SHORTEST_S = 0.002
"""And at most this often."""
HELD_BACK_S = 0.05
"""Where the clock is read so soon anyway, asks wait for it and travel along: one call instead of two."""
LONGEST_LEASE_S = 60.0
"""How often a lease is renewed at least, whoever knows how long it lasts."""
WATCHED_S = 1.0
"""A place whose clock was read this lately has not been forgotten, however far a refund has moved the clock."""
BATCH = 1000
"""Most reservations of one script call."""


@dataclass(eq=False, slots=True)
class _Waiter:
    booking: Booking
    deadline: float
    verdict: asyncio.Future[Verdict]


class Line:
    """Asks and waits on behalf of all tasks of a process."""

    def __init__(
        self,
        scopes: tuple[str, ...],
        store: Store,
        clock: Clock,
        seed: Callable[[], Awaitable[None]],
        give_back: Callable[[Booking, Ask], None],
        *,
        patient: bool = True,
    ) -> None:
        """Args:
        scopes: whose line it is: a chain, innermost first.
        store: where the places are booked.
        clock: local time.
        seed: configures the scopes in a store that does not know them.
        give_back: takes a place whose asker was cancelled before the answer came.
        patient: places outlive a short outage of the store; else those who wait are told of it at once.
        """
        self.scopes = scopes
        self.label = scopes[0]
        """The scope that events name: without number are only those of tenants, and their events name the model's."""
        self._store = store
        self._clock = clock
        self._seed = seed
        self._give_back = give_back
        self._patient = patient
        self.readings: Readings | None = None
        """The clocks by the last answer."""
        self.read_at = 0.0
        """When that came, by the local clock."""
        self.stale = False
        """One scope of the chain has been closed or slowed since: the clocks are no longer what they were."""
        self.on_refresh: Callable[[], None] | None = None
        """Is told of every answer."""
        self._soonest = TICK_S
        self._per_call_s = 0.0
        self._asks: list[tuple[Ask, asyncio.Future[Booking]]] = []
        self._flight: list[tuple[Ask, asyncio.Future[Booking]]] | None = None
        self._last_size = 0
        self._leaving = False
        self._closed = False
        self._seeding: asyncio.Task[None] | None = None
        self._waiters: list[_Waiter] = []
        self._watcher: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    def ask(self, ask: Ask) -> asyncio.Future[Booking]:
        """Reserve; asks that come while a call is in flight travel in the next one, in order.

        Whoever stops waiting for the answer says so with `left`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Booking] = loop.create_future()
        self._asks.append((ask, answer))
        if self._flight is None and not self._leaving and not self._looks_soon():
            if self._last_size > 1:
                # where many ask they ask in the same turn of the loop: they travel together
                self._leaving = True
                loop.call_soon(self._depart)
            else:
                self._depart()
        return answer

    def left(self, ask: Ask, answer: asyncio.Future[Booking]) -> None:
        """The asker was cancelled: what it was given goes back, also if it is given only later."""
        # the answer may have come in the same turn of the loop as the cancellation
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            self._drop(answer.result(), ask)
        answer.cancel()

    async def wait(self, booking: Booking, deadline: float) -> Verdict:
        """Wait for an answer of the store by which the place may start, or never will in time."""
        waiter = _Waiter(booking, deadline, asyncio.get_running_loop().create_future())
        if self.readings is not None:
            self._judge(waiter, self.readings, watched=True)
        if not waiter.verdict.done():
            self._waiters.append(waiter)
            self._woken.set()
            if self._watcher is None:
                self._watcher = asyncio.create_task(self._watch())
        try:
            return await waiter.verdict
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._woken.set()

    async def read(self) -> Readings:
        """Ask the store for the clocks.

        Raises:
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        readings = await self._seeded(lambda: self._store.clock(self.scopes))
        self.refresh(readings)
        return readings

    async def book(self, asks: Sequence[Ask]) -> Sequence[Booking]:
        """Reserve in one call, on behalf of nobody in particular. Raises as `read`."""
        found = await self._seeded(lambda: reserve(self._store, self.scopes, asks))
        self.refresh(found.readings)
        if found.bookings[0].outcome is Outcome.TAKEN:
            self.learn(found.bookings[0].parts)
        return found.bookings

    async def _seeded(self, ask: Callable[[], Awaitable[T | None]]) -> T:
        """Ask; if the store does not know the scope, tell it and ask again."""
        answer = await ask()
        if answer is None:
            await self._seed()
            answer = await ask()
        if answer is None:
            raise self._forgotten()
        return answer

    def _forgotten(self) -> StoreLost:
        return StoreLost(f"{self.scopes[0]}: the store forgets its configuration")

    def dials(self, i: int = 0) -> Mapping[str, Dial]:
        """The clocks of one scope's limits by the last answer; empty before the first."""
        return self.readings[i].dials if self.readings is not None else {}

    @property
    def idle(self) -> bool:
        """Nobody asks, nobody waits."""
        return not (self._asks or self._flight or self._waiters or self._seeding or self._watcher)

    def closed_s(self) -> tuple[float, str]:
        """For how long the chain is closed by the last answer, however old, and by what."""
        readings = self.readings or ()
        since = self._clock.time() - self.read_at
        longest, cause = 0.0, "cooldown"
        for reading in readings:
            left = reading.closed_for - since
            if left > longest:
                longest, cause = left, bound_by(None, reading.closed)
        return longest, cause

    def ahead_s(self, fresh_s: float) -> float | None:
        """Seconds until a call that asks now may start, by an answer at most `fresh_s` old; None without one."""
        if self.readings is None or self._clock.time() - self.read_at > fresh_s:
            return None
        owed = [
            # what is in flight is counted in whole calls
            {
                name: max(0.0, (dial.kind is Kind.IN_FLIGHT) - dial.level)
                for name, dial in reading.dials.items()
                if not dial.shadow
            }
            for reading in self.readings
        ]
        return wait_of(self.scopes, self.readings, owed)[0]

    @property
    def per_call_s(self) -> float:
        """Seconds of the quota that a call has spent of late."""
        return self._per_call_s

    def learn(self, parts: Sequence[Part]) -> None:
        """Take note of what a call is charged, in each scope of the chain."""
        if self.readings is None:
            return
        spent = 0.0
        for part, reading in zip(parts, self.readings, strict=True):
            for name, units in part.cost.items():
                dial = reading.dials.get(name)  # the quota may have lost the limit since
                if dial is not None:
                    spent = max(spent, units / dial.rate)
        self._per_call_s += 0.1 * (spent - self._per_call_s)

    def rates(self) -> dict[tuple[str, str], float]:
        """Units per second of each scope's limits, by the last answer."""
        return {
            (scope, name): dial.rate * reading.pace
            for scope, reading in zip(self.scopes, self.readings or (), strict=False)
            for name, dial in reading.dials.items()
        }

    def lease_s(self) -> float:
        """How long what is in flight is held without renewal, by the last answer."""
        periods = [
            dial.period
            for reading in self.readings or ()
            for dial in reading.dials.values()
            if dial.kind is Kind.IN_FLIGHT
        ]
        return min(periods, default=LONGEST_LEASE_S)

    def hear(self, scope: str, reading: ClockReading | None) -> None:
        """Take the clock of an answer about one scope of the chain."""
        if reading is None or self.readings is None or scope not in self.scopes:
            return
        if len(self.scopes) == 1:
            self.refresh((reading,))
            return
        last = self.readings[self.scopes.index(scope)]
        if reading.closed_for > last.closed_for or reading.pace < last.pace:
            # of the others nothing new is known: whoever waits looks at all of them now
            self.stale = True
            self._woken.set()
            if self.on_refresh is not None:
                self.on_refresh()

    def refresh(self, readings: Readings | None) -> None:
        """Take the clocks of any answer, and call up those who are due."""
        if readings is None:
            return
        self.stale = False
        last = self.readings
        watched = False
        if last is not None:
            same = all(old.born == new.born for old, new in zip(last, readings, strict=True))
            if same and any(new.now < old.now for old, new in zip(last, readings, strict=True)):
                # answers of two connections may overtake each other; one that is behind is no reason to ask at once
                self.read_at, self._soonest = self._clock.time(), TICK_S
                return
            watched = same and readings[0].now - last[0].now < WATCHED_S
        self.readings = readings
        self.read_at = self._clock.time()
        self._soonest = TICK_S
        for waiter in self._waiters:
            self._judge(waiter, readings, watched)
        self._waiters = [w for w in self._waiters if not w.verdict.done()]
        self._woken.set()
        if self.on_refresh is not None:
            self.on_refresh()

    async def aclose(self) -> None:
        """End the background tasks; whoever still waits gets `StoreLost`."""
        self._closed = True
        tasks = [task for task in (self._seeding, self._watcher) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closed = StoreLost(f"{self.scopes[0]}: the limiter is closed")
        for _, answer in (self._flight or []) + self._asks:
            if not answer.done():
                answer.set_exception(closed)
        for waiter in self._waiters:
            if not waiter.verdict.done():
                waiter.verdict.set_exception(closed)

    def _judge(self, waiter: _Waiter, readings: Readings, watched: bool) -> None:
        if waiter.verdict.done():
            return
        booking = waiter.booking
        lost = any(booking.booked_at < reading.born for reading in readings)
        if lost or (not watched and expired(booking, readings)):
            waiter.verdict.set_result(Gone())
            return
        wait, limit = expected(self.scopes, booking, readings)
        if wait <= 0:
            waiter.verdict.set_result(Ready(readings[0].now))
            return
        self._soonest = min(self._soonest, wait)
        # when a call in flight ends is a guess: it makes nobody late
        firm, _ = expected(self.scopes, booking, readings, flights=False)
        if self._clock.time() + firm > waiter.deadline + TICK_S:
            waiter.verdict.set_result(Late(wait, limit))

    def _looks_soon(self) -> bool:
        return bool(self._waiters) and self._next_look() - self._clock.time() < HELD_BACK_S

    def _depart(self) -> None:
        self._leaving = True
        # a store in memory answers at once
        while self._asks and self._flight is None and not self._closed:
            batch = [(ask, answer) for ask, answer in self._asks[:BATCH] if not answer.done()]
            del self._asks[:BATCH]
            if batch:
                self._flight = batch
                self._last_size = len(batch)
                try:
                    self._store.book(self.scopes, [ask for ask, _ in batch], self._landed)
                except Exception as error:  # noqa: BLE001 - what cannot be asked must not keep others waiting
                    self._flight = None
                    self._refuse(batch, error)
        self._leaving = False

    def _landed(self, found: Bookings | StoreLost | None) -> None:
        batch, self._flight = self._flight or [], None
        if found is None and not self._closed:
            # the store does not know the scope: tell it, and ask again
            self._flight = batch
            self._seeding = asyncio.create_task(self._seed_and_book(batch))
            return
        self._deliver(batch, found)
        self._woken.set()
        if self._asks and not self._leaving and not self._looks_soon():
            self._depart()

    def _deliver(self, batch: list[tuple[Ask, asyncio.Future[Booking]]], found: Bookings | StoreLost | None) -> None:
        if isinstance(found, Bookings):
            self.refresh(found.readings)
            for (ask, answer), booking in zip(batch, found.bookings, strict=True):
                if not answer.done():
                    answer.set_result(booking)
                else:
                    self._drop(booking, ask)
            if found.bookings and found.bookings[-1].outcome is Outcome.TAKEN:
                self.learn(found.bookings[-1].parts)
            return
        self._refuse(batch, found or self._forgotten())

    @staticmethod
    def _refuse(batch: list[tuple[Ask, asyncio.Future[Booking]]], error: Exception) -> None:
        for _, answer in batch:
            if not answer.done():
                answer.set_exception(error)

    async def _seed_and_book(self, batch: list[tuple[Ask, asyncio.Future[Booking]]]) -> None:
        try:
            await self._seed()
            found = await reserve(self._store, self.scopes, [ask for ask, _ in batch])
            self._deliver(batch, found)
        except Exception as error:  # noqa: BLE001 - every asker is told
            self._refuse(batch, error)
        finally:
            self._flight = self._seeding = None
            if self._asks:
                self._depart()

    def _drop(self, booking: Booking, ask: Ask) -> None:
        if booking.outcome is Outcome.TAKEN:
            self._give_back(booking, ask)

    async def _watch(self) -> None:
        try:
            while self._waiters:
                pause = self._next_look() - self._clock.time()
                if self._flight is not None:
                    # its answer brings the clock
                    pause = max(pause, TICK_S)
                if pause > 0:
                    self._woken.clear()
                    await self._clock.wait(self._woken, pause)
                elif self._asks:
                    self._depart()
                else:
                    await self._look()
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting for a watcher that is gone
            for waiter in self._waiters:
                if not waiter.verdict.done():
                    waiter.verdict.set_exception(error)
            self._waiters = []
        finally:
            self._watcher = None
            if self._asks and self._flight is None and not self._leaving:
                self._depart()

    def _next_look(self) -> float:
        return self.read_at + (SHORTEST_S if self.stale else max(SHORTEST_S, self._soonest))

    async def _look(self) -> None:
        try:
            await self.read()
        except StoreLost as lost:
            # places outlive a short outage; those whose time is up are told
            now = self._clock.time()
            for waiter in self._waiters:
                if (now > waiter.deadline or not self._patient) and not waiter.verdict.done():
                    waiter.verdict.set_exception(StoreLost(str(lost)))
            self._waiters = [w for w in self._waiters if not w.verdict.done()]
            await self._clock.wait(asyncio.Event(), TICK_S)
