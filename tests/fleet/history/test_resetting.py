"""A run is run again from one of its steps: what was had is not had again, what was asked is asked again."""

import pytest

from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule
from fleet.contracts.runs import CallPolicy, Outcome, RunResult
from fleet.errors import BadInput
from fleet.history import Cause, fetch, load, of_chain
from fleet.history.resetting import plan, reset
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, says, verdict
from tests.fleet.history.running import started
from tests.fleet.history.test_telling import RECORDED

SEARCH, SEND = calls("search", query="x"), calls("send_email", to="a@b.c", subject="s", body="b")
RULE = ApprovalRule(tool="transfer", approvers=["ann@example.com"])


async def planned(client, run_id, step, **how):
    chain = await fetch(client, run_id)
    return plan(await of_chain(chain, client.data_converter), chain, step, **how)


def again(client, run_id):
    return client.get_workflow_handle(run_id, result_type=RunResult)


async def test_a_run_that_has_ended_is_run_again_from_a_step(temporal):
    fakes = Fakes(script=[SEND, pays(), says("done")])
    async with started(temporal, fakes, agent={"approvals": [RULE]}) as run:
        await decided(run, verdict(await opened(run)))
        assert (await run.result()).answer == "done"

        found = await planned(temporal, run.id, "1")
        assert [s.name for s in found.again] == ["1", "1.1", "2", "2.1", "3"]
        assert [s.name for s in found.had] == ["1.1", "2.1"]
        assert found.void == [f"{run.id}/2.1"]
        assert (found.link, found.links, found.running) == (1, 1, False)

        fakes.script = [says("never")] * 3 + [SEND, pays(), says("again")]
        new = await reset(temporal, found, "to see")
        resumed = again(temporal, run.id)
        assert (await resumed.describe()).run_id == new
        await decided(resumed, verdict(await opened(resumed)))
        result = await resumed.result()
        assert (result.answer, result.steps) == ("again", 3)

        # the ledger knows an effect by its key and what it is of: both are the same as before
        had = [(attempt.key, attempt.digest) for attempt in fakes.attempts]
        assert had[:2] == had[2:]
        assert len({key for key, _ in had}) == 2

        told = await of_chain(await fetch(temporal, run.id), temporal.data_converter)
        assert [s.name for s in told.steps] == ["1", "1.1", "2", "2.1", "3"]
        assert any(what == "reset: to see" for _, what in told.notes)
        assert told.time[Cause.RESET] > 0
        assert sum(told.time.values()) == pytest.approx(told.duration_s, abs=1e-6)


async def test_a_verdict_before_the_step_is_kept(temporal):
    fakes = Fakes(script=[pays(), says("done")])
    async with started(temporal, fakes, agent={"approvals": [RULE]}) as run:
        await decided(run, verdict(await opened(run)))
        await run.result()
        found = await planned(temporal, run.id, "1.1")
        assert found.void == []
        await reset(temporal, found, "once more")
        result = await again(temporal, run.id).result()
        assert [asked["state"] for asked in result.approvals] == ["approved"]
        assert len(fakes.attempts) == 2


async def test_a_step_of_an_earlier_execution_is_run_again_there(temporal):
    policy = CallPolicy(heartbeat_s=1.0, continue_after=10)
    fakes = Fakes(script=[SEARCH, says("done")])
    async with started(temporal, fakes, agent={"policy": policy}) as run:
        await run.result()
        found = await planned(temporal, run.id, "1.1")
        assert found.link == 1
        assert found.links > 1
        fakes.script = [says("never")] * 2 + [says("again")]
        await reset(temporal, found, "further back")
        assert (await again(temporal, run.id).result()).answer == "again"
        told = await of_chain(await fetch(temporal, run.id), temporal.data_converter)
        assert [s.name for s in told.steps] == ["1", "1.1", "2"]


async def test_a_run_that_was_stopped_is_stopped_again_unless_that_is_forgotten(temporal):
    fakes = Fakes(script=[pays(), says("done")])
    async with started(temporal, fakes, agent={"approvals": [RULE]}) as run:
        await opened(run)
        await run.signal(names.STOP_SIGNAL, "enough")
        assert (await run.result()).outcome is Outcome.STOPPED
        with pytest.raises(BadInput, match="--drop-signals"):
            await planned(temporal, run.id, "1")
        found = await planned(temporal, run.id, "1", drop_signals=True)
        assert found.signals == ["signal stop: enough"]
        fakes.script = [says("never"), says("gone on")]
        await reset(temporal, found, "go on")
        assert (await again(temporal, run.id).result()).answer == "gone on"


async def test_a_running_run_is_reset_too(temporal):
    fakes = Fakes(script=[SEARCH, pays(), says("done")])
    async with started(temporal, fakes, agent={"approvals": [RULE]}) as run:
        await opened(run)
        found = await planned(temporal, run.id, "2")
        assert found.running
        fakes.script = [says("never")] * 2 + [says("again")]
        await reset(temporal, found, "another way")
        assert (await again(temporal, run.id).result()).answer == "again"


async def test_a_step_that_there_is_not_is_refused(temporal):
    chain = load(RECORDED / "completed.json")
    told = await of_chain(chain, temporal.data_converter)
    with pytest.raises(BadInput, match="it has: 1, 1"):
        plan(told, chain, "7")
    with pytest.raises(BadInput, match="reason has 1001 characters"):
        await reset(temporal, plan(told, chain, "1"), "x" * 1001)
    with pytest.raises(BadInput, match="Temporal does not reset completed to step 1"):
        await reset(temporal, plan(told, chain, "1"), "a file of another server")
