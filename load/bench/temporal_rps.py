"""Temporal's own limit of a task queue, `max_task_queue_activities_per_second`, as a contender.

Each agent is a workflow whose calls are activities of one task queue; the server hands out so many a second.
"""

import asyncio
import time
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from load.bench import provider

AGENT = "BenchAgent"


@workflow.defn(name=AGENT)
class Agent:
    """Calls until the end."""

    @workflow.run
    async def run(self, number: int, end: float) -> None:
        """Call, and call again."""
        while workflow.time() < end:
            await workflow.execute_activity("call", number, start_to_close_timeout=timedelta(minutes=5))


async def saturate(asked: dict[str, Any]) -> dict[str, Any]:
    """Each call's end, wait and status; a wait counts from when the server took note of the call."""
    wanted, queue = asked["wanted"], f"bench-{asked['wanted']['name']}"
    agents: list[list[tuple[float, float, int]]] = [[] for _ in range(asked["tasks"])]
    async with provider.client(asked) as http:

        @activity.defn(name="call")
        async def call(number: int) -> None:
            info = activity.info()
            waited = (info.started_time - info.scheduled_time).total_seconds()
            answer = await http.post(provider.PATH, json=provider.BODY)
            agents[number % len(agents)].append((time.time(), waited, answer.status_code))

        client = await Client.connect(asked["temporal"])
        worker = Worker(
            client,
            task_queue=queue,
            workflows=[Agent],
            activities=[call],
            max_concurrent_activities=asked["tasks"],
            max_task_queue_activities_per_second=wanted["rate"] * wanted["headroom"],
            workflow_runner=UnsandboxedWorkflowRunner(),
            graceful_shutdown_timeout=timedelta(seconds=1),
        )
        async with worker:
            await asyncio.sleep(max(0.0, asked["begin"] - time.time()))
            numbers = range(asked["process"] * asked["tasks"], (asked["process"] + 1) * asked["tasks"])
            runs = await asyncio.gather(
                *(
                    client.start_workflow(AGENT, args=[n, asked["end"]], id=f"{queue}-{n}", task_queue=queue)
                    for n in numbers
                )
            )
            await asyncio.sleep(max(0.0, asked["end"] - time.time()))
            await asyncio.gather(*(run.terminate("the trial is over") for run in runs), return_exceptions=True)
    return {"agents": agents}
