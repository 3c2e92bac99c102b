"""A run is a chain of executions: read from a real server, whole, with the histories of its effects."""

from datetime import timedelta
from uuid import uuid4

import pytest

from fleet.contracts.runs import CallPolicy, ContextPolicy, Price
from fleet.errors import BadInput, UnknownRun
from fleet.history import Cause, Chain, fetch, of_chain, replaying, save
from fleet.history.reading import load
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests.fleet.fakes import Fakes, calls, says
from tests.fleet.history.running import started
from tests.fleet.history.test_telling import RECORDED
from workers.pool import SANDBOX

SEND = calls("send_email", to="a@b.c", subject="s", body="b")
SOON = CallPolicy(heartbeat_s=1.0, continue_after=10)
"""A run that continues as new after each step."""


async def ended(client, policy):
    """A run that sends and answers, to its end."""
    async with started(client, Fakes(script=[SEND, says("done")]), agent={"policy": policy}) as run:
        await run.result()
        return run.id


async def test_steps_number_on_over_the_executions_of_a_run(temporal, tmp_path):
    run_id = await ended(temporal, SOON)
    chain = await fetch(temporal, run_id)
    assert len(chain.executions) >= 2
    told = await of_chain(chain, temporal.data_converter)
    assert [s.name for s in told.steps] == ["1", "1.1", "2"]
    assert told.state == "completed"
    assert told.result is not None
    assert (told.totals().steps, told.totals().tokens) == (told.result.steps, told.result.tokens)
    assert sum(told.time.values()) == pytest.approx(told.duration_s, abs=1e-6)
    assert [s.execution for s in told.steps] == sorted(s.execution for s in told.steps)
    # an effect is told by its own history: nothing of it is left untold
    assert [call.what for call in told.step("1.1").calls] == ["email.send"]
    assert Cause.UNTOLD not in told.time
    save(chain, tmp_path / "chain.json")
    assert load(tmp_path / "chain.json") == chain
    replayed = await replaying.replay(chain, [AgentWorkflow, EffectWorkflow], SANDBOX, temporal.data_converter)
    assert [each.ok for each in replayed] == [True] * (len(chain.executions) + 1)

    # a server takes half a minute to forget one: what retention leaves is made here
    rest = Chain(run_id=run_id, executions=chain.executions[1:], gone=[chain.executions[0].run_id])
    left = await of_chain(rest, temporal.data_converter)
    assert [link.gone for link in left.executions][:2] == [True, False]
    assert [s.name for s in left.steps] == ["2"]
    assert abs(left.started_at - told.started_at) < timedelta(seconds=1)
    assert (left.totals().steps, left.totals().tokens) == (told.result.steps, told.result.tokens)
    assert sum(left.time.values()) == pytest.approx(left.duration_s, abs=1e-6)
    assert left.time[Cause.UNTOLD] > 0


async def test_a_run_that_there_is_not_is_unknown(temporal):
    with pytest.raises(UnknownRun, match="no run 'nobody'"):
        await fetch(temporal, "nobody")
    with pytest.raises(UnknownRun, match="no run 'nobody'"):
        await fetch(temporal, "nobody", execution=str(uuid4()))


async def test_an_effect_whose_history_is_gone_is_told_by_its_result(temporal):
    async with started(temporal, Fakes(script=[SEND, says("done")])) as run:
        await run.result()
    chain = await fetch(temporal, run.id, children=False)
    told = await of_chain(chain, temporal.data_converter)
    assert (told.step("1.1").outcome, told.step("1.1").calls) == ("done", [])
    assert told.time[Cause.UNTOLD] > 0


async def test_a_compaction_is_no_step_of_the_models_but_costs(temporal):
    price = Price(input="1", output="1", cached="1")
    wants = {"context": ContextPolicy(tokens=5, keep=1), "price": price}
    # every call of a model answers with the next of these: the third one sums up
    script = [SEND, SEND, says("a summary"), says("done"), says("done")]
    async with started(temporal, Fakes(script=script), agent=wants) as run:
        result = await run.result()
    told = await of_chain(await fetch(temporal, run.id), temporal.data_converter)
    models = [step.name for step in told.steps if step.what == "llm.chat"]
    assert "compact" in models
    assert [name for name in models if name.isdecimal()] == [str(n) for n in range(1, result.steps + 1)]
    assert (told.totals().steps, told.totals().tokens) == (result.steps, result.tokens)
    assert f"{told.totals().cost:f}" == result.cost
    assert told.result == result


async def test_what_is_no_run_of_an_agent_is_refused(temporal):
    history = load(RECORDED / "completed.json")
    begun = history.executions[0].events[0].workflow_execution_started_event_attributes
    begun.workflow_type.name = "Another"
    with pytest.raises(BadInput, match="completed is of Another, no run of an agent"):
        await of_chain(history, temporal.data_converter)
