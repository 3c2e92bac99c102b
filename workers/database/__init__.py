"""The database: what was done to the outside world, who allowed it, what it cost, what is remembered."""

from workers.database.engine import Database, DatabaseLost, SchemaOutdated
from workers.database.schema import current, upgrade

__all__ = ["Database", "DatabaseLost", "SchemaOutdated", "current", "upgrade"]
