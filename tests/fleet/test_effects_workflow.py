"""Effects as child workflows: had once, and accounted for whatever happens to the run."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError
from temporalio.worker import Worker

from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule, ApprovalState, Ask, Decision, run_of
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState, Mode
from fleet.contracts.runs import Outcome, Phase, RunResult, RunStatus, Told
from fleet.contracts.tools import PAYMENTS_TRANSFER
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests.fleet.fakes import Fakes, decided, opened, pays, refused, run_input, says, serving, started, verdict
from workers.pool import SANDBOX

UNKNOWN = EffectResult(state=EffectState.UNKNOWN, reason="the line broke")


def script(**fields: Any) -> Fakes:
    return Fakes(script=[pays(), says("done")], **fields)


def unknown_at_first(times: int = 1) -> Any:
    """Nobody knows what became of so many attempts; what follows is had, or is as somebody says."""
    left = [times]

    def answer(request: EffectRequest) -> EffectResult | None:
        if request.was_had is True:
            return EffectResult(state=EffectState.DONE, content='{"done": true}', evidence={"settled_by": request.by})
        if request.mode is Mode.ACCOUNT and request.was_had is False:
            return EffectResult(state=EffectState.FAILED, reason=request.why)
        left[0] -= 1
        return UNKNOWN if left[0] >= 0 else None

    return answer


def last(result: RunResult) -> tuple[str, str]:
    [effect] = result.effects
    return effect["state"], effect.get("reason", "")


async def child_of(client: Any, run: Any, step: str = "1.1") -> Any:
    """The effect's workflow, once it has begun."""
    child = client.get_workflow_handle(f"{run.id}/{step}", result_type=EffectResult)
    async with asyncio.timeout(20):
        while True:
            try:
                await child.describe()
                return child
            except RPCError:
                await asyncio.sleep(0.02)


# --- effects that nobody knows of


async def test_of_an_effect_that_nobody_knows_of_a_human_is_asked_and_says_it_was_had(temporal):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes) as run:
        asked = await opened(run)
        assert (asked.ask, asked.id) == (Ask.SETTLE, f"{run.id}/1.1/settle")
        assert asked.why == "was it had? the line broke"
        await decided(run, verdict(asked))
        result = await run.result()
    assert result.effects == [{"tool": "transfer", "step": "1.1", "state": "done", "settled_by": "ann@example.com"}]
    assert [(a.was_had, a.by) for a in fakes.attempts] == [(None, ""), (True, "ann@example.com")]


async def test_an_effect_that_was_not_had_says_a_human_is_had_again_under_its_key(temporal):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes) as run:
        await decided(run, verdict(await opened(run), Decision.REJECT))
        result = await run.result()
    assert (last(result)[0], len(fakes.sent)) == ("done", 1)
    assert {a.key for a in fakes.attempts} == {f"{run.id}/1.1"}
    assert fakes.sent[0].was_had is False


async def test_an_effect_may_be_left_as_nobody_knows_it(temporal):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes) as run:
        asked = await opened(run)
        assert "amend answers only" in await refused(run, verdict(asked, Decision.AMEND, arguments={"a": 1}))
        await decided(run, verdict(asked, Decision.SKIP))
        result = await run.result()
    assert (last(result), len(fakes.attempts)) == (("unknown", "the line broke"), 1)
    assert result.approvals[0]["state"] == "skipped"
    assert "nobody knows whether this was done" in fakes.seen[-1].messages[-1].content


async def test_a_question_may_be_asked_again_of_the_same_effect(temporal):
    fakes = script(effect=unknown_at_first(2))
    async with started(temporal, fakes) as run:
        first = await opened(run)
        await decided(run, verdict(first, Decision.REJECT))
        async with asyncio.timeout(20):
            while (second := await opened(run)).opened_at == first.opened_at:
                await asyncio.sleep(0.02)
        assert (second.id, run_of(second.id)) == (f"{run.id}/1.1-2/settle", run.id)
        assert "is rejected by" in await refused(run, verdict(first, Decision.REJECT))
        await decided(run, verdict(second))
        result = await run.result()
    assert last(result)[0] == "done"
    # both questions are told
    assert [one["state"] for one in result.approvals] == ["rejected", "approved"]


async def test_those_who_allow_the_tool_settle_it(temporal):
    fakes = script(effect=unknown_at_first())
    only = ApprovalRule(tool="transfer", over={"EUR": "1000"}, approvers=["boss@example.com"])
    async with started(temporal, fakes, approvals=[only]) as run:
        asked = await opened(run)
        assert "may not decide" in await refused(run, verdict(asked))
        await decided(run, verdict(asked, by="boss@example.com"))
        await run.result()


async def test_the_policy_may_have_it_again_without_asking(temporal):
    fakes = script(effect=unknown_at_first(2))
    async with started(temporal, fakes, agent={"on_unknown": "resend"}) as run:
        result = await run.result()
    assert (last(result)[0], len(fakes.sent), result.approvals) == ("done", 1, [])
    assert [a.by for a in fakes.attempts] == ["", "policy", "policy"]


async def test_the_policy_does_not_have_it_again_for_ever(temporal):
    fakes = script(effect=unknown_at_first(99))
    async with started(temporal, fakes, agent={"on_unknown": "resend"}) as run:
        await decided(run, verdict(await opened(run), Decision.SKIP))
        result = await run.result()
    assert (last(result)[0], len(fakes.attempts)) == ("unknown", 4)


async def test_the_policy_may_leave_it(temporal):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes, agent={"on_unknown": "skip"}) as run:
        result = await run.result()
    assert (last(result)[0], len(fakes.attempts), result.approvals) == ("unknown", 1, [])


async def test_a_final_unknown_of_the_tool_is_unknown_and_nothing_else(temporal):
    lost = ApplicationError("it may have been done", type=names.FailureType.EFFECT_UNKNOWN, non_retryable=True)
    async with started(temporal, script(effect=lambda _: lost), agent={"on_unknown": "skip"}) as run:
        result = await run.result()
    assert last(result) == ("unknown", "it may have been done")


async def test_a_stop_while_a_human_is_asked_leaves_it_unknown(temporal):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes) as run:
        await opened(run)
        await run.signal(names.STOP_SIGNAL, "enough")
        result = await run.result()
    assert (result.outcome, last(result)[0], len(fakes.attempts)) == (Outcome.STOPPED, "unknown", 1)
    assert result.approvals[0]["state"] == "withdrawn"


@pytest.mark.parametrize(("decision", "state"), [(Decision.APPROVE, "done"), (Decision.REJECT, "failed")])
async def test_a_stop_that_comes_just_after_a_human_has_spoken_begins_nothing_and_notes_it(temporal, decision, state):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes) as run:
        asked = await opened(run)
        fakes.audit = asyncio.Event()
        await decided(run, verdict(asked, decision))
        await run.signal(names.STOP_SIGNAL, "enough")
        await run.query(names.STATUS_QUERY)
        fakes.audit.set()
        result = await run.result()
    assert (result.outcome, last(result)[0], fakes.sent) == (Outcome.STOPPED, state, [])
    assert fakes.attempts[-1].mode is Mode.ACCOUNT


async def test_nothing_is_had_again_while_the_run_is_paused(temporal):
    fakes = script(effect=unknown_at_first())
    async with started(temporal, fakes) as run:
        await run.signal(names.PAUSE_SIGNAL, "wait")
        await run.signal(names.RESUME_SIGNAL, "")
        asked = await opened(run)
        await run.signal(names.PAUSE_SIGNAL, "wait")
        await decided(run, verdict(asked, Decision.REJECT))
        async with asyncio.timeout(20):
            while (await run.query(names.STATUS_QUERY, result_type=RunStatus)).phase is not Phase.PAUSED:
                await asyncio.sleep(0.02)
        assert len(fakes.attempts) == 1
        await run.signal(names.RESUME_SIGNAL, "")
        result = await run.result()
    assert (last(result)[0], len(fakes.sent)) == ("done", 1)


# --- effects that fail, or are not had in time


async def test_an_effect_that_was_refused_is_failed_and_the_model_reads_why(temporal):
    no = ApplicationError("no such account", type=names.FailureType.BAD_REQUEST, non_retryable=True)
    fakes = script(effect=lambda _: no)
    async with started(temporal, fakes) as run:
        result = await run.result()
    assert (last(result), result.outcome) == (("failed", "no such account"), Outcome.COMPLETED)
    assert fakes.seen[-1].messages[-1].content == '{"error": "no such account"}'


async def test_an_effect_that_waits_beyond_its_time_is_accounted_for_and_not_called_failed_by_its_last_wait(temporal):
    def waits(request: EffectRequest) -> ApplicationError | EffectResult:
        if request.mode is Mode.ACCOUNT:
            return EffectResult(state=EffectState.DONE, evidence={"transfer_id": "tr_9"}, content="{}")
        return ApplicationError("waits for the database", type=names.FailureType.DATABASE_LOST)

    fakes = script(effect=waits)
    async with started(
        temporal, fakes, agent={"policy": replace(run_input("q").agent.policy, schedule_to_close_s=2.0)}
    ) as run:
        result = await run.result()
    # an earlier attempt had it, as the ledger says
    assert result.effects[0]["transfer_id"] == "tr_9"
    assert fakes.attempts[-1].mode is Mode.ACCOUNT


# --- stops, cancellations, terminations


async def test_a_stop_before_the_point_of_no_return_withdraws_the_effect(temporal):
    fakes = script(hold=asyncio.Event(), committed=False)
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        await run.signal(names.STOP_SIGNAL, "enough")
        result = await run.result()
    assert (result.outcome, fakes.sent) == (Outcome.STOPPED, [])
    assert last(result) == ("failed", "withdrawn before it began")
    assert [(a.mode, a.why) for a in fakes.attempts] == [(Mode.EXECUTE, ""), (Mode.ACCOUNT, "withdrawn")]


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("action", ["stop", "cancel"])
async def test_an_end_that_comes_with_the_end_of_the_effect_has_one_outcome_which_is_told(temporal, action, committed):
    for i in range(10):
        fakes = script(hold=asyncio.Event(), committed=committed)
        async with started(temporal, fakes) as run:
            await fakes.under_way.wait()
            child = await child_of(temporal, run)

            async def finishes(fakes: Fakes, after_s: float) -> None:
                await asyncio.sleep(after_s)
                assert fakes.hold is not None
                fakes.hold.set()

            # before, with and after the cancellation of the attempt
            ends = run.cancel() if action == "cancel" else run.signal(names.STOP_SIGNAL, "enough")
            await asyncio.gather(ends, finishes(fakes, i * 0.02))
            result = None
            with suppress(WorkflowFailureError):
                result = await run.result()
            accounted = await child.result()
        assert len(fakes.sent) <= 1
        assert accounted.state is (EffectState.DONE if fakes.sent else EffectState.FAILED)
        assert (result is None) is (action == "cancel")
        if result is not None:
            assert (result.outcome, last(result)[0]) == (Outcome.STOPPED, accounted.state.value)


@pytest.mark.parametrize("first", ["cancellation", "end"])
async def test_an_end_of_the_effect_that_is_seen_together_with_the_cancellation_counts(temporal, first):
    queue, fakes = f"q-{uuid4().hex}", script(hold=asyncio.Event())
    arguments = {"payee": "DE1", "amount": "1", "currency": "EUR", "reference": "r"}
    wanted = EffectRequest(
        key=f"e-{uuid4().hex}", tool="transfer", activity=PAYMENTS_TRANSFER.name, arguments=arguments, digest="",
        run_id="r", agent="a", tenant="t",
    )  # fmt: skip
    workflows: dict[str, Any] = {"task_queue": queue, "workflows": [EffectWorkflow], "workflow_runner": SANDBOX}
    async with Worker(temporal, task_queue=queue, activities=[fakes.transfer]):
        async with Worker(temporal, **workflows, max_cached_workflows=0):
            run = await temporal.start_workflow(EffectWorkflow.run, wanted, id=wanted.key, task_queue=queue)
            await fakes.under_way.wait()
        # nobody serves the workflow: it will see both at once
        if first == "cancellation":
            await run.cancel()
        assert fakes.hold is not None
        fakes.hold.set()
        async with asyncio.timeout(20):
            while (await run.describe()).raw_description.pending_activities:
                await asyncio.sleep(0.02)
        if first == "end":
            await run.cancel()
        async with Worker(temporal, **workflows):
            accounted = await run.result()
    assert (accounted.state, len(fakes.sent), len(fakes.attempts)) == (EffectState.DONE, 1, 1)


async def test_a_stop_before_anybody_has_taken_the_effect_up_withdraws_it(temporal):
    fakes = script()
    queue, tools = (f"q-{uuid4().hex}" for _ in range(2))
    wanted = run_input(queue)
    elsewhere = [replace(tool, task_queue=tools) for tool in wanted.agent.tools]
    wanted = replace(wanted, agent=replace(wanted.agent, tools=elsewhere))
    async with serving(temporal, fakes, queue):
        run = await temporal.start_workflow(
            AgentWorkflow.run, wanted, id=f"run-{uuid4().hex}", task_queue=queue, result_type=RunResult
        )
        await child_of(temporal, run)
        await run.signal(names.STOP_SIGNAL, "enough")
        await run.query(names.STATUS_QUERY)
        async with serving(temporal, fakes, tools):
            result = await run.result()
    assert (last(result)[0], fakes.sent) == ("failed", [])
    assert [a.mode for a in fakes.attempts] == [Mode.ACCOUNT]


async def test_a_cancelled_run_has_its_effect_accounted_for_in_the_childs_result(temporal):
    fakes = script(hold=asyncio.Event(), committed=False)
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        child = await child_of(temporal, run)
        await run.cancel()
        with pytest.raises(WorkflowFailureError) as raised:
            await run.result()
        accounted = await child.result()
    assert isinstance(raised.value.cause, CancelledError)
    assert (accounted.state, accounted.reason) == (EffectState.FAILED, "withdrawn before it began")
    assert fakes.sent == []


async def test_a_cancelled_run_whose_effect_nobody_knows_of_asks_nobody(temporal):
    fakes = script(effect=lambda r: UNKNOWN if r.mode is Mode.ACCOUNT else None, hold=asyncio.Event(), committed=False)
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        await run.cancel()
        with pytest.raises(WorkflowFailureError):
            await run.result()
    assert fakes.events == []


async def test_the_effect_of_a_terminated_run_withdraws_and_accounts(temporal):
    fakes = script(hold=asyncio.Event(), committed=False)
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        child = await child_of(temporal, run)
        await run.terminate("gone")
        accounted = await child.result()
        assert (await run.describe()).status is WorkflowExecutionStatus.TERMINATED
    assert (accounted.state, fakes.sent) == (EffectState.FAILED, [])


async def test_the_effect_of_a_terminated_run_that_is_past_its_point_of_no_return_is_had(temporal):
    fakes = script(hold=asyncio.Event())
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        child = await child_of(temporal, run)
        await run.terminate("gone")
        assert fakes.hold is not None
        fakes.hold.set()
        accounted = await child.result()
    assert (accounted.state, len(fakes.sent)) == (EffectState.DONE, 1)


async def test_an_effect_whose_workflow_was_terminated_is_unknown(temporal):
    fakes = script(hold=asyncio.Event())
    async with started(temporal, fakes, agent={"on_unknown": "skip"}) as run:
        await fakes.under_way.wait()
        await (await child_of(temporal, run)).terminate("gone")
        assert fakes.hold is not None
        fakes.hold.set()
        result = await run.result()
    assert last(result)[0] == "unknown"


# --- telling how the run has ended


@pytest.fixture
async def told(temporal):
    """What the endpoint was told, by a run that ends so."""

    async def tell(fakes: Fakes, how: Any, *endpoints: str, **wanted: Any) -> list[dict[str, Any]]:
        queue = f"q-{uuid4().hex}"
        names_of = endpoints or ("ops",)
        run_of = replace(run_input(queue, **wanted), tell=[Told(endpoint=e, task_queue=queue) for e in names_of])
        async with serving(temporal, fakes, queue):
            run = await temporal.start_workflow(
                AgentWorkflow.run, run_of, id=f"run-{uuid4().hex}", task_queue=queue, result_type=RunResult
            )
            await how(run)
            for name in dict.fromkeys(names_of):
                await (await child_of(temporal, run, f"ended/{name}")).result()
        return [r.arguments for r in fakes.sent if r.tool == "send_webhook"]

    return tell


async def test_those_who_want_to_know_are_told_of_a_completed_run(told):
    fakes = script()
    [told_ops, told_crm] = await told(fakes, lambda run: run.result(), "ops", "crm")
    assert (told_ops["endpoint"], told_crm["endpoint"], told_ops["type"]) == ("ops", "crm", "fleet.run.completed")
    assert (told_ops["data"]["outcome"], told_ops["data"]["answer"]) == ("completed", "done")
    assert told_ops["data"]["effects"][0]["state"] == "done"


async def test_an_endpoint_that_is_named_twice_is_told_once(told):
    assert len(await told(script(), lambda run: run.result(), "ops", "ops")) == 1


async def test_they_are_told_of_a_failed_run(told):
    async def fails(run: Any) -> None:
        with pytest.raises(WorkflowFailureError):
            await run.result()

    fakes = Fakes(script=[ApplicationError("the key was refused", type="ProviderRefused", non_retryable=True)])
    [one] = await told(fakes, fails)
    assert (one["type"], one["data"]["reason"]) == ("fleet.run.failed", "ProviderRefused: the key was refused")


async def test_they_are_told_of_a_cancelled_run_with_what_became_of_its_effect(told):
    fakes = script(hold=asyncio.Event(), committed=False)

    async def cancels(run: Any) -> None:
        await fakes.under_way.wait()
        await run.cancel()
        with pytest.raises(WorkflowFailureError):
            await run.result()
        assert fakes.hold is not None
        fakes.hold.set()

    [one] = await told(fakes, cancels)
    assert (one["type"], one["data"]["reason"]) == ("fleet.run.stopped", "the run was cancelled")
    assert [effect["state"] for effect in one["data"]["effects"]] == ["failed"]


async def test_they_are_told_of_a_run_that_was_stopped_while_a_human_was_asked(told):
    async def stops(run: Any) -> None:
        assert (await opened(run)).state is ApprovalState.OPEN
        await run.signal(names.STOP_SIGNAL, "enough")
        await run.result()

    [one] = await told(script(), stops, approvals=[ApprovalRule(tool="transfer")])
    assert (one["type"], one["data"]["reason"], one["data"]["effects"]) == ("fleet.run.stopped", "enough", [])
