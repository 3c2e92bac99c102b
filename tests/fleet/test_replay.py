"""Recorded histories replay against the code at hand: a change that would break runs in flight fails here.

A new history is recorded with `python -m tests.fleet.record NAME` and committed; one is never changed afterwards.
"""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from fleet.contracts import names
from fleet.contracts.runs import RunInput, RunResult
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.batch import BatchWorkflow
from fleet.workflows.effect import EffectWorkflow
from workers.pool import SANDBOX

FOLDER = Path(__file__).parent / "histories"
HISTORIES = sorted(FOLDER.rglob("*.json"))
"""Of this release in the folder of its version, of the time before the first one beside it."""
WORKFLOWS = [AgentWorkflow, EffectWorkflow, BatchWorkflow]


def _read(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


def _kind(path: Path) -> str:
    events = json.loads(path.read_text())["events"]
    return events[0]["workflowExecutionStartedEventAttributes"]["workflowType"]["name"]


@workflow.defn(name=names.AGENT_WORKFLOW)
class Impatient:
    """What an incompatible change looks like: it waits before it thinks."""

    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        await workflow.sleep(1)
        raise AssertionError


def test_there_are_histories():
    assert {p.stem for p in HISTORIES} >= {
        "completed",
        "stopped",
        "budget",
        "failed-tool",
        "amended",
        "withdrawn",
        "settled",
        "continued",
        "continued-2",
        "compacted",
        "continued-1.1-effect",
        "batch",
    }


def test_every_workflow_has_histories_of_this_release():
    recorded = {_kind(path) for path in HISTORIES if path.parent.name == version("agent-fleet")}
    assert recorded == {workflow._Definition.must_from_class(one).name for one in WORKFLOWS}


@pytest.mark.parametrize("path", HISTORIES, ids=lambda p: str(p.relative_to(FOLDER).with_suffix("")))
async def test_a_recorded_history_replays(path):
    await Replayer(workflows=WORKFLOWS, workflow_runner=SANDBOX).replay_workflow(_read(path))


async def test_a_run_of_before_does_not_continue_as_new_though_temporal_suggests_it():
    history = _read(FOLDER / "completed.json")
    for event in history.events:
        if event.HasField("workflow_task_started_event_attributes"):
            event.workflow_task_started_event_attributes.suggest_continue_as_new = event.event_id > 8
    await Replayer(workflows=WORKFLOWS, workflow_runner=SANDBOX).replay_workflow(history)


async def test_an_incompatible_change_is_caught():
    runner = SandboxedWorkflowRunner(restrictions=SANDBOX.restrictions.with_passthrough_all_modules())
    with pytest.raises(workflow.NondeterminismError):
        await Replayer(workflows=[Impatient], workflow_runner=runner).replay_workflow(_read(FOLDER / "completed.json"))
