"""A pool's worker: versions, and who is dead or only slow."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from tests.workers.slow_worker import answer

HEARTBEAT = timedelta(seconds=2)
PATIENCE_S = 30.0
BUSY_S = 3.0
"""What a busy machine may add."""


@pytest.fixture
async def slow_worker(temporal_address, tmp_path):
    """Start a process whose worker takes its time."""
    running = []

    async def start(queue: str, name: str, takes_s: float) -> asyncio.subprocess.Process:
        log = (tmp_path / name).open("w")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.workers.slow_worker", temporal_address, queue, name, str(takes_s),
            cwd=Path(__file__).parents[2], stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        running.append(process)
        return process

    yield start
    for process in running:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def asked(client: Client, queue: str):
    return await client.start_activity(
        answer,
        id=f"slow-{uuid4().hex}",
        task_queue=queue,
        start_to_close_timeout=timedelta(minutes=1),
        heartbeat_timeout=HEARTBEAT,
    )


async def until_begun(handle):
    async with asyncio.timeout(PATIENCE_S):
        while (await handle.describe()).last_started_time is None:
            await asyncio.sleep(0.05)


async def until_polled(client: Client, queue: str, workers: int):
    asking = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    async with asyncio.timeout(PATIENCE_S):
        while len((await client.workflow_service.describe_task_queue(asking)).pollers) < workers:
            await asyncio.sleep(0.05)


@pytest.mark.trial
async def test_a_call_that_takes_many_heartbeats_is_not_disturbed(temporal, slow_worker):
    queue = f"slow-{uuid4().hex}"
    await slow_worker(queue, "one", 3.5 * HEARTBEAT.total_seconds())
    handle = await asked(temporal, queue)
    assert await asyncio.wait_for(handle.result(), PATIENCE_S) == ["one", 1]


@pytest.mark.trial
async def test_a_worker_that_is_killed_is_replaced_within_its_heartbeat_timeout(temporal, slow_worker):
    queue = f"slow-{uuid4().hex}"
    first = await slow_worker(queue, "first", 60)
    handle = await asked(temporal, queue)
    await until_begun(handle)
    await slow_worker(queue, "second", 0)
    await until_polled(temporal, queue, 2)
    killed = datetime.now(UTC)
    os.kill(first.pid, signal.SIGKILL)
    await first.wait()
    assert await asyncio.wait_for(handle.result(), PATIENCE_S) == ["second", 2]
    again = (await handle.describe()).last_started_time
    assert again is not None
    # a second before the second attempt is the retry policy's
    assert timedelta(0) < again - killed < HEARTBEAT + timedelta(seconds=1 + BUSY_S)
