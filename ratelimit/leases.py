"""Keeps the leases of calls that are still in flight."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from weakref import WeakValueDictionary

from ratelimit.clock import Clock
from ratelimit.errors import StoreLost
from ratelimit.places import Permit, Place
from ratelimit.store import Store

LONGEST_PAUSE_S = 20.0


class Leases:
    """Renews what its holders have in flight, for as long as they exist: a permit that is dropped is let go."""

    def __init__(self, store: Store, clock: Clock, chain_of: Callable[[str], tuple[str, ...]]) -> None:
        """Args:
        store: where the leases are.
        clock: local time.
        chain_of: the scopes that a holder's parts belong to.
        """
        self._store = store
        self._clock = clock
        self._chain_of = chain_of
        self._held: WeakValueDictionary[str, Place | Permit] = WeakValueDictionary()
        self._pause = LONGEST_PAUSE_S
        self._renewing: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._closing = False

    def track(self, holder: Place | Permit, lease_s: float) -> None:
        """Renew what the holder has in flight.

        Args:
            holder: a place or a permit; the permit takes over from its place.
                lease_s: how long a lease lasts.
        """
        self._held[holder.id] = holder
        if lease_s / 3 < self._pause:
            self._pause = lease_s / 3
            self._woken.set()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())

    def drop(self, holder: Place | Permit) -> None:
        """The call has ended."""
        self._held.pop(holder.id, None)

    async def aclose(self) -> None:
        """Stop renewing."""
        self._closing = True
        self._woken.set()
        if self._renewing is not None:
            await self._renewing

    async def _renew(self) -> None:
        try:
            while self._held and not self._closing:
                self._woken.clear()
                await self._clock.wait(self._woken, self._pause)
                for scope, numbers in self._numbers().items():
                    await self._try(scope, numbers)
        finally:
            self._renewing = None
            self._pause = LONGEST_PAUSE_S

    def _numbers(self) -> dict[str, list[int]]:
        # a method of its own: a task that waits must hold on to no holder
        by_scope: dict[str, list[int]] = defaultdict(list)
        for holder in list(self._held.values()):
            for scope, part in zip(self._chain_of(holder.scope), holder.parts, strict=True):
                if part.lease:
                    by_scope[scope].append(part.lease)
        return by_scope

    async def _try(self, scope: str, numbers: list[int]) -> None:
        try:
            await self._store.renew(scope, numbers)
        except StoreLost:
            return  # tried again in a moment; until then the lease itself covers the call
