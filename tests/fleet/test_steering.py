"""Pausing, telling, stopping a run; and what ends one: refused calls, money, a tenant's budget."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from fleet import budget, planning
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule
from fleet.contracts.llm import ChatResult, Message, Role, ToolCall, Usage
from fleet.contracts.runs import Budget, Outcome, Phase, Price, RunStatus
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, run_input, says, started, verdict

PRICE = Price(input="1.25", output="10.00", cached="0.125", currency="EUR")


async def status(run: Any) -> RunStatus:
    found: RunStatus = await run.query(names.STATUS_QUERY, result_type=RunStatus)
    return found


async def until(run: Any, phase: Phase) -> RunStatus:
    async with asyncio.timeout(20):
        while (now := await status(run)).phase is not phase:
            await asyncio.sleep(0.02)
    return now


def said_to_the_model(fakes: Fakes, call: int = -1) -> list[str]:
    return [m.content for m in fakes.seen[call].messages if m.role is Role.USER]


# --- pause and resume


async def test_a_paused_run_begins_nothing_until_it_is_resumed(temporal):
    fakes = Fakes(script=[calls("search", query="x"), says("done")], hold=asyncio.Event())
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        assert fakes.hold is not None
        fakes.hold.set()
        paused = await until(run, Phase.PAUSED)
        assert (paused.paused, len(fakes.seen)) == ("lunch", 1)
        await run.signal(names.RESUME_SIGNAL, "back")
        result = await run.result()
        after = await status(run)
    assert (result.outcome, len(fakes.seen), after.paused, after.phase) == (Outcome.COMPLETED, 2, None, Phase.FINISHED)


async def test_a_run_paused_before_several_calls_goes_on_with_all_of_them(temporal):
    both = [*calls("search", "c1", query="x").message.tool_calls, *calls("search", "c2", query="y").message.tool_calls]
    asks = ChatResult(
        message=Message(role=Role.ASSISTANT, tool_calls=[*both, *pays().message.tool_calls]),
        usage=Usage(),
        finish_reason="tool_calls",
    )
    fakes = Fakes(script=[asks, says("done")])
    thinking, go_on = asyncio.Event(), asyncio.Event()
    fakes.thinking, fakes.thought = thinking, go_on
    async with started(temporal, fakes) as run:
        await thinking.wait()
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        go_on.set()
        # the model has answered, and its calls are not made
        async with asyncio.timeout(20):
            while (await status(run)).steps == 0:
                await asyncio.sleep(0.02)
        assert (fakes.attempts, (await status(run)).phase) == ([], Phase.PAUSED)
        await run.signal(names.RESUME_SIGNAL, "")
        result = await run.result()
    assert (result.outcome, len(fakes.sent)) == (Outcome.COMPLETED, 1)


async def test_a_paused_run_can_be_stopped(temporal):
    fakes = Fakes(script=[calls("search", query="x"), says("done")], hold=asyncio.Event())
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        assert fakes.hold is not None
        fakes.hold.set()
        await until(run, Phase.PAUSED)
        await run.signal(names.STOP_SIGNAL, "enough")
        result = await run.result()
    assert (result.outcome, result.reason) == (Outcome.STOPPED, "enough")


async def test_a_paused_run_can_be_cancelled(temporal):
    fakes = Fakes(script=[calls("search", query="x"), says("done")], hold=asyncio.Event())
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        assert fakes.hold is not None
        fakes.hold.set()
        await until(run, Phase.PAUSED)
        await run.cancel()
        with pytest.raises(WorkflowFailureError):
            await run.result()


async def test_a_question_may_be_answered_while_the_run_is_paused_and_nothing_begins(temporal):
    fakes = Fakes(script=[pays(), says("done")])
    async with started(temporal, fakes, approvals=[ApprovalRule(tool="transfer")]) as run:
        asked = await opened(run)
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        await decided(run, verdict(asked))
        await until(run, Phase.PAUSED)
        assert fakes.attempts == []
        await run.signal(names.RESUME_SIGNAL, "")
        await run.result()
    assert len(fakes.sent) == 1


async def test_a_stop_after_the_verdict_and_before_the_effect_is_obeyed(temporal):
    fakes = Fakes(script=[pays(), says("done")])
    async with started(temporal, fakes, approvals=[ApprovalRule(tool="transfer")]) as run:
        asked = await opened(run)
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        await decided(run, verdict(asked))
        await until(run, Phase.PAUSED)
        await run.signal(names.STOP_SIGNAL, "enough")
        result = await run.result()
    assert (result.outcome, fakes.attempts, result.effects) == (Outcome.STOPPED, [], [])
    assert result.approvals[0]["state"] == "approved"


async def test_of_several_reasons_the_first_is_told(temporal):
    fakes = Fakes(script=[calls("search", query="x")], hold=asyncio.Event())
    async with started(temporal, fakes) as run:
        await fakes.under_way.wait()
        await run.signal(names.STOP_SIGNAL, "first")
        await run.signal(names.STOP_SIGNAL, "second")
        result = await run.result()
    assert result.reason == "first"


# --- tell


async def test_what_a_run_is_told_is_read_before_its_next_step(temporal):
    fakes = Fakes(script=[calls("search", query="x"), says("done")], hold=asyncio.Event())
    async with started(temporal, fakes, goal="find out") as run:
        await fakes.under_way.wait()
        await run.signal(names.TELL_SIGNAL, "mind the gap")
        await run.signal(names.TELL_SIGNAL, "and the step")
        assert fakes.hold is not None
        fakes.hold.set()
        await run.result()
    assert said_to_the_model(fakes) == ["find out", "mind the gap", "and the step"]
    assert [m.role for m in fakes.seen[-1].messages][-3:] == [Role.TOOL, Role.USER, Role.USER]


async def test_what_comes_with_the_final_answer_is_heard(temporal):
    fakes = Fakes(script=[says("too early"), says("now I know")])
    fakes.thinking, fakes.thought = asyncio.Event(), asyncio.Event()
    async with started(temporal, fakes, goal="find out") as run:
        await fakes.thinking.wait()
        await run.signal(names.TELL_SIGNAL, "wait")
        fakes.thought.set()
        result = await run.result()
    assert (result.answer, result.steps) == ("now I know", 2)
    assert said_to_the_model(fakes) == ["find out", "wait"]


# --- calls that cannot be made


def wrong(name: str = "fly") -> ChatResult:
    return calls(name, where="up")


async def test_a_model_that_asks_only_for_calls_that_cannot_be_made_is_given_up(temporal):
    fakes = Fakes(script=[wrong()])
    policy = replace(run_input("q").agent.policy, max_refusals=3)
    async with started(temporal, fakes, agent={"policy": policy}) as run:
        result = await run.result()
    assert (result.outcome, result.steps) == (Outcome.FAILED, 4)
    assert result.reason.startswith(
        "the model has asked 4 times in a row for calls that cannot be made; the last: there is no tool 'fly'"
    )


async def test_one_call_that_can_be_made_starts_the_count_anew(temporal):
    policy = replace(run_input("q").agent.policy, max_refusals=1)
    fakes = Fakes(script=[wrong(), calls("search", query="x"), wrong("search"), says("done")])
    async with started(temporal, fakes, agent={"policy": policy}) as run:
        assert (await run.result()).outcome is Outcome.COMPLETED


async def test_arguments_that_are_no_unicode_do_not_hold_up_the_run(temporal):
    fakes = Fakes(script=[calls("send_email", to="a@b.c", subject="\ud800", body="b"), says("done")])
    async with started(temporal, fakes) as run:
        result = await run.result()
    assert (result.outcome, fakes.attempts) == (Outcome.COMPLETED, [])


def test_a_run_is_given_up_after_so_many_refusals_and_not_before():
    agent = run_input("q").agent
    assert planning.given_up(agent, agent.policy.max_refusals, "why") is None
    assert planning.given_up(agent, agent.policy.max_refusals + 1, "why") == (
        "the model has asked 6 times in a row for calls that cannot be made; the last: why"
    )


def test_calls_beyond_an_allow_list_or_a_schema_are_refused_with_the_reason():
    asked = [
        ToolCall(id="1", name="send_email", arguments={"to": "eve@x.y", "subject": "s", "body": "b"}),
        ToolCall(id="2", name="transfer", arguments={"payee": "DE1", "amount": "-1", "currency": "EUR"}),
        ToolCall(id="3", name="search", arguments={"query": "x"}),
    ]
    agent = run_input("q").agent
    agent = replace(agent, allow=replace(agent.allow, recipients=["*@example.com"]))
    reply = replace(says(""), message=Message(role=Role.ASSISTANT, tool_calls=asked))
    decided_on = planning.decide(agent, reply)
    assert isinstance(decided_on, planning.Act)
    assert [call.id for call, _ in decided_on.calls] == ["3"]
    reasons = {call.id: reason for call, reason in decided_on.refused}
    assert reasons["1"].endswith("is not on the list of recipients of this agent")
    assert "amount: '-1' does not match" in reasons["2"]
    assert "'reference' is a required property" in reasons["2"]


# --- money


def test_a_call_costs_exactly_what_its_tokens_cost():
    usage = Usage(input_tokens=1000, cached_tokens=400, output_tokens=100)
    assert budget.cost(PRICE, usage) == Decimal("0.0018")
    assert budget.cost(None, usage) == 0
    odd = Usage(input_tokens=1, cached_tokens=0, output_tokens=0)
    assert budget.cost(replace(PRICE, input="0.1"), odd) * 3 == Decimal("0.0000003")


def test_more_cached_than_read_costs_nothing_below_zero():
    assert budget.cost(PRICE, Usage(input_tokens=0, cached_tokens=8)) == Decimal("0.000001")


def test_a_thousand_small_calls_add_up_exactly():
    spent = budget.Spent()
    for _ in range(1000):
        spent = spent.step(Usage(input_tokens=1, output_tokens=1), replace(PRICE, input="0.1", output="0.2"))
    assert (spent.money, spent.steps, spent.tokens) == (Decimal("0.0003"), 1000, 2000)


@pytest.mark.parametrize(
    ("money", "limit", "used_up"),
    [
        ("0.29", "0.3", None),
        ("0.30", "0.3", "used 0.3 of 0.3 of money"),
        ("100", "0.3", "used 100 of 0.3 of money"),
        ("9", None, None),
        ("0", "0", "used 0 of 0 of money"),
    ],
)
def test_money_is_used_up_when_it_is(money, limit, used_up):
    assert budget.exhausted(Budget(money=limit), budget.Spent(money=Decimal(money)), 0) == used_up


async def test_running_out_of_money_is_a_result(temporal):
    fakes = Fakes(script=[calls("search", query="again")])
    async with started(temporal, fakes, agent={"price": PRICE}, money="0.0001") as run:
        result = await run.result()
    # 10 in, 5 out: 0.0000625 a call
    assert (result.outcome, result.reason) == (Outcome.BUDGET_EXHAUSTED, "used 0.000125 of 0.0001 of money")
    assert (Decimal(result.cost), result.currency, result.steps) == (Decimal("0.000125"), "EUR", 2)


async def test_a_tenant_that_has_spent_its_budget_ends_the_run_with_what_it_has(temporal):
    spent = ApplicationError(
        "acme has used 10 of 10 EUR today", type=names.FailureType.BUDGET_EXHAUSTED, non_retryable=True
    )
    begun = replace(pays(), message=replace(pays().message, content="I pay first"))
    fakes = Fakes(script=[begun, spent])
    async with started(temporal, fakes) as run:
        result = await run.result()
    assert (result.outcome, result.reason) == (Outcome.BUDGET_EXHAUSTED, "acme has used 10 of 10 EUR today")
    assert (result.answer, result.effects[0]["state"]) == ("I pay first", "done")
