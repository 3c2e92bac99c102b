"""Traces: one of each run, whoever serves it, however often it is replayed; no content, no secrets, no waiting."""

import asyncio
import json
import logging
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from temporalio import exceptions, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, Interceptor, OutboundInterceptor, WorkflowFailureError, WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from fleet import tracing as traces
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule
from fleet.contracts.runs import RULES, CallPolicy, Outcome, RunResult
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.batch import BatchWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, run_input, says, serving, verdict
from tests.fleet.test_batch_workflow import Hall
from tests.workers.spans import parent, recording
from workers import tracing
from workers.database import Database, upgrade
from workers.pool import SANDBOX

FOLDER = Path(__file__).parents[1] / "fleet" / "histories"
RULE = ApprovalRule(tool="transfer", approvers=["ann@example.com"])
MAIL = {"to": "a@b.c", "subject": "s", "body": "b"}


@pytest.fixture
def spans():
    with recording() as found:
        yield found


async def ran(address, fakes, *, rules=0, client=None, starting=None, said=None, cached=1000, **wanted):
    """A run to its end, with a traced client and a traced worker; `said` is done meanwhile."""
    client = client or await Client.connect(address, interceptors=traces.interceptors())
    queue, name = f"q-{uuid4().hex}", f"run-{uuid4().hex}"
    async with serving(client, fakes, queue, interceptors=tracing.traced(), max_cached_workflows=cached):
        run = await (starting or client).start_workflow(
            names.AGENT_WORKFLOW,
            replace(run_input(queue, **wanted), rules=rules),
            id=name,
            task_queue=queue,
            result_type=RunResult,
        )
        if said is not None:
            await said(run)
        return name, await run.result()


async def test_a_run_is_one_trace_from_its_client_to_its_effect(spans, temporal_address):
    script = [calls("search", query="x"), calls("send_email", **MAIL), says("done")]
    run_id, result = await ran(temporal_address, Fakes(script=script))
    assert result.outcome is Outcome.COMPLETED
    assert spans.names() == [
        "email.send", "execute_tool search", "execute_tool send_email", "invoke_agent a",
        "llm.chat", "llm.chat", "llm.chat", "start a",
    ]  # fmt: skip
    assert len({span.context.trace_id for span in spans.all()}) == 1
    start, run, effect = spans.one("start"), spans.one("invoke_agent"), spans.one("execute_tool send_email")
    assert (start.parent, start.kind) == (None, SpanKind.PRODUCER)
    assert parent(run) == start.context.span_id
    assert parent(effect) == run.context.span_id
    assert parent(spans.one("email.send")) == effect.context.span_id
    assert {parent(span) for span in spans.named("llm.chat")} == {run.context.span_id}
    assert run.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert run.attributes["gen_ai.agent.name"] == "a"
    provider, _, model = run_input("q").agent.model.partition("/")
    assert (run.attributes["gen_ai.provider.name"], run.attributes["gen_ai.request.model"]) == (provider, model)
    assert run.attributes["gen_ai.conversation.id"] == run_id
    assert run.attributes["fleet.run.outcome"] == "completed"
    assert run.start_time <= min(span.start_time for span in spans.named("llm.chat"))
    search = spans.one("execute_tool search")
    assert (search.attributes["gen_ai.tool.name"], search.attributes["gen_ai.tool.call.id"]) == ("search", "c1")
    assert effect.attributes["fleet.effect.key"].startswith(f"{run_id}/")
    assert effect.attributes["fleet.effect.state"] == "done"
    said = json.dumps([dict(span.attributes) for span in spans.all()])
    assert "find out" not in said
    assert "a@b.c" not in said


async def test_a_run_that_is_replayed_at_every_step_is_told_once(spans, temporal_address):
    script = [calls("search", query="x"), pays(), calls("send_email", **MAIL), says("done")]

    async def said(run):
        await decided(run, verdict(await opened(run)))

    _, result = await ran(temporal_address, Fakes(script=script), cached=0, said=said, approvals=[RULE])
    assert result.outcome is Outcome.COMPLETED
    told = [span for span in spans.all() if not span.name.startswith(("llm.chat", "approval.", "start", "email.send"))]
    assert sorted(span.name for span in told if span.name != "payments.transfer") == [
        "approval transfer", "decide", "decide", "execute_tool search", "execute_tool send_email",
        "execute_tool transfer", "invoke_agent a",
    ]  # fmt: skip
    ids = [span.context.span_id for span in spans.all()]
    assert len(ids) == len(set(ids))


async def test_who_decides_has_a_trace_that_the_run_links_to(spans, temporal_address):
    async def said(run):
        await decided(run, verdict(await opened(run)))

    await ran(temporal_address, Fakes(script=[pays(), says("done")]), said=said, approvals=[RULE])
    run, approval = spans.one("invoke_agent"), spans.one("approval transfer")
    sent, taken = sorted(spans.named("decide"), key=lambda span: span.kind.value, reverse=True)
    assert (sent.kind, sent.parent) == (SpanKind.CLIENT, None)
    assert sent.context.trace_id != run.context.trace_id
    assert (taken.context.trace_id, parent(taken)) == (run.context.trace_id, run.context.span_id)
    assert [link.context.span_id for link in taken.links] == [sent.context.span_id]
    assert (taken.attributes["fleet.approval.decision"], taken.attributes["fleet.approval.channel"]) == (
        sent.attributes["fleet.approval.decision"], sent.attributes["fleet.approval.channel"],
    )  # fmt: skip
    assert parent(approval) == run.context.span_id
    assert approval.attributes["fleet.approval.state"] == "approved"
    assert approval.start_time < approval.end_time


async def test_a_run_that_continues_as_new_stays_in_its_trace_and_links_back(spans, temporal_address):
    script = [calls("search", query="x"), calls("search", query="y"), says("done")]
    hasty = {"policy": CallPolicy(heartbeat_s=1.0, continue_after=1)}
    await ran(temporal_address, Fakes(script=script), rules=RULES, agent=hasty)
    start, executions = spans.one("start"), spans.named("invoke_agent")
    assert len(executions) > 1
    assert {span.context.trace_id for span in spans.all()} == {start.context.trace_id}
    assert {parent(span) for span in executions} == {start.context.span_id}
    for earlier, later in pairwise(executions):
        assert [link.context.span_id for link in later.links] == [earlier.context.span_id]
        assert earlier.attributes["fleet.run.continued"]
    assert executions[-1].attributes["fleet.run.execution"] == len(executions)


async def test_a_run_that_nobody_traced_begins_its_own_trace(spans, temporal_address):
    queue = f"q-{uuid4().hex}"
    traced = await Client.connect(temporal_address, interceptors=traces.interceptors())
    plain = await Client.connect(temporal_address)
    hasty = {"policy": CallPolicy(heartbeat_s=1.0, continue_after=1)}
    async with serving(traced, Fakes(script=[calls("search", query="x"), says("done")]), queue):
        run = await plain.start_workflow(
            names.AGENT_WORKFLOW, replace(run_input(queue, agent=hasty), rules=RULES),
            id=f"run-{uuid4().hex}", task_queue=queue, result_type=RunResult,
        )  # fmt: skip
        await run.result()
    first, *others = spans.named("invoke_agent")
    assert first.parent is None
    assert others
    assert {span.context.trace_id for span in spans.all()} == {first.context.trace_id}
    assert {parent(span) for span in others} == {first.context.span_id}


async def test_each_run_of_a_batch_has_a_trace_of_its_own_that_links_to_the_batch(spans, temporal_address, tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    await upgrade(url)
    async with aclosing(Database(url)) as database:
        await database.open()
        hall = Hall(await Client.connect(temporal_address, interceptors=traces.interceptors()), database)
        async with hall.working():
            batch = await hall.start(await hall.staged([{"query": "x"}, {"query": "y"}], "agent"))
            await batch.result()
    batch, runs, start = spans.one("batch"), spans.named("invoke_agent"), spans.one("start")
    assert (batch.name, start.name, parent(batch)) == ("batch", "start batch", start.context.span_id)
    assert batch.attributes["fleet.batch.id"]
    assert [run.parent for run in runs] == [None, None]
    assert {link.context.span_id for run in runs for link in run.links} == {batch.context.span_id}
    assert len({span.context.trace_id for span in (batch, *runs)}) == 3


async def test_a_trace_that_is_not_sampled_tells_nothing_anywhere(temporal_address):
    with recording(sampler=ALWAYS_OFF) as spans:
        await ran(temporal_address, Fakes(script=[calls("send_email", **MAIL), says("done")]))
        assert spans.all() == []


class Given(Interceptor):
    """Gives a run a header, as a client of somebody else does."""

    def __init__(self, context):
        self._header = traces.header(context)

    def intercept_client(self, next):  # noqa: A002
        given = self._header

        class Outbound(OutboundInterceptor):
            async def start_workflow(self, input):  # noqa: A002
                input.headers = given
                return await super().start_workflow(input)

        return Outbound(next)


LOW, HIGH = 7 << 64, (8 << 64) - 1
"""Of a trace that half of them have before them, and of one that they have behind them."""


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (ALWAYS_ON, lambda flag, trace_id: True),
        (ALWAYS_OFF, lambda flag, trace_id: False),
        (ParentBased(ALWAYS_OFF), lambda flag, trace_id: flag),
        (TraceIdRatioBased(0.5), lambda flag, trace_id: trace_id == LOW),
    ],
)
async def test_a_run_is_told_whole_or_not_at_all_whatever_its_header_says(temporal_address, sampler, told):
    for flag in (False, True):
        for trace_id in (LOW, HIGH):
            # what is under way in this process has no say
            around = NonRecordingSpan(SpanContext(99, 9, is_remote=False, trace_flags=TraceFlags(not flag)))
            with recording(sampler=sampler) as spans, trace.use_span(around):
                given = SpanContext(trace_id, 9, is_remote=True, trace_flags=TraceFlags(flag))
                starting = await Client.connect(temporal_address, interceptors=[Given(given)])
                await ran(
                    temporal_address,
                    Fakes(script=[calls("send_email", **MAIL), says("done")]),
                    client=await Client.connect(temporal_address, interceptors=traces.interceptors()),
                    starting=starting,
                )
                found = spans.names()
            whole = ["email.send", "execute_tool send_email", "invoke_agent a", "llm.chat", "llm.chat"]
            assert found == (whole if told(flag, trace_id) else []), (flag, trace_id)
            assert {span.context.trace_id for span in spans.all()} <= {trace_id}


@workflow.defn(name="ending")
class Ending:
    """Ends as told, once it may."""

    @workflow.run
    async def run(self, how: str) -> str:
        workflow.logger.warning("begun")
        try:
            await workflow.wait_condition(lambda: how.startswith("at once"))
        except asyncio.CancelledError:
            if how == "cancelled":
                raise
        if how.endswith("timeout"):
            raise TimeoutError("late")
        if how.endswith("activity timeout!"):
            raise exceptions.TimeoutError("late", type=exceptions.TimeoutType.HEARTBEAT, last_heartbeat_details=[])
        if how.endswith("failed"):
            raise exceptions.ApplicationError("no", type="Refused")
        raise ValueError("a mistake")


@asynccontextmanager
async def ending(address, how):
    client = await Client.connect(address, interceptors=traces.interceptors())
    queue = f"q-{uuid4().hex}"
    async with Worker(client, task_queue=queue, workflows=[Ending], workflow_runner=UnsandboxedWorkflowRunner()):
        yield await client.start_workflow("ending", how, id=f"run-{uuid4().hex}", task_queue=queue)


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("at once timeout", "TimeoutError"),
        ("at once, activity timeout!", "TimeoutError"),
        ("at once failed", "Refused"),
        ("failed", "Refused"),
        ("cancelled", None),
    ],
)
async def test_a_workflow_that_is_cancelled_is_no_error_and_one_that_fails_says_of_what_kind(
    spans, temporal_address, how, kind
):
    async with ending(temporal_address, how) as run:
        if not how.startswith("at once"):
            await begun(run)
            await run.cancel()
        with pytest.raises(WorkflowFailureError):
            await run.result()
        span = spans.one("ending")
    if kind is None:
        assert (span.status.status_code, span.attributes["fleet.run.outcome"]) == (StatusCode.UNSET, "cancelled")
        assert "error.type" not in span.attributes
    else:
        assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, kind)
        assert "fleet.run.outcome" not in span.attributes


@pytest.mark.parametrize("how", ["at once", "mistaken"])
async def test_a_task_that_fails_is_no_end_of_its_run(spans, temporal_address, how):
    async with ending(temporal_address, how) as run:
        if how == "mistaken":
            await begun(run)
            await run.cancel()
        await begun(run, "WORKFLOW_TASK_FAILED")
        assert spans.named("ending") == []
        await run.terminate()
    assert spans.named("ending") == []


async def begun(run, what="WORKFLOW_TASK_COMPLETED"):
    """Until the run's history has such an event."""
    async with asyncio.timeout(20):
        while True:
            async for event in run.fetch_history_events():
                if EventType.Name(event.event_type) == f"EVENT_TYPE_{what}":
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("traced", [True, False])
async def test_a_log_line_of_a_workflow_names_its_run_and_its_trace(temporal_address, traced):
    found = []

    class Heard(logging.Handler):
        def emit(self, record):
            found.append(tracing.where(None, "", {}))

    heard, logger = Heard(), logging.getLogger("temporalio.workflow")
    # whatever other tests have made of it
    before, logger.disabled = (logger.disabled, logger.level), False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(heard)
    try:
        with recording() if traced else nullcontext() as spans:
            async with ending(temporal_address, "at once failed") as run:
                with pytest.raises(WorkflowFailureError):
                    await run.result()
                ids = {}
                if traced:
                    context = spans.one("ending").context
                    ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    finally:
        logger.removeHandler(heard)
        logger.disabled = before[0]
        logger.setLevel(before[1])
    assert found[0] == {"run_id": run.id, **ids}


@pytest.mark.parametrize("what", ["described", "of_result", "of_verdict", "sampled", "above", "_ns", "WholeSpan"])
async def test_what_goes_wrong_in_telling_is_no_error_of_the_run(temporal_address, monkeypatch, caplog, spans, what):
    def broken(*args, **named):
        raise RuntimeError("no ink")

    monkeypatch.setattr(f"fleet.workflows.traced.{what}", broken)

    async def said(run):
        await decided(run, verdict(await opened(run)))

    _, result = await ran(temporal_address, Fakes(script=[pays(), says("done")]), said=said, approvals=[RULE])
    assert result.outcome is Outcome.COMPLETED
    assert "no ink" in caplog.text


@pytest.mark.parametrize("name", ["completed", "continued", "continued-2", "withdrawn"])
async def test_a_history_of_before_there_were_traces_replays_with_them_and_tells_nothing(spans, name):
    (path,) = [one for one in FOLDER.rglob("*.json") if one.stem == name][:1]
    history = WorkflowHistory.from_json(path.stem, path.read_text())
    workflows = [AgentWorkflow, EffectWorkflow, BatchWorkflow]
    await Replayer(workflows=workflows, workflow_runner=SANDBOX, interceptors=traces.interceptors()).replay_workflow(
        history
    )
    assert spans.all() == []


async def test_a_history_that_was_traced_replays_without_traces(temporal_address):
    with recording():
        client = await Client.connect(temporal_address, interceptors=traces.interceptors())
        run_id, _ = await ran(
            temporal_address, Fakes(script=[calls("send_email", **MAIL), says("done")]), client=client
        )
        history = await client.get_workflow_handle(run_id).fetch_history()
    assert traces.installed() is None
    await Replayer(workflows=[AgentWorkflow, EffectWorkflow], workflow_runner=SANDBOX).replay_workflow(history)


def test_nobody_else_finds_a_provider_to_make_spans_with(spans):
    assert not trace.get_tracer("other").start_span("x").is_recording()
