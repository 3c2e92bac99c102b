"""One scope's line within one process: asks that travel together, waiters, and a copy of the clock."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from ratelimit import arithmetic
from ratelimit.clock import Clock
from ratelimit.errors import StoreLost
from ratelimit.places import Ask, Booking, Bookings, ClockReading, Dial, Outcome
from ratelimit.store import Store, reserve

TICK_S = 0.25
"""While anyone waits, the clock is read at least this often."""
SHORTEST_S = 0.002
"""And at most this often."""
WATCHED_S = 1.0
"""A place whose clock was read this lately has not been forgotten, however far a refund has moved the clock."""
BATCH = 1000
"""Most reservations of one script call."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The place is due."""

    now: float
    """The store's instant."""


@dataclass(frozen=True, slots=True)
class Late:
    """The place will not be due before the deadline: the scope was closed or slowed."""

    wait: float
    limit: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The place has expired, or its state is lost: book anew."""


Verdict = Ready | Late | Gone


@dataclass(eq=False, slots=True)
class _Waiter:
    booking: Booking
    deadline: float
    verdict: asyncio.Future[Verdict]


class Line:
    """Asks and waits on behalf of all tasks of a process."""

    def __init__(
        self,
        scope: str,
        store: Store,
        clock: Clock,
        seed: Callable[[], Awaitable[None]],
        give_back: Callable[[Booking, Ask], None],
    ) -> None:
        """Args:
        scope: whose line it is.
        store: where the places are booked.
        clock: local time.
        seed: configures the scope in a store that does not know it.
        give_back: takes a place whose asker was cancelled before the answer came.
        """
        self._scope = scope
        self._store = store
        self._clock = clock
        self._seed = seed
        self._give_back = give_back
        self._reading: ClockReading | None = None
        self._read_at = 0.0
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
        if self._flight is None and not self._leaving:
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
        if self._reading is not None:
            self._judge(waiter, self._reading, watched=True)
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

    def dials(self) -> Mapping[str, Dial]:
        """The limits' clocks by the last answer; empty before the first."""
        return self._reading.dials if self._reading is not None else {}

    def refresh(self, reading: ClockReading | None) -> None:
        """Take the clock of any answer, and call up those who are due."""
        if reading is None:
            return
        last = self._reading
        if last is not None and last.born == reading.born and reading.now < last.now:
            return  # answers of two connections may overtake each other
        watched = last is not None and last.born == reading.born and reading.now - last.now < WATCHED_S
        self._reading = reading
        self._read_at = self._clock.time()
        for waiter in self._waiters:
            self._judge(waiter, reading, watched)
        self._waiters = [w for w in self._waiters if not w.verdict.done()]
        self._woken.set()

    async def aclose(self) -> None:
        """End the background tasks; whoever still waits gets `StoreLost`."""
        self._closed = True
        tasks = [task for task in (self._seeding, self._watcher) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closed = StoreLost(f"{self._scope}: the limiter is closed")
        for _, answer in (self._flight or []) + self._asks:
            if not answer.done():
                answer.set_exception(closed)
        for waiter in self._waiters:
            if not waiter.verdict.done():
                waiter.verdict.set_exception(closed)

    def _judge(self, waiter: _Waiter, reading: ClockReading, watched: bool) -> None:
        if waiter.verdict.done():
            return
        if waiter.booking.booked_at < reading.born or (not watched and _expired(waiter.booking, reading)):
            waiter.verdict.set_result(Gone())
            return
        wait, limit = expected(waiter.booking, reading)
        if wait <= 0:
            waiter.verdict.set_result(Ready(reading.now))
        elif self._clock.time() + wait > waiter.deadline + TICK_S:
            waiter.verdict.set_result(Late(wait, limit))

    def _depart(self) -> None:
        self._leaving = True
        # a store in memory answers at once
        while self._asks and self._flight is None and not self._closed:
            batch = [(ask, answer) for ask, answer in self._asks[:BATCH] if not answer.done()]
            del self._asks[:BATCH]
            if batch:
                self._flight = batch
                self._last_size = len(batch)
                self._store.book(self._scope, [ask for ask, _ in batch], self._landed)
        self._leaving = False

    def _landed(self, found: Bookings | StoreLost | None) -> None:
        batch, self._flight = self._flight or [], None
        if found is None and not self._closed:
            # the store does not know the scope: tell it, and ask again
            self._flight = batch
            self._seeding = asyncio.create_task(self._seed_and_book(batch))
            return
        self._deliver(batch, found)
        if self._asks and not self._leaving:
            self._depart()

    def _deliver(self, batch: list[tuple[Ask, asyncio.Future[Booking]]], found: Bookings | StoreLost | None) -> None:
        if isinstance(found, Bookings):
            self.refresh(found.reading)
            for (ask, answer), booking in zip(batch, found.bookings, strict=True):
                if not answer.done():
                    answer.set_result(booking)
                else:
                    self._drop(booking, ask)
            return
        fault = found or StoreLost(f"{self._scope}: the store forgets its configuration")
        for _, answer in batch:
            if not answer.done():
                answer.set_exception(fault)

    async def _seed_and_book(self, batch: list[tuple[Ask, asyncio.Future[Booking]]]) -> None:
        try:
            await self._seed()
            found = await reserve(self._store, self._scope, [ask for ask, _ in batch])
            self._deliver(batch, found)
        except Exception as error:  # noqa: BLE001 - every asker is told
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
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
                if pause > 0:
                    self._woken.clear()
                    await self._clock.wait(self._woken, pause)
                else:
                    await self._look()
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting for a watcher that is gone
            for waiter in self._waiters:
                if not waiter.verdict.done():
                    waiter.verdict.set_exception(error)
            self._waiters = []
        finally:
            self._watcher = None

    def _next_look(self) -> float:
        reading = self._reading
        if reading is None:
            return self._read_at
        soonest = min(expected(waiter.booking, reading)[0] for waiter in self._waiters)
        return self._read_at + min(TICK_S, max(SHORTEST_S, soonest))

    async def _look(self) -> None:
        try:
            reading = await self._store.clock(self._scope)
            if reading is None:
                await self._seed()
                reading = await self._store.clock(self._scope)
        except StoreLost as lost:
            # places outlive a short outage; those whose time is up are told
            now = self._clock.time()
            for waiter in self._waiters:
                if now > waiter.deadline and not waiter.verdict.done():
                    waiter.verdict.set_exception(StoreLost(str(lost)))
            self._waiters = [w for w in self._waiters if not w.verdict.done()]
            await self._clock.wait(asyncio.Event(), TICK_S)
            return
        self.refresh(reading)


def expected(booking: Booking, reading: ClockReading) -> tuple[float, str]:
    """Seconds until the place is due by this reading, and the limit that makes it so."""
    longest, binding = 0.0, "cooldown"
    for limit, due in booking.due.items():
        dial = reading.dials.get(limit)
        if dial is not None:
            full = arithmetic.shortfall(due, dial.clock) / dial.rate
            if full > longest:
                longest, binding = full, limit
    return reading.closed_for + arithmetic.seconds_until(longest, reading.pace, reading.recovery), binding


def _expired(booking: Booking, reading: ClockReading) -> bool:
    charged = ((reading.dials[limit], due) for limit, due in booking.due.items() if limit in reading.dials)
    return arithmetic.expired((dial.clock, due, dial.rate, dial.burst) for dial, due in charged)
