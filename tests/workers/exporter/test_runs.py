"""Runs as a real Temporal counts them."""

import asyncio
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError

from fleet import attributes
from fleet.contracts import names
from fleet.contracts.metrics import RUNS
from workers.exporter.runs import Runs

AT_MOST_S = 20.0


@asynccontextmanager
async def standing(client, *runs):
    """Runs by agent and state that nobody serves."""
    handles = []
    for agent, state in runs:
        told = [SearchAttributePair(attributes.STATUS, state)]
        told += [SearchAttributePair(attributes.AGENT, agent)] if agent else []
        handles.append(
            await client.start_workflow(
                names.AGENT_WORKFLOW, id=f"standing-{uuid4().hex}", task_queue="nobody",
                search_attributes=TypedSearchAttributes(told),
            )
        )  # fmt: skip
    try:
        yield
    finally:
        await asyncio.gather(*(handle.terminate() for handle in handles))


async def seen(client, agents, wanted):
    """What is told of `agents`, once it is what is wanted: visibility lags behind."""
    found = {}
    try:
        async with asyncio.timeout(AT_MOST_S):
            while found != wanted:
                samples = await Runs(client, agents).look()
                assert {sample.metric.name for sample in samples} == {RUNS.name}
                everyone = {sample.labels: sample.value for sample in samples}
                assert {agent for agent, _ in everyone} == {*agents, "other"}
                found = {labels: value for labels, value in everyone.items() if labels[0] in agents}
    except TimeoutError:
        assert found == wanted
    return everyone


def counts(agent, working=0, approval=0, paused=0):
    return {(agent, "working"): working, (agent, "approval"): approval, (agent, "paused"): paused}


async def test_runs_are_counted_by_agent_and_by_what_they_do(temporal):
    mark = uuid4().hex[:6]
    one, two, idle = f"one-{mark}", f"it's two {mark}", f"idle-{mark}"
    # a run that is about to end tells its outcome already
    runs = [(one, "working"), (one, "approval"), (one, "paused"), (two, "working"), (two, "completed"), (two, "paused")]
    async with standing(temporal, *runs):
        await seen(temporal, [one, two, idle], counts(one, 1, 1, 1) | counts(two, 2, 0, 1) | counts(idle))
        # of agents that the manifest does not have there may be any number
        everyone = await seen(temporal, [one], counts(one, 1, 1, 1))
        assert everyone["other", "working"] >= 2
        assert everyone["other", "paused"] >= 1
    await seen(temporal, [one, two], counts(one) | counts(two))


async def test_runs_without_an_agent_are_others(temporal):
    mine = f"mine-{uuid4().hex[:6]}"
    before = (await seen(temporal, [mine], counts(mine)))["other", "approval"]
    async with standing(temporal, ("", "approval"), (mine, "approval")):
        everyone = await seen(temporal, [mine], counts(mine, approval=1))
        async with asyncio.timeout(AT_MOST_S):
            while everyone["other", "approval"] != before + 1:
                everyone = await seen(temporal, [mine], counts(mine, approval=1))
        alone = {sample.labels: sample.value for sample in await Runs(temporal, []).look()}
        assert alone["other", "approval"] == before + 2


async def test_a_namespace_that_does_not_know_the_attributes_is_a_failure(temporal_address):
    elsewhere = await Client.connect(temporal_address, namespace="nowhere")
    with pytest.raises(RPCError, match="nowhere"):
        await Runs(elsewhere, ["payer"]).look()
