"""A credit window: places booked ahead by one process, bound to a call only when they come due.

Of calls that cost the same it does not matter which place is whose. So a process books for all who have come to wait
since it last asked, hands each place to whoever has waited longest when it comes due, and asks the store twice a second
instead of once a call. Where the quota grants over a thousand calls a second it also takes a block of places at once;
what is not used goes back.

The price: between two answers the store's clock is reckoned, not read, so that a cooldown that another process has set
is heard up to half a second later; and first come, first served holds within a process, between processes to half a
second.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ratelimit.arithmetic import unit_of
from ratelimit.clock import Clock
from ratelimit.errors import BadQuota, StoreLost
from ratelimit.line import SHORTEST_S, TICK_S, Line
from ratelimit.places import Ask, Booking, Kind, Origin, Outcome, Readings
from ratelimit.waits import expected

LOOK_S = 0.5
"""While anyone waits, the store is heard at least this often."""
BLOCKS_ABOVE = 1000.0
"""Calls per second that a quota must grant before blocks are taken."""
QUICK_S = 0.05
"""A block that is used up so soon was too small."""
LARGEST = 1000
"""Most places that one window books ahead: what one script call takes."""
WINDOWS = 4096
"""So many scopes are remembered while nobody asks for them."""


class Unfit(Exception):
    """The quota has changed: its calls are booked one by one from now on."""


@dataclass(eq=False, slots=True)
class _Waiter:
    deadline: float
    bound: asyncio.Future[Booking]
    seen: bool = False
    """The store has been asked for its sake."""


class Credit:
    """The window of one scope, within one process."""

    def __init__(self, line: Line, clock: Clock, most: int, give_back: Callable[[Booking, Ask, int], None]) -> None:
        """Args:
        line: the scope's.
        clock: local time.
        most: places booked ahead.
        give_back: takes places that nobody needs: one of them, what was asked, how many.
        """
        self._line = line
        self._clock = clock
        self._most = most
        self._give_back = give_back
        self._ask: Ask | None = None
        self._slots: deque[Booking] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._flows = False
        self._due: tuple[Booking, Readings, float] | None = None
        self._seen: Readings | None = None
        self._free_until = 0.0
        self._block = 1
        self._filled_at = self._wanted_at = -math.inf
        self._next_deadline = math.inf
        self._running: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._closing = False
        line.on_refresh = self._woken.set

    @property
    def idle(self) -> bool:
        """Nobody waits, nothing is booked ahead."""
        return not (self._waiters or self._slots or self._running)

    def serves(self, ask: Ask) -> bool:
        """Whether a call may be served from here: all calls in the window cost the same."""
        if self._closing or not self._fits():
            return False
        if self._ask is None or ask.cost != self._ask.cost:
            if not self.idle:
                return False
            self._ask = Ask(ask.cost, ask.max_wait)
        return True

    def take(self, ask: Ask) -> Booking | None:
        """A place that is due now and that nobody else waits for."""
        if (
            self._slots
            and not self._waiters
            and self._line.readings is self._seen
            and not self._line.stale
            and self._clock.time() < self._free_until
            and self._ask is not None
            and (ask.cost is self._ask.cost or ask.cost == self._ask.cost)
        ):
            return self._slots.popleft()
        return None

    async def wait(self, deadline: float) -> tuple[Booking, float]:
        """The place of the next call, and how many seconds it has waited.

        Args:
            deadline: by the local clock; afterwards, or once it is clear that it cannot be met, the answer is a denial.

        Raises:
            Unfit: calls are booked one by one.
            StoreLost: the store does not answer.
        """
        assert self._ask is not None
        ask, began = self._ask, self._clock.time()
        waiter = _Waiter(deadline, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._next_deadline = min(self._next_deadline, deadline)
        self._woken.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            booking = await waiter.bound
        except asyncio.CancelledError:
            if waiter.bound.done() and not waiter.bound.cancelled() and waiter.bound.exception() is None:
                found = waiter.bound.result()
                if found.outcome is Outcome.TAKEN:
                    self._give_back(found, ask, 1)
            raise
        return booking, self._clock.time() - began

    async def aclose(self) -> None:
        """Give back what is booked ahead; whoever still waits gets `StoreLost`."""
        self._closing = True
        self._woken.set()
        if self._running is not None:
            # a call under way brings places: it is waited for
            await asyncio.gather(self._running, return_exceptions=True)
        self._refuse(StoreLost(f"{self._line.scopes[0]}: the limiter is closed"))
        self._return(self._all())

    async def _run(self) -> None:
        try:
            while not self._closing:
                self._forget()
                self._serve()
                self._let_go()
                self._drop_unused()
                if not self._waiters and not self._slots:
                    return
                pause = self._pause()
                if pause <= 0:
                    try:
                        await self._fill()
                    except StoreLost as lost:
                        self._refuse(lost)
                    continue
                self._woken.clear()
                await self._clock.wait(self._woken, pause)
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting for a task that is gone
            self._refuse(error)
            self._return(self._all())
        finally:
            self._running = None

    def _pause(self) -> float:
        """Seconds until something is to be done; none if the store is to be asked."""
        now = self._clock.time()
        if not self._waiters:
            return max(SHORTEST_S, self._wanted_at + TICK_S - now)
        next_look = self._line.read_at + LOOK_S
        if not self._slots or self._line.stale or now >= next_look:
            return 0.0
        if self._next_deadline < next_look and any(
            not waiter.seen and waiter.deadline < next_look for waiter in self._waiters
        ):
            # it cannot wait for the next look to hear whether it will be in time
            return 0.0
        return max(SHORTEST_S, min(self._due_at(), next_look, self._next_deadline) - now)

    async def _fill(self) -> None:
        """Book what is lacking, or look; either brings the clock."""
        assert self._ask is not None
        now, asked_for = self._clock.time(), list(self._waiters)
        lacking = min(self._most, len(asked_for)) - len(self._slots)
        if lacking > 0:
            longest = max(waiter.deadline for waiter in asked_for) - now
            asks = [Ask(self._ask.cost, max(0.0, longest))] * lacking
            if not self._slots and self._flows and self._per_second() > BLOCKS_ABOVE:
                quick = now - self._filled_at < QUICK_S
                self._block = max(1, min(self._most, self._largest(), self._block * 2 if quick else self._block))
                asks += [Ask(self._ask.cost, 0.0)] * (self._block - lacking)
            self._filled_at = now
            found = await self._line.book(asks)
            taken = [booking for booking in found if booking.outcome is Outcome.TAKEN]
            self._slots.extend(taken)
            self._flows = bool(taken) and taken[-1].wait == 0
            self._seen = self._line.readings
            self._free_until = self._line.read_at + self._held_s() if self._flows else 0.0
            refused = next((one for one in found[:lacking] if one.outcome is not Outcome.TAKEN), None)
            if refused is not None:
                self._deny(refused)
        else:
            await self._line.read()
        for waiter in asked_for:
            waiter.seen = True

    def _forget(self) -> None:
        """Those who have left, and places of a state that is lost."""
        self._waiters = deque(waiter for waiter in self._waiters if not waiter.bound.done())
        readings = self._line.readings or ()
        while self._slots and any(self._slots[0].booked_at < reading.born for reading in readings):
            self._slots.popleft()
        if not self._fits():
            self._refuse(Unfit())
            self._return(self._all())

    def _serve(self) -> None:
        """Bind the places that are due to those who have waited longest."""
        now = self._clock.time()
        if self._waiters:
            self._wanted_at = now
        fresh = not self._line.stale and now < self._line.read_at + LOOK_S + TICK_S
        while self._waiters and self._slots and fresh and self._due_at() <= now:
            self._waiters.popleft().bound.set_result(self._slots.popleft())

    def _let_go(self) -> None:
        """Those whose time is up are told how long one who comes now would wait."""
        now = self._clock.time()
        if now < self._next_deadline:
            return
        left, limit = self._ahead()
        for waiter in self._waiters:
            if waiter.seen and waiter.deadline <= now:
                waiter.bound.set_result(Booking(Outcome.DENIED, Origin.NONE, left, limit))
        self._waiters = deque(waiter for waiter in self._waiters if not waiter.bound.done())
        self._next_deadline = min((waiter.deadline for waiter in self._waiters), default=math.inf)

    def _ahead(self) -> tuple[float, str]:
        """Seconds that a call waits behind all others, and the limit that makes it so."""
        wait, limit = 0.0, "requests"
        readings = self._line.readings
        if self._slots and readings is not None:
            wait, limit = expected(self._line.scopes, self._slots[-1], readings)
            wait -= self._clock.time() - self._line.read_at
        unbooked = max(0, len(self._waiters) - len(self._slots))
        return max(TICK_S, wait) + unbooked / max(self._per_second(), 1e-9), limit

    def _deny(self, refused: Booking) -> None:
        """Those who have no place, and whose time would be up before they got one, are told so."""
        now = self._clock.time()
        without = [waiter for waiter in self._waiters if not waiter.bound.done()][len(self._slots) :]
        for waiter in without:
            if refused.outcome is not Outcome.DENIED or waiter.deadline - now < refused.wait:
                waiter.bound.set_result(refused)

    def _refuse(self, error: Exception) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.bound.done():
                waiter.bound.set_exception(type(error)(*error.args))

    def _due_at(self) -> float:
        """When the first place is due, by the local clock."""
        booking, readings = self._slots[0], self._line.readings
        assert readings is not None
        if self._due is None or self._due[0] is not booking or self._due[1] is not readings:
            wait = expected(self._line.scopes, booking, readings)[0]
            self._due = (booking, readings, self._line.read_at + max(0.0, wait))
        return self._due[2]

    def _drop_unused(self) -> None:
        """Places that nobody took when they were due go back, and those of whoever has left."""
        now, back = self._clock.time(), []
        held_s = max(TICK_S, self._held_s()) if self._waiters else self._held_s()
        while self._slots and self._due_at() + held_s <= now:
            back.append(self._slots.popleft())
        if not self._waiters and self._wanted_at + TICK_S <= now:
            back += self._all()
        elif not self._flows:
            back += [self._slots.pop() for _ in range(len(self._slots) - len(self._waiters)) if self._waiters]
        if back:
            self._block = max(1, self._block // 2)
            self._return(back)

    def _all(self) -> list[Booking]:
        """Take everything that is booked ahead."""
        slots, self._slots = list(self._slots), deque()
        return slots

    def _return(self, back: list[Booking]) -> None:
        while back and self._ask is not None:
            # those that were booked together and cost the same go back together
            first = back[0]
            same = [one for one in back if one is first or _alike(one, first)]
            back = [one for one in back if not (one is first or _alike(one, first))]
            self._give_back(first, self._ask, len(same))

    def _fits(self) -> bool:
        """Whether the quota returns bit by bit, and refuses what it counts: anything else is booked call by call."""
        readings = self._line.readings
        return readings is not None and all(
            dial.kind is Kind.CONTINUOUS and not dial.shadow for one in readings for dial in one.dials.values()
        )

    def _held_s(self) -> float:
        """How long a place that is due may stay unused: the provider's own bucket does not wait for it either."""
        return min((TICK_S, *(burst / rate / 2 for rate, burst, _ in self._dials())))

    def _per_second(self) -> float:
        return min((rate / units for rate, _, units in self._dials()), default=0.0)

    def _largest(self) -> int:
        """Places of one block: at most an eighth of a burst."""
        return int(min((burst / units / 8 for _, burst, units in self._dials()), default=1.0))

    def _dials(self) -> list[tuple[float, float, float]]:
        """Rate, burst and cost of each limit that the calls are charged to."""
        assert self._ask is not None
        cost: Mapping[str, float] = self._ask.cost
        return [
            (dial.rate, dial.burst, units)
            for reading in self._line.readings or ()
            for name, dial in reading.dials.items()
            if (units := cost.get(name, cost.get(unit_of(name), 0.0))) > 0
        ]


def _alike(one: Booking, other: Booking) -> bool:
    return one.booked_at == other.booked_at and all(
        a.cost == b.cost and not a.lease and not b.lease for a, b in zip(one.parts, other.parts, strict=True)
    )


class Credits:
    """The windows of one limiter."""

    def __init__(
        self,
        clock: Clock,
        most: int,
        line_of: Callable[[str], Line],
        give_back: Callable[[str, Booking, Ask], object],
    ) -> None:
        """Args:
        clock: local time.
        most: places that a window books ahead; 0: there are no windows.
        line_of: the line of a scope.
        give_back: takes what is given back for a scope: a place, of all limits' units together.

        Raises:
            BadQuota: the number is out of bounds.
        """
        if not 0 <= most <= LARGEST:
            raise BadQuota(f"credit_window is {most!r}: must lie between 0 and {LARGEST}")
        self._clock = clock
        self._most = most
        self._line_of = line_of
        self._give_back = give_back
        self._windows: dict[str, Credit] = {}

    def take(self, scope: str, ask: Ask) -> Booking | None:
        """A place that is due now and that nobody else waits for."""
        window = self._windows.get(scope)
        return None if window is None else window.take(ask)

    def of(self, scope: str, ask: Ask) -> Credit | None:
        """The window that serves a call, if one does."""
        if not self._most or ask.key is not None:
            return None
        window = self._windows.get(scope)
        if window is None:

            def give_back(booking: Booking, ask: Ask, many: int) -> None:
                parts = [
                    replace(part, cost={name: units * many for name, units in part.cost.items()})
                    for part in booking.parts
                ]
                self._give_back(scope, replace(booking, parts=parts), ask)

            if len(self._windows) >= WINDOWS:
                self._windows = {name: kept for name, kept in self._windows.items() if not kept.idle}
            window = self._windows[scope] = Credit(self._line_of(scope), self._clock, self._most, give_back)
        return window if window.serves(ask) else None

    async def aclose(self) -> None:
        """Give back what is booked ahead; whoever still waits gets `StoreLost`."""
        windows, self._windows = self._windows, {}
        for window in windows.values():
            await window.aclose()
