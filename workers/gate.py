"""A pool polls its task queue only while its quota would grant soon.

Work that cannot start yet stays in Temporal's queue, where priority and fairness order it and autoscalers see it. The
gate only looks, it takes nothing: what a call really costs is booked inside the activity (`workers/admission.py`).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
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

    def __init__(
        self,
        slots: int,
        limiter: Limiter,
        scopes: Sequence[str],
        horizon: timedelta,
        held: Callable[[float], None] | None = None,
    ) -> None:
        """Args:
        slots: calls at once.
        limiter: shared by all pools of the process.
        scopes: what the pool's calls are charged to. Without any the gate is always open.
        horizon: a call that would wait no longer than this may be taken from the queue. Polls that are under way count
            as calls: each may bring one.
        held: told of seconds that a free slot has waited for the gate, while it waits. Only while no poll is under
            way: one that is takes whatever comes, so nothing in the queue is held up. Not while the store is away.
        """
        self._free = asyncio.Semaphore(slots)
        self._limiter = limiter
        self._scopes = scopes
        self._horizon = horizon
        self._held = held
        self._polling = 0
        self._loop = asyncio.get_running_loop()
        self._wakened = asyncio.Event()

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Wait for a free slot, and for the gate to open."""
        del ctx
        await self._free.acquire()
        try:
            while (found := await self._pause())[0] > timedelta(0):
                pause, by_quota = found
                holds = by_quota and self._polling == 0
                self._wakened.clear()
                began = monotonic()
                try:
                    async with asyncio.timeout(pause.total_seconds()):
                        await self._wakened.wait()
                except TimeoutError:
                    pass
                if self._held is not None and holds:
                    self._held(monotonic() - began)
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

    async def _pause(self) -> tuple[timedelta, bool]:
        """Until the next look, none if the gate is open; and whether it is the quota of every scope that closes it."""
        shortest, by_quota = LONGEST_LOOK if self._scopes else timedelta(0), True
        for scope in self._scopes:
            try:
                ahead = await self._limiter.ahead(scope)
            except StoreLost:
                by_quota = False
                continue
            except RateLimitError:
                # the activity that asks says what is wrong
                return timedelta(0), False
            # one may always go
            excess = ahead.wait + self._polling * ahead.per_call - self._horizon
            if excess <= timedelta(0) or (self._polling == 0 and ahead.wait <= self._horizon):
                return timedelta(0), False
            shortest = min(shortest, max(SHORTEST_LOOK, excess))
        return shortest, by_quota
