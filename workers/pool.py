"""One task queue, one Temporal worker."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    FixedSizeSlotSupplier,
    Interceptor,
    Worker,
    WorkerDeploymentConfig,
    WorkerTuner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from fleet.contracts import metrics
from fleet.contracts.names import WAITS
from fleet.versions import deployment_of
from workers.gate import Gate
from workers.metrics import METRICS
from workers.redacting import RedactingInterceptor
from workers.redaction import REDACTOR
from workers.tracing import traced

# Our own contracts and pure functions are deterministic: importing them anew for every run would cost 100 ms each.
SANDBOX = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(
        "fleet", "jsonschema", "simpleeval", "referencing", "rpds", "attrs", "attr", "jsonschema_specifications"
    )
)

HEARTBEAT_THROTTLE = timedelta(seconds=2)
"""Longest delay between a heartbeat and its sending: also how late a cancellation may be heard."""


UNVERSIONED = "unversioned"
"""What a worker that belongs to no version is called in histories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a pool serves and how."""

    name: str
    task_queue: str
    slots: int
    drain: timedelta
    cached: int = 500
    """Workflows kept in memory between their steps."""
    activities: Sequence[Callable[..., Any]] = ()
    workflows: Sequence[type] = ()
    gate: Gate | None = None
    """Gives out the slots of activities; None: they are all there are."""
    activities_per_s: float | None = None
    """Temporal hands out no more of the task queue's activities, whoever polls it; None: as many as there are."""
    interceptors: Sequence[Interceptor] = ()
    """Around each call, within those that redact and count."""
    build: str | None = None
    """The version of the code, of the pool's own Worker Deployment. None: any worker goes on with any run."""


def worker(client: Client, pool: Pool, *, on_fatal: Callable[[BaseException], Any]) -> Worker:
    """The Temporal worker of the pool, not yet running."""

    async def fatal(error: BaseException) -> None:
        on_fatal(error)

    activity_slots = pool.gate or FixedSizeSlotSupplier(pool.slots if pool.activities else 1)
    tuner = WorkerTuner.create_composite(
        workflow_supplier=FixedSizeSlotSupplier(max(2, pool.slots)),
        activity_supplier=activity_slots,
        local_activity_supplier=FixedSizeSlotSupplier(max(2, pool.slots)),
        nexus_supplier=FixedSizeSlotSupplier(1),
    )
    return Worker(
        client,
        task_queue=pool.task_queue,
        activities=pool.activities,
        workflows=pool.workflows,
        workflow_runner=SANDBOX,
        tuner=tuner,
        max_cached_workflows=pool.cached,
        max_concurrent_activity_task_polls=min(pool.slots, 8) if pool.activities else 1,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        max_task_queue_activities_per_second=pool.activities_per_s,
        graceful_shutdown_timeout=pool.drain,
        interceptors=[*traced(), RedactingInterceptor(REDACTOR), _Counting(pool.name), *pool.interceptors],
        on_fatal_error=fatal,
        deployment_config=_versioned(pool),
        # else the SDK reads every module that is loaded to make one up: seconds, at every start
        build_id=UNVERSIONED if pool.build is None else None,
    )


def _versioned(pool: Pool) -> WorkerDeploymentConfig | None:
    if pool.build is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=deployment_of(pool.task_queue), build_id=pool.build),
        use_worker_versioning=True,
        # said here and not of each workflow: the server refuses a behaviour that an unversioned worker declares
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


class _Counting(Interceptor):
    """Counts the attempts of a pool by how they end."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _CountingActivity(next, self._pool)


class _CountingActivity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, pool: str) -> None:  # noqa: A002
        super().__init__(next)
        self._pool = pool

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        name = getattr(input.fn, "__name__", "activity")
        outcome = "failed"
        running = METRICS.of(metrics.RUNNING).labels(self._pool)
        running.inc()
        try:
            result = await super().execute_activity(input)
            outcome = "completed"
            return result
        except ApplicationError as error:
            outcome = "waited" if error.type in WAITS else "failed"
            raise
        except (asyncio.CancelledError, CancelledError):
            outcome = "cancelled"
            raise
        finally:
            running.dec()
            METRICS.of(metrics.TASKS).labels(self._pool, name, outcome).inc()
