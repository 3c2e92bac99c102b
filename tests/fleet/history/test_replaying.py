"""A history is executed again against the code at hand."""

from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.converter import DataConverter
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from fleet.contracts import names
from fleet.contracts.runs import Outcome, RunInput, RunResult
from fleet.contracts.tools import LLM_CHAT
from fleet.history import load
from fleet.history.replaying import replay
from fleet.workflows.agent import AgentWorkflow
from workers.pool import SANDBOX

RECORDED = Path(__file__).parents[1] / "histories"
ANY_MODULE = SandboxedWorkflowRunner(restrictions=SANDBOX.restrictions.with_passthrough_all_modules())


@workflow.defn(name=names.AGENT_WORKFLOW)
class Waits:
    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        await workflow.sleep(1)
        raise AssertionError


@workflow.defn(name=names.AGENT_WORKFLOW)
class Ends:
    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        return RunResult(outcome=Outcome.COMPLETED, answer="")


@workflow.defn(name=names.AGENT_WORKFLOW)
class Idles:
    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        await workflow.wait_condition(lambda: False)
        raise AssertionError


@workflow.defn(name=names.AGENT_WORKFLOW)
class ThinksTwice:
    """Its first call fits; its second is of another activity."""

    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        for _ in range(2):
            await workflow.execute_activity(
                LLM_CHAT.name,
                result_type=dict,
                task_queue=run.agent.llm_task_queue,
                start_to_close_timeout=timedelta(seconds=1),
            )
        raise AssertionError


async def replayed(name, *workflows, runner=ANY_MODULE):
    (found,) = await replay(load(RECORDED / f"{name}.json"), workflows, runner, DataConverter.default)
    return found


async def test_a_history_of_this_code_replays():
    found = await replayed("completed", AgentWorkflow, runner=SANDBOX)
    assert found.ok
    assert found.said == ["completed: 38 events replay"]


@pytest.mark.parametrize(
    ("code", "wanted"), [(Waits, "starts a timer"), (Ends, "ends the run"), (Idles, "does nothing")]
)
async def test_a_divergence_names_event_step_and_what_the_code_does(code, wanted):
    found = await replayed("completed", code)
    assert found.said == [
        "completed: diverges at event 5, ActivityTaskScheduled of llm.chat (step 1)",
        f"  the code at hand {wanted} there",
    ]


async def test_an_event_that_the_engine_does_not_name_is_found():
    found = await replayed("completed", ThinksTwice)
    assert (found.ok, found.event_id, found.step) == (False, 11, "1.1")
    assert found.said[1] == "  the code at hand calls llm.chat there instead of search.query"
