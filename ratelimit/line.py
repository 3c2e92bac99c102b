"""One scope's line within one process: asks that travel together, waiters, and a copy of the clock."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ratelimit import model
from ratelimit.clock import Clock
from ratelimit.errors import StoreLost
from ratelimit.places import Ask, Booking, ClockReading, Outcome
from ratelimit.store import Store

TICK_S = 0.25
"""While anyone waits, the clock is read at least this often."""
SHORTEST_S = 0.002
"""And at most this often."""
WATCHED_S = 1.0
"""A place whose clock was read this lately has not been forgotten, however far a refund has moved the clock."""
BATCH = 100
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
        self._flight: asyncio.Task[None] | None = None
        self._waiters: list[_Waiter] = []
        self._watcher: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    async def ask(self, ask: Ask) -> Booking:
        """Reserve; asks that come while a call is in flight travel in the next one, in order."""
        answer: asyncio.Future[Booking] = asyncio.get_running_loop().create_future()
        self._asks.append((ask, answer))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
        try:
            return await answer
        except asyncio.CancelledError:
            # the answer may have come in the same turn of the loop as the cancellation
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._drop(answer.result(), ask)
            raise

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
        tasks = [task for task in (self._flight, self._watcher) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closed = StoreLost(f"{self._scope}: the limiter is closed")
        for future in [answer for _, answer in self._asks] + [w.verdict for w in self._waiters]:
            if not future.done():
                future.set_exception(closed)

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

    async def _fly(self) -> None:
        try:
            while self._asks:
                batch = [(ask, answer) for ask, answer in self._asks[:BATCH] if not answer.done()]
                del self._asks[:BATCH]
                if batch:
                    await self._carry(batch)
        finally:
            self._flight = None

    async def _carry(self, batch: list[tuple[Ask, asyncio.Future[Booking]]]) -> None:
        asks = [ask for ask, _ in batch]
        try:
            answer = await self._store.reserve(self._scope, asks)
            if answer is None:
                await self._seed()
                answer = await self._store.reserve(self._scope, asks)
            if answer is None:
                raise StoreLost(f"{self._scope}: the store forgets its configuration")
        except (Exception, asyncio.CancelledError) as error:
            fault = error if isinstance(error, Exception) else StoreLost(f"{self._scope}: the limiter is closed")
            for _, future in batch:
                if not future.done():
                    future.set_exception(fault)
            if not isinstance(error, Exception):
                raise
            return
        self.refresh(answer.reading)
        for (ask, future), booking in zip(batch, answer.bookings, strict=True):
            if not future.done():
                future.set_result(booking)
            else:
                self._drop(booking, ask)

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
            full = model.shortfall(due, dial.clock) / dial.rate
            if full > longest:
                longest, binding = full, limit
    return reading.closed_for + model.seconds_until(longest, reading.pace, reading.recovery), binding


def _expired(booking: Booking, reading: ClockReading) -> bool:
    charged = ((reading.dials[limit], due) for limit, due in booking.due.items() if limit in reading.dials)
    return model.expired((dial.clock, due, dial.rate, dial.burst) for dial, due in charged)
