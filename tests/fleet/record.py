"""Record a history for `test_replay.py`: `python -m tests.fleet.record NAME`.

Names: completed, stopped, budget, failed-tool.
"""

import asyncio
import os
import re
import sys
from pathlib import Path

from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from fleet.contracts import names
from fleet.contracts.tools import ToolResult
from tests.conftest import binary
from tests.fleet.fakes import Fakes, calls, run_input, says, serving


def _refuse(_: object) -> ToolResult:
    raise ApplicationError("no such index", type="BadRequest", non_retryable=True)


SEARCH, SEND = calls("search", query="x"), calls("send_email", to="a@b.c", subject="s", body="b")
CASES = {
    "completed": (Fakes(script=[SEARCH, SEND, says("done")]), {}),
    "stopped": (Fakes(script=[SEARCH]), {}),
    "budget": (Fakes(script=[SEARCH]), {"steps": 2}),
    "failed-tool": (Fakes(script=[SEARCH, says("sorry")], search=_refuse), {}),
}


async def record(name: str) -> None:
    """Run the case on a real server and write its history."""
    fakes, budget = CASES[name]
    fakes.hold = asyncio.Event()
    async with (
        await WorkflowEnvironment.start_local(dev_server_existing_path=binary("temporal")) as environment,
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
