"""Recorded histories replay against the code at hand: a change that would break runs in flight fails here.

A new history is recorded with `python -m tests.fleet.record NAME` and committed; one is never changed afterwards.
"""

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from fleet.contracts import names
from fleet.contracts.runs import RunInput, RunResult
from fleet.history import story
from fleet.workflows.agent import AgentWorkflow
from workers.pool import SANDBOX

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def _read(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


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
    }


@pytest.mark.parametrize("path", HISTORIES, ids=lambda p: p.stem)
async def test_a_recorded_history_replays(path):
    await Replayer(workflows=[AgentWorkflow], workflow_runner=SANDBOX).replay_workflow(_read(path))


async def test_an_incompatible_change_is_caught():
    runner = SandboxedWorkflowRunner(restrictions=SANDBOX.restrictions.with_passthrough_all_modules())
    with pytest.raises(workflow.NondeterminismError):
        await Replayer(workflows=[Impatient], workflow_runner=runner).replay_workflow(_read(HISTORIES[0]))


async def test_a_history_reads_as_a_story():
    told = await story(_read(Path(__file__).parent / "histories" / "completed.json"), DataConverter.default)
    assert told.run is not None
    assert told.run.goal == "find out"
    assert told.state == "completed"
    assert [(s.what, s.outcome) for s in told.steps] == [
        ("llm.chat", "completed"),
        ("search.query", "completed"),
        ("llm.chat", "completed"),
        ("email.send", "done"),
        ("llm.chat", "completed"),
    ]
    assert told.steps[0].quota_wait_s == 1.5
    assert told.result is not None
    assert told.result.answer == "done"
