"""Bring a database's tables to this release's revision."""

import asyncio

from sqlalchemy import text

from workers.database import revisions
from workers.database.engine import Database

UPGRADE_S = 3600.0
_LOCK = 0x466C656574  # "Fleet": https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS


async def upgrade(url: str) -> list[str]:
    """Apply what is missing, all in one transaction. Safe to run twice, and by two processes at once.

    Returns:
        The revisions that were applied, in order.

    Raises:
        DatabaseLost: the database does not answer, or cannot be opened.
    """
    database = Database(url, command_s=UPGRADE_S)
    try:
        await database.prepare()
        async with database.begin() as connection:
            if not database.sqlite:
                # SQLite's write transaction has shut others out by itself
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            return await connection.run_sync(revisions.apply)
    finally:
        await database.aclose()


async def current(url: str) -> tuple[str | None, str]:
    """The revision in force (None: no tables yet), and the newest. Creates nothing.

    Raises:
        DatabaseLost: the database does not answer, or cannot be opened.
    """
    database = Database(url)
    try:
        if database.file is not None and not await asyncio.to_thread(database.file.exists):
            return None, revisions.newest()
        await database.prepare()
        async with database.reading() as connection:
            return await connection.run_sync(revisions.in_force), revisions.newest()
    finally:
        await database.aclose()
