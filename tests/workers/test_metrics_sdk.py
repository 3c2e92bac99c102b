"""The Temporal SDK's metrics and the workflows' own, on the process's one endpoint."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer

from fleet.contracts import metrics, names
from fleet.contracts.approvals import ApprovalRule, Decision
from fleet.contracts.metrics import Source
from fleet.contracts.runs import RULES, CallPolicy, RunResult
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.batch import BatchWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, run_input, says, serving, start, verdict
from tests.workers.spans import recording
from workers import health
from workers.metrics import Bounds, Metrics
from workers.pool import SANDBOX
from workers.sdk_metrics import measured

EVERY = timedelta(seconds=60)
RULE = ApprovalRule(tool="transfer", approvers=["ann@example.com"])
HISTORIES = Path(__file__).parents[1] / "fleet" / "histories"


def counted(found, name, **labels):
    return found.registry.get_sample_value(name, {"agent": "a", **labels})


class Bench:
    """A client whose runtime is measured, and a queue of its own."""

    def __init__(self, address):
        self.metrics = Metrics()
        self._address = address
        self.queue = f"q-{uuid4().hex}"

    async def __aenter__(self):
        self._measured = measured(self.metrics, EVERY, agents=True)
        self.client = await Client.connect(self._address, runtime=self._measured.__enter__())
        return self

    async def __aexit__(self, *error):
        self._measured.__exit__(*error)

    def serving(self, fakes, **options):
        return serving(self.client, fakes, self.queue, **options)

    async def start(self, **wanted):
        return await start(self.client, self.queue, **wanted)

    async def execute(self, fakes, **wanted):
        async with self.serving(fakes):
            return await (await self.start(**wanted)).result()


@pytest.fixture
async def bench(temporal_address):
    async with Bench(temporal_address) as found:
        yield found


async def test_a_run_is_counted_at_its_begin_and_at_its_end(bench):
    await bench.execute(Fakes(script=[calls("search", query="x"), says("the answer")]))
    assert counted(bench.metrics, "fleet_runs_started_total") == 1
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="completed") == 1
    assert counted(bench.metrics, "fleet_run_seconds_count") == 1
    assert 0 < counted(bench.metrics, "fleet_run_seconds_sum") < 30
    bounds = {
        sample.labels["le"]
        for family in bench.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "fleet_run_seconds_bucket"
    }
    assert bounds == {str(float(b)) if b < 1e6 else f"{b / 1e6:g}e+06" for b in metrics.RUN_SECONDS.buckets} | {"+Inf"}


@pytest.mark.parametrize(
    ("script", "budget", "outcome"),
    [
        ([calls("search", query="x")], {"steps": 1}, "budget_exhausted"),
        ([ApplicationError("no", type="ProviderRefused", non_retryable=True)], {}, "failed"),
    ],
)
async def test_a_run_that_does_not_complete_is_counted_by_its_outcome(bench, script, budget, outcome):
    try:
        await bench.execute(Fakes(script=script), **budget)
    except WorkflowFailureError:
        assert outcome == "failed"
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome=outcome) == 1
    assert counted(bench.metrics, "fleet_run_seconds_count") == 1


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_run_that_somebody_ends_is_counted_as_stopped(bench, how):
    fakes = Fakes(script=[says("never")], thinking=asyncio.Event(), thought=asyncio.Event())
    async with bench.serving(fakes):
        run = await bench.start()
        await asyncio.wait_for(fakes.thinking.wait(), 20)
        if how == "stop":
            await run.signal(names.STOP_SIGNAL, "enough")
            await run.result()
        else:
            await run.cancel()
            with pytest.raises(WorkflowFailureError):
                await run.result()
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="stopped") == 1
    assert counted(bench.metrics, "fleet_run_seconds_count") == 1


async def test_a_run_that_continues_as_new_begins_and_ends_once(bench):
    hasty = CallPolicy(heartbeat_s=1.0, continue_after=1)
    fakes = Fakes(script=[calls("search", query="x"), calls("search", query="y"), says("ok")])
    async with bench.serving(fakes):
        wanted = replace(run_input(bench.queue, agent={"policy": hasty}), rules=RULES)
        run = await bench.client.start_workflow(
            names.AGENT_WORKFLOW, wanted, id=f"run-{uuid4().hex}", task_queue=bench.queue, result_type=RunResult
        )
        await run.result()
    assert counted(bench.metrics, "fleet_runs_started_total") == 1
    assert counted(bench.metrics, "fleet_runs_continued_total") == 2
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="completed") == 1
    described = await bench.client.get_workflow_handle(run.id).describe()
    # from the first begin, not from that of the last execution
    last = (described.close_time - described.start_time).total_seconds()
    assert counted(bench.metrics, "fleet_run_seconds_sum") > last


@pytest.mark.parametrize("decision", [Decision.APPROVE, Decision.REJECT, Decision.AMEND])
async def test_an_approval_is_counted_when_it_is_asked_for_and_when_it_ends(bench, decision):
    amended = {"payee": "DE1", "amount": "20.00", "currency": "EUR", "reference": "r"}
    async with bench.serving(Fakes(script=[pays(), says("done")])):
        run = await bench.start(approvals=[RULE])
        asked = await opened(run)
        assert counted(bench.metrics, "fleet_approvals_opened_total", tool="transfer") == 1
        how = {"arguments": amended} if decision is Decision.AMEND else {}
        await decided(run, verdict(asked, decision, **how))
        await run.result()
    state = {Decision.APPROVE: "approved", Decision.REJECT: "rejected", Decision.AMEND: "amended"}[decision]
    assert counted(bench.metrics, "fleet_approval_seconds_count", tool="transfer", state=state) == 1


async def test_an_approval_that_a_stop_withdraws_is_counted(bench):
    async with bench.serving(Fakes(script=[pays(), says("done")])):
        run = await bench.start(approvals=[RULE])
        await opened(run)
        await run.signal(names.STOP_SIGNAL, "enough")
        await run.result()
    assert counted(bench.metrics, "fleet_approval_seconds_count", tool="transfer", state="withdrawn") == 1


async def test_a_run_that_no_worker_keeps_in_memory_is_counted_once(bench):
    """Each of its workflow tasks replays what came before."""
    fakes = Fakes(script=[pays(), says("done")])
    async with bench.serving(fakes, max_cached_workflows=0):
        run = await bench.start(approvals=[RULE])
        await asyncio.wait_for(fakes.asked.wait(), 20)
        await decided(run, verdict(fakes.events[0].approval))
        await run.result()
    assert counted(bench.metrics, "fleet_runs_started_total") == 1
    assert counted(bench.metrics, "fleet_approvals_opened_total", tool="transfer") == 1
    assert counted(bench.metrics, "fleet_approval_seconds_count", tool="transfer", state="approved") == 1
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="completed") == 1


async def test_a_replay_counts_nothing(bench):
    async with bench.serving(Fakes(script=[pays(), says("done")])):
        run = await bench.start(approvals=[RULE])
        await decided(run, verdict(await opened(run)))
        await run.result()
    before = _of_workflows(bench)
    assert len(before) > 4
    replayer = Replayer(
        workflows=[AgentWorkflow, EffectWorkflow, BatchWorkflow],
        workflow_runner=SANDBOX,
        runtime=bench.client.service_client.config.runtime,
    )
    await replayer.replay_workflow(await run.fetch_history())
    for path in (HISTORIES / "completed.json", HISTORIES / "amended.json", HISTORIES / "0.1.0" / "continued.json"):
        await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
    assert _of_workflows(bench) == before


def _of_workflows(bench):
    """Every sample that workflows have told."""
    names_of = {one.name for one in metrics.REGISTRY.values() if one.source is Source.WORKFLOW}
    return [
        (sample.name, sample.labels, sample.value)
        for family in bench.metrics.registry.collect()
        if family.name in names_of
        for sample in family.samples
    ]


async def test_temporals_families_bear_the_labels_of_the_registry_and_no_run(bench):
    fakes = Fakes(script=[calls("search", query="x"), says("ok")])
    async with bench.serving(fakes):
        runs = [await bench.start() for _ in range(3)]
        for run in runs:
            await run.result()
        families = {family.name: family for family in bench.metrics.registry.collect()}
    rare = {metrics.WORKFLOW_TASK_FAILED, metrics.STICKY_EVICTED, metrics.REQUEST_FAILURES}
    for metric in metrics.REGISTRY.values():
        if metric.source is Source.TEMPORAL and metric not in rare:
            found = families[metric.name]
            assert found.type == metric.kind.value
            assert any(set(metric.labels) <= set(sample.labels) for sample in found.samples), metric.name
    text = generate_latest(bench.metrics.registry).decode()
    assert not [run.id for run in runs if run.id in text]
    labels = {name for one in families.values() for sample in one.samples for name in sample.labels}
    assert not {"workflow_id", "run_id", "activity_id", "client_name"} & labels


async def test_a_failed_workflow_task_tells_why(bench):
    async with bench.serving(Fakes(script=[says("ok")])):
        run = await bench.client.start_workflow(
            names.AGENT_WORKFLOW, "not a run", id=f"run-{uuid4().hex}", task_queue=bench.queue
        )
        async with asyncio.timeout(20):
            while not (failed := [one for one in _samples(bench, metrics.WORKFLOW_TASK_FAILED) if one.value]):
                await asyncio.sleep(0.05)
        await run.terminate()
        found = _samples(bench, metrics.WORKFLOW_TASK_FAILED)
    (sample,) = failed
    # what has not failed is told too, and nothing twice
    assert {len(one.labels) for one in found} == {len(sample.labels)}
    assert len({frozenset(one.labels.items()) for one in found}) == len(found) == 6
    assert set(metrics.WORKFLOW_TASK_FAILED.labels) <= set(sample.labels)


async def test_failures_of_workflow_tasks_are_told_at_nought_before_there_was_one(bench):
    async with bench.serving(Fakes(script=[says("ok")])), asyncio.timeout(20):
        while not (found := _samples(bench, metrics.WORKFLOW_TASK_FAILED)):
            await asyncio.sleep(0.05)
    assert {one.value for one in found} == {0.0}
    told = {(one.labels["workflow_type"], one.labels["failure_reason"]) for one in found}
    kinds = (names.AGENT_WORKFLOW, names.BATCH_WORKFLOW, names.EFFECT_WORKFLOW)
    assert told == {(kind, why) for kind in kinds for why in ("NonDeterminismError", "WorkflowError")}


def _samples(bench, metric):
    return [one for family in bench.metrics.registry.collect() if family.name == metric.name for one in family.samples]


async def test_an_agent_that_the_manifest_does_not_name_is_other(bench):
    bench.metrics.configure(Bounds(named={"agent": frozenset({"researcher"})}))
    await bench.execute(Fakes(script=[says("ok")]))
    for _ in range(3):
        assert bench.metrics.registry.get_sample_value("fleet_runs_started_total", {"agent": "other"}) == 1
    # it is looked at with every scrape, and not counted with every scrape
    assert bench.metrics.registry.get_sample_value("fleet_metrics_folded_total", {"label": "agent"}) is None


async def test_both_formats_are_served_and_an_exemplar_in_the_one_that_has_them(bench, monkeypatch):
    monkeypatch.setattr("workers.tracing.exemplar", lambda: {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"})
    with recording():
        bench.metrics.of(metrics.QUOTA_WAIT).labels("openai/m").observe(0.3)
    await bench.execute(Fakes(script=[says("ok")]))
    async with health.serve("127.0.0.1", 0, {}, bench.metrics.registry) as port, _http(port) as http:
        plain = await http.get("/metrics", headers={"accept": "text/plain"})
        # as Prometheus 2.42 asks
        asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        opened = await http.get("/metrics", headers={"accept": asked})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "trace_id" not in plain.text
    for text in (plain.text, opened.text):
        assert 'fleet_runs_ended_total{agent="a",outcome="completed"} 1.0' in text
        assert "temporal_workflow_task_execution_latency_seconds_bucket" in text
    families = {family.name: family for family in strictly(opened.text)}
    exemplars = [s.exemplar.labels["trace_id"] for s in families["fleet_quota_wait_seconds"].samples if s.exemplar]
    assert exemplars == ["4bf92f3577b34da6a3ce929d0e0e4736"]


async def test_a_collector_that_hangs_does_not_hold_the_event_loop(bench):
    import threading

    asked, answer = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow:
        def collect(self):
            loop.call_soon_threadsafe(asked.set)
            assert answer.wait(20)
            return []

        def describe(self):
            return []

    registry = bench.metrics.registry
    registry.register(Slow())
    async with health.serve("127.0.0.1", 0, {}, registry) as port, _http(port) as http:
        scrape = asyncio.create_task(http.get("/metrics"))
        await asyncio.wait_for(asked.wait(), 20)
        assert (await http.get("/live")).status_code == 200
        answer.set()
        assert (await scrape).status_code == 200


def _http(port):
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)


async def test_runs_are_told_at_nought_before_there_was_one(bench):
    bench.metrics.configure(Bounds(named={"agent": frozenset({"a"})}, born={"agent": frozenset({"a"})}))
    assert counted(bench.metrics, "fleet_runs_started_total") == 0
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="failed") == 0
    await bench.execute(Fakes(script=[says("the answer")]))
    assert counted(bench.metrics, "fleet_runs_started_total") == 1
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="completed") == 1
    assert counted(bench.metrics, "fleet_runs_ended_total", outcome="failed") == 0


async def test_without_metrics_the_sdk_counts_nothing_either(temporal_address):
    found = Metrics()
    found.configure(Bounds(), on=False)
    with measured(found, EVERY, agents=True) as runtime:
        client = await Client.connect(temporal_address, runtime=runtime)
        queue = f"q-{uuid4().hex}"
        async with serving(client, Fakes(script=[says("ok")]), queue):
            await (await start(client, queue)).result()
        assert generate_latest(found.registry) == b""


async def test_an_endpoint_of_the_sdk_that_is_gone_leaves_the_rest():
    from workers.sdk_metrics import SdkCollector

    found = Metrics()
    found.registry.register(SdkCollector(1, found, agents=True))
    found.of(metrics.RUNNING).labels("llm").inc()
    assert 'fleet_activity_running{pool="llm"} 1.0' in generate_latest(found.registry).decode()
