"""Approvals: asked, decided once, by the right people, of exactly what was shown."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError
from temporalio.worker import Replayer

from fleet.contracts import names
from fleet.contracts.approvals import Approval, ApprovalRule, ApprovalState, Decision, Verdict, digest
from fleet.contracts.runs import Outcome, Phase, RunResult, RunStatus
from fleet.workflows.agent import AgentWorkflow
from tests.fleet.fakes import (
    Fakes,
    calls,
    decided,
    opened,
    pays,
    quiet,
    refused,
    says,
    serving,
    skip,
    start,
    started,
    time_skipping,
    verdict,
)
from workers.pool import SANDBOX

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"
PAYS = digest("transfer", {"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "r"})
ONE = ApprovalRule(tool="transfer", approvers=[ANN, BOB], notify=["team", "audit"], amend="amount <= 200")
FOUR_EYES = replace(ONE, needed=2, notify=[])


def script() -> Fakes:
    return Fakes(script=[pays(), says("done")])


def asking(*rules: ApprovalRule) -> dict[str, Any]:
    return {"approvals": list(rules or (ONE,))}


def what(fakes: Fakes) -> list[str]:
    return [event.what for event in fakes.events]


def seen(fakes: Fakes) -> str:
    return fakes.seen[-1].messages[-1].content


async def until(run: WorkflowHandle[Any, RunResult], state: ApprovalState) -> Approval:
    async with asyncio.timeout(20):
        while True:
            [approval] = await run.query(names.APPROVALS_QUERY, result_type=list[Approval])
            if approval.state is state:
                return approval
            await asyncio.sleep(0.02)


async def test_an_approved_call_is_made_as_it_was_asked_for(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        status = await run.query(names.STATUS_QUERY, result_type=RunStatus)
        assert (status.phase, status.doing, status.approvals) == (Phase.APPROVAL, asked.id, [asked.id])
        assert not fakes.attempts
        taken = await decided(run, verdict(asked, comment="fine"))
        result = await run.result()
    assert (asked.id, asked.tool, asked.why) == (f"{run.id}/1.1", "transfer", "every transfer needs a human")
    assert taken.state is ApprovalState.APPROVED
    assert [(r.arguments, r.digest.partition("@")[0]) for r in fakes.sent] == [(asked.arguments, asked.digest)]
    assert seen(fakes) == '{"done": true}'
    assert result.approvals == [
        {"id": asked.id, "tool": "transfer", "state": "approved", "by": ANN, "comment": "fine", "reason": ""}
    ]


async def test_everything_that_befalls_an_approval_is_written_down_and_told_in_order(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        await decided(run, verdict(asked))
        await run.result()
    assert what(fakes) == ["opened", "approved"]
    assert [(e.approval.state, e.vote and e.vote.by) for e in fakes.events] == [("open", None), ("approved", ANN)]
    assert sorted((n.endpoint, n.what, tuple(n.to)) for n in fakes.notices) == [
        (endpoint, told, (ANN, BOB)) for endpoint in ("audit", "team") for told in ("approved", "opened")
    ]


async def test_a_rejected_call_is_not_made_and_the_model_reads_why(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        await decided(run, verdict(await opened(run), Decision.REJECT, comment="not this payee"))
        result = await run.result()
    assert (fakes.attempts, result.effects, result.outcome) == ([], [], Outcome.COMPLETED)
    assert "a human has rejected this call: not this payee" in seen(fakes)
    assert (result.approvals[0]["state"], result.approvals[0]["comment"]) == ("rejected", "not this payee")


async def test_amended_arguments_are_what_is_executed(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        wanted = asked.arguments | {"amount": "20.00"}
        assert await refused(run, verdict(asked, Decision.AMEND, arguments=wanted | {"amount": "201"})) == (
            "amended beyond the policy: amount <= 200 must hold"
        )
        taken = await decided(run, verdict(asked, Decision.AMEND, arguments=wanted))
        await run.result()
    assert (taken.state, taken.arguments) == (ApprovalState.APPROVED, wanted)
    assert [(r.arguments, r.digest.partition("@")[0]) for r in fakes.sent] == [(wanted, taken.digest)]
    assert taken.digest != asked.digest
    assert '"changed_by_a_human_to": {' in seen(fakes)
    assert '"amount": "20.00"' in seen(fakes)


async def test_a_tool_without_effects_may_need_a_human_too(temporal):
    fakes = Fakes(script=[calls("search", query="x"), says("done")])
    async with started(temporal, fakes, **asking(ApprovalRule(tool="search"))) as run:
        asked = await opened(run)
        await decided(run, verdict(asked, Decision.AMEND, arguments={"query": "y"}))
        await run.result()
    assert '"changed_by_a_human_to": {"query": "y"}' in seen(fakes)


@pytest.mark.parametrize(
    ("decision", "had", "state"), [(Decision.APPROVE, 1, "approved"), (Decision.REJECT, 0, "rejected")]
)
async def test_a_verdict_may_come_by_signal(temporal, decision, had, state):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        await run.signal(names.DECIDE_SIGNAL, verdict(await opened(run), decision, channel="signal"))
        result = await run.result()
    assert (len(fakes.sent), result.approvals[0]["state"], what(fakes)) == (had, state, ["opened", state])


async def test_an_amendment_may_come_by_signal(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        wanted = asked.arguments | {"amount": "1"}
        await run.signal(names.DECIDE_SIGNAL, verdict(asked, Decision.AMEND, arguments=wanted))
        await run.result()
    assert [r.arguments for r in fakes.sent] == [wanted]


async def test_a_refused_signal_changes_nothing_and_is_written_down_with_the_reason(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        await run.signal(names.DECIDE_SIGNAL, verdict(asked, by=EVE))
        await run.signal(names.DECIDE_SIGNAL, replace(verdict(asked), approval_id="nothing"))
        await run.signal(names.DECIDE_SIGNAL, verdict(asked, digest="0" * 16))
        await run.signal(names.DECIDE_SIGNAL, verdict(asked, Decision.REJECT))
        await run.signal(names.DECIDE_SIGNAL, verdict(asked, by=BOB))
        result = await run.result()
    assert (fakes.attempts, result.approvals[0]["state"], result.approvals[0]["by"]) == ([], "rejected", ANN)
    told = [(e.what, e.vote and e.vote.by, e.detail.partition(";")[0][-20:]) for e in fakes.events]
    assert [(one[0], one[1]) for one in told] == [
        ("opened", None), ("refused", EVE), ("refused", ANN), ("rejected", ANN), ("refused", BOB)
    ]  # fmt: skip
    assert "may not decide" in fakes.events[1].detail
    assert "other arguments" in fakes.events[2].detail
    assert "too late" in fakes.events[4].detail
    assert len(fakes.events[-1].approval.votes) == 1


async def test_a_verdict_that_cannot_be_taken_is_refused_with_the_reason(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        unknown = replace(verdict(asked), approval_id=f"{run.id}/9.9")
        assert await refused(run, unknown) == f"the run has asked nothing under '{run.id}/9.9'"
        assert "those may: ann@example.com, bob@example.com" in await refused(run, verdict(asked, by=EVE))
        assert "the verdict is on other arguments" in await refused(run, verdict(asked, digest="0" * 16))
        assert "name yourself" in await refused(run, verdict(asked, by=" "))
        assert "skip answers only" in await refused(run, verdict(asked, Decision.SKIP))
        assert (await opened(run)).votes == []
        await decided(run, verdict(asked))
        await run.result()
    assert what(fakes) == ["opened", "approved"]


async def test_a_verdict_that_comes_again_is_refused(temporal):
    fakes = Fakes(script=[pays(), says("done")], hold=asyncio.Event())
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        await decided(run, verdict(asked))
        await fakes.under_way.wait()
        for again in (verdict(asked), verdict(asked, Decision.REJECT), verdict(asked, by=BOB)):
            assert "is approved by ann@example.com" in await refused(run, again)
        assert fakes.hold is not None
        fakes.hold.set()
        await run.result()
    assert len(fakes.sent) == 1


async def test_a_verdict_on_a_run_that_has_ended_is_refused(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        await decided(run, verdict(asked))
        await run.result()
        with pytest.raises(RPCError, match="already completed"):
            await decided(run, verdict(asked, by=BOB))


async def test_a_verdict_that_comes_before_its_question_is_refused(temporal):
    fakes = Fakes(script=[calls("search", query="x"), pays(), says("done")], hold=asyncio.Event())
    async with started(temporal, fakes, **asking()) as run:
        await fakes.under_way.wait()
        early = Verdict(approval_id=f"{run.id}/2.1", decision=Decision.APPROVE, by=ANN, digest=PAYS)
        assert "has asked nothing under" in await refused(run, early)
        assert fakes.hold is not None
        fakes.hold.set()
        await decided(run, verdict(await opened(run), Decision.REJECT))
        await run.result()


async def test_a_verdict_on_one_call_does_not_do_for_another(temporal):
    fakes = Fakes(script=[pays(), pays(amount="1.00"), says("done")])
    async with started(temporal, fakes, **asking()) as run:
        first = await opened(run)
        await decided(run, verdict(first))
        async with asyncio.timeout(20):
            while (second := await opened(run)).id == first.id:
                await asyncio.sleep(0.02)
        crossed = replace(verdict(first), approval_id=second.id)
        assert "the verdict is on other arguments" in await refused(run, crossed)
        assert "is approved by" in await refused(run, replace(verdict(second, by=BOB), approval_id=first.id))
        await decided(run, verdict(second, Decision.REJECT))
        await run.result()
    assert [r.arguments["amount"] for r in fakes.sent] == ["120.50"]


@pytest.mark.parametrize("first", [Decision.APPROVE, Decision.REJECT])
async def test_of_two_who_click_at_once_one_wins_and_the_other_is_told(temporal, first):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        told = await asyncio.gather(
            refused(run, verdict(asked, first, ANN)), refused(run, verdict(asked, Decision.APPROVE, BOB))
        )
        result = await run.result()
    taken = [one for one in told if one.startswith("taken")]
    lost = [one for one in told if not one.startswith("taken")]
    assert (len(taken), len(lost)) == (1, 1)
    winner = result.approvals[0]["by"]
    assert winner in (ANN, BOB)
    assert f"is {result.approvals[0]['state']} by {winner}" in lost[0]
    assert len(fakes.sent) == (result.approvals[0]["state"] == "approved")
    assert len(fakes.events[-1].approval.votes) == 1


async def test_of_many_who_click_at_once_one_wins(temporal):
    fakes = script()
    crowd = [f"p{i}@example.com" for i in range(8)]
    async with started(temporal, fakes, **asking(replace(ONE, approvers=[], notify=[]))) as run:
        asked = await opened(run)
        told = await asyncio.gather(*(refused(run, verdict(asked, by=who)) for who in crowd))
        await run.result()
    assert sum(one.startswith("taken") for one in told) == 1
    assert sum("too late" in one or "already completed" in one for one in told) == 7
    assert len(fakes.sent) == 1


async def test_four_eyes_are_two_people(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking(FOUR_EYES)) as run:
        asked = await opened(run)
        once = await decided(run, verdict(asked))
        assert once.state is ApprovalState.OPEN
        assert "has decided on" in await refused(run, verdict(asked, by=ANN.upper()))
        assert not fakes.attempts
        await decided(run, verdict(asked, by=BOB))
        result = await run.result()
    assert (len(fakes.sent), what(fakes)) == (1, ["opened", "voted", "approved"])
    assert result.approvals[0]["by"] == f"{ANN}, {BOB}"


async def test_one_of_four_eyes_may_reject(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking(FOUR_EYES)) as run:
        asked = await opened(run)
        await decided(run, verdict(asked))
        await decided(run, verdict(asked, Decision.REJECT, by=BOB))
        await run.result()
    assert (fakes.attempts, what(fakes)) == ([], ["opened", "voted", "rejected"])


async def test_an_amendment_under_four_eyes_is_shown_to_the_other_one(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking(replace(FOUR_EYES, notify=["team"]))) as run:
        asked = await opened(run)
        amended = await decided(run, verdict(asked, Decision.AMEND, arguments=asked.arguments | {"amount": "7"}))
        assert amended.state is ApprovalState.OPEN
        assert "other arguments" in await refused(run, verdict(asked, by=BOB))
        async with asyncio.timeout(20):
            while "amended" not in [notice.what for notice in fakes.notices]:
                await asyncio.sleep(0.02)
        await decided(run, verdict(amended, by=BOB))
        await run.result()
    shown = next(notice for notice in fakes.notices if notice.what == "amended")
    assert (shown.to, shown.approval.digest) == ([BOB], amended.digest)
    assert [r.arguments["amount"] for r in fakes.sent] == ["7"]


async def test_a_stop_withdraws_the_question(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        await opened(run)
        await run.signal(names.STOP_SIGNAL, "enough")
        result = await run.result()
    assert (result.outcome, result.reason, fakes.attempts) == (Outcome.STOPPED, "enough", [])
    assert (result.approvals[0]["state"], result.approvals[0]["reason"]) == ("withdrawn", "enough")
    assert what(fakes) == ["opened", "withdrawn"]
    assert [n.what for n in fakes.notices].count("withdrawn") == 2


async def test_a_verdict_that_comes_with_the_stop_is_refused(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        asked = await opened(run)
        fakes.audit = asyncio.Event()
        await run.signal(names.STOP_SIGNAL, "enough")
        said = await refused(run, verdict(asked))
        fakes.audit.set()
        await run.result()
    assert "too late" in said
    assert fakes.attempts == []


async def test_a_signal_and_an_update_that_come_together_are_one_history(temporal):
    fakes = script()
    async with serving(temporal, fakes, queue := f"q-{uuid4().hex}"):
        for _ in range(10):
            fakes.seen.clear()
            run = await start(temporal, queue, **asking(replace(FOUR_EYES, notify=[])))
            same = verdict(await opened(run), by=BOB)
            await asyncio.gather(
                run.signal(names.TELL_SIGNAL, "hurry"),
                run.signal(names.DECIDE_SIGNAL, replace(same, channel="signal")),
                refused(run, same),
                refused(run, same),
            )
            [approval] = await run.query(names.APPROVALS_QUERY, result_type=list[Approval])
            await run.signal(names.STOP_SIGNAL, "enough")
            await run.result()
            assert [vote.by for vote in approval.votes] == [BOB]
            replayer = Replayer(workflows=[AgentWorkflow], workflow_runner=SANDBOX)
            await replayer.replay_workflow(await run.fetch_history())


@pytest.mark.parametrize("action", ["stop", "cancel"])
async def test_a_verdict_that_races_with_the_end_is_always_answered(temporal, action):
    async def one(run: WorkflowHandle[Any, RunResult], fakes: Fakes) -> None:
        asked = await opened(run)
        ends = run.cancel() if action == "cancel" else run.signal(names.STOP_SIGNAL, "enough")
        answers = [verdict(asked), verdict(asked, Decision.REJECT, BOB), verdict(asked, by=BOB)]
        async with asyncio.timeout(20):
            _, *told = await asyncio.gather(ends, *(refused_or_ended(run, answer) for answer in answers))
            with suppress(WorkflowFailureError):
                await run.result()
        [approval] = await run.query(names.APPROVALS_QUERY, result_type=list[Approval])
        taken = sum(answer.startswith("taken") for answer in told)
        assert taken == len(approval.votes)
        assert (taken == 1) is (approval.state is not ApprovalState.WITHDRAWN)
        assert fakes.sent == [] or approval.state is ApprovalState.APPROVED

    async def refused_or_ended(run: WorkflowHandle[Any, RunResult], answer: Verdict) -> str:
        try:
            return await refused(run, answer)
        except RPCError as error:
            return str(error)

    for _ in range(8):
        fakes = script()
        async with started(temporal, fakes, **asking(replace(ONE, notify=[]))) as run:
            await one(run, fakes)


async def test_a_cancellation_withdraws_the_question(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking()) as run:
        await opened(run)
        await quiet(run)
        await run.cancel()
        with pytest.raises(WorkflowFailureError) as raised:
            await run.result()
        [asked] = await run.query(names.APPROVALS_QUERY, result_type=list[Approval])
    assert isinstance(raised.value.cause, CancelledError)
    assert (asked.state, asked.reason) == (ApprovalState.WITHDRAWN, "the run was cancelled")
    assert (what(fakes), fakes.attempts) == (["opened", "withdrawn"], [])


async def test_a_cancellation_while_the_question_is_written_down_loses_nothing(temporal):
    fakes = script()
    fakes.audit = asyncio.Event()
    async with started(temporal, fakes, **asking()) as run:
        await opened(run)
        await run.cancel()
        await run.query(names.STATUS_QUERY)
        fakes.audit.set()
        with pytest.raises(WorkflowFailureError):
            await run.result()
    assert list(dict.fromkeys(what(fakes))) == ["opened", "withdrawn"]
    assert fakes.events[-1].approval.state is ApprovalState.WITHDRAWN


async def test_a_rule_that_the_call_does_not_meet_asks_nobody(temporal):
    fakes = script()
    async with started(temporal, fakes, **asking(replace(ONE, over={"EUR": "120.50"}))) as run:
        result = await run.result()
    assert (len(fakes.sent), result.approvals, fakes.events) == (1, [], [])


@pytest.mark.parametrize(("trusts", "asked"), [(False, 1), (True, 0)])
async def test_money_after_strangers_text_asks_a_human(temporal, trusts, asked):
    fakes = Fakes(script=[calls("search", query="x"), pays(), says("done")])
    async with started(temporal, fakes, agent={"trust_found": trusts}) as run:
        if asked:
            assert (await opened(run)).why == "text written by strangers was read before"
            await decided(run, verdict(await opened(run)))
        result = await run.result()
    assert (len(result.approvals), len(fakes.sent)) == (asked, 1)


async def test_nobody_can_be_told_and_the_question_is_answered_all_the_same(temporal):
    fakes = script()
    fakes.deaf = True
    async with started(temporal, fakes, **asking()) as run:
        await decided(run, verdict(await opened(run)))
        result = await run.result()
    assert (len(fakes.sent), result.outcome, fakes.notices) == (1, Outcome.COMPLETED, [])


# --- what takes days


@pytest.fixture(scope="module")
def skipping_address():
    with time_skipping() as address:
        yield address


@pytest.fixture
async def skipping(skipping_address):
    """A client of a server whose time can be skipped."""
    return await Client.connect(skipping_address)


SLOW = replace(
    ONE,
    notify=["team"],
    remind_s=[3600.0, 7200.0],
    escalate_s=86_400.0,
    escalate_to=["boss@example.com", BOB],
    expires_s=172_800.0,
)


async def happened(fakes: Fakes, *expected: str) -> None:
    async with asyncio.timeout(20):
        while what(fakes) != list(expected):
            await asyncio.sleep(0.02)


async def test_those_who_have_not_decided_are_reminded(skipping):
    fakes = script()
    async with started(skipping, fakes, **asking(replace(SLOW, needed=2, escalate_s=None))) as run:
        asked = await opened(run)
        await quiet(run)
        await skip(skipping, seconds=3595)
        assert what(fakes) == ["opened"]
        await skip(skipping, seconds=10)
        await happened(fakes, "opened", "reminded")
        await decided(run, verdict(asked))
        await skip(skipping, hours=2)
        await happened(fakes, "opened", "reminded", "voted", "reminded")
        await decided(run, verdict(asked, by=BOB))
        await run.result()
    reminders = [(n.endpoint, n.to) for n in fakes.notices if n.what == "reminded"]
    assert reminders == [("team", [ANN, BOB]), ("team", [BOB])]


async def test_who_it_is_escalated_to_may_decide_from_then_on(skipping):
    fakes = script()
    async with started(skipping, fakes, **asking(SLOW)) as run:
        asked = await opened(run)
        assert "may not decide" in await refused(run, verdict(asked, by="boss@example.com"))
        await skip(skipping, hours=25)
        await happened(fakes, "opened", "reminded", "reminded", "escalated")
        assert (await opened(run)).approvers == [ANN, BOB, "boss@example.com"]
        await decided(run, verdict(asked, by="boss@example.com"))
        result = await run.result()
    assert [n.to for n in fakes.notices if n.what == "escalated"] == [["boss@example.com", BOB]]
    assert (len(fakes.sent), result.approvals[0]["by"]) == (1, "boss@example.com")


async def test_a_question_that_nobody_answers_expires_and_the_model_reads_so(skipping):
    fakes = Fakes(script=[pays(), calls("search", query="x"), says("done")], hold=asyncio.Event())
    async with started(skipping, fakes, **asking(SLOW)) as run:
        asked = await opened(run)
        # not beyond the expiry: what the run does then takes its own time
        await skip(skipping, seconds=172_800)
        await fakes.under_way.wait()
        assert "is expired" in await refused(run, verdict(asked))
        assert fakes.hold is not None
        fakes.hold.set()
        result = await run.result()
    assert what(fakes) == ["opened", "reminded", "reminded", "escalated", "expired"]
    assert (fakes.attempts, result.outcome) == ([], Outcome.COMPLETED)
    assert (result.approvals[0]["state"], result.approvals[0]["reason"]) == ("expired", "nobody decided in time")
    assert "was expired (nobody decided in time)" in fakes.seen[1].messages[-1].content
    assert (fakes.events[-1].at - asked.opened_at).total_seconds() == pytest.approx(172_800, abs=5)


async def test_steps_beyond_the_expiry_are_left_out(skipping):
    fakes = script()
    rule = replace(ONE, remind_s=[10.0, 7200.0], escalate_s=7200.0, escalate_to=["boss@example.com"], expires_s=3600.0)
    async with started(skipping, fakes, **asking(rule)) as run:
        await opened(run)
        await skip(skipping, hours=3)
        await run.result()
    assert what(fakes) == ["opened", "reminded", "expired"]


async def test_an_approval_decided_after_thirty_days_and_new_workers_continues_at_once(skipping, skipping_address):
    queue = f"q-{uuid4().hex}"
    before, after = script(), Fakes(script=[says("done")])
    # no sticky queue: this server, unlike the real one, waits ten seconds for a worker that has gone
    async with serving(skipping, before, queue, max_cached_workflows=0):
        run = await start(skipping, queue, **asking(replace(ONE, expires_s=40 * 86_400.0)))
        asked = await opened(run)
        await quiet(run)
    await skip(skipping, days=30)
    client = await Client.connect(skipping_address)
    async with serving(client, after, queue):
        run = client.get_workflow_handle(run.id, result_type=RunResult)
        taken = await decided(run, verdict(asked, by=BOB))
        async with asyncio.timeout(10):
            result = await run.result()
    assert taken.decided_at is not None
    assert (taken.decided_at - asked.opened_at).days == 30
    assert (result.outcome, result.steps, result.approvals[0]["by"]) == (Outcome.COMPLETED, 2, BOB)
    assert (len(before.attempts), len(after.sent), what(after)) == (0, 1, ["approved"])
    # nothing is asked, told or thought again
    assert (len(before.seen), len(after.seen)) == (1, 1)


async def test_the_deadline_does_not_count_waits_for_people(skipping):
    fakes = script()
    async with started(skipping, fakes, deadline_s=100.0, **asking()) as run:
        asked = await opened(run)
        await quiet(run)
        await skip(skipping, hours=5)
        await run.signal(names.PAUSE_SIGNAL, "lunch")
        await decided(run, verdict(asked))
        await happened(fakes, "opened", "approved")
        await quiet(run)
        await skip(skipping, hours=5)
        await run.signal(names.RESUME_SIGNAL, "")
        result = await run.result()
    assert (result.outcome, len(fakes.sent)) == (Outcome.COMPLETED, 1)


async def test_a_wait_for_two_people_at_once_counts_once(skipping):
    both = calls("search", "c0", query="x").message.tool_calls + pays().message.tool_calls
    asks = replace(pays(), message=replace(pays().message, tool_calls=both))
    fakes = Fakes(script=[asks, calls("search", query="y"), says("done")])
    rules = asking(replace(ONE, notify=[]), ApprovalRule(tool="search", when="query == 'x'"))
    async with started(skipping, fakes, deadline_s=3600.0, **rules) as run:
        await happened(fakes, "opened", "opened")
        await quiet(run)
        await skip(skipping, hours=5)
        for asked in await run.query(names.APPROVALS_QUERY, result_type=list[Approval]):
            await decided(run, verdict(asked))
        await fakes.under_way.wait()
        result = await run.result()
    scheduled = [
        event.activity_task_scheduled_event_attributes
        for event in (await run.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    last = [one for one in scheduled if one.activity_type.name == "search.query"][-1]
    assert result.outcome is Outcome.COMPLETED
    # the deadline of the last call is what is left of the hour: neither more nor less
    assert 3500 < last.schedule_to_close_timeout.ToTimedelta().total_seconds() <= 3600
