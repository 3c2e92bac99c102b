"""Alembic, driven from within: no ini file, nothing on stdout."""

import logging
from functools import cache
from io import StringIO
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config() -> Config:
    config = Config(stdout=StringIO(), output_buffer=StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def newest() -> str:
    """The revision that this release needs."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def known(revision: str) -> bool:
    """Whether this release has ever had it."""
    return any(script.revision == revision for script in _scripts().walk_revisions())


def in_force(connection: Connection) -> str | None:
    """The revision of the database; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def apply(connection: Connection) -> list[str]:
    """Bring the schema to the newest revision, within the connection's transaction.

    Returns:
        What was applied, in order; nothing where the newest is in force.
    """
    # Alembic tells of every revision at INFO: whoever upgrades says it in its own words
    logging.getLogger("alembic").setLevel(logging.WARNING)
    applied: list[str] = []
    config = _config()
    config.attributes.update(connection=connection, applied=applied)
    command.upgrade(config, "head")
    return applied
