"""A pool polls its task queue only while its quota would grant soon.

Work that cannot start yet stays in Temporal's queue, where priority and fairness order it and autoscalers see it. The
gate only looks, it takes nothing: what a call really costs is booked inside the activity (`workers/admission.py`).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

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
        horizon: a call that would wait no longer than this may be taken from the queue. Polls that are under way count
            as calls: each may bring one.
        """
        self._free = asyncio.Semaphore(slots)
        self._limiter = limiter
        self._scopes = scopes
        self._horizon = horizon
        self._polling = 0
        self._loop = asyncio.get_running_loop()
        self._wakened = asyncio.Event()

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Wait for a free slot, and for the gate to open."""
        del ctx
        await self._free.acquire()
        try:
            while (pause := await self._pause()) > timedelta(0):
                self._wakened.clear()
                try:
                    async with asyncio.timeout(pause.total_seconds()):
                        await self._wakened.wait()
                except TimeoutError:
                    pass
        except BaseException:
            self._free.release()
            raise
        self._polling += 1
        return SlotPermit()

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """Eager tasks would pass the queue, and so its order."""
        del ctx
        return None

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """The poll has brought a call."""
        del ctx
        self._note(True, False)

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """The call has ended, or the poll has brought none."""
        self._note(ctx.slot_info is None, True)

    def _note(self, polled: bool, free: bool) -> None:
        # the SDK tells it from threads of its own, and may do so after the pool has ended
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._noted, polled, free)

    def _noted(self, polled: bool, free: bool) -> None:
        self._polling -= polled
        if free:
            self._free.release()
        self._wakened.set()

    async def _pause(self) -> timedelta:
        """Until the next look; none if the gate is open."""
        shortest = LONGEST_LOOK if self._scopes else timedelta(0)
        for scope in self._scopes:
            try:
                ahead = await self._limiter.ahead(scope)
            except StoreLost:
                continue
            except RateLimitError:
                # the activity that asks says what is wrong
                return timedelta(0)
            # one may always go
            excess = ahead.wait + self._polling * ahead.per_call - self._horizon
            if excess <= timedelta(0) or (self._polling == 0 and ahead.wait <= self._horizon):
                return timedelta(0)
            shortest = min(shortest, max(SHORTEST_LOOK, excess))
        return shortest
