"""A pool polls its task queue only while its quota would grant soon.

Work that cannot start yet stays in Temporal's queue, where priority and fairness order it and autoscalers see it. The
gate only looks, it takes nothing: what a call really costs is booked inside the activity (`workers/admission.py`).
"""

import asyncio
import heapq
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic

from temporalio.worker import (
    CustomSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
)

from ratelimit.errors import RateLimitError, StoreLost
from ratelimit.limiter import Limiter

SHORTEST_LOOK = timedelta(milliseconds=20)
LONGEST_LOOK = timedelta(seconds=1)
"""How often a gate that is closed looks again."""


class Gate(CustomSlotSupplier):
    """The slots of one pool, given out while one of its scopes would grant within the horizon."""

    def __init__(self, slots: int, limiter: Limiter, scopes: Sequence[str], horizon: timedelta) -> None:
        """Args:
        slots: calls at once.
        limiter: shared by all pools of the process.
        scopes: what the pool's calls are charged to. Without any the gate is always open.
        horizon: a call that would wait no longer than this may be taken from the queue.
        """
        self._free = asyncio.Semaphore(slots)
        self._limiter = limiter
        self._scopes = scopes
        self._horizon = horizon
        self._returns: list[float] = []
        self._wakened = asyncio.Event()
        self.closed_s = 0.0
        """For how long those who would have polled have waited, in all."""

    def expect(self, after: timedelta) -> None:
        """A call that was sent away comes back for its place: let it in then, however long the line is."""
        heapq.heappush(self._returns, monotonic() + after.total_seconds())
        self._wakened.set()

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Wait for a free slot, and for the gate to open."""
        del ctx
        await self._free.acquire()
        began = monotonic()
        try:
            while (pause := await self._pause()) is not None:
                self._wakened.clear()
                try:
                    async with asyncio.timeout(pause):
                        await self._wakened.wait()
                except TimeoutError:
                    pass
        except BaseException:
            self._free.release()
            raise
        finally:
            self.closed_s += monotonic() - began
        return SlotPermit()

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """Eager tasks would pass the queue, and so its order."""
        del ctx
        return None

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """Nothing to note."""

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """The call has ended."""
        del ctx
        self._free.release()
        self._wakened.set()

    async def _pause(self) -> float | None:
        """Seconds until the next look; None: the gate is open."""
        now = monotonic()
        if self._returns and self._returns[0] <= now:
            heapq.heappop(self._returns)
            return None
        wait = await self._wait()
        if wait <= self._horizon:
            return None
        pause = min(LONGEST_LOOK, max(SHORTEST_LOOK, wait - self._horizon)).total_seconds()
        return min(pause, self._returns[0] - now) if self._returns else pause

    async def _wait(self) -> timedelta:
        """Of the scope that grants first."""
        shortest = timedelta.max if self._scopes else timedelta(0)
        for scope in self._scopes:
            try:
                shortest = min(shortest, await self._limiter.ahead(scope))
            except StoreLost:
                continue
            except RateLimitError:
                # the activity that asks says what is wrong
                return timedelta(0)
        return shortest
