"""What a batch asks of the database, and the ends of runs that outlive the execution that has begun them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from fleet.contracts.batch import (
    BATCH_COUNT,
    BATCH_READ,
    BATCH_WATCH,
    BATCH_WRITE,
    Count,
    Counted,
    Ended,
    Page,
    Read,
    Watch,
    Watched,
    Write,
)
from fleet.contracts.names import FailureType
from fleet.errors import Unreachable
from workers import failures
from workers.database.batches import Batches
from workers.database.engine import Database, DatabaseLost
from workers.heartbeat import beating

RETRY: Final = timedelta(seconds=2)
"""How soon a call comes back while the database is away."""
GATHER_S: Final = 0.2
"""Ends that come so soon after the first are told with it."""


class BatchTools:
    """Serves `batch.count`, `batch.read`, `batch.write` and `batch.watch`."""

    def __init__(self, database: Callable[[], Awaitable[Database]]) -> None:
        """Args:
        database: opens it, or answers the open one. Asked with the first call: a fleet without batches needs none.
        """
        self._open = database
        self._opening = asyncio.Lock()
        self._batches: Batches | None = None

    @activity.defn(name=BATCH_COUNT.name)
    async def count(self, asked: Count) -> Counted:
        """Count the items of a batch."""
        async with self._store() as batches:
            total, counts = await batches.count(asked.batch)
        return Counted(total=total, counts=counts)

    @activity.defn(name=BATCH_READ.name)
    async def read(self, asked: Read) -> Page:
        """Read the next items without a result."""
        async with self._store() as batches:
            items = await batches.read(asked.batch, after=asked.after, limit=asked.limit, only=asked.only)
        return Page(items=items)

    @activity.defn(name=BATCH_WRITE.name)
    async def write(self, asked: Write) -> None:
        """Write down how items have ended, each once."""
        async with self._store() as batches:
            await batches.write(asked.batch, asked.results)

    @activity.defn(name=BATCH_WATCH.name)
    async def watch(self, asked: Watch) -> Watched:
        """Wait until at least one of the runs has ended, or the patience is up."""
        waiting = {asyncio.create_task(_end(run)) for run in asked.runs}
        try:
            async with beating():
                done, _ = await asyncio.wait(waiting, timeout=asked.patience_s, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    done, _ = await asyncio.wait(waiting, timeout=GATHER_S)
            return Watched(ended=[task.result() for task in done])
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    @asynccontextmanager
    async def _store(self) -> AsyncIterator[Batches]:
        try:
            async with self._opening:
                if self._batches is None:
                    self._batches = Batches(await self._open())
            async with beating():
                yield self._batches
        except (DatabaseLost, Unreachable) as lost:
            raise failures.wait(FailureType.DATABASE_LOST, f"waits for the database: {lost}", RETRY) from None


async def _end(run: str) -> Ended:
    """How a run ends, over all executions of its id."""
    try:
        result: Any = await activity.client().get_workflow_handle(run).result()
    except WorkflowFailureError as error:
        cause = error.cause
        kind = cause.type if isinstance(cause, ApplicationError) else type(cause).__name__
        return Ended(run=run, error=f"{kind}: {getattr(cause, 'message', '') or cause}")
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Ended(run=run, error=f"Temporal knows no run {run}")
        raise
    return Ended(run=run, result=result if isinstance(result, dict) else None)
