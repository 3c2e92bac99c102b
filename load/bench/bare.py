"""A bare workflow that has many activities with a window, and the activity that a batch is measured with.

Served by child processes (`python -m load.bench.bare QUEUE`).
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from fleet import settings as environment
from fleet.client import connect
from fleet.contracts.tools import ToolRequest, ToolResult
from fleet.errors import FleetError

ROOT = Path(__file__).parent.parent.parent
MANY, ECHO = "BareMany", "bench.echo"
CALLS = "-calls"
"""Ends the name of the queue of the activities: as in a fleet, another process serves it."""
LONGEST = timedelta(minutes=5)
START_S, END_S = 30.0, 10.0


@workflow.defn(name=MANY)
class Many:
    """Activities, so many at once."""

    @workflow.run
    async def run(self, count: int, window: int) -> int:
        """Call them all."""
        left = iter(range(count))

        async def work() -> int:
            done = 0
            for number in left:
                request = ToolRequest(tool="search", call_id=str(number), arguments={"query": str(number)}, step="1")
                await workflow.execute_activity(
                    ECHO,
                    request,
                    result_type=ToolResult,
                    task_queue=workflow.info().task_queue + CALLS,
                    start_to_close_timeout=LONGEST,
                    heartbeat_timeout=LONGEST,
                )
                done += 1
            return done

        return sum(await asyncio.gather(*(work() for _ in range(window))))


@activity.defn(name=ECHO)
async def echo(request: ToolRequest) -> ToolResult:
    """Answer with what was asked."""
    return ToolResult(content=json.dumps(request.arguments))


@asynccontextmanager
async def serving(queue: str, env: Mapping[str, str]) -> AsyncIterator[None]:
    """Children that serve the workflows and the activities for the length of a block, as a fleet's workers would.

    Raises:
        FleetError: it did not start.
    """
    children = [await _child(queue, env), await _child(queue + CALLS, env)]
    try:
        for child in children:
            await _ready(child)
        yield
    finally:
        for child in children:
            await _end(child)


async def _child(queue: str, env: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.bench.bare", queue),
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )


async def _ready(child: asyncio.subprocess.Process) -> None:
    assert child.stdout is not None
    try:
        said = await asyncio.wait_for(child.stdout.readline(), START_S)
    except TimeoutError:
        said = b""
    if said.strip() != b"ready":
        raise FleetError(f"a worker of the bare workflows is not ready after {START_S:g} s")


async def _end(child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    # it ends when its input does, even if we are killed
    child.stdin.close()
    try:
        await asyncio.wait_for(child.wait(), END_S)
    except TimeoutError:
        child.kill()
        await child.wait()


async def _serve(queue: str) -> None:
    # payloads are made as those of the fleet are
    client = await connect(environment.load())
    if queue.endswith(CALLS):
        worker = Worker(
            client,
            task_queue=queue,
            activities=[echo],
            max_concurrent_activity_task_polls=8,
            max_concurrent_activities=64,
        )
    else:
        worker = Worker(client, task_queue=queue, workflows=[Many], workflow_runner=UnsandboxedWorkflowRunner())
    async with worker:
        print("ready", flush=True)  # noqa: T201 - the answer
        await asyncio.to_thread(sys.stdin.readline)


def main() -> None:
    """Serve until the input ends."""
    asyncio.run(_serve(sys.argv[1]))
    # a Temporal client alive at interpreter exit aborts one process in ten
    os._exit(0)


if __name__ == "__main__":
    main()
