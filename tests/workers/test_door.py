"""The door: only so many runs are active at once."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from fleet.contracts import names
from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.runs import RunResult
from fleet.contracts.tools import DOOR_ENTER, DOOR_LEAVE, LLM_CHAT
from fleet.workflows.agent import AgentWorkflow
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from tests.fleet.fakes import run_input, says
from workers.door import DOOR, Door, door_quota
from workers.gate import Gate
from workers.pool import Pool, worker


@pytest.fixture
async def limiter() -> AsyncIterator[Limiter]:
    async with Limiter(MemoryStore(), {DOOR: door_quota(2)}) as found:
        yield found


async def enter(door: Door, run_id: str) -> None:
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_id=run_id)
    await environment.run(door.enter)


async def leave(door: Door, run_id: str) -> None:
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_id=run_id)
    await environment.run(door.leave)


async def active(limiter: Limiter) -> float:
    seen = (await limiter.inspect(DOOR)).limits["in_flight"]
    return seen.burst - seen.level


async def test_one_comes_in_when_another_leaves(limiter: Limiter) -> None:
    door = Door(limiter)
    await enter(door, "a")
    await enter(door, "b")
    with pytest.raises(ApplicationError, match="waits at the door") as raised:
        await enter(door, "c")
    assert raised.value.type == names.FailureType.QUOTA_WAIT
    await leave(door, "a")
    await leave(door, "a")
    await enter(door, "c")
    assert await active(limiter) == 2


async def test_who_enters_again_is_counted_once(limiter: Limiter) -> None:
    door = Door(limiter)
    for _ in range(3):
        await enter(door, "a")
        await door.still_active("a")
    assert await active(limiter) == 1


async def test_without_max_active_the_door_is_open() -> None:
    async with Limiter(MemoryStore(), {}) as limiter:
        door = Door(limiter)
        for number in range(9):
            await enter(door, str(number))
            await leave(door, str(number))


async def test_runs_pass_the_door_and_leave_by_it(temporal: Client, limiter: Limiter) -> None:
    queue, door, inside, most = f"q-{uuid4().hex}", Door(limiter), set(), 0
    models = f"{queue}-llm"

    @activity.defn(name=DOOR_ENTER)
    async def enter() -> None:
        nonlocal most
        await door.enter()
        inside.add(activity.info().workflow_id)
        most = max(most, len(inside))

    @activity.defn(name=DOOR_LEAVE)
    async def leave() -> None:
        inside.remove(activity.info().workflow_id)
        await door.leave()

    @activity.defn(name=LLM_CHAT.name)
    async def chat(request: ChatRequest) -> ChatResult:
        assert activity.info().workflow_id in inside
        return says("done")

    gate = Gate(8, limiter, [DOOR], timedelta(0))
    entrance = Pool(
        name="agents",
        task_queue=queue,
        slots=8,
        drain=timedelta(seconds=1),
        workflows=[AgentWorkflow],
        activities=[enter, leave],
        gate=gate,
    )
    # behind the gate of the door those who are inside would wait for each other
    thinking = Pool(name="llm", task_queue=models, slots=8, drain=timedelta(seconds=1), activities=[chat])
    async with (
        worker(temporal, entrance, on_fatal=lambda _: None),
        worker(temporal, thinking, on_fatal=lambda _: None),
    ):
        runs = [
            await temporal.start_workflow(
                names.AGENT_WORKFLOW,
                replace(run_input(models), door=True),
                id=f"run-{uuid4().hex}",
                task_queue=queue,
                result_type=RunResult,
            )
            for _ in range(6)
        ]
        assert [(await run.result()).answer for run in runs] == ["done"] * 6
    assert most == 2
    assert await active(limiter) == 0
