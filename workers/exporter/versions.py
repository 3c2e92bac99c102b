"""What every version of the workers still carries."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

from temporalio.client import Client

from fleet.builds import Builds
from fleet.contracts.metrics import VERSION_DRAINING, VERSION_RUNS
from fleet.manifest import Manifest
from fleet.versions import Deployment, State, Version
from workers.exporter.looking import Sample

_STATUS = {
    State.CURRENT: "current",
    State.RAMPING: "ramping",
    State.DRAINING: "draining",
    State.DRAINED: "drained",
    State.UNUSED: "inactive",
}
_NEEDED = (State.CURRENT, State.RAMPING, State.DRAINING)
"""Versions that runs may be on. A pool keeps dozens of others, and of those Temporal says itself that none is."""


class Versions:
    """Runs by version of the manifest's pools; those without a version are not told."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self._builds = Builds(client, manifest)

    async def look(self) -> list[Sample]:
        """Raises:
        Unreachable: Temporal does not answer.
        """
        now = datetime.now(UTC)
        found = await self._builds.deployments()
        versions = [(one, version) for one in found for version in one.versions if version.state in _STATUS]
        counts = await asyncio.gather(*(self._runs(one, version) for one, version in versions))
        return [
            sample
            for (one, version), runs in zip(versions, counts, strict=True)
            for sample in _told(one.pool, version, runs, now)
        ]

    async def _runs(self, one: Deployment, version: Version) -> int:
        return await self._builds.runs(one, version) if version.state in _NEEDED else 0


def _told(pool: str, version: Version, runs: int, now: datetime) -> Iterator[Sample]:
    yield Sample(VERSION_RUNS, (pool, version.build, _STATUS[version.state]), runs)
    if version.state is State.DRAINING and version.since is not None:
        since_s = max(0.0, (now - version.since).total_seconds())
        yield Sample(VERSION_DRAINING, (pool, version.build), since_s)
