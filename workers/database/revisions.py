"""Alembic, driven from within: no ini file, nothing on stdout."""

import logging
from functools import cache
from io import StringIO
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

_MIGRATIONS = Path(__file__).parent / "migrations"
_TABLE = "alembic_version"


@cache
def _released() -> list[str]:
    """Every revision, in order: that of `versions/r0002_fleet.py` is 0002."""
    return sorted(file.stem[1:].partition("_")[0] for file in _MIGRATIONS.glob("versions/r*.py"))


def newest() -> str:
    """The revision that this release needs."""
    return _released()[-1]


def known(revision: str) -> bool:
    """Whether this release has ever had it."""
    return revision in _released()


def in_force(connection: Connection) -> str | None:
    """The revision of the database; None before the first."""
    if not inspect(connection).has_table(_TABLE):
        return None
    found: str | None = connection.execute(select(column("version_num")).select_from(table(_TABLE))).scalar()
    return found


def apply(connection: Connection) -> list[str]:
    """Bring the schema to the newest revision, within the connection's transaction.

    Returns:
        What was applied, in order; nothing where the newest is in force.
    """
    # each worker asks for the revision, and only who upgrades needs what takes a fifth of a second to import
    from alembic import command
    from alembic.config import Config

    # Alembic tells of every revision at INFO: whoever upgrades says it in its own words
    logging.getLogger("alembic").setLevel(logging.WARNING)
    applied: list[str] = []
    config = Config(stdout=StringIO(), output_buffer=StringIO())
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, applied=applied)
    command.upgrade(config, "head")
    return applied
