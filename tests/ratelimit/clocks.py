"""Time and a store for tests that must not sleep."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from ratelimit.errors import StoreLost
from ratelimit.memory import MemoryStore
from ratelimit.places import Ask, Readings
from ratelimit.store import Answer


def s(seconds: float) -> timedelta:
    """A span."""
    return timedelta(seconds=seconds)


class JumpingClock:
    """Time passes only while everybody waits, and then at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        if not event.is_set():
            self.now += seconds

    async def reach(self, instant: float) -> None:
        for _ in range(100_000):
            if self.now >= instant:
                return
            await asyncio.sleep(0)
        raise AssertionError("nobody lets the time pass")


class CountingStore(MemoryStore):
    """Answers late, may be lost, and keeps count."""

    def __init__(self, clock: JumpingClock) -> None:
        super().__init__(clock.time)
        self.batches: list[int] = []
        self.looks: list[float] = []
        self.lost_until = 0.0
        self.local = clock

    def book(self, scopes: Sequence[str], asks: Sequence[Ask], answer: Answer, *, now: float | None = None) -> None:
        def arrive() -> None:
            try:
                self._check()
            except StoreLost as lost:
                answer(lost)
                return
            self.batches.append(len(asks))
            found = self.model.reserve(scopes, asks, now=self.local.time() if now is None else now)
            asyncio.get_running_loop().call_soon(answer, found)

        asyncio.get_running_loop().call_soon(arrive)

    async def clock(self, scopes: Sequence[str], *, now: float | None = None) -> Readings | None:
        self._check()
        self.looks.append(self.local.now)
        return await super().clock(scopes, now=now)

    def _check(self) -> None:
        if self.local.now < self.lost_until:
            raise StoreLost("Redis at nowhere does not answer")
