"""What happens without the store.

`pause`: nothing is granted; calls wait and come back. `degrade`: each process paces itself by a local share, the quota
divided by the processes that were alive, with a margin. Processes come and go unseen meanwhile, hence the margin.

When the store is back nothing needs to be made up for: a share returns more slowly than the quota, so that the
provider's own bucket is as full as the store takes it to be, but for a second's worth.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from aiolimiter import AsyncLimiter

from ratelimit.arithmetic import unit_of
from ratelimit.errors import BadQuota, Denied, StoreLost
from ratelimit.permits import upwards
from ratelimit.places import Kind
from ratelimit.quota import Cost, Quota
from ratelimit.store import Store

PROBE_S = 1.0
"""While the store is away it is asked this often."""
UNHINTED_S = 5.0
"""How long a rejected process keeps away from a provider that gave no hint."""
PRESENT_S = 30.0
"""A process that has not been seen for so long is gone."""
PACES = 4096
"""So many limits are remembered whose share is not being used: each tenant may have some."""
_UNHEARD: Mapping[tuple[str, str], float] = MappingProxyType({})


class Posture(StrEnum):
    """What happens without the store."""

    PAUSE = "pause"
    """Nothing is granted."""
    DEGRADE = "degrade"
    """A local share."""


class Shares:
    """Local shares of the quotas, for one process."""

    def __init__(self, safety: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        safety: share (0-1) of the quota that all processes together plan to use.
        clock: local time.

        Raises:
            BadQuota: the margin is none.
        """
        if not 0 < safety < 1:
            raise BadQuota(f"safety is {safety!r}: must lie between 0 and 1")
        self._safety = safety
        self._clock = clock
        self._live: dict[str, int] = {}
        self._paces: dict[tuple[str, str], _Pace] = {}
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._closed_until: dict[str, float] = {}

    def alive(self, scope: str, processes: int) -> None:
        """Take note of how many processes use a scope."""
        self._live[scope] = max(1, processes)

    def cool_down(self, scope: str, seconds: float) -> None:
        """The provider has rejected a call of this process."""
        self._closed_until[scope] = max(self._closed_until.get(scope, 0.0), self._clock() + seconds)

    async def acquire(
        self,
        chain: Mapping[str, Quota],
        cost: Cost,
        max_wait: timedelta,
        rates: Mapping[tuple[str, str], float] = _UNHEARD,
        permit: str = "",
    ) -> None:
        """Wait until the local share of every scope grants the cost.

        Args:
            chain: quotas of the scope and of those around it, innermost first.
            cost: units by what is counted.
            max_wait: at most so long.
        rates: units per second by scope and limit, as the store last told; else those of the quotas count.
        permit: what holds the units that are in flight, until `end`.

        Raises:
            Denied: it would take longer; what was taken until then is lost, which is safe.
        """
        scope = next(iter(chain))
        closed = max(self._closed_until.get(one, 0.0) for one in chain) - self._clock()
        if closed > max_wait.total_seconds():
            raise Denied(upwards(closed), scope, "cooldown")
        try:
            async with asyncio.timeout(min(max_wait.total_seconds(), 1e6)):
                if closed > 0:
                    await asyncio.sleep(closed)
                # whoever uses a tenant's share uses the scopes around it
                live = max(self._live.get(one, 1) for one in chain)
                for one, quota in chain.items():
                    for name, limit in quota.limits.items():
                        units = cost.get(name, cost.get(unit_of(name), 0.0))
                        if units <= 0 or limit.shadow:
                            continue
                        if limit.kind is Kind.IN_FLIGHT:
                            most = max(units, limit.capacity * self._safety / live)
                            await self._flight((one, name), most).begin(permit, units, limit.period.total_seconds())
                        else:
                            rate = rates.get((one, name), quota.rate(name)) * self._safety / live
                            await self._take((one, name), rate, units)
        except TimeoutError:
            self.end(permit)
            raise Denied(timedelta(seconds=PROBE_S), scope, "outage") from None
        except BaseException:
            self.end(permit)
            raise

    def end(self, permit: str) -> None:
        """A call is no longer in flight."""
        for flight in self._flights.values():
            flight.end(permit)

    def _flight(self, limit: tuple[str, str], most: float) -> "_Flight":
        _forget_idle(self._flights)
        flight = self._flights.setdefault(limit, _Flight(self._clock))
        flight.most = most
        return flight

    async def _take(self, limit: tuple[str, str], rate: float, units: float) -> None:
        pace = self._paces.get(limit)
        if pace is None or pace.bucket.max_rate != rate:
            _forget_idle(self._paces)
            pace = self._paces[limit] = _Pace(rate)
        await pace.take(units)


class _Flight:
    """What is in flight of one limit, by the permits of this process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.most = 0.0
        self._clock = clock
        self._held: dict[str, tuple[float, float]] = {}
        self._ended = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""
        return not self._held

    async def begin(self, permit: str, units: float, lease_s: float) -> None:
        """Wait until so much may be in flight; it ends with the permit, or with the lease."""
        while True:
            now = self._clock()
            self._held = {name: held for name, held in self._held.items() if held[1] > now}
            if sum(held for held, _ in self._held.values()) + units <= self.most:
                self._held[permit] = (units, now + lease_s)
                return
            self._ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(end for _, end in self._held.values()) - now)):
                    await self._ended.wait()

    def end(self, permit: str) -> None:
        """The call has ended."""
        if self._held.pop(permit, None) is not None:
            self._ended.set()


class _Pace:
    """The share of one limit."""

    def __init__(self, rate: float) -> None:
        # at most a second's worth at once: nobody knows what was spent just before
        self.bucket = AsyncLimiter(rate, 1.0)
        self._turn = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """A new one would grant the same."""
        return not self._turn.locked() and self.bucket.has_capacity(self.bucket.max_rate)

    async def take(self, units: float) -> None:
        """Wait for the units."""
        whole = math.ceil(units / self.bucket.max_rate)
        # one after the other: of many who take bit by bit at once none would be done in time
        async with self._turn:
            for _ in range(whole):
                await self.bucket.acquire(units / whole)


def _forget_idle(known: dict[tuple[str, str], Any]) -> None:
    """Of very many limits, those whose share is not being used."""
    if len(known) >= PACES:
        for limit in [limit for limit, share in known.items() if share.idle]:
            del known[limit]


class Outage:
    """Whether the store is away, and who was there before."""

    def __init__(self, shares: Shares) -> None:
        """Args:
        shares: what is granted meanwhile.
        """
        self.shares = shares
        self._name = uuid4().hex
        self._until = 0.0
        self._scopes: set[str] = set()
        self._presence: asyncio.Task[None] | None = None

    @property
    def lasts(self) -> bool:
        """The store was lost a moment ago: it is not asked again yet."""
        return time.monotonic() < self._until

    def began(self) -> None:
        """The store does not answer."""
        self._until = time.monotonic() + PROBE_S

    async def grant(
        self,
        chain: Mapping[str, Quota],
        cost: Cost,
        max_wait: timedelta,
        rates: Mapping[tuple[str, str], float],
        permit: str,
    ) -> None:
        """Wait for the local share; see `Shares.acquire`.

        Raises:
            StoreLost: there is no quota to take a share of.
            Denied: it would take longer.
        """
        if not chain:
            raise StoreLost("the store does not answer, and without it nobody knows the quota")
        await self.shares.acquire(chain, cost, max_wait, rates, permit)

    def uses(self, chain: Sequence[str], store: Store) -> None:
        """This process uses the scopes: others count it, and it counts them."""
        self._scopes.update(chain)
        if self._presence is None:
            self._presence = asyncio.create_task(self._be_present(store))

    async def aclose(self) -> None:
        """Stop counting."""
        if self._presence is not None:
            self._presence.cancel()
            await asyncio.gather(self._presence, return_exceptions=True)

    async def _be_present(self, store: Store) -> None:
        while True:
            for scope in list(self._scopes):
                try:
                    self.shares.alive(scope, await store.present(scope, self._name, PRESENT_S))
                except StoreLost:
                    break  # the last count holds
            await asyncio.sleep(PRESENT_S / 3)
