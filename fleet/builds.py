"""The builds of a manifest's pools: what each still carries, and the deletion of those that nobody needs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.api.deployment.v1 import WorkerDeploymentVersion as VersionName
from temporalio.api.workflowservice.v1 import DeleteWorkerDeploymentVersionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from fleet import pools
from fleet.errors import BadInput, Unreachable
from fleet.manifest import Manifest
from fleet.pools import WorkerView
from fleet.versions import Deployment, State, Version, deployment, deployment_of

KEPT = 20
"""So many versions of a deployment are kept when new runs are led elsewhere; the oldest that nobody needs are deleted.
Temporal keeps at most 100 (`matching.maxVersionsInDeployment`)."""

CROWDED = 50
"""So many are kept when a worker of another one starts: those that are deployed and never promoted pile up as well."""

FORGOTTEN_AFTER = timedelta(minutes=5)
"""How long Temporal remembers a poll (`matching.PollerHistoryTTL`): a version that was polled for lately stays."""

_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a version still carries, and what keeps it from being deleted."""

    pool: str
    version: Version
    percentage: float | None
    """Of a ramping version."""
    runs: int
    """Running workflows that are on it: runs, effects."""
    workers: int
    """Live ones."""
    seen_at: datetime | None
    """When a worker of it was last heard of."""
    blocks: tuple[str, ...]
    """Why it cannot be deleted now; none: it can."""


class Builds:
    """The versions of a manifest's pools."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self._client = client
        self._manifest = manifest
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def deployments(self, names: Sequence[str] = ()) -> list[Deployment]:
        """The versions of each pool; of all pools if none is named. A pool that never had one has none.

        Raises:
            BadInput: there is no such pool.
            Unreachable: Temporal does not answer.
        """
        wanted = list(dict.fromkeys(names or self._manifest.pools))
        for name in wanted:
            if name not in self._manifest.pools:
                raise BadInput(f"unknown pool {name!r}; the manifest has: {', '.join(self._manifest.pools)}")
        return await asyncio.gather(*(deployment(self._client, self._manifest, name) for name in wanted))

    async def status(self, names: Sequence[str] = ()) -> list[Carried]:
        """Every version of the pools, with what it carries and what blocks its removal. Raises as `deployments`."""
        found, everybody = await asyncio.gather(self.deployments(names), self._workers())
        rows = await asyncio.gather(
            *(self._carried(one, version, everybody) for one in found for version in one.versions)
        )
        loose = await asyncio.gather(*(self._unversioned(one, everybody) for one in found))
        ordered: list[Carried] = []
        for one, rest in zip(found, loose, strict=True):
            ordered += [row for row in rows if row.pool == one.pool]
            ordered += [rest] if rest is not None else []
        return ordered

    async def runs(self, one: Deployment, version: Version) -> int:
        """Running workflows that are on a version of a pool: runs, effects.

        Raises:
            Unreachable: Temporal does not answer.
        """
        return await self._count(f"TemporalWorkerDeploymentVersion = '{one.name}:{version.build}'")

    async def prune(self, names: Sequence[str] = (), *, kept: int = KEPT) -> list[Carried]:
        """Delete the oldest versions that nobody needs, until a deployment has at most `kept`; answers the deleted.

        Versions on which nothing has ever begun are counted, and deleted, as those that have drained.

        Raises:
            Unreachable: Temporal does not answer.
        """
        crowded = [one for one in await self.deployments(names) if len(one.versions) > kept]
        deleted: list[Carried] = []
        everybody = await self._workers() if crowded else []
        for one in crowded:
            # where a rollback leads to, and by what it is known that there was one
            spared = {one.before.build if one.before else "", one.last, one.undone}
            old = [v for v in one.versions if v.state in (State.DRAINED, State.UNUSED) and v.build not in spared]
            left = len(one.versions) - kept
            for version in reversed(old):
                if left <= 0:
                    break
                row = await self._carried(one, version, everybody)
                if await self._delete(one.name, row):
                    deleted.append(row)
                    left -= 1
        return deleted

    async def delete(self, rows: Sequence[Carried]) -> list[Carried]:
        """Delete drained versions; answers those that are gone. Versions that somebody still polls for stay."""
        return [
            row
            for row in rows
            if row.version.state is State.DRAINED
            and await self._delete(deployment_of(self._manifest.task_queue(row.pool)), row)
        ]

    # ---- what is there

    async def _workers(self) -> list[WorkerView]:
        return [worker for pool in await pools.survey(self._client, self._manifest) for worker in pool.workers]

    async def _carried(self, one: Deployment, version: Version, everybody: Sequence[WorkerView]) -> Carried:
        runs = await self.runs(one, version)
        mine = [w for w in everybody if (w.deployment, w.build) == (one.name, version.build)]
        live = sum(worker.state != "silent" for worker in mine)
        seen = max((worker.seen_at for worker in mine), default=None)
        return Carried(
            pool=one.pool,
            version=version,
            percentage=one.percentage if version.state is State.RAMPING else None,
            runs=runs,
            workers=live,
            seen_at=seen,
            blocks=tuple(_blocks(version, runs, live, seen)),
        )

    async def _unversioned(self, one: Deployment, everybody: Sequence[WorkerView]) -> Carried | None:
        mine = [w for w in everybody if w.task_queue == one.task_queue and not w.deployment]
        live = sum(worker.state != "silent" for worker in mine)
        where = f"TaskQueue = '{one.task_queue}' AND TemporalWorkerDeploymentVersion IS NULL"
        runs = await self._count(where)
        # with nothing versioned at all there is nothing to tell apart
        if not one.versions or not (runs or live):
            return None
        blocks = [f"{runs} not begun, or begun without a version"] if runs else []
        blocks += [f"{_living(live)} without FLEET_BUILD_ID"] if live else []
        return Carried(
            pool=one.pool,
            version=Version(
                build="", state=State.UNVERSIONED, created_at=None, since=None, current_at=None, left_at=None
            ),
            percentage=None,
            runs=runs,
            workers=live,
            seen_at=max((worker.seen_at for worker in mine), default=None),
            blocks=tuple(blocks),
        )

    async def _count(self, where: str) -> int:
        async with self._gate:
            try:
                found = await self._client.count_workflows(f"{where} AND ExecutionStatus = 'Running'")
            except RPCError as error:
                raise Unreachable(f"Temporal: {error.message}") from None
        return found.count

    async def _delete(self, name: str, row: Carried) -> bool:
        if row.runs or row.workers:
            return False
        try:
            await self._client.workflow_service.delete_worker_deployment_version(
                DeleteWorkerDeploymentVersionRequest(
                    namespace=self._client.namespace,
                    deployment_version=VersionName(deployment_name=name, build_id=row.version.build),
                    identity=self._client.identity,
                ),
                retry=True,
            )
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:
                return False
            if error.status is RPCStatusCode.NOT_FOUND:
                return True
            raise Unreachable(f"Temporal: {error.message}") from None
        return True


def _blocks(version: Version, runs: int, live: int, seen: datetime | None) -> list[str]:
    if version.state is State.CURRENT:
        return ["new runs begin on it"]
    if version.state is State.RAMPING:
        return ["some new runs begin on it"]
    found = [_running(runs)] if runs else []
    if not runs and version.state is State.DRAINING:
        found.append("Temporal has not looked again since its last run ended")
    if live:
        found.append(_living(live))
    elif seen and datetime.now(UTC) - seen < FORGOTTEN_AFTER:
        found.append(f"polled for until {seen:%H:%M:%S}: Temporal remembers it for five minutes")
    return found


def _running(runs: int) -> str:
    return f"{runs} running"


def _living(workers: int) -> str:
    return f"{workers} live worker{'s' if workers > 1 else ''}"
