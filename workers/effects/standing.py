"""How many approvals and effects wait for a human, by tool. One statement each, however many there are."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Float, and_, case, extract, func, literal, select

from fleet.contracts.approvals import ApprovalState
from fleet.contracts.effects import EffectState
from workers.database.engine import Database
from workers.database.tables import approvals, effects

SOON = timedelta(hours=1)
"""An approval that expires within it is about to, if it is in the last quarter of its time, too."""
GONE_AFTER = timedelta(minutes=15)
"""A run says within seconds that an approval has expired. One that is open so long after that has lost its run."""
RECENT = timedelta(days=1)
"""An effect that became unknown within it is news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Open approvals of one tool."""

    open: int
    opened_at: datetime | None
    """Of the one that waits longest; None: all have lost their runs."""
    expiring: int
    """Of which so many are about to expire, or should have within `GONE_AFTER`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Unknown effects of one tool."""

    count: int
    recent: int
    """Of which so many became it within `RECENT`."""


async def waiting(database: Database, now: datetime) -> dict[str, Waiting]:
    """Open approvals by tool; tools without any are missing.

    Raises:
        DatabaseLost: the database does not answer.
    """
    awaited = approvals.c.expires_at > now - GONE_AFTER
    expiring = and_(awaited, approvals.c.expires_at <= now + SOON, _in_its_last_quarter(now))
    query = (
        select(
            approvals.c.tool,
            func.count(),
            func.min(case((awaited, approvals.c.opened_at))),
            func.sum(case((expiring, 1), else_=0)),
        )
        .where(approvals.c.state == ApprovalState.OPEN)
        .group_by(approvals.c.tool)
    )
    async with database.reading() as connection:
        return {
            tool: Waiting(open=count, opened_at=oldest, expiring=int(soon))
            for tool, count, oldest, soon in await connection.execute(query)
        }


def _in_its_last_quarter(now: datetime) -> ColumnElement[bool]:
    opened, expires = extract("epoch", approvals.c.opened_at), extract("epoch", approvals.c.expires_at)
    return 4 * (expires - literal(now.timestamp(), Float)) <= expires - opened


async def unknown(database: Database, now: datetime) -> dict[str, Unknown]:
    """Effects that are unknown, by tool; tools without any are missing.

    Raises:
        DatabaseLost: the database does not answer.
    """
    recent = func.sum(case((effects.c.updated_at > now - RECENT, 1), else_=0))
    query = (
        select(effects.c.tool, func.count(), recent)
        .where(effects.c.state == EffectState.UNKNOWN)
        .group_by(effects.c.tool)
    )
    async with database.reading() as connection:
        return {tool: Unknown(count=count, recent=int(some)) for tool, count, some in await connection.execute(query)}
