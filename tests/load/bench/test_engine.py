"""What a bare workflow reaches is measured in seconds, and nothing of it stays behind."""

import asyncio
import json
import sys

import psutil
import pytest

from fleet.errors import FleetError
from load.bench.engine import ROOT, Bare, bare


def children():
    """Processes that serve bare workflows for this one."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if "load.bench.engine" in " ".join(p.cmdline())]


async def running(temporal):
    return await temporal.count_workflows("WorkflowType = 'BareOnce' OR WorkflowType = 'BareSteps'")


async def left(temporal):
    query = "ExecutionStatus = 'Running' AND (WorkflowType = 'BareOnce' OR WorkflowType = 'BareSteps')"
    return (await temporal.count_workflows(query)).count


async def test_figures_of_a_bare_workflow_come_and_nothing_runs_on(temporal):
    found = await bare(temporal, seconds=0.4, at_once=4)
    assert found.workflows_per_s > 0
    assert found.activities_per_s > 0
    assert children() == []
    async with asyncio.timeout(30):
        while await left(temporal):
            await asyncio.sleep(0.05)


async def test_a_worker_that_dies_is_told_and_its_workflows_do_not_wait_for_it(temporal):
    async def kill():
        while not (found := children()):
            await asyncio.sleep(0.02)
        # once it is at work
        while (await running(temporal)).count == before.count:
            await asyncio.sleep(0.02)
        for child in found:
            child.kill()

    before = await running(temporal)
    killing = asyncio.create_task(kill())
    with pytest.raises(FleetError, match="has ended with -9"):
        await asyncio.wait_for(bare(temporal, seconds=60, at_once=4), 60)
    await killing
    async with asyncio.timeout(30):
        while await left(temporal):
            await asyncio.sleep(0.05)


async def test_the_child_ends_with_its_input(temporal_address):
    asked = json.dumps({"temporal": temporal_address, "namespace": "default", "queue": "bare-alone"})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.bench.engine", asked),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(b"?\n"), 60)
    assert (said.split(), process.returncode) == ([b"0"], 0)


def test_a_trial_is_told_the_share_of_what_the_engine_carries():
    engine = Bare(workflows_per_s=50, activities_per_s=100).engine(offered_per_s=80)
    assert (engine.activities_per_s, engine.share) == (100, 0.8)
