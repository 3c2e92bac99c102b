"""Approvals that wait and effects that nobody knows of, as the database has them."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime

from fleet.contracts.metrics import (
    APPROVALS_EXPIRING,
    APPROVALS_OLDEST,
    APPROVALS_OPEN,
    EFFECTS_RECENT,
    EFFECTS_UNKNOWN,
    OTHER,
)
from workers.database.engine import Database, DatabaseLost
from workers.effects import standing
from workers.exporter.looking import Sample


class Records:
    """Looks at the tables of approvals and effects. A file that is not there is not made."""

    def __init__(self, database: Database, tools: Collection[str]) -> None:
        """Args:
        database: need not answer yet.
        tools: those of the manifest. What was asked or done with others is `other`.
        """
        self._database = database
        self._tools = tools
        self._opened = False

    async def look(self) -> list[Sample]:
        """Raises:
        DatabaseLost: the database does not answer, or its schema is another release's.
        """
        await self._open()
        now = datetime.now(UTC)
        waiting = await standing.waiting(self._database, now)
        unknown = await standing.unknown(self._database, now)
        found: list[Sample] = []
        strangers = {tool for tool in waiting.keys() | unknown.keys() if tool not in self._tools}
        groups = {tool: {tool} for tool in self._tools} | ({OTHER: strangers} if strangers else {})
        for label, tools in groups.items():
            asked = [waiting[tool] for tool in tools if tool in waiting]
            lost = [unknown[tool] for tool in tools if tool in unknown]
            oldest = min((one.opened_at for one in asked if one.opened_at is not None), default=now)
            found += [
                Sample(APPROVALS_OPEN, (label,), sum(one.open for one in asked)),
                Sample(APPROVALS_OLDEST, (label,), max(0.0, (now - oldest).total_seconds())),
                Sample(APPROVALS_EXPIRING, (label,), sum(one.expiring for one in asked)),
                Sample(EFFECTS_UNKNOWN, (label,), sum(one.count for one in lost)),
                Sample(EFFECTS_RECENT, (label,), sum(one.recent for one in lost)),
            ]
        return found

    async def _open(self) -> None:
        if self._opened:
            return
        file = self._database.file
        if file is not None and not await asyncio.to_thread(file.exists):
            raise DatabaseLost(f"there is no database {file}: run `fleet db upgrade`")
        await self._database.open()
        self._opened = True
