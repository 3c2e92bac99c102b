"""The effect ledger: intent before, evidence after, one winner in between."""

import asyncio
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, event, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_metadata = MetaData()
_effects = Table(
    "effects",
    _metadata,
    Column("key", String(512), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("evidence", String(2048), nullable=False, default=""),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)


class State(StrEnum):
    """Where an effect stands."""

    EXECUTING = "executing"
    """Somebody is at it, or died at it."""
    DONE = "done"
    FAILED = "failed"
    """Certainly not done: may be tried again."""


class LedgerLost(Exception):
    """The database does not answer. Nothing is done without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the ledger says when an attempt wants to have the effect."""

    mine: bool
    """This attempt holds the fence and goes on."""
    state: State
    """What an earlier attempt left behind; `failed` when there was none."""
    fence: int
    evidence: str = ""


class Ledger:
    """One row per effect. The fence grows with every claim: a stale attempt cannot record anything."""

    def __init__(self, url: str) -> None:
        """Args:
        url: SQLAlchemy's; its folder is made if it is a file.

        Raises:
            LedgerLost: it is no such URL, its driver is not installed, or the folder cannot be made.
        """
        try:
            parsed = make_url(url)
            self._file: str | None = None
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                self._file = parsed.database
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine: AsyncEngine = create_async_engine(url)
        except (SQLAlchemyError, ImportError, OSError) as error:
            # the URL may hold a password: it is not repeated
            raise LedgerLost(f"the effect ledger cannot be opened: {_brief(error)}") from None
        if parsed.get_backend_name() == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _pragmas)

    async def open(self) -> None:
        """Create what is missing.

        Raises:
            LedgerLost: the database does not answer.
        """
        try:
            if self._file is not None:
                # aiosqlite leaves a thread behind when it cannot open a file
                await asyncio.to_thread(_probe, self._file)
            async with self._engine.begin() as connection:
                await connection.run_sync(_metadata.create_all)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerLost(f"the effect ledger does not answer: {_brief(error)}") from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def claim(self, key: str) -> Claim:
        """Take the fence of the effect, unless it is done.

        The answer tells what an earlier attempt left: after `executing` the caller must find out whether the effect
        took place before having it again.
        """
        try:
            async with self._engine.begin() as connection:
                found = (await connection.execute(select(_effects).where(_effects.c.key == key))).one_or_none()
                if found is None:
                    await connection.execute(
                        insert(_effects).values(
                            key=key, state=State.EXECUTING, fence=1, evidence="", updated_at=datetime.now(UTC)
                        )
                    )
                    return Claim(mine=True, state=State.FAILED, fence=1)
                if found.state == State.DONE:
                    return Claim(mine=False, state=State.DONE, fence=found.fence, evidence=found.evidence)
                moved = await connection.execute(
                    update(_effects)
                    .where(_effects.c.key == key, _effects.c.fence == found.fence)
                    .values(state=State.EXECUTING, fence=found.fence + 1, updated_at=datetime.now(UTC))
                )
                return Claim(mine=moved.rowcount == 1, state=State(found.state), fence=found.fence + 1)
        except IntegrityError:
            # two attempts wrote the first row at once: the other one has it
            return Claim(mine=False, state=State.EXECUTING, fence=0)
        except SQLAlchemyError as error:
            raise LedgerLost(f"the effect ledger does not answer: {_brief(error)}") from None

    async def record(self, key: str, fence: int, state: State, evidence: str = "") -> bool:
        """Record how it ended. False: a later attempt holds the fence, nothing was written."""
        try:
            async with self._engine.begin() as connection:
                moved = await connection.execute(
                    update(_effects)
                    .where(_effects.c.key == key, _effects.c.fence == fence)
                    .values(state=state, evidence=evidence[:2048], updated_at=datetime.now(UTC))
                )
                return moved.rowcount == 1
        except SQLAlchemyError as error:
            raise LedgerLost(f"the effect ledger does not answer: {_brief(error)}") from None


def _pragmas(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _probe(file: str) -> None:
    sqlite3.connect(file).close()


def _brief(error: Exception) -> str:
    if isinstance(error, ArgumentError):
        return "not a database URL, as in sqlite+aiosqlite:///ledger.db or postgresql+asyncpg://host/name"
    # the driver's own words: SQLAlchemy's add the statement and a link
    return str(getattr(error, "orig", None) or error).splitlines()[0]
