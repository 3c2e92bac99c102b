"""The audit: what was done, by whom, through what. Acts of this command line are written into it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fleet.cli import context, database, output
from fleet.errors import Unreachable
from fleet.settings import Settings

if TYPE_CHECKING:
    from workers.effects.book import AuditRow, Book

CHANNEL = "cli"
REFUSED = "approval.refused"
"""A verdict that was not taken, through whatever channel."""
_MOST_OPEN = 1000


class Auditor:
    """Writes what this user does into the audit. Nothing that is done depends on it.

    Opens the database with the first act. Once it has not answered, it is not asked again, and the end of the block
    says on stderr that the audit was not written.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._book: Book | None = None
        self._missed = 0
        self._lost: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Unreachable):
            await self._stack.aclose()
        if self._lost is not None:
            acts = "" if self._missed == 1 else f" of {self._missed} acts"
            output.problem(f"the audit{acts} was not written: {self._lost}")

    @property
    def written(self) -> bool:
        """Whether every act so far is in the audit."""
        return self._lost is None

    async def note(
        self,
        what: str,
        subject: str,
        *,
        run_id: str = "",
        tenant: str = "",
        by: str | None = None,
        comment: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down one act, of this user if nobody else is named. Never fails."""

        async def write(book: "Book") -> None:
            await book.note(
                what=what,
                subject=subject,
                run_id=run_id,
                tenant=tenant,
                actor=context.user(by),
                channel=CHANNEL,
                comment=comment,
                detail=detail,
            )

        await self._write(write)

    async def withdraw(self, run_id: str) -> None:
        """Close what a run has asked that was terminated: it says nothing any more. Never fails."""
        reason = f"the run was terminated by {context.user()}"

        async def write(book: "Book") -> None:
            from fleet.contracts.approvals import ApprovalEvent, ApprovalState

            now = datetime.now(UTC)
            for asked in await book.approvals(state=ApprovalState.OPEN, run_id=run_id, limit=_MOST_OPEN):
                ended = replace(asked, state=ApprovalState.WITHDRAWN, decided_at=now, reason=reason)
                await book.record(ApprovalEvent(approval=ended, what=ApprovalState.WITHDRAWN.value, at=now))

        await self._write(write)

    async def _write(self, write: Callable[["Book"], Awaitable[None]]) -> None:
        from workers.database.engine import DatabaseLost

        try:
            await write(await self._opened())
        except (Unreachable, DatabaseLost) as lost:
            self._lost = str(lost)
            self._missed += 1

    async def _opened(self) -> "Book":
        from workers.effects.book import Book

        async with self._opening:
            if self._lost is not None:
                raise Unreachable(self._lost)
            if self._book is None:
                self._book = Book(await self._stack.enter_async_context(database.opened(self._settings)))
            return self._book


def ls(*, run_id: str | None, subject: str | None, limit: int, manifest: Path | None, json: bool) -> None:
    """List what was done, newest first."""

    async def work() -> "list[AuditRow]":
        from workers.effects.book import Book

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found:
            return await Book(found).audit(subject=subject, run_id=run_id, limit=limit)

    rows = context.run(work())
    if json:
        output.document(rows)
    else:
        lines = [
            (
                f"{row.at:%Y-%m-%d %H:%M:%S}",
                row.what,
                row.subject,
                row.actor or "-",
                row.channel or "-",
                output.shorten(row.comment, 60),
            )
            for row in rows
        ]
        output.table(("AT", "WHAT", "SUBJECT", "BY", "THROUGH", "COMMENT"), lines, empty="nothing is written down")
