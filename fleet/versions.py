"""The versions of a pool, as Temporal has them; and the first one, which nobody need promote.

Every pool is a Worker Deployment of its own, and a build is a version in it.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from temporalio.api.deployment.v1 import WorkerDeploymentInfo
from temporalio.api.enums.v1 import WorkerDeploymentVersionStatus as Status
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentResponse,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from fleet.errors import Unreachable
from fleet.manifest import Manifest
from fleet.pools import moment

NEVER = datetime.fromtimestamp(0, UTC)
"""Before everything that has happened."""

_LOOK_S = 0.1


class State(StrEnum):
    """Where a version stands."""

    CURRENT = "current"
    """New runs begin on it."""
    RAMPING = "ramping"
    """A share of the new runs begins on it."""
    DRAINING = "draining"
    """No run begins on it, some still need it; Temporal looks every few minutes."""
    DRAINED = "drained"
    """No run needs it."""
    UNUSED = "unused"
    """Workers of it have polled; nothing has begun on it."""
    UNVERSIONED = "unversioned"
    """Not a version: runs that have not begun or began without one, and workers without a build id."""


_STATES = {
    Status.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT: State.CURRENT,
    Status.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING: State.RAMPING,
    Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING: State.DRAINING,
    Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED: State.DRAINED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One build of one pool."""

    build: str
    state: State
    created_at: datetime | None
    since: datetime | None
    """Since when it is in this state, as far as Temporal tells."""
    current_at: datetime | None
    """When it last became the one that all new runs begin on; None: never."""
    left_at: datetime | None
    """When new runs were last led away from it, also when its ramp ended; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The versions of one pool."""

    pool: str
    name: str
    task_queue: str
    token: bytes
    """Temporal refuses a change that was planned on another state than the present one."""
    current: str
    """Empty: unversioned workers get the new runs."""
    ramping: str
    percentage: float
    """Share of new runs that begins on `ramping`, 0 to 100."""
    versions: tuple[Version, ...]
    """Newest first."""
    current_changed_at: datetime | None
    ramp_changed_at: datetime | None

    def version(self, build: str) -> Version | None:
        """One version by its build."""
        return next((v for v in self.versions if v.build == build), None)

    @property
    def before(self) -> Version | None:
        """The older version that was current last: what a rollback leads to. A newer one it never leads to."""
        had = [v for v in self.versions if v.current_at is not None and self.older(v)]
        return max(had, key=lambda v: v.current_at or NEVER, default=None)

    @property
    def changed_at(self) -> datetime:
        """When new runs were last led elsewhere."""
        return max(self.current_changed_at or NEVER, self.ramp_changed_at or NEVER)

    @property
    def undone(self) -> str:
        """The build that new runs were led away from last, by a rollback or the end of its ramp; empty: by neither."""
        here, last = self.version(self.current), self.version(self.last)
        if here is None or self.ramping:
            return ""
        if (self.ramp_changed_at or NEVER) > (self.current_changed_at or NEVER):
            others = [v for v in self.versions if v.build != self.current]
            return max(others, key=lambda v: v.left_at or NEVER).build if others else ""
        return last.build if last is not None and not _is_older(last, here) else ""

    @property
    def last(self) -> str:
        """The other build that was current last, newer or older; empty: there is none."""
        others = [v for v in self.versions if v.build != self.current and v.current_at is not None]
        return max(others, key=lambda v: v.current_at or NEVER).build if others else ""

    def older(self, version: Version) -> bool:
        """Whether it is older than the current one."""
        here = self.version(self.current)
        return here is not None and _is_older(version, here)


def deployment_of(task_queue: str) -> str:
    """Name of the Worker Deployment of a pool: its task queue. Temporal takes no `.` and no `:` in it."""
    return task_queue.replace(".", "-").replace(":", "-")


async def adopt(client: Client, task_queue: str, build: str, *, within: timedelta = timedelta(seconds=30)) -> str:
    """Make the first version that a pool ever has the current one: without one its queue would be served by nobody.

    Args:
        client: of the namespace.
        task_queue: the pool's.
        build: a worker of it polls already.
        within: how long Temporal may take to notice that worker.

    Returns:
        The build that is current now; empty if somebody has taken the last one out of service.

    Raises:
        Unreachable: Temporal does not answer, or does not notice the worker in time.
    """
    name = deployment_of(task_queue)
    deadline = time.monotonic() + within.total_seconds()
    while time.monotonic() < deadline:
        answer = await _describe(client, name)
        known = answer.worker_deployment_info.version_summaries if answer else []
        if answer is None or build not in (v.deployment_version.build_id for v in known):
            await asyncio.sleep(random.uniform(1, 3) * _LOOK_S)
            continue
        routing = answer.worker_deployment_info.routing_config
        if routing.current_deployment_version.build_id:
            return routing.current_deployment_version.build_id
        if any(version.HasField("first_activation_time") for version in known):
            return ""
        try:
            await client.workflow_service.set_worker_deployment_current_version(
                SetWorkerDeploymentCurrentVersionRequest(
                    namespace=client.namespace,
                    deployment_name=name,
                    build_id=build,
                    conflict_token=answer.conflict_token,
                    identity=client.identity,
                ),
                retry=True,
            )
        except RPCError as error:
            # another first worker was quicker, or Temporal is still writing the version down
            if error.status not in (RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.NOT_FOUND):
                raise Unreachable(f"Temporal: {error.message}") from None
            await asyncio.sleep(random.uniform(1, 3) * _LOOK_S)
            continue
        return build
    raise Unreachable(f"Temporal has not noticed a worker of {name} {build} within {within.total_seconds():g} s")


async def deployment(client: Client, manifest: Manifest, pool: str) -> Deployment:
    """The versions of a pool; none where no versioned worker has ever polled.

    Raises:
        Unreachable: Temporal does not answer.
    """
    queue = manifest.task_queue(pool)
    answer = await _describe(client, deployment_of(queue))
    info = answer.worker_deployment_info if answer else WorkerDeploymentInfo()
    routing = info.routing_config
    return Deployment(
        pool=pool,
        name=deployment_of(queue),
        task_queue=queue,
        token=answer.conflict_token if answer else b"",
        current=routing.current_deployment_version.build_id,
        current_changed_at=moment(routing.current_version_changed_time),
        ramp_changed_at=moment(routing.ramping_version_changed_time),
        ramping=routing.ramping_deployment_version.build_id,
        percentage=routing.ramping_version_percentage,
        versions=tuple(
            sorted(map(_version, info.version_summaries), key=lambda v: v.created_at or NEVER, reverse=True)
        ),
    )


def _is_older(one: Version, other: Version) -> bool:
    return (one.created_at or NEVER) < (other.created_at or NEVER)


async def _describe(client: Client, name: str) -> DescribeWorkerDeploymentResponse | None:
    asked = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=name)
    # Temporal takes few requests a second for one deployment, and a whole fleet may start at once
    try:
        return await client.workflow_service.describe_worker_deployment(asked, retry=True)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise Unreachable(f"Temporal: {error.message}") from None


def _version(told: WorkerDeploymentInfo.WorkerDeploymentVersionSummary) -> Version:
    state = _STATES.get(told.status, State.UNUSED)
    since = {
        State.CURRENT: told.current_since_time,
        State.RAMPING: told.ramping_since_time,
        State.DRAINING: told.last_deactivation_time,
        State.DRAINED: told.drainage_info.last_changed_time,
    }.get(state, told.create_time)
    return Version(
        build=told.deployment_version.build_id,
        state=state,
        created_at=moment(told.create_time),
        since=moment(since),
        current_at=moment(told.last_current_time),
        left_at=moment(told.last_deactivation_time),
    )
