"""What the tables of a database take."""

from contextlib import nullcontext, suppress

from sqlalchemy import inspect, text

from workers.database.engine import Database, DatabaseLost

_POSTGRES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
)
_SQLITE = text(
    "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) WHERE aggregate = TRUE GROUP BY tbl_name"
)


async def names(database: Database) -> list[str]:
    """Its tables.

    Raises:
        DatabaseLost: it does not answer.
    """
    async with database.reading() as connection:
        return sorted(await connection.run_sync(lambda one: inspect(one).get_table_names()))


async def sizes(database: Database) -> dict[str, int]:
    """Bytes of each table, its indexes and what is dead in it included.

    Nothing where SQLite was built without `dbstat`.

    Raises:
        DatabaseLost: it does not answer.
    """
    asked = _SQLITE if database.sqlite else _POSTGRES
    found: dict[str, int] = {}
    with suppress(DatabaseLost) if database.sqlite else nullcontext():
        async with database.reading() as connection:
            for name, size in await connection.execute(asked):
                found[name] = int(size)
    return found
