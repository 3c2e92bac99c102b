"""Batches: their inputs before the work, one result for each after it.

What has no result is still to do. A result is written once, whoever writes it how often: that is why no item counts
twice, and a batch that has lost its workflow goes on where it was.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Text, and_, cast, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.contracts.batch import BatchItem, ItemOutcome, ItemResult
from workers.database.engine import Database
from workers.database.tables import batch_items, batch_results, batches

PAGE_BYTES: Final = 512 * 1024
"""Of the inputs handed out at once; one that is larger comes alone."""
_PAGE: Final = 500
"""Rows read or written at once."""


class StagedElsewhere(Exception):
    """Another process stages this batch now, or has staged it meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch, as the database has it."""

    id: str
    token: str
    """Of its staging."""
    tenant: str
    work: dict[str, Any]
    """What is done with its items, once they are all there: the input of its workflow."""
    digest: str
    """Of its inputs; empty until they are all there."""
    total: int
    created_at: datetime
    staged_at: datetime | None
    """When all inputs were there. None: somebody is at it, or died at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One item's end, with its input."""

    number: int
    input: dict[str, Any]
    outcome: ItemOutcome
    attempts: int
    error: str
    result: Any
    run: str
    ended_at: datetime


class Batches:
    """All batches. Every method raises `DatabaseLost` when the database does not answer; asking again is safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- staging

    async def claim(self, batch: str, token: str, *, tenant: str, work: Mapping[str, Any]) -> Batch:
        """Begin to stage a batch, or find it staged. One that was left half staged begins anew.

        Returns:
            The batch. With another token than `token` it was staged before: nothing was changed.
        """
        new = self._database.insert(batches).values(
            id=batch, token=token, tenant=tenant, work=dict(work), digest="", total=0, created_at=datetime.now(UTC)
        )
        async with self._database.begin() as connection:
            await connection.execute(new.on_conflict_do_nothing())
            found = await self._locked(connection, batch)
            if found.staged_at is not None or found.token == token:
                return found
            await connection.execute(delete(batch_items).where(batch_items.c.batch == batch))
            again = {"token": token, "tenant": tenant, "work": dict(work), "created_at": datetime.now(UTC)}
            await connection.execute(update(batches).where(batches.c.id == batch).values(again))
            return await self._locked(connection, batch)

    async def add(self, batch: str, token: str, first: int, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Add inputs to a batch that is being staged, numbered from `first`.

        Raises:
            StagedElsewhere: it is not this token's any more.
        """
        rows = [{"batch": batch, "number": first + i, "input": dict(one), "tried": 0} for i, one in enumerate(inputs)]
        async with self._database.begin() as connection:
            await self._mine(connection, batch, token)
            if rows:
                await connection.execute(insert(batch_items), rows)

    async def seal(self, batch: str, token: str, *, total: int, digest: str, work: Mapping[str, Any]) -> None:
        """All inputs are there: the batch may begin.

        Raises:
            StagedElsewhere: it is not this token's any more.
        """
        async with self._database.begin() as connection:
            await self._mine(connection, batch, token)
            values = {"total": total, "digest": digest, "work": dict(work), "staged_at": datetime.now(UTC)}
            await connection.execute(update(batches).where(batches.c.id == batch).values(values))

    async def discard(self, batch: str, token: str) -> None:
        """Give up staging it: nothing of it is left. A staged one stays."""
        mine = and_(batches.c.id == batch, batches.c.token == token, batches.c.staged_at.is_(None))
        async with self._database.begin() as connection:
            if (await connection.execute(delete(batches).where(mine))).rowcount:
                await connection.execute(delete(batch_items).where(batch_items.c.batch == batch))

    # ---- working

    async def count(self, batch: str) -> tuple[int, dict[str, int]]:
        """Items, and those that have ended by outcome."""
        async with self._database.reading() as connection:
            total = await connection.scalar(select(batches.c.total).where(batches.c.id == batch))
            by_outcome = (
                select(batch_results.c.outcome, func.count())
                .where(batch_results.c.batch == batch)
                .group_by(batch_results.c.outcome)
            )
            counts = {row.outcome: row[1] for row in await connection.execute(by_outcome)}
        return total or 0, counts

    async def read(self, batch: str, *, after: int, limit: int, only: Sequence[int] = ()) -> list[BatchItem]:
        """Items without a result, in order, at least one if there is any.

        Args:
            batch: whose.
            after: only items of higher numbers.
            limit: most items.
            only: only these numbers, if any are given.
        """
        same = and_(batch_results.c.batch == batch_items.c.batch, batch_results.c.number == batch_items.c.number)
        open_ = ~select(batch_results.c.number).where(same).exists()
        wanted = [batch_items.c.batch == batch, batch_items.c.number > after, open_]
        if only:
            wanted.append(batch_items.c.number.in_(only))
        size = func.length(cast(batch_items.c.input, Text))
        query = (
            select(batch_items.c.number, batch_items.c.input, batch_items.c.tried, size.label("size"))
            .where(*wanted)
            .order_by(batch_items.c.number)
            .limit(limit)
        )
        items: list[BatchItem] = []
        sizes = 0
        async with self._database.reading() as connection:
            for row in await connection.execute(query):
                sizes += row.size
                if items and sizes > PAGE_BYTES:
                    break
                items.append(BatchItem(number=row.number, input=row.input, tried=row.tried))
        return items

    async def write(self, batch: str, results: Sequence[ItemResult]) -> int:
        """Write down how items have ended. What is written stays. Answers how many were new."""
        now = datetime.now(UTC)
        rows = [
            {
                "batch": batch,
                "number": one.number,
                "outcome": one.outcome.value,
                "attempts": one.attempts,
                "error": one.error,
                "result": one.result,
                "run": one.run,
                "ended_at": now,
            }
            for one in results
        ]
        new = 0
        async with self._database.begin() as connection:
            for first in range(0, len(rows), _PAGE):
                adding = self._database.insert(batch_results).values(rows[first : first + _PAGE])
                new += (await connection.execute(adding.on_conflict_do_nothing())).rowcount
        return new

    async def again(self, batch: str) -> int:
        """Forget the results of items that are not done, so that they are done again. How many they were."""
        lost = [batch_results.c.batch == batch, batch_results.c.outcome != ItemOutcome.DONE.value]
        tried = (
            select(batch_results.c.attempts)
            .where(*lost, batch_results.c.number == batch_items.c.number)
            .scalar_subquery()
        )
        numbers = select(batch_results.c.number).where(*lost)
        async with self._database.begin() as connection:
            await connection.execute(
                update(batch_items)
                .where(batch_items.c.batch == batch, batch_items.c.number.in_(numbers))
                .values(tried=tried)
            )
            return (await connection.execute(delete(batch_results).where(*lost))).rowcount

    # ---- reading

    async def get(self, batch: str) -> Batch | None:
        """The batch; None: there is none of that id."""
        async with self._database.reading() as connection:
            query = select(batches).where(batches.c.id == batch)
            found = (await connection.execute(query)).mappings().one_or_none()
        return None if found is None else _batch(found)

    async def all(self, *, limit: int = 100) -> list[Batch]:
        """Batches, the newest first."""
        query = select(batches).order_by(batches.c.created_at.desc(), batches.c.id).limit(limit)
        async with self._database.reading() as connection:
            return [_batch(row) for row in (await connection.execute(query)).mappings()]

    async def results(self, batch: str, *, failed: bool = False) -> AsyncIterator[ResultRow]:
        """Results in the order of the inputs, those that are there when it comes to them.

        Args:
            batch: whose.
            failed: only of items that are not done.
        """
        after = -1
        while rows := await self._results(batch, after, failed=failed):
            for row in rows:
                yield row
            after = rows[-1].number

    async def _results(self, batch: str, after: int, *, failed: bool) -> list[ResultRow]:
        same = and_(batch_results.c.batch == batch_items.c.batch, batch_results.c.number == batch_items.c.number)
        wanted: list[ColumnElement[bool]] = [batch_results.c.batch == batch, batch_results.c.number > after]
        if failed:
            wanted.append(batch_results.c.outcome != ItemOutcome.DONE.value)
        columns = [batch_results.c[name] for name in ResultRow.__dataclass_fields__ if name != "input"]
        query = (
            select(*columns, batch_items.c.input)
            .join(batch_items, same)
            .where(*wanted)
            .order_by(batch_results.c.number)
            .limit(_PAGE)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings()
            return [ResultRow(**{**row, "outcome": ItemOutcome(row["outcome"])}) for row in rows]

    async def _locked(self, connection: AsyncConnection, batch: str) -> Batch:
        query = select(batches).where(batches.c.id == batch).with_for_update()
        return _batch((await connection.execute(query)).mappings().one())

    async def _mine(self, connection: AsyncConnection, batch: str, token: str) -> None:
        query = select(batches.c.token, batches.c.staged_at).where(batches.c.id == batch).with_for_update()
        found = (await connection.execute(query)).one_or_none()
        if found is None or found.token != token or found.staged_at is not None:
            raise StagedElsewhere(f"batch {batch} is being staged by another process")


def _batch(row: RowMapping) -> Batch:
    return Batch(**row)
