"""Record a history for `test_replay.py`: `python -m tests.fleet.record NAME`.

Names: completed, stopped, budget, failed-tool, amended, withdrawn, settled.
"""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule, Decision
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState
from fleet.contracts.runs import MemoryPolicy
from fleet.contracts.tools import ToolResult
from tests.conftest import binary
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, run_input, says, serving, verdict


def _unknown(request: EffectRequest) -> EffectResult | None:
    had = EffectResult(state=EffectState.DONE, content="{}")
    return had if request.was_had else EffectResult(state=EffectState.UNKNOWN, reason="the line broke")


def _refuse(_: object) -> ToolResult:
    raise ApplicationError("no such index", type="BadRequest", non_retryable=True)


RULE = ApprovalRule(tool="transfer", approvers=["ann@example.com"], notify=["hook"])
KEEPS = {"memory": MemoryPolicy(task_queue="q"), "approvals": [RULE]}
SEARCH, SEND = calls("search", query="x"), calls("send_email", to="a@b.c", subject="s", body="b")
CASES = {
    "completed": (Fakes(script=[SEARCH, SEND, says("done")]), {}),
    "stopped": (Fakes(script=[SEARCH]), {}),
    "budget": (Fakes(script=[SEARCH]), {"steps": 2}),
    "failed-tool": (Fakes(script=[SEARCH, says("sorry")], search=_refuse), {}),
    # remembers, is told something, paused and resumed; a human amends its transfer
    "amended": (Fakes(script=[SEARCH, pays(), says("paid")], memories=[{"id": "1", "text": "x"}]), {"agent": KEEPS}),
    "withdrawn": (Fakes(script=[SEARCH, pays()]), {"agent": {"approvals": [RULE]}}),
    # nobody knows of its transfer; a human does
    "settled": (Fakes(script=[SEARCH, pays(), says("paid")], effect=_unknown), {}),
}


async def _amended(run: WorkflowHandle[Any, Any]) -> None:
    asked = await opened(run)
    await run.signal(names.TELL_SIGNAL, "hurry")
    await run.signal(names.PAUSE_SIGNAL, "lunch")
    changed = {**asked.arguments, "amount": "7.00"}
    await decided(run, verdict(asked, Decision.AMEND, arguments=changed, comment="less"))
    await run.signal(names.RESUME_SIGNAL, "")


async def _withdrawn(run: WorkflowHandle[Any, Any]) -> None:
    await opened(run)
    await run.signal(names.STOP_SIGNAL, "enough")


async def _settled(run: WorkflowHandle[Any, Any]) -> None:
    await decided(run, verdict(await opened(run)))
    await run.signal(names.DECIDE_SIGNAL, verdict(await opened(run)))


MEANWHILE = {"amended": _amended, "withdrawn": _withdrawn, "settled": _settled}


async def record(name: str) -> None:
    """Run the case on a real server and write its history."""
    fakes, budget = CASES[name]
    fakes.hold = asyncio.Event()
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=binary("temporal"),
            search_attributes=[SearchAttributeKey.for_keyword(name) for name in names.SEARCH_ATTRIBUTES],
        ) as environment,
        serving(environment.client, fakes, "q"),
    ):
        run = await environment.client.start_workflow(
            names.AGENT_WORKFLOW, run_input("q", **budget), id=name, task_queue="q"
        )
        await fakes.under_way.wait()
        if name == "stopped":
            await run.signal(names.STOP_SIGNAL, "enough")
        else:
            fakes.hold.set()
        if name in MEANWHILE:
            await MEANWHILE[name](run)
        await run.result()
        target = Path(__file__).parent / "histories" / f"{name}.json"
        history = (await run.fetch_history()).to_json()
        # nothing of the machine that recorded it
        history = re.sub(r'("stackTrace": )"(\\.|[^"\\])*"', r'\1""', history)
        history = re.sub(r'("identity": )"[^"]*"', r'\1"recorder"', history)
        target.write_text(history + "\n")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1]))
    os._exit(0)
