"""Workers are restarted one after the other, as Kubernetes and systemd do it."""

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Protocol

from load.finishing import finished


class Restarted(Protocol):
    """What workers are restarted of: a local fleet."""

    @property
    def restarting(self) -> asyncio.Lock:
        """Held by whoever changes which workers run."""

    def pids(self, pool: str = "") -> dict[str, int]:
        """Worker processes that run, by name."""

    async def start_worker(self, name: str) -> None:
        """Start a worker, and wait until it is ready."""

    async def stop_worker(self, name: str) -> None:
        """Let a worker drain, and end."""


async def rolling(fleet: Restarted, pool: str, *, surge: bool = True) -> None:
    """Restart the processes that serve a pool, one after the other; those that drain may still do so meanwhile.

    Whoever cancels it leaves no process half restarted.

    Args:
        fleet: it runs.
        pool: whose processes.
        surge: a replacement is ready before the old process is told to end, as with `maxSurge: 1` and
            `maxUnavailable: 0` of a Kubernetes Deployment. Else each ends first, as with `systemctl restart`.

    Raises:
        FleetError: a worker does not start.
    """
    async with fleet.restarting, AsyncExitStack() as ending:
        for name in sorted(fleet.pids(pool), key=_number):
            if not surge:
                await finished(_anew(fleet, name))
                continue
            await finished(fleet.start_worker(successor(name, fleet.pids())))
            drained = asyncio.create_task(fleet.stop_worker(name))
            ending.push_async_callback(finished, drained)


async def together(fleet: Restarted, pool: str, *, apart_s: float) -> None:
    """Stop all processes that serve a pool at once; start them again so many seconds after the last has ended.

    Raises:
        FleetError: a worker does not start.
    """
    async with fleet.restarting:
        names = list(fleet.pids(pool))
        await asyncio.gather(*map(fleet.stop_worker, names))
        try:
            await asyncio.sleep(apart_s)
        finally:
            await finished(asyncio.gather(*map(fleet.start_worker, names)))


def successor(name: str, names: Collection[str]) -> str:
    """What the process that takes over from one is called: `llm-3` takes over from `llm-1` if there is an `llm-2`."""
    group, _, rest = name.rpartition("-")
    build = rest[len(str(_number(name))) :]
    return f"{group}-{max(_number(one) for one in names if one.rpartition('-')[0] == group) + 1}{build}"


def _number(name: str) -> int:
    digits = name.rpartition("-")[2].partition("@")[0]
    return int(digits)


async def _anew(fleet: Restarted, name: str) -> None:
    await fleet.stop_worker(name)
    await fleet.start_worker(name)
