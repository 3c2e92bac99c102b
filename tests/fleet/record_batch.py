"""Record the histories of batches for `test_replay.py`: `python -m tests.fleet.record_batch`.

`batch`: items of a tool, one of which fails and is tried again, paused and resumed, over several executions.
`batch-runs`: items that are runs, which an execution leaves to the next. `batch-stopped`: stopped in the middle.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from fleet import attributes
from fleet.contracts import names
from fleet.contracts.batch import BatchInput, FailurePolicy
from tests.conftest import binary
from tests.fleet.fakes import Fakes, says
from tests.fleet.record import _write
from tests.fleet.test_batch_workflow import Hall, echo, fails, queries
from workers.database import Database, upgrade


async def _tools(hall: Hall) -> tuple[BatchInput, WorkflowHandle[Any, Any]]:
    hall.fakes.search, hall.fakes.hold = fails(3, times=1), asyncio.Event()
    made = await hall.staged(queries(20), window=4, per_execution=8, failures=FailurePolicy(retries=1, most=5))
    run = await hall.start(made)
    await hall.until(run, lambda s: s.in_flight == 4)
    await run.signal(names.PAUSE_SIGNAL, "lunch")
    hall.fakes.hold.set()
    await hall.until(run, lambda s: s.in_flight == 0)
    await run.signal(names.RESUME_SIGNAL, "")
    await run.result()
    return made, run


async def _runs(hall: Hall) -> tuple[BatchInput, WorkflowHandle[Any, Any]]:
    hall.fakes.thought = asyncio.Event()
    made = await hall.staged(queries(5), "agent", window=2, per_execution=2)
    run = await hall.start(made)
    await hall.until(run, lambda s: s.in_flight == 2 and s.executions >= 2)
    hall.fakes.thought.set()
    await run.result()
    return made, run


async def _stopped(hall: Hall) -> tuple[BatchInput, WorkflowHandle[Any, Any]]:
    hall.fakes.search, hall.fakes.hold = echo, asyncio.Event()
    made = await hall.staged(queries(6), window=3)
    run = await hall.start(made)
    await hall.until(run, lambda s: s.in_flight == 3)
    await run.signal(names.STOP_SIGNAL, "enough")
    await run.result()
    return made, run


async def _record(client: Client, database: Database, stem: str, case: Any) -> None:
    hall = Hall(client, database, queue="q", fakes=Fakes(script=[says("done")]))
    async with hall.working():
        made, _ = await case(hall)
    executions = [run async for run in client.list_workflows(f"WorkflowId = '{made.batch}'")]
    executions.sort(key=lambda run: run.start_time)
    for number, execution in enumerate(executions, start=1):
        handle = client.get_workflow_handle(made.batch, run_id=execution.run_id)
        _write(stem if number == 1 else f"{stem}-{number}", await handle.fetch_history())


async def record() -> None:
    """Run all on a real server and write their histories."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'fleet.db'}"
        await upgrade(url)
        database = Database(url)
        await database.open()
        async with await WorkflowEnvironment.start_local(
            dev_server_existing_path=binary("temporal"), search_attributes=attributes.KEYS
        ) as environment:
            for stem, case in {"batch": _tools, "batch-runs": _runs, "batch-stopped": _stopped}.items():
                await _record(environment.client, database, stem, case)
        await database.aclose()


if __name__ == "__main__":
    asyncio.run(record())
    os._exit(0)
