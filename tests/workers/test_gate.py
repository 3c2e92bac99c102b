"""The gate: what cannot start yet stays in Temporal's queue."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from ratelimit.errors import StoreLost
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.places import Ahead
from ratelimit.quota import Limit, Quota
from workers.admission import Admission
from workers.gate import Gate
from workers.pool import Pool, worker

SCOPE, OTHER = "openai/m", "openai/n"
CONTEXT = cast("Any", SimpleNamespace(slot_info=object()))
UNUSED = cast("Any", SimpleNamespace(slot_info=None))


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


@pytest.fixture
async def limiter() -> AsyncIterator[Limiter]:
    quotas = {
        scope: Quota(scope=scope, limits={"requests": Limit(capacity=6000, burst=10)}) for scope in (SCOPE, OTHER)
    }
    async with Limiter(MemoryStore(), quotas) as found:
        for quota in quotas.values():
            await found.configure(quota, full=True)
        yield found


async def opens(gate: Gate, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        await gate.reserve_slot(CONTEXT)


async def stays_closed(gate: Gate) -> None:
    with pytest.raises(TimeoutError):
        await opens(gate, 0.1)


async def test_there_are_only_so_many_slots(limiter: Limiter) -> None:
    gate = Gate(2, limiter, [SCOPE], s(1))
    await opens(gate)
    await opens(gate)
    await stays_closed(gate)
    gate.mark_slot_used(CONTEXT)
    gate.release_slot(CONTEXT)
    await opens(gate)
    assert gate.try_reserve_slot(CONTEXT) is None


async def test_a_line_that_is_longer_than_the_horizon_closes_it(limiter: Limiter) -> None:
    gate = Gate(9, limiter, [SCOPE], s(1))
    await limiter.reserve(SCOPE, {"requests": 60}, max_wait=s(60))
    await opens(gate)
    await limiter.reserve(SCOPE, {"requests": 80}, max_wait=s(60))
    await stays_closed(gate)
    # as the line gets shorter it opens by itself
    await opens(gate)


async def test_a_cooldown_closes_it_unless_another_scope_grants(limiter: Limiter) -> None:
    await limiter.cool_down(SCOPE, retry_after=s(60))
    await stays_closed(Gate(9, limiter, [SCOPE], s(1)))
    await opens(Gate(9, limiter, [SCOPE, OTHER], s(1)))
    await opens(Gate(9, limiter, [], s(1)))


async def test_polls_under_way_count_as_calls(limiter: Limiter) -> None:
    gate = Gate(9, limiter, [SCOPE], s(0.5))
    for _ in range(60):
        # a call spends two tenths of a second of the quota
        await limiter.reserve(SCOPE, {"requests": 20}, max_wait=s(60))
    limiter._store.model.scopes[SCOPE].buckets["requests"].level = 10.0
    await limiter.clock(SCOPE)
    for _ in range(3):
        await opens(gate)
    await stays_closed(gate)
    gate.mark_slot_used(CONTEXT)
    await opens(gate)
    gate.release_slot(UNUSED)
    await opens(gate)


async def test_while_nothing_is_in_the_queue_nothing_is_held(limiter: Limiter) -> None:
    held: list[float] = []
    gate = Gate(9, limiter, [SCOPE], s(0.5), held.append)
    for _ in range(60):
        await limiter.reserve(SCOPE, {"requests": 20}, max_wait=s(60))
    limiter._store.model.scopes[SCOPE].buckets["requests"].level = 10.0
    await limiter.clock(SCOPE)
    for _ in range(3):
        await opens(gate)
    # the polls under way bring nothing: more of them would bring no more
    await stays_closed(gate)
    waiting = asyncio.create_task(gate.reserve_slot(CONTEXT))
    await asyncio.sleep(0)
    gate.release_slot(UNUSED)
    await asyncio.wait_for(waiting, 5)
    assert held == []


async def test_without_the_store_it_is_closed(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(scope: str) -> Ahead:
        raise StoreLost(scope)

    held: list[float] = []
    gate = Gate(9, limiter, [SCOPE], s(1), held.append)
    with monkeypatch.context() as away:
        away.setattr(limiter, "ahead", lost)
        waiting = asyncio.create_task(gate.reserve_slot(CONTEXT))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done()
    # it is another trouble than a quota that does not grant
    await asyncio.wait_for(waiting, 5)
    assert held == []


@workflow.defn
class Calls:
    """Schedules activities as agents do: each with its run's priority."""

    @workflow.run
    async def run(self, queue: str, calls: list[tuple[str, int]]) -> None:
        await asyncio.gather(
            *(
                workflow.execute_activity(
                    "call",
                    name,
                    task_queue=queue,
                    start_to_close_timeout=timedelta(seconds=30),
                    heartbeat_timeout=timedelta(seconds=10),
                    priority=Priority(priority_key=key),
                )
                for name, key in calls
            )
        )


async def test_while_it_is_closed_calls_stay_in_the_queue_and_leave_it_in_their_order(temporal, limiter) -> None:
    gate = Gate(4, limiter, [SCOPE], s(0.05))
    admission = Admission(limiter, s(0.1), gated=True)
    started: list[str] = []
    attempts: list[int] = []

    @activity.defn(name="call")
    async def call(name: str) -> None:
        attempts.append(activity.info().attempt)
        async with admission.admitted(SCOPE, {"requests": 1.0}, max_failures=1) as admitted:
            started.append(name)
            admitted.actual = {"requests": 1.0}

    await limiter.close(SCOPE)
    queue = f"q-{uuid4().hex}"
    pool = Pool(name="p", task_queue=queue, slots=4, drain=s(1), activities=[call], gate=gate)
    new, running = [(f"new-{i}", 4) for i in range(30)], [(f"running-{i}", 3) for i in range(30)]
    workflows = Worker(
        temporal, task_queue=f"w-{queue}", workflows=[Calls], workflow_runner=UnsandboxedWorkflowRunner()
    )
    async with worker(temporal, pool, on_fatal=lambda _: None), workflows:
        calls = [queue, new + running]
        handle = await temporal.start_workflow(Calls.run, args=calls, id=queue, task_queue=f"w-{queue}")
        await _backlog(temporal, queue, len(new + running))
        assert attempts == []
        await limiter.open(SCOPE)
        await handle.result()
    firsts = started[: len(running)]
    assert sum(name.startswith("new") for name in firsts) <= 4
    assert len(started) == 60
    assert sum(attempt > 1 for attempt in attempts) <= 8


async def _backlog(temporal: Client, queue: str, least: int) -> None:
    """Return once the server has that many tasks in the queue."""
    request = DescribeTaskQueueRequest(
        namespace="default",
        task_queue=TaskQueue(name=queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        report_stats=True,
    )
    async with asyncio.timeout(20):
        while True:
            found = await temporal.workflow_service.describe_task_queue(request)
            if found.stats.approximate_backlog_count >= least:
                return
            await asyncio.sleep(0.05)
