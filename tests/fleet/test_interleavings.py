"""Stops, cancellations, verdicts and results in any order: one outcome, and it is told as it was.

One run searches, then wants to transfer money, which needs a human. Hypothesis draws what happens to it, in which
order, what of it at once, and how much time passes between. The clock is the server's, and skipped.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from fleet.contracts import names
from fleet.contracts.approvals import Approval, ApprovalRule, ApprovalState, Decision, Verdict, Vote, digest
from fleet.contracts.effects import EffectResult, EffectState, Mode
from fleet.contracts.runs import Outcome, Phase, RunResult, RunStatus
from tests.fleet.fakes import Fakes, calls, pays, quiet, says, serving, skip, start, time_skipping, verdict

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"
ASKED = {"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "r"}
EXPIRES_S = 5 * 86_400.0
EXAMPLES = 8
FORGOTTEN_S = 2.0
ENDS_AN_EFFECT = ("effect finishes", "effect fails")
ENDS_A_TOOL = ("search arrives", *ENDS_AN_EFFECT)
ENDS_THE_RUN = ("stop", "cancel")
ENDS_OF_ACTIVITIES = [
    f"activity_task_{how}_event_attributes" for how in ("completed", "failed", "timed_out", "canceled")
]
CLOSES = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
}
UNNOTED = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """Somebody decides, by update or by signal."""

    decision: Decision
    by: str
    amount: str = ""
    looks: bool = True
    """At the arguments as they are now; else the verdict is on those that were asked for first."""
    signal: bool = False


VERDICTS = st.builds(
    Said,
    decision=st.sampled_from([*[Decision.APPROVE] * 4, Decision.REJECT, Decision.AMEND, Decision.AMEND]),
    by=st.sampled_from([ANN, ANN, BOB, BOB, EVE]),
    amount=st.sampled_from(["7.00", "500.00", "120.50"]),
    looks=st.sampled_from([True, True, False]),
    signal=st.booleans(),
)
ARRIVALS = ["pause", "resume", "tell", "search arrives", "effect finishes", "effect fails"]
# drawn by weight: an end that comes early leaves nothing to be told
ACTIONS = st.sampled_from(
    [VERDICTS] * 8 + [st.sampled_from(ARRIVALS)] * 7 + [st.sampled_from(["stop", "cancel"])]
).flatmap(lambda drawn: drawn)
# what happens at one instant, and how many seconds pass before it
INSTANTS = st.tuples(st.sampled_from([0, 0, 1, 3600, 90_000, 200_000]), st.lists(ACTIONS, min_size=1, max_size=3))


@dataclass
class Seen:
    """What those outside have seen."""

    taken: list[Verdict] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    signalled: int = 0
    done: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with time_skipping() as address:
        yield address


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    needed=st.sampled_from([1, 2]),
    committed=st.booleans(),
    early=st.sampled_from([True, True, True, False]),
    instants=st.lists(INSTANTS, min_size=1, max_size=6),
    in_the_end=st.sampled_from(["stop", "approve", "approve"]),
)
@example(
    # an amendment, and an approval of what it has replaced
    needed=2,
    committed=True,
    early=True,
    instants=[
        (0, [Said(decision=Decision.AMEND, by=ANN, amount="7.00")]),
        (0, [Said(decision=Decision.APPROVE, by=BOB, looks=False)]),
    ],
    in_the_end="stop",
)
@example(
    # a cancellation of a run whose effect is under way, and past its point of no return
    needed=1,
    committed=True,
    early=True,
    instants=[(3600, [Said(decision=Decision.APPROVE, by=ANN)]), (0, ["under way"]), (0, ["cancel"])],
    in_the_end="stop",
)
@example(
    needed=1,
    committed=False,
    early=True,
    instants=[
        (3600, [Said(decision=Decision.APPROVE, by=ANN)]),
        (0, ["under way"]),
        (0, ["cancel", "effect finishes"]),
    ],
    in_the_end="stop",
)
def test_whatever_happens_in_whatever_order_there_is_one_outcome_and_it_is_told(
    needed, committed, early, instants, in_the_end
):
    # a server for each: of a run that ended before its call did, this one keeps the clock from being skipped for ever
    with time_skipping() as address:
        asyncio.run(_play(address, needed, committed, early, instants, in_the_end))


async def _play(
    address: str,
    needed: int,
    committed: bool,
    early: bool,
    instants: list[tuple[int, list[Said | str]]],
    in_the_end: str,
) -> None:
    client = await Client.connect(address)
    queue = f"q-{uuid4().hex}"
    fakes = Fakes(script=[calls("search", query="x"), pays(), says("done")], committed=committed)
    fakes.hold, fakes.effects_hold = asyncio.Event(), asyncio.Event()
    if early:
        # most of it happens to a run that asks already
        fakes.hold.set()
    rule = ApprovalRule(
        tool="transfer", approvers=[ANN, BOB], needed=needed, amend="amount <= 200", expires_s=EXPIRES_S
    )
    seen = Seen()
    async with serving(client, fakes, queue):
        run = await start(client, queue, approvals=[rule], deadline_s=1e9)
        if early:
            with suppress(TimeoutError):
                await asyncio.wait_for(quiet(run), 5)
        for seconds, actions in instants:
            if seconds and await _waits(run) and not fakes.busy:
                await quiet(run)
                await skip(client, seconds=seconds)
            for together in _together(actions, released=fakes.effects_hold.is_set()):
                await asyncio.gather(*(_act(run, fakes, seen, action) for action in together))
                await _noted(client, run, fakes)
        for action in ("search arrives", "effect finishes"):
            await _act(run, fakes, seen, action)
            await _noted(client, run, fakes)
        await _waiting_says_for_what(run, fakes)
        if in_the_end == "approve":
            await _act(run, fakes, seen, "resume")
            for who in (ANN, BOB):
                await _say(run, seen, Said(decision=Decision.APPROVE, by=who))
            await _waiting_says_for_what(run, fakes)
        result = await _end(run)
        event("cancelled" if result is None else result.outcome.value)
        await _check(client, run, fakes, seen, result)


def _together(actions: list[Said | str], *, released: bool) -> list[list[Said | str]]:
    """What of one instant happens at once, on this server.

    Of a signal and an update that come together it delivers the update first and writes the signal first: the history
    cannot be replayed. So at one instant all verdicts are signals, or none is. Of a tool's end and its cancellation
    that come together it loses the workflow task. So a tool's end comes by itself; and once effects are `released`,
    which end as soon as a verdict or a resumption begins them, what ends the run comes by itself as well. Both are
    tried on the real server, which does neither (test_approvals, test_effects_workflow).
    """
    way = next((action.signal for action in actions if isinstance(action, Said)), False)
    groups: list[list[Said | str]] = [[]]
    for action in actions:
        if action in ENDS_A_TOOL or (released and action in ENDS_THE_RUN):
            groups += [[action], []]
            released = released or action in ENDS_AN_EFFECT
        else:
            groups[-1].append(replace(action, signal=way) if isinstance(action, Said) else action)
    return [group for group in groups if group]


async def _noted(client: Client, run: Any, fakes: Fakes) -> None:
    """Until all is taken note of: signals, ends of tools, cancellations."""
    child = client.get_workflow_handle(f"{run.id}/2.1")
    async with asyncio.timeout(20):
        while fakes.busy and fakes.hold is not None and fakes.hold.is_set() and not fakes.attempts:
            await asyncio.sleep(0.01)
        for handle, tools_end in ((run, fakes.hold), (child, fakes.effects_hold)):
            with suppress(RPCError):
                while await _unnoted(handle, over=tools_end is not None and tools_end.is_set()):
                    await asyncio.sleep(0.01)


async def _unnoted(handle: Any, *, over: bool) -> bool:
    events = (await handle.fetch_history()).events
    tools = {"search.query", "payments.transfer"}
    scheduled = {
        one.event_id
        for one in events
        if one.HasField("activity_task_scheduled_event_attributes")
        and one.activity_task_scheduled_event_attributes.activity_type.name in tools
    }
    ended = {
        getattr(one, kind).scheduled_event_id for one in events for kind in ENDS_OF_ACTIVITIES if one.HasField(kind)
    }
    closed = any(one.event_type in CLOSES for one in events[-3:])
    return not closed and (events[-1].event_type in UNNOTED or (over and bool(scheduled - ended)))


async def _asked(run: Any, query: str, answer: Any) -> Any:
    # this server, unlike the real one, forgets a query or an update that finds the run about to end
    for _ in range(5):
        with suppress(TimeoutError):
            return await asyncio.wait_for(run.query(query, result_type=answer), FORGOTTEN_S)
    raise AssertionError(f"no answer to {query}")


async def _waits(run: Any) -> bool:
    """Whether the run waits for somebody: only then time is skipped."""
    if (await run.describe()).status is not WorkflowExecutionStatus.RUNNING:
        return False
    status: RunStatus = await _asked(run, names.STATUS_QUERY, RunStatus)
    return status.phase is Phase.APPROVAL


async def _act(run: Any, fakes: Fakes, seen: Seen, action: Said | str) -> None:
    assert fakes.hold is not None
    assert fakes.effects_hold is not None
    if isinstance(action, Said):
        await _say(run, seen, action)
        return
    try:
        match action:
            case "stop" | "pause" | "tell" | "resume":
                await run.signal(action, action)
            case "cancel":
                await run.cancel()
            case "under way":
                async with asyncio.timeout(20):
                    while not fakes.attempts:
                        await asyncio.sleep(0.02)
            case "search arrives":
                fakes.hold.set()
            case "effect fails" if not fakes.effects_hold.is_set():
                fakes.fate = ApplicationError("no such account", type="BadRequest", non_retryable=True)
                fakes.effects_hold.set()
            case "effect finishes":
                fakes.effects_hold.set()
    except RPCError as error:
        ended = error
    else:
        seen.done.add(action)
        return
    assert ended.status is RPCStatusCode.NOT_FOUND, ended


async def _say(run: Any, seen: Seen, said: Said) -> None:
    approval_id, shown = f"{run.id}/2.1", digest("transfer", ASKED)
    if said.looks:
        for approval in await _asked(run, names.APPROVALS_QUERY, list[Approval]):
            shown = approval.digest
    arguments = {**ASKED, "amount": said.amount} if said.decision is Decision.AMEND else None
    word = Verdict(
        approval_id=approval_id, decision=said.decision, by=said.by, digest=shown, arguments=arguments, channel="api"
    )
    try:
        if said.signal:
            await run.signal(names.DECIDE_SIGNAL, replace(word, channel="signal"))
            seen.signalled += 1
            return
        await asyncio.wait_for(run.execute_update(names.DECIDE_UPDATE, word, result_type=Approval), FORGOTTEN_S)
    except WorkflowUpdateFailedError as error:
        cause = error.cause
    except RPCError as error:
        seen.refused.append(str(error))
        return
    except TimeoutError:
        # forgotten; that the real one answers is tested with the real one
        assert (await run.describe()).status is not WorkflowExecutionStatus.RUNNING
        return
    else:
        seen.taken.append(word)
        return
    # the run may end between its taking the update up and its looking at it
    assert isinstance(cause, ApplicationError)
    assert cause.message
    seen.refused.append(cause.message)


async def _waiting_says_for_what(run: Any, fakes: Fakes) -> None:
    """With everything arrived the run ends, or waits for people and says for which."""
    async with asyncio.timeout(30):
        while (await run.describe()).status is WorkflowExecutionStatus.RUNNING:
            status: RunStatus = await _asked(run, names.STATUS_QUERY, RunStatus)
            if status.phase is Phase.APPROVAL and not fakes.busy:
                assert status.approvals == [f"{run.id}/2.1"] == [status.doing]
                event("waits for an approval")
                return
            if status.phase is Phase.PAUSED and not fakes.busy:
                assert status.paused == "pause"
                event("waits to be resumed")
                return
            await asyncio.sleep(0.02)


async def _end(run: Any) -> RunResult | None:
    """The run's result; None where it was cancelled. A run that still waits is stopped."""
    with suppress(RPCError):
        await run.signal(names.STOP_SIGNAL, "stop")
    try:
        async with asyncio.timeout(30):
            result: RunResult = await run.result()
    except WorkflowFailureError as failure:
        cause = failure.cause
    else:
        return result
    assert isinstance(cause, CancelledError), cause
    return None


async def _check(client: Client, run: Any, fakes: Fakes, seen: Seen, result: RunResult | None) -> None:
    asked = await _asked(run, names.APPROVALS_QUERY, list[Approval])
    assert len(asked) <= 1
    approval = asked[0] if asked else None
    _check_effect(fakes, approval)
    _check_votes(fakes, seen, approval)
    attempted = [one for one in fakes.attempts if one.mode is Mode.EXECUTE]
    if approval is not None:
        assert approval.state is not ApprovalState.OPEN
    if result is None:
        assert "cancel" in seen.done
        with suppress(RPCError):
            child = client.get_workflow_handle(f"{run.id}/2.1", result_type=EffectResult)
            accounted = await child.result()
            assert accounted.state is (EffectState.DONE if fakes.sent else EffectState.FAILED)
            # the run has waited for it
            ended, run_ended = (await child.describe()).close_time, (await run.describe()).close_time
            assert ended is not None
            assert run_ended is not None
            assert ended <= run_ended
            event("cancelled with an effect")
            return
        assert not fakes.attempts
        return
    told = [(effect["step"], effect["state"]) for effect in result.effects]
    if fakes.sent:
        assert told == [("2.1", "done")]
        event("had")
    elif attempted:
        assert told == [("2.1", "failed")]
        event("not had")
    else:
        assert told in ([], [("2.1", "failed")])
    assert [one["state"] for one in result.approvals] == [one.state.value for one in asked]
    assert result.outcome in (Outcome.COMPLETED, Outcome.STOPPED)
    if result.outcome is Outcome.STOPPED:
        assert result.reason == "stop"
    assert result.outcome is not Outcome.COMPLETED or "stop" not in seen.done or result.answer == "done"


def _check_effect(fakes: Fakes, approval: Approval | None) -> None:
    assert len(fakes.sent) <= 1
    for had in fakes.attempts:
        assert approval is not None
        assert approval.state is ApprovalState.APPROVED
        # exactly what was agreed to, by as many as were needed, none of whom is a stranger
        assert (had.arguments, had.digest.partition("@")[0]) == (approval.arguments, approval.digest)
        agreed = {vote.by for vote in approval.votes if _meant(vote) == approval.digest}
        assert len(agreed) >= approval.needed
        assert agreed <= {ANN, BOB}


def _check_votes(fakes: Fakes, seen: Seen, approval: Approval | None) -> None:
    assert all(seen.refused)
    votes = Counter(_key(vote) for vote in approval.votes) if approval else Counter()
    assert max(votes.values(), default=1) == 1
    written: dict[Any, Vote] = {}
    for happened in fakes.events:
        if happened.what == "refused":
            assert happened.detail
        elif happened.vote is not None:
            written[happened.vote.at, _key(happened.vote)] = happened.vote
    # in the audit every verdict that was taken is there, once; in the approval those that no amendment has voided
    accepted = Counter(_key(vote) for vote in written.values())
    by_update = Counter(_key(vote) for vote in written.values() if vote.channel == "api")
    assert by_update == Counter(_key(word) for word in seen.taken)
    assert votes <= accepted
    amended = any(vote.decision is Decision.AMEND for vote in written.values())
    assert amended or votes == accepted
    last = [one for one in fakes.events if one.what in {state.value for state in ApprovalState}]
    assert len({one.what for one in last}) <= 1
    if approval is not None:
        assert last[-1].what == approval.state.value


def _meant(vote: Vote) -> str | None:
    """The digest of what somebody has allowed."""
    match vote.decision:
        case Decision.APPROVE:
            return vote.digest
        case Decision.AMEND:
            assert vote.arguments is not None
            return digest("transfer", vote.arguments)
    return None


def _key(vote: Vote | Verdict) -> tuple[str, Decision, str]:
    return vote.by, vote.decision, vote.digest


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("action", ["stop", "cancel"])
@pytest.mark.parametrize("first", [0, 1])
async def test_a_verdict_and_an_end_that_come_together(address, action, committed, first):
    """The closest race of all: both in one workflow task, in either order."""
    client = await Client.connect(address)
    queue = f"q-{uuid4().hex}"
    fakes = Fakes(script=[pays(), says("done")], committed=committed)
    rule = ApprovalRule(tool="transfer", approvers=[ANN])
    # without a sticky queue, on which this server would wait for a worker that has gone
    async with serving(client, fakes, queue, max_cached_workflows=0):
        run = await start(client, queue, approvals=[rule])
        await quiet(run)
        [approval] = await _asked(run, names.APPROVALS_QUERY, list[Approval])
    # nobody serves the run: what comes now waits, and is seen at once
    ends = run.cancel() if action == "cancel" else run.signal(names.STOP_SIGNAL, "stop")
    says_yes = run.signal(names.DECIDE_SIGNAL, verdict(approval, by=ANN))
    for each in (ends, says_yes) if first else (says_yes, ends):
        await each
    async with serving(client, fakes, queue):
        result = await _end(run)
        [approval] = await _asked(run, names.APPROVALS_QUERY, list[Approval])
    assert fakes.sent == fakes.attempts == []
    assert (result is None) is (action == "cancel")
    assert approval.state in (ApprovalState.APPROVED, ApprovalState.WITHDRAWN)
    assert fakes.events[-1].what in ("refused", approval.state.value)
    if result is not None:
        assert (result.outcome, result.effects) == (Outcome.STOPPED, [])
        assert result.approvals[0]["state"] == approval.state.value
