"""The batch: a real server, a real database, and work that answers as told."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.common import SearchAttributeKey, VersioningBehavior, WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Replayer, Worker, WorkerDeploymentConfig

from fleet.batches import BatchClient, stored
from fleet.contracts import names
from fleet.contracts.batch import (
    BATCH_STUBS,
    BatchInput,
    BatchState,
    BatchStatus,
    FailurePolicy,
    ItemOutcome,
    ItemResult,
    OnFailure,
    Work,
    WorkKind,
)
from fleet.contracts.effects import EffectResult, EffectState
from fleet.contracts.runs import CallPolicy, ToolBinding
from fleet.contracts.tools import TOOLS, ToolRequest, ToolResult
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.batch import BatchWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests.fleet.fakes import Fakes, run_input, says
from workers.database import Database, upgrade
from workers.database.batches import Batches
from workers.pool import SANDBOX
from workers.tools.batch import BatchTools

POLICY = CallPolicy(heartbeat_s=15.0)
USED_VERSIONS = SearchAttributeKey.for_keyword_list("TemporalUsedWorkerDeploymentVersions")


@dataclass
class Hall:
    """A server, a database, and who works there."""

    client: Client
    database: Database
    queue: str = field(default_factory=lambda: f"q-{uuid4().hex}")
    fakes: Fakes = field(default_factory=lambda: Fakes(script=[says("done")]))

    def __post_init__(self) -> None:
        self.store = Batches(self.database)

    @asynccontextmanager
    async def working(self, build: str = "") -> AsyncIterator[None]:
        """A worker that serves everything; of a version, if there is one."""

        async def database() -> Database:
            return self.database

        tools = BatchTools(database)
        async with Worker(
            self.client,
            task_queue=self.queue,
            workflows=[BatchWorkflow, AgentWorkflow, EffectWorkflow],
            workflow_runner=SANDBOX,
            activities=[*self.fakes.activities(), tools.count, tools.read, tools.write, tools.watch],
            max_heartbeat_throttle_interval=timedelta(milliseconds=100),
            deployment_config=WorkerDeploymentConfig(
                version=WorkerDeploymentVersion(deployment_name=self.queue, build_id=build),
                use_worker_versioning=True,
                default_versioning_behavior=VersioningBehavior.PINNED,
            )
            if build
            else None,
        ):
            yield

    def work(self, kind: str = "search") -> Work:
        """A call of a tool, or a run of the agent."""
        if kind == "agent":
            agent = replace(run_input(self.queue).agent, approvals_task_queue=self.queue)
            return Work(kind=WorkKind.AGENT, agent=agent, template="look up {query}", policy=POLICY)
        if kind == "model":
            return Work(
                kind=WorkKind.MODEL, model="openai/m", template="what is {query}?", task_queue=self.queue, policy=POLICY
            )
        tool = TOOLS[kind]
        binding = ToolBinding(
            spec=tool.spec, activity=tool.stub.name, task_queue=self.queue, effect=tool.effect, finds=tool.finds
        )
        return Work(kind=WorkKind.TOOL, tool=binding, policy=POLICY)

    async def staged(self, inputs: list[dict[str, Any]], kind: str = "search", **how: Any) -> BatchInput:
        """A batch of these, not yet started."""
        batch = f"batch-{uuid4().hex[:8]}"
        made = BatchInput(batch=batch, token="t0", work=self.work(kind), task_queue=self.queue, **how)
        await self.store.claim(batch, "t0", tenant="default", work={})
        await self.store.add(batch, "t0", 0, inputs)
        await self.store.seal(batch, "t0", total=len(inputs), digest="", work=stored(made))
        return made

    async def start(self, made: BatchInput) -> WorkflowHandle[Any, BatchStatus]:
        """Start it, as the client does."""
        manifest: Any = _Queues(self.queue)
        await BatchClient(self.client, manifest).start(made)
        return self.client.get_workflow_handle(made.batch, result_type=BatchStatus)

    async def results(self, made: BatchInput) -> dict[int, Any]:
        """By number."""
        return {row.number: row async for row in self.store.results(made.batch)}

    async def until(self, run: WorkflowHandle[Any, Any], when: Callable[[BatchStatus], bool]) -> BatchStatus:
        """Its status, once it is so."""
        async with asyncio.timeout(20):
            while not when(status := await run.query(names.STATUS_QUERY, result_type=BatchStatus)):
                await asyncio.sleep(0.02)
        return status


@dataclass
class _Queues:
    queue: str

    def task_queue(self, pool: str) -> str:
        del pool
        return self.queue


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    file = tmp_path_factory.mktemp("database") / "template.db"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
async def hall(temporal, template, tmp_path):
    shutil.copy(template, tmp_path / "fleet.db")
    url = f"sqlite+aiosqlite:///{tmp_path / 'fleet.db'}"
    database = Database(url)
    await database.open()
    yield Hall(temporal, database)
    await database.aclose()


def queries(count: int) -> list[dict[str, Any]]:
    return [{"query": f"q{n}"} for n in range(count)]


def echo(request: ToolRequest) -> ToolResult:
    return ToolResult(content=json.dumps({"of": request.arguments["query"]}))


async def test_every_item_is_done_once_and_its_result_is_its_own(hall):
    seen: Counter[str] = Counter()

    def search(request: ToolRequest) -> ToolResult:
        seen[request.arguments["query"]] += 1
        return echo(request)

    hall.fakes.search = search
    made = await hall.staged(queries(250), window=40)
    async with hall.working():
        run = await hall.start(made)
        status = await run.result()
    assert (status.state, status.total, status.counts, status.in_flight) == (BatchState.FINISHED, 250, {"done": 250}, 0)
    found = await hall.results(made)
    assert {n: row.result for n, row in found.items()} == {n: {"of": f"q{n}"} for n in range(250)}
    assert set(seen.values()) == {1}
    assert len(seen) == 250


async def test_an_empty_batch_ends(hall):
    made = await hall.staged([])
    async with hall.working():
        status = await (await hall.start(made)).result()
    assert (status.state, status.counts) == (BatchState.FINISHED, {})


async def test_no_more_items_than_the_window_are_in_flight_and_it_can_be_changed(hall):
    hall.fakes.hold = asyncio.Event()
    hall.fakes.search = echo
    made = await hall.staged(queries(30), window=3)
    async with hall.working():
        run = await hall.start(made)
        await hall.until(run, lambda s: s.in_flight == 3)
        await run.signal("window", 7)
        await hall.until(run, lambda s: s.in_flight == 7)
        assert hall.fakes.busy <= 7
        hall.fakes.hold.set()
        assert (await run.result()).counts == {"done": 30}


async def test_the_state_goes_on_from_execution_to_execution(hall):
    hall.fakes.search = echo
    made = await hall.staged(queries(90), window=10, per_execution=25)
    async with hall.working():
        status = await (await hall.start(made)).result()
    assert status.executions == 4
    assert status.counts == {"done": 90}
    assert len(await hall.results(made)) == 90


async def promote(client, deployment, build):
    """Let new runs begin on a build, once Temporal has heard of its worker."""
    async with asyncio.timeout(20):
        while True:
            with suppress(RPCError):
                await client.workflow_service.set_worker_deployment_current_version(
                    SetWorkerDeploymentCurrentVersionRequest(
                        namespace=client.namespace, deployment_name=deployment, build_id=build, identity="test"
                    )
                )
                return
            await asyncio.sleep(0.1)


async def test_a_batch_moves_to_the_version_that_new_runs_begin_on_at_its_next_item(hall):
    made = await hall.staged(queries(200), window=4)
    async with hall.working("v1"):
        await promote(hall.client, hall.queue, "v1")
        run = await hall.start(made)
        async with hall.working("v2"):
            await hall.until(run, lambda s: s.counts.get("done", 0) > 10)
            await promote(hall.client, hall.queue, "v2")
            status = await asyncio.wait_for(run.result(), 30)
    assert status.counts == {"done": 200}
    # a first task may still be given to the old version while Temporal spreads the news
    assert 2 <= status.executions <= 4
    last = await run.describe()
    assert last.typed_search_attributes[USED_VERSIONS][-1] == f"{hall.queue}:v2"
    first = last.raw_description.workflow_execution_info.first_run_id
    history = await hall.client.get_workflow_handle(made.batch, run_id=first).fetch_history()
    await Replayer(workflows=[BatchWorkflow], workflow_runner=SANDBOX).replay_workflow(history)


async def test_a_paused_batch_begins_nothing_and_a_resumed_one_ends(hall):
    hall.fakes.hold = asyncio.Event()
    hall.fakes.search = echo
    made = await hall.staged(queries(20), window=4)
    async with hall.working():
        run = await hall.start(made)
        await hall.until(run, lambda s: s.in_flight == 4)
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        hall.fakes.hold.set()
        status = await hall.until(run, lambda s: s.in_flight == 0)
        assert (status.state, status.reason, status.counts) == (BatchState.PAUSED, "lunch", {"done": 4})
        await run.signal(names.RESUME_SIGNAL, "")
        assert (await run.result()).counts == {"done": 20}


async def test_partial_results_are_shown_and_written_while_others_are_in_flight(hall):
    release = asyncio.Event()
    made = await hall.staged(queries(5), window=5)

    @activity.defn(name="search.query")
    async def query(request: ToolRequest) -> ToolResult:
        while request.arguments["query"] == "q0" and not release.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        return echo(request)

    hall.fakes.query = query
    async with hall.working():
        run = await hall.start(made)
        await hall.until(run, lambda s: s.ended == 4)
        async with asyncio.timeout(10):
            while len(await hall.results(made)) < 4:
                await asyncio.sleep(0.05)
        latest = await run.query("results", result_type=list[ItemResult])
        assert {one.number for one in latest} == {1, 2, 3, 4}
        release.set()
        assert (await run.result()).counts == {"done": 5}


def fails(*numbers: int, times: int = 10**6) -> Callable[[ToolRequest], ToolResult]:
    seen: Counter[str] = Counter()

    def search(request: ToolRequest) -> ToolResult:
        query = request.arguments["query"]
        seen[query] += 1
        if query in {f"q{n}" for n in numbers} and seen[query] <= times:
            raise ApplicationError("no such index", type="ProviderFailed", non_retryable=True)
        return echo(request)

    return search


async def test_failed_items_are_written_down_and_the_others_go_on(hall):
    hall.fakes.search = fails(2, 5)
    made = await hall.staged(queries(10))
    async with hall.working():
        status = await (await hall.start(made)).result()
    assert status.counts == {"done": 8, "failed": 2}
    found = await hall.results(made)
    assert {n for n, row in found.items() if row.outcome is ItemOutcome.FAILED} == {2, 5}
    assert found[2].error == "ProviderFailed: no such index"


async def test_a_failed_item_is_tried_again_as_often_as_the_policy_says(hall):
    hall.fakes.search = fails(1, times=1)
    made = await hall.staged(queries(3), failures=FailurePolicy(retries=2))
    async with hall.working():
        assert (await (await hall.start(made)).result()).counts == {"done": 3}
    assert (await hall.results(made))[1].attempts == 2


async def test_the_first_failure_stops_a_batch_that_wants_it(hall):
    hall.fakes.search = fails(0)
    made = await hall.staged(queries(50), window=1, failures=FailurePolicy(then=OnFailure.STOP))
    async with hall.working():
        status = await (await hall.start(made)).result()
    assert status.reason.startswith("item 0 failed: ProviderFailed")
    assert status.counts == {"failed": 1}


async def test_too_many_failures_pause_the_batch_and_a_resume_counts_anew(hall):
    hall.fakes.search = fails(*range(4))
    made = await hall.staged(queries(10), window=1, failures=FailurePolicy(most=1))
    async with hall.working():
        run = await hall.start(made)
        status = await hall.until(run, lambda s: s.state is BatchState.PAUSED)
        assert status.counts == {"failed": 2}
        assert status.reason.startswith("2 items failed, more than 1")
        await run.signal(names.RESUME_SIGNAL, "")
        await hall.until(run, lambda s: s.counts == {"failed": 4} and s.state is BatchState.PAUSED)
        await run.signal(names.RESUME_SIGNAL, "")
        assert (await run.result()).counts == {"done": 6, "failed": 4}


async def test_failed_items_are_done_again_while_it_runs_and_after_its_end(hall):
    hall.fakes.search = fails(1, times=2)
    made = await hall.staged(queries(4))
    async with hall.working():
        run = await hall.start(made)
        assert (await run.result()).counts == {"done": 3, "failed": 1}
        for expected in ({"done": 3, "failed": 1}, {"done": 4}):
            assert await hall.store.again(made.batch) == 1
            run = await hall.start(made)
            assert (await run.result()).counts == expected
        assert await hall.store.again(made.batch) == 0
    assert (await hall.results(made))[1].attempts == 3


async def test_a_stopped_batch_leaves_what_was_in_flight_to_its_next_start(hall):
    hall.fakes.hold = asyncio.Event()
    hall.fakes.search = echo
    made = await hall.staged(queries(12), window=5)
    async with hall.working():
        run = await hall.start(made)
        await hall.until(run, lambda s: s.in_flight == 5)
        await run.signal(names.STOP_SIGNAL, "enough")
        status = await run.result()
        assert (status.reason, status.counts, status.in_flight) == ("enough", {}, 0)
        hall.fakes.hold.set()
        assert (await (await hall.start(made)).result()).counts == {"done": 12}


async def test_a_terminated_batch_goes_on_where_it_was(hall):
    hall.fakes.search = echo
    made = await hall.staged(queries(60), window=5)
    async with hall.working():
        run = await hall.start(made)
        await hall.until(run, lambda s: s.ended >= 10)
        await run.terminate("by hand")
        assert (await (await hall.start(made)).result()).counts == {"done": 60}
    assert len(await hall.results(made)) == 60


async def test_a_spent_budget_pauses_the_batch_and_fails_nothing(hall):
    spent = True

    def search(request: ToolRequest) -> ToolResult:
        if spent:
            raise ApplicationError("tenant a has used all", type="BudgetExhausted", non_retryable=True)
        return echo(request)

    hall.fakes.search = search
    made = await hall.staged(queries(5))
    async with hall.working():
        run = await hall.start(made)
        status = await hall.until(run, lambda s: s.state is BatchState.PAUSED and s.in_flight == 0)
        assert (status.reason, status.counts) == ("tenant a has used all", {})
        spent = False
        await run.signal(names.RESUME_SIGNAL, "")
        assert (await run.result()).counts == {"done": 5}


async def test_a_model_answers_the_prompt_of_each_item(hall):
    made = await hall.staged(queries(3), "model")
    async with hall.working():
        assert (await (await hall.start(made)).result()).counts == {"done": 3}
    assert {request.messages[0].content for request in hall.fakes.seen} == {f"what is q{n}?" for n in range(3)}
    assert (await hall.results(made))[0].result == {"answer": "done", "tokens": 15, "finish_reason": "stop"}


async def test_agents_are_runs_of_their_own_that_outlive_the_execution_which_has_begun_them(hall):
    hall.fakes.thought = asyncio.Event()
    made = await hall.staged(queries(8), "agent", window=4, per_execution=2)
    async with hall.working():
        run = await hall.start(made)
        # its window is full of runs that were begun by several executions
        await hall.until(run, lambda s: s.in_flight == 4 and s.executions >= 2)
        hall.fakes.thought.set()
        status = await run.result()
    assert status.counts == {"done": 8}
    assert status.executions >= 4
    found = await hall.results(made)
    assert {row.run for row in found.values()} == {f"{made.batch}:{n}" for n in range(8)}
    assert found[3].result["answer"] == "done"
    assert len(hall.fakes.seen) == 8


async def test_agents_of_a_terminated_batch_are_not_run_again(hall):
    hall.fakes.thought = asyncio.Event()
    made = await hall.staged(queries(3), "agent", window=3)
    async with hall.working():
        run = await hall.start(made)
        async with asyncio.timeout(20):
            while len(hall.fakes.seen) < 3:
                await asyncio.sleep(0.02)
        await run.terminate("by hand")
        again = await hall.start(made)
        await hall.until(again, lambda s: s.in_flight == 3)
        hall.fakes.thought.set()
        assert (await again.result()).counts == {"done": 3}
    assert len(hall.fakes.seen) == 3


async def test_a_stopped_batch_stops_its_agents(hall):
    hall.fakes.thought = asyncio.Event()
    made = await hall.staged(queries(5), "agent", window=2)
    async with hall.working():
        run = await hall.start(made)
        await hall.until(run, lambda s: s.in_flight == 2)
        await run.signal(names.STOP_SIGNAL, "enough")
        status = await run.result()
    assert (status.reason, status.counts) == ("enough", {"stopped": 2})


async def test_an_effect_is_had_once_for_each_item_under_its_own_key(hall):
    inputs = [{"to": f"a{n}@b.c", "subject": "s", "body": "b"} for n in range(4)]
    made = await hall.staged(inputs, "send_email", window=2, per_execution=2)
    async with hall.working():
        assert (await (await hall.start(made)).result()).counts == {"done": 4}
    assert sorted(request.key for request in hall.fakes.sent) == [f"{made.batch}/{n}" for n in range(4)]
    assert (await hall.results(made))[0].result["evidence"] == {"message_id": "<1@x>"}


async def test_an_effect_of_which_nobody_knows_is_neither_done_nor_had_again(hall):
    hall.fakes.effect = lambda _: EffectResult(state=EffectState.UNKNOWN, reason="the line broke")
    inputs = [{"to": "a@b.c", "subject": "s", "body": "b"}]
    made = await hall.staged(inputs, "send_email", failures=FailurePolicy(retries=3))
    async with hall.working():
        assert (await (await hall.start(made)).result()).counts == {"unknown": 1}
    assert (await hall.results(made))[0].error == "the line broke"
    assert len(hall.fakes.attempts) == 1


def test_what_a_batch_asks_for_is_served_by_exactly_one_activity():
    served = sorted(
        member.__temporal_activity_definition.name
        for member in vars(BatchTools).values()
        if hasattr(member, "__temporal_activity_definition")
    )
    assert served == sorted(stub.name for stub in BATCH_STUBS)
