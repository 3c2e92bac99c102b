"""One version of the workers follows another, as an operator would do it with `fleet rollout`."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Protocol

from temporalio.client import Client

from fleet.errors import FleetError
from fleet.manifest import Manifest
from fleet.rollout import Carried, Rollout
from fleet.versions import State
from load.trial import Deploy
from workers.embedded import Endpoints

DRAIN_WITHIN_S = 90.0
"""Old runs that have not ended by then keep their workers until the trial is over."""
PROMOTE_WITHIN_S = 20.0
"""How long Temporal may take to hear of the new workers."""
LOOK_S = 0.25


class Deployed(Protocol):
    """What versions are deployed to: a local fleet."""

    manifest: Manifest
    builds: list[str]

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers are."""

    async def start_build(self, build: str, code: Path | None = None) -> None:
        """Start workers of another version beside those that run, and wait until they are ready."""

    async def stop_build(self, build: str) -> None:
        """Let the workers of a version drain, and end."""


async def next_version(fleet: Deployed, told: Callable[[Deploy], None]) -> None:
    """Start workers of the version after the newest, promote it, wait until the old one has drained, stop its workers.

    Raises:
        FleetError: a worker does not start, or Temporal refuses the version.
    """
    before = fleet.builds[-1]
    after = following(before)
    rollout = Rollout(await Client.connect(fleet.endpoints.temporal), fleet.manifest)
    await fleet.start_build(after)
    promoting_at = time()
    await promote(rollout, after)
    deploy = Deploy(before=before, after=after, promoting_at=promoting_at, promoted_at=time())
    told(deploy)
    left = await drained(rollout, before, DRAIN_WITHIN_S)
    deploy = replace(deploy, drained_at=None if left else time(), left=left)
    told(deploy)
    if not left:
        await fleet.stop_build(before)


def following(build: str) -> str:
    """The name of the next version: `v1` is followed by `v2`."""
    number = re.search(r"\d+$", build)
    return f"{build[: number.start()]}{int(number[0]) + 1}" if number else f"{build}2"


async def promote(rollout: Rollout, build: str) -> None:
    """Let new runs begin on a build of which workers have just started.

    Raises:
        FleetError: Temporal has not heard of them in time, or refuses.
    """
    until = time() + PROMOTE_WITHIN_S
    while True:
        try:
            async for _ in rollout.apply(await rollout.promotion(build)):
                pass
        except FleetError:
            if time() > until:
                raise
            await asyncio.sleep(LOOK_S)
        else:
            return


async def drained(rollout: Rollout, build: str, within_s: float) -> str:
    """Wait until Temporal says of every pool that nothing needs the build; answers what does, when the time is up."""
    until = time() + within_s
    while True:
        left = [row for row in await rollout.status() if row.version.build == build and _needed(row)]
        if not left or time() > until:
            return ", ".join(f"{row.pool}: {row.runs} running" for row in left)
        await asyncio.sleep(LOOK_S)


def _needed(row: Carried) -> bool:
    return row.version.state not in (State.DRAINED, State.UNUSED)
