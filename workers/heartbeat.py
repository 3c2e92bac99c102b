"""A heartbeat from a background task: that the call lives, what it does, and what it carries from attempt to attempt.

Temporal counts every retry as an attempt, a wait for quota too. So real failures are counted here: the count travels in
the heartbeat details, which the next attempt receives whatever ended this one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from temporalio import activity


@dataclass(slots=True)
class Progress:
    """What an activity knows of its earlier attempts."""

    failures: int = 0
    """Real failures of the provider so far."""
    doing: str = ""
    """What the call does now, for those who look: told with the next heartbeat."""

    def failed(self) -> None:
        """Count one more, so that the next attempt knows."""
        self.failures += 1
        self.beat()

    def enter(self, doing: str) -> None:
        """Do something else from now on."""
        self.doing = doing
        self.beat()

    def beat(self) -> None:
        """Tell the server that we live, and what we know."""
        activity.heartbeat({"failures": self.failures, "doing": self.doing})


@asynccontextmanager
async def beating() -> AsyncIterator[Progress]:
    """Heartbeat at a third of the timeout until the block ends."""
    info = activity.info()
    details = info.heartbeat_details[0] if info.heartbeat_details else {}
    progress = Progress(failures=int(details.get("failures", 0)) if isinstance(details, dict) else 0)
    every = info.heartbeat_timeout.total_seconds() / 3 if info.heartbeat_timeout else 5.0

    async def beat() -> None:
        while True:
            progress.beat()
            await asyncio.sleep(every)

    task = asyncio.create_task(beat())
    try:
        yield progress
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
