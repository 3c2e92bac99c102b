"""The local clock: when to ask again. It never decides who may start; the store's clock does."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Local monotonic time, and a way to let it pass."""

    def time(self) -> float:
        """Seconds, from an arbitrary origin."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return when `event` is set or after `seconds`, whichever comes first."""
        ...


class MonotonicClock:
    """The machine's."""

    def time(self) -> float:
        """Seconds, from an arbitrary origin."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return when `event` is set or after `seconds`, whichever comes first."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
