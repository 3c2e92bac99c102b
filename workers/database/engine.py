"""One engine for both dialects: SQLite for one machine, PostgreSQL for a fleet."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from asyncpg import InterfaceError, InternalClientError, PostgresError
from sqlalchemy import Connection, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from workers.database import encryption, revisions

CONNECT_S = 5.0
COMMAND_S = 15.0
BUSY_S = 10.0
_LOST = (SQLAlchemyError, sqlite3.Error, PostgresError, InterfaceError, InternalClientError, OSError)
_NO_URL = "not a database URL, as in sqlite+aiosqlite:///fleet.db or postgresql+asyncpg://host/name"


class DatabaseLost(Exception):
    """The database does not answer. Nothing is done to the outside world without it."""


class SchemaOutdated(DatabaseLost):
    """The tables are another release's."""


class Database:
    """Connections to one database. Safe to share between tasks of one event loop; several processes may write."""

    def __init__(self, url: str, *, connect_s: float = CONNECT_S, command_s: float = COMMAND_S) -> None:
        """Args:
        url: SQLAlchemy's; the folder of a file is made.
        connect_s: seconds in which PostgreSQL must take a connection.
        command_s: seconds in which PostgreSQL must answer one statement, waits for locks included.

        Raises:
            DatabaseLost: it is no such URL, its driver is not installed, or the folder cannot be made.
        """
        try:
            parsed = make_url(url)
            self.file = _file(parsed)
            self.sqlite = self.file is not None
            options: dict[str, Any] = {}
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            else:
                # a server that was restarted is noticed before the statement, not by it
                options = {"pool_pre_ping": True, "pool_timeout": command_s}
                parsed, encrypted = encryption.of(parsed)
                options["connect_args"] = {"timeout": connect_s, "command_timeout": command_s, **encrypted}
            self._engine: AsyncEngine = create_async_engine(parsed, **options)
        except encryption.BadCertificate as bad:
            raise DatabaseLost(f"the database cannot be opened: {bad}") from None
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            # the URL may hold a password: it is not repeated
            raise DatabaseLost(f"the database cannot be opened: {_brief(error)}") from None
        if self.sqlite:
            event.listen(self._engine.sync_engine, "connect", _pragmas)
            event.listen(self._engine.sync_engine, "begin", _begin)
        # shares the pool and the listeners
        self._reading = self._engine.execution_options(reads_only=True)
        self._writer: asyncio.Lock | nullcontext[None] = asyncio.Lock() if self.sqlite else nullcontext()

    async def open(self) -> None:
        """Connect, and see that the tables are this release's.

        Raises:
            DatabaseLost: the database does not answer.
            SchemaOutdated: its schema is older than this release, or newer.
        """
        await self.prepare()
        async with self.reading() as connection:
            found = await connection.run_sync(revisions.in_force)
        if found == revisions.newest():
            return
        if found is not None and not revisions.known(found):
            raise SchemaOutdated(f"the database is at revision {found}, which this release does not know: upgrade it")
        raise SchemaOutdated(
            f"the database is at revision {found or 'none'}, needs {revisions.newest()}: run `fleet db upgrade`"
        )

    async def prepare(self) -> None:
        """Connect once; of a file, see that it can be opened and is in WAL mode.

        Raises:
            DatabaseLost: the database does not answer.
        """
        with _translated():
            if self.file is not None:
                # aiosqlite leaves a thread behind when it cannot open a file
                await asyncio.to_thread(_probe, self.file)
            try:
                async with self._engine.connect():
                    pass
            except (TypeError, ValueError) as error:
                # asyncpg takes a URL's options as its own arguments
                raise DatabaseLost(f"the database cannot be opened: {_brief(error, of_url=False)}") from None

    async def aclose(self) -> None:
        """Close the connections."""
        with _translated():
            await self._engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed at the end of the block, rolled back by an error.

        On SQLite it holds the write lock from its beginning: what it has read stays true until it writes. Do not nest.

        Raises:
            DatabaseLost: the database does not answer; whether the transaction was committed is not known.
            IntegrityError: a constraint forbids it.
        """
        with _translated():
            # this process waits for itself in order; SQLite lets waiters in by chance
            async with self._writer, self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads: on SQLite it waits for no writer.

        Raises:
            DatabaseLost: the database does not answer.
        """
        with _translated():
            async with self._reading.begin() as connection:
                yield connection

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT of the dialect, which knows ON CONFLICT."""
        return sqlite.insert(table) if self.sqlite else postgresql.insert(table)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except _LOST as error:
        if type(error) is StatementError:
            raise  # a value that was never sent: a defect, which no waiting mends
        raise DatabaseLost(f"the database does not answer: {_brief(error)}") from None


def _file(url: URL) -> Path | None:
    """The file of an SQLite database; None for PostgreSQL."""
    match url.drivername:
        case "postgresql+asyncpg":
            return None
        case "sqlite+aiosqlite" if url.database and url.database != ":memory:":
            return Path(url.database)
        case _:
            raise ArgumentError("another database or driver, or one in memory")


def _begin(connection: Connection) -> None:
    # a transaction that reads before it writes would fail with SQLITE_BUSY_SNAPSHOT: https://www.sqlite.org/isolation.html
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _pragmas(connection: Any, _: object) -> None:
    connection.isolation_level = None  # BEGIN is ours, not the driver's
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_S * 1000:.0f}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _probe(file: Path) -> None:
    """Open the file and put it into WAL mode, which it keeps."""
    connection = sqlite3.connect(file, timeout=BUSY_S)
    deadline = time.monotonic() + BUSY_S
    try:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL").close()
            except sqlite3.OperationalError as error:
                # the change of mode does not wait for other processes by itself
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return
    finally:
        connection.close()


def _brief(error: Exception, *, of_url: bool = True) -> str:
    if of_url and isinstance(error, ArgumentError | ValueError):
        return _NO_URL
    # the driver's own words: SQLAlchemy's add the statement and a link
    emulated: BaseException | None = getattr(error, "orig", None)
    inner = error if emulated is None else emulated.__cause__ or emulated
    if isinstance(inner, TimeoutError) and not str(inner):
        return "no answer in time"
    return (str(inner).splitlines() or [type(inner).__name__])[0]
