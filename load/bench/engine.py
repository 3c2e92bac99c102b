"""What a bare workflow reaches on a Temporal server: the bound of every fleet on this machine.

The workflows do nothing; their worker is a child process (`python -m load.bench.engine '{"temporal": …}'`).
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any, Self, TypeVar

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from fleet.errors import FleetError
from load.trial import Engine

T = TypeVar("T")

ROOT = Path(__file__).parent.parent.parent
ONCE, STEPS, NOTHING = "BareOnce", "BareSteps", "bare.nothing"
WARM_UP = 8
"""Workflows that nobody counts."""
LONGEST = timedelta(seconds=60)
"""Of a bare workflow, should nobody be left to terminate it."""
START_S, END_S = 30.0, 10.0
"""How long the child may take to be ready, and to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """What a server carries, clients and workers being no bound of their own."""

    workflows_per_s: float
    """Workflows of one empty activity each, begun and ended; as many activities."""
    activities_per_s: float
    """Empty activities of workflows that have one after the other: an activity and a workflow task each."""

    def engine(self, offered_per_s: float = 0.0) -> Engine:
        """As evidence of a trial that offers so many activities a second."""
        return Engine(activities_per_s=self.activities_per_s, offered_per_s=offered_per_s)


@workflow.defn(name=ONCE)
class Once:
    """One activity."""

    @workflow.run
    async def run(self) -> None:
        """Call it."""
        await workflow.execute_activity(NOTHING, start_to_close_timeout=LONGEST)


@workflow.defn(name=STEPS)
class Steps:
    """Activities in a row, until it is terminated."""

    @workflow.run
    async def run(self) -> None:
        """Call, and call again."""
        while True:
            await workflow.execute_activity(NOTHING, start_to_close_timeout=LONGEST)


async def bare(client: Client, *, seconds: float = 2.0, at_once: int = 32) -> Bare:
    """Measure for so many seconds, half of them for each figure; about two more are for the child to come and go.

    Args:
        client: of the server. The child connects to the same address and namespace, without TLS.
        seconds: longer is less noisy.
        at_once: workflows in flight.

    Raises:
        FleetError: the child did not start, or has ended, or the server does nothing.
        RPCError: the server does not answer.
    """
    try:
        async with asyncio.timeout(seconds + LONGEST.total_seconds()):
            return await _measured(client, seconds, at_once)
    except TimeoutError:
        raise FleetError("Temporal did not end the bare workflows within a minute") from None


async def _measured(client: Client, seconds: float, at_once: int) -> Bare:
    async with _Child.working(client, f"bare-{token_hex(4)}") as child:
        runs = _Runs(client, child.queue)
        try:
            loops = asyncio.gather(*(runs.again(ONCE) for _ in range(at_once)))
            try:
                workflows = await child.alive(_rate(runs.ended, WARM_UP, seconds / 2), loops)
            finally:
                loops.cancel()
                await asyncio.gather(loops, return_exceptions=True)
            await runs.terminate()
            since = await child.called()
            await asyncio.gather(*(runs.start(STEPS) for _ in range(at_once)))
            activities = await child.alive(_rate(child.called, since + at_once, seconds / 2))
        finally:
            await runs.terminate()
    return Bare(workflows_per_s=workflows, activities_per_s=activities)


async def _rate(count: Callable[[], Awaitable[int]], warm: int, seconds: float) -> float:
    """How fast a count grows, once it is beyond `warm`."""
    while await count() < warm:  # noqa: ASYNC110 - another process counts
        await asyncio.sleep(0.02)
    began, first = time.perf_counter(), await count()
    await asyncio.sleep(seconds)
    last = await count()
    return (last - first) / (time.perf_counter() - began)


class _Runs:
    """Bare workflows in flight."""

    def __init__(self, client: Client, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._running: dict[str, WorkflowHandle[Any, Any]] = {}
        self._ended = 0

    async def start(self, name: str) -> str:
        """Start one; answers its id."""
        run_id = f"{self._queue}-{token_hex(6)}"
        self._running[run_id] = self._client.get_workflow_handle(run_id)
        await self._client.start_workflow(name, id=run_id, task_queue=self._queue, execution_timeout=LONGEST)
        return run_id

    async def again(self, name: str) -> None:
        """One after the other."""
        while True:
            run_id = await self.start(name)
            await self._running[run_id].result()
            del self._running[run_id]
            self._ended += 1

    async def ended(self) -> int:
        """How many have."""
        return self._ended

    async def terminate(self) -> None:
        """End those that have not, or whose end nobody has waited for."""
        handles = list(self._running.values())
        self._running.clear()
        ends = await asyncio.gather(*(h.terminate("the measurement is over") for h in handles), return_exceptions=True)
        for end in ends:
            if end is not None and not isinstance(end, RPCError):
                raise end


class _Child:
    """The process that serves them."""

    def __init__(self, process: asyncio.subprocess.Process, queue: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.queue = queue
        self._input, self._output = process.stdin, process.stdout
        self._died = asyncio.create_task(process.wait())

    @classmethod
    @asynccontextmanager
    async def working(cls, client: Client, queue: str) -> AsyncIterator[Self]:
        """A child that serves the queue for the length of a block.

        Raises:
            FleetError: it did not start.
        """
        where = client.service_client.config.target_host
        asked = json.dumps({"temporal": where, "namespace": client.namespace, "queue": queue})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "load.bench.engine", asked),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        child = cls(process, queue)
        try:
            try:
                async with asyncio.timeout(START_S):
                    await child.called()
            except TimeoutError:
                raise FleetError(f"the worker of the bare workflows is not ready after {START_S:g} s") from None
            yield child
        finally:
            await child._end(process)

    async def alive(self, work: Awaitable[T], *beside: "asyncio.Future[Any]") -> T:
        """Wait for something as long as the child lives, and what else must not fail meanwhile.

        Raises:
            FleetError: it has ended.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._died, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for other in beside:
                if other.done():
                    other.result()
            if not task.done():
                raise FleetError(f"the worker of the bare workflows has ended with {self._died.result()}")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def called(self) -> int:
        """How many activities it has served.

        Raises:
            FleetError: it has ended.
        """
        self._input.write(b"?\n")
        # the SDK writes its warnings of terminated runs there too
        while line := await self.alive(self._output.readline()):
            if line.strip().isdigit():
                return int(line)
        raise FleetError(f"the worker of the bare workflows has ended with {await self._died}")

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        # it ends when its input does, even if we are killed
        self._input.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._died), END_S)
        except TimeoutError:
            process.kill()
        await self._died


class _Counted:
    """The activity, and how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    @activity.defn(name=NOTHING)
    async def nothing(self) -> None:
        """Do nothing."""
        self.calls += 1


async def _serve(asked: dict[str, str]) -> None:
    client = await Client.connect(asked["temporal"], namespace=asked["namespace"])
    counted = _Counted()
    worker = Worker(
        client,
        task_queue=asked["queue"],
        workflows=[Once, Steps],
        activities=[counted.nothing],
        workflow_runner=UnsandboxedWorkflowRunner(),
        # agents' calls go through queues
        disable_eager_activity_execution=True,
    )
    async with worker:
        while await asyncio.to_thread(sys.stdin.readline):
            print(counted.calls, flush=True)  # noqa: T201 - the answer


def main() -> None:
    """Serve bare workflows until the input ends; answer each of its lines with the activities served so far."""
    asyncio.run(_serve(json.loads(sys.argv[1])))
    sys.stdout.flush()
    # a Temporal client alive at interpreter exit aborts one process in ten
    os._exit(0)


if __name__ == "__main__":
    main()
