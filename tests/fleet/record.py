"""Record the histories of a case for `test_replay.py`: `python -m tests.fleet.record NAME`.

All executions of its run, and those of its effects, in the folder of this release.
"""

import asyncio
import os
import re
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from fleet import attributes
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule, Decision
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState
from fleet.contracts.runs import RULES, CallPolicy, ContextPolicy, MemoryPolicy
from fleet.contracts.tools import ToolResult
from tests.conftest import binary
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, run_input, says, serving, verdict


def _unknown(request: EffectRequest) -> EffectResult | None:
    had = EffectResult(state=EffectState.DONE, content="{}")
    return had if request.was_had else EffectResult(state=EffectState.UNKNOWN, reason="the line broke")


def _refuse(_: object) -> ToolResult:
    raise ApplicationError("no such index", type="BadRequest", non_retryable=True)


def _wordy(_: object) -> ToolResult:
    return ToolResult(content="x" * 900)


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
    # continued as new twice, with an effect and an approval before; shown by search attributes
    "continued": (
        Fakes(script=[pays(), SEARCH, says("paid")]),
        {"agent": {"approvals": [RULE], "policy": CallPolicy(continue_after=1)}, "rules": RULES},
    ),
    # its conversation is summed up
    "compacted": (
        Fakes(
            script=[SEARCH, SEARCH, SEARCH, says("notes"), says("found")],
            search=lambda _: ToolResult(content="x" * 900),
        ),
        {"agent": {"context": ContextPolicy(tokens=500, keep=1, result_chars=600)}, "rules": RULES},
    ),
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


async def _continued(run: WorkflowHandle[Any, Any]) -> None:
    asked = await opened(run)
    await run.signal(names.TELL_SIGNAL, "hurry")
    await decided(run, verdict(asked))


MEANWHILE = {"amended": _amended, "withdrawn": _withdrawn, "settled": _settled, "continued": _continued}


async def record(name: str) -> None:
    """Run the case on a real server and write its histories."""
    fakes, wanted = CASES[name]
    wanted = dict(wanted)
    rules = wanted.pop("rules", 0)
    if name != "continued":
        fakes.hold = asyncio.Event()
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=binary("temporal"),
            search_attributes=attributes.KEYS,
        ) as environment,
        serving(environment.client, fakes, "q"),
    ):
        run = await environment.client.start_workflow(
            names.AGENT_WORKFLOW, replace(run_input("q", **wanted), rules=rules), id=name, task_queue="q"
        )
        if fakes.hold is not None:
            await fakes.under_way.wait()
            if name == "stopped":
                await run.signal(names.STOP_SIGNAL, "enough")
            else:
                fakes.hold.set()
        if name in MEANWHILE:
            await MEANWHILE[name](run)
        await run.result()
        client, run_id, number = environment.client, run.first_execution_run_id, 1
        while run_id:
            history = await client.get_workflow_handle(name, run_id=run_id).fetch_history()
            _write(name if number == 1 else f"{name}-{number}", history)
            last = history.events[-1].workflow_execution_continued_as_new_event_attributes
            run_id, number = last.new_execution_run_id, number + 1
        for key in dict.fromkeys(request.key for request in fakes.attempts):
            _write(f"{key.replace('/', '-')}-effect", await client.get_workflow_handle(key).fetch_history())


def _write(stem: str, history: WorkflowHistory) -> None:
    folder = Path(__file__).parent / "histories" / version("agent-fleet")
    folder.mkdir(exist_ok=True)
    # nothing of the machine that recorded it
    text = re.sub(r'("stackTrace": )"(\\.|[^"\\])*"', r'\1""', history.to_json())
    text = re.sub(r'("identity": )"[^"]*"', r'\1"recorder"', text)
    (folder / f"{stem}.json").write_text(text + "\n")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1]))
    os._exit(0)
