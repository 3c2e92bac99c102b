"""Who serves the pools now: live workers and their slots, their versions, and what waits in each task queue."""

import asyncio
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import RateLimitSource, TaskQueueType, WorkerStatus
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueStats
from temporalio.api.worker.v1 import WorkerHeartbeat, WorkerSlotsInfo
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    ListWorkersRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from fleet.errors import Unreachable
from fleet.manifest import Manifest

HEARTBEAT_EVERY = timedelta(seconds=5)
"""How often a worker tells Temporal that it lives, and what its slots do. The first time comes as late."""

LIVE_WITHIN = timedelta(seconds=12.5)
"""A worker that has not been heard of for so long is not counted on: two heartbeats are missing."""

_PAGE = 500
_LOOK_S = 0.5
_AGAIN = 1.3
"""A heartbeat is awaited for so many intervals."""
_POLL = timedelta(seconds=70)
"""A poll lasts a minute; whoever polls has begun one within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What a worker does at once, of one kind of task."""

    used: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker of one pool. A process that serves several pools is several workers."""

    identity: str
    """Process id and host, unless `TEMPORAL_IDENTITY` or a plugin says otherwise."""
    host: str
    pid: int | None
    task_queue: str
    deployment: str
    """Empty: not versioned."""
    build: str
    """Empty: not versioned."""
    state: str
    """`running`; `stopping`: it drains; `silent`: nothing was heard of it for `LIVE_WITHIN`."""
    started_at: datetime | None
    seen_at: datetime
    """Its last heartbeat, by its own clock."""
    workflows: Slots | None
    """None: it runs none."""
    activities: Slots | None

    @property
    def live(self) -> bool:
        """Whether it takes new work."""
        return self.state == "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in a task queue, by Temporal's approximate count. It may be some seconds old."""

    count: int
    oldest_s: float
    """Age of the oldest task; 0 if none waits."""
    added_per_s: float
    dispatched_per_s: float
    limited: bool
    """Temporal holds tasks back by a rate limit of the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One pool of the manifest."""

    name: str
    task_queue: str
    current: str
    """Build that new work goes to; empty: unversioned workers."""
    workers: tuple[WorkerView, ...]
    workflows: Backlog | None
    """None: nobody runs workflows here."""
    activities: Backlog
    rate_limit: float | None
    """Tasks a second, where somebody has given the queue a limit."""

    @property
    def live(self) -> int:
        """Workers that take new work."""
        return sum(worker.live for worker in self.workers)

    @property
    def served(self) -> bool:
        """Whether somebody takes the new work: a live worker of the version that it goes to."""
        return any(worker.live and worker.build == self.current for worker in self.workers)

    @property
    def unpromoted(self) -> tuple[str, ...]:
        """Builds of live workers of a pool of which no version is current and that nobody else serves."""
        live = {worker.build for worker in self.workers if worker.live}
        return () if self.current or "" in live else tuple(sorted(live))


async def workers(client: Client, manifest: Manifest | None = None) -> list[WorkerView]:
    """Every worker that Temporal has heard of lately, the dead of the last minutes included.

    Args:
        client: of the namespace.
        manifest: tells how many slots a pool has that gives them out itself. None: free slots are what Temporal says.

    Raises:
        Unreachable: Temporal does not answer, or is older than worker heartbeats (server 1.29).
    """
    slots = {manifest.task_queue(name): spec.slots for name, spec in manifest.pools.items()} if manifest else None
    beats, now = await _beats(client, slots), datetime.now(UTC)
    running = [beat for beat in beats if beat.status == WorkerStatus.WORKER_STATUS_RUNNING]
    # all are dead, or our clock is another than theirs: whoever lives is heard of again
    if running and now - _newest(running) > LIVE_WITHIN and (again := await _fresher(client, slots, _newest(running))):
        beats, now = again, _newest(again)
    found = [_worker(beat, slots or {}, now) for beat in beats]
    return sorted(found, key=lambda w: (w.task_queue, w.build, w.host, w.identity))


async def _beats(client: Client, queues: Container[str] | None) -> list[WorkerHeartbeat]:
    """The last heartbeat of every worker of these queues; of all queues if they are None."""
    found: list[WorkerHeartbeat] = []
    page = b""
    while True:
        asked = ListWorkersRequest(namespace=client.namespace, page_size=_PAGE, next_page_token=page)
        try:
            answer = await client.workflow_service.list_workers(asked)
        except RPCError as error:
            raise Unreachable(f"Temporal lists no workers: {error.message}") from None
        beats = [one.worker_heartbeat for one in answer.workers_info]
        found += [beat for beat in beats if queues is None or beat.task_queue in queues]
        page = answer.next_page_token
        if not page:
            return found


def _newest(beats: Sequence[WorkerHeartbeat]) -> datetime:
    return max(moment(beat.heartbeat_time) or datetime.now(UTC) for beat in beats)


async def _fresher(client: Client, queues: Container[str] | None, than: datetime) -> list[WorkerHeartbeat]:
    """All heartbeats once there is a newer one; none if nobody is heard of for as long as a living worker is silent."""
    deadline = monotonic() + _AGAIN * HEARTBEAT_EVERY.total_seconds()
    while monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        beats = await _beats(client, queues)
        if beats and _newest(beats) > than:
            return beats
    return []


async def survey(client: Client, manifest: Manifest) -> list[PoolView]:
    """Every pool of the manifest, in its order.

    Raises:
        Unreachable: Temporal does not answer.
    """
    everybody: list[WorkerView] | None = None
    # a server that keeps no heartbeats still knows who polls
    with suppress(Unreachable):
        everybody = await workers(client, manifest)
    return await asyncio.gather(*(_pool(client, manifest, name, everybody) for name in manifest.pools))


async def _pool(client: Client, manifest: Manifest, name: str, everybody: Sequence[WorkerView] | None) -> PoolView:
    queue = manifest.task_queue(name)
    activities, workflows = await asyncio.gather(
        _queue(client, queue, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
        _queue(client, queue, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
    )
    mine = [worker for worker in everybody or () if worker.task_queue == queue]
    known = {(worker.identity, worker.build) for worker in mine}
    # whoever has just begun polls before its first heartbeat
    mine += [w for w in _pollers(queue, activities, workflows) if (w.identity, w.build) not in known]
    runs = any(w.workflows for w in mine) or workflows.pollers or workflows.stats.approximate_backlog_count
    routes = [told.versioning_info.current_deployment_version.build_id for told in (workflows, activities)]
    limit = activities.effective_rate_limit
    return PoolView(
        name=name,
        task_queue=queue,
        current=next(filter(None, routes), ""),
        workers=tuple(mine),
        workflows=_backlog(workflows.stats) if runs else None,
        activities=_backlog(activities.stats),
        rate_limit=limit.requests_per_second
        if limit.rate_limit_source == RateLimitSource.RATE_LIMIT_SOURCE_API
        else None,
    )


async def _queue(client: Client, queue: str, kind: TaskQueueType.ValueType) -> DescribeTaskQueueResponse:
    asked = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind, report_stats=True
    )
    try:
        return await client.workflow_service.describe_task_queue(asked)
    except RPCError as error:
        raise Unreachable(f"Temporal: {error.message}") from None


def _backlog(stats: TaskQueueStats) -> Backlog:
    return Backlog(
        count=stats.approximate_backlog_count,
        oldest_s=stats.approximate_backlog_age.ToTimedelta().total_seconds() if stats.approximate_backlog_count else 0,
        added_per_s=round(stats.tasks_add_rate, 3),
        dispatched_per_s=round(stats.tasks_dispatch_rate, 3),
        limited=stats.rate_limiting_active,
    )


def _worker(beat: WorkerHeartbeat, slots: dict[str, int], now: datetime) -> WorkerView:
    seen = moment(beat.heartbeat_time) or now
    state = "running"
    if beat.status != WorkerStatus.WORKER_STATUS_RUNNING:
        state = "stopping"
    if now - seen > LIVE_WITHIN:
        state = "silent"
    version = beat.deployment_version
    versioned = bool(version.deployment_name)
    return WorkerView(
        identity=beat.worker_identity,
        host=beat.host_info.host_name,
        pid=int(beat.host_info.process_id) if beat.host_info.process_id.isdigit() else None,
        task_queue=beat.task_queue,
        deployment=version.deployment_name,
        # an unversioned worker has a build id too: the SDK's digest of its code
        build=version.build_id if versioned else "",
        state=state,
        started_at=moment(beat.start_time),
        seen_at=seen,
        workflows=_slots(beat.workflow_task_slots_info, None) if _polls(beat, "workflow") else None,
        # whoever began behind a closed gate has never polled, and has its slots all the same
        activities=_slots(beat.activity_task_slots_info, slots.get(beat.task_queue))
        if _polls(beat, "activity") or _gated(beat)
        else None,
    )


def _polls(beat: WorkerHeartbeat, kind: str) -> bool:
    info = getattr(beat, f"{kind}_poller_info")
    done = getattr(beat, f"{kind}_task_slots_info")
    return bool(info.current_pollers or info.HasField("last_successful_poll_time") or done.total_processed_tasks)


def _gated(beat: WorkerHeartbeat) -> bool:
    return bool(beat.activity_task_slots_info.slot_supplier_kind == "Custom")


def _slots(info: WorkerSlotsInfo, most: int | None) -> Slots:
    used = info.current_used_slots
    # a pool's gate gives out the slots, and Temporal does not know how many it has
    free = info.current_available_slots if info.slot_supplier_kind != "Custom" or most is None else most - used
    return Slots(used=used, free=max(0, free))


def _pollers(queue: str, *told: DescribeTaskQueueResponse) -> list[WorkerView]:
    """Workers by their polls. Where a gate is closed nobody polls."""
    now = datetime.now(UTC)
    found: dict[tuple[str, str], WorkerView] = {}
    for poller in (one for answer in told for one in answer.pollers):
        seen = moment(poller.last_access_time) or now
        version = poller.deployment_options
        key = (poller.identity, version.build_id if version.deployment_name else "")
        if key in found and found[key].seen_at >= seen:
            continue
        found[key] = WorkerView(
            identity=poller.identity,
            host=poller.identity.rpartition("@")[2],
            pid=None,
            task_queue=queue,
            deployment=version.deployment_name,
            build=key[1],
            state="running" if now - seen <= _POLL else "silent",
            started_at=None,
            seen_at=seen,
            workflows=None,
            activities=None,
        )
    return list(found.values())


def moment(at: Timestamp) -> datetime | None:
    """A moment as Temporal tells it; None: never."""
    return at.ToDatetime(UTC) if at.seconds > 0 else None
