"""What a database's server is and how it is set up: for whoever looks after it. Changes nothing."""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from workers.database.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A database. What is None is not of its dialect."""

    sqlite: bool
    host: str | None = None
    """None: a file, or a socket."""
    version: int | None = None
    """The major one."""
    encoding: str | None = None
    user: str | None = None
    superuser: bool | None = None
    encrypted: bool | None = None
    standby: bool | None = None
    """It only repeats what another server does."""
    durable: bool | None = None
    """What it has said to be committed is on disk (`fsync`, `synchronous_commit`)."""
    connections: int | None = None
    """Most at once."""
    ahead_s: float | None = None
    """How far its clock is ahead of ours, to within half the time of the question."""


_QUESTION = text(
    """
    SELECT current_setting('server_version_num')::int / 10000 AS version,
           (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
           current_user AS who,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
           (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted,
           pg_is_in_recovery() AS standby,
           current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off' AS durable,
           current_setting('max_connections')::int AS connections,
           extract(epoch FROM clock_timestamp())::float8 AS now
    """
)


def file_of(url: str) -> Path | None:
    """The file of an SQLite database; None: it is another, or no URL of one."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    named = parsed.drivername == "sqlite+aiosqlite" and parsed.database not in (None, "", ":memory:")
    return Path(str(parsed.database)) if named else None


async def facts(url: str) -> Facts:
    """Look at the database.

    Raises:
        DatabaseLost: it is no such URL, or nobody answers.
    """
    if file_of(url) is not None:
        # a Database would make its folder
        return Facts(sqlite=True)
    database = Database(url)
    try:
        async with database.reading() as connection:
            before = time.time()
            row = (await connection.execute(_QUESTION)).one()
            after = time.time()
            host = connection.engine.url.host
    finally:
        await database.aclose()
    return Facts(
        sqlite=False,
        host=host,
        version=row.version,
        encoding=row.encoding,
        user=row.who,
        superuser=row.superuser,
        encrypted=row.encrypted,
        standby=row.standby,
        durable=row.durable,
        connections=row.connections,
        ahead_s=row.now - (before + after) / 2,
    )
