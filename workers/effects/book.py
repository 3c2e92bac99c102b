"""The book of approvals: how each one stands, and an audit row of everything that befell it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalState, Ask, Decision, Vote
from workers.database.engine import Database
from workers.database.tables import approvals, audit

_COLUMNS = [approvals.c[f.name] for f in fields(Approval)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """Who did what to what, when, through what."""

    id: int
    at: datetime
    what: str
    subject: str
    """An approval, a run, or whatever else it was done to."""
    run_id: str = ""
    tenant: str = ""
    actor: str = ""
    """Empty: nobody, time has passed or the workflow went on."""
    channel: str = ""
    comment: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


class Book:
    """Approvals and the audit. Written by activities that may come late, twice and in any order.

    Every method raises `DatabaseLost` when the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, event: ApprovalEvent) -> None:
        """Write down how the approval stands, and that this befell it. Asked again, it changes nothing.

        An event older than what is written only adds its audit row; a decided approval is never open again.
        """
        approval, vote = event.approval, event.vote
        detail: dict[str, Any] = {"tool": approval.tool, "digest": approval.digest, "state": approval.state.value}
        if vote is not None:
            detail["decision"] = vote.decision.value
            detail["voted_on"] = vote.digest
            if vote.arguments is not None:
                detail["arguments"] = vote.arguments
        if approval.reason:
            detail["reason"] = approval.reason
        async with self._database.begin() as connection:
            await self._stand(connection, approval, event.at)
            await self._add(
                connection,
                at=event.at,
                what=event.what,
                subject=approval.id,
                run_id=approval.run_id,
                tenant=approval.tenant,
                actor=vote.by if vote else "",
                channel=vote.channel if vote else "",
                comment=vote.comment if vote else "",
                detail=detail,
            )

    async def get(self, approval_id: str) -> Approval | None:
        """The approval as it stands; None: nobody has written it down."""
        query = select(*_COLUMNS).where(approvals.c.id == approval_id)
        async with self._database.reading() as connection:
            found = (await connection.execute(query)).mappings().one_or_none()
        return None if found is None else _approval(found)

    async def approvals(
        self,
        *,
        state: ApprovalState | None = None,
        run_id: str | None = None,
        tenant: str | None = None,
        limit: int = 100,
    ) -> list[Approval]:
        """Open ones first, the next to expire before others; then the rest, the newest first."""
        is_open = approvals.c.state == ApprovalState.OPEN
        query = (
            select(*_COLUMNS)
            .order_by(
                case((is_open, 0), else_=1),
                case((is_open, approvals.c.expires_at)),
                approvals.c.opened_at.desc(),
                approvals.c.id,
            )
            .limit(limit)
        )
        wanted = {approvals.c.state: state, approvals.c.run_id: run_id, approvals.c.tenant: tenant}
        query = query.where(*(column == value for column, value in wanted.items() if value is not None))
        async with self._database.reading() as connection:
            return [_approval(row) for row in (await connection.execute(query)).mappings()]

    async def note(
        self,
        *,
        what: str,
        subject: str,
        run_id: str = "",
        tenant: str = "",
        actor: str = "",
        channel: str = "",
        comment: str = "",
        detail: Mapping[str, Any] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Write down another act (`stop`, `cancel`, `terminate`).

        Args:
            what: the act.
            subject: what it was done to.
            run_id: the run concerned.
            tenant: whose run.
            actor: who did it.
            channel: through what: `cli`, `api`, `console`.
            comment: why, in words.
            detail: anything else, as JSON.
            at: when; now, unless a retry must not write it again.
        """
        async with self._database.begin() as connection:
            await self._add(
                connection,
                at=at or datetime.now(UTC),
                what=what,
                subject=subject,
                run_id=run_id,
                tenant=tenant,
                actor=actor,
                channel=channel,
                comment=comment,
                detail=dict(detail or {}),
            )

    async def audit(self, *, subject: str | None = None, run_id: str | None = None, limit: int = 100) -> list[AuditRow]:
        """What was done, the newest first."""
        query = select(audit).order_by(audit.c.at.desc(), audit.c.id.desc()).limit(limit)
        wanted = {audit.c.subject: subject, audit.c.run_id: run_id}
        query = query.where(*(column == value for column, value in wanted.items() if value is not None))
        async with self._database.reading() as connection:
            return [AuditRow(**row) for row in (await connection.execute(query)).mappings()]

    async def _stand(self, connection: AsyncConnection, approval: Approval, at: datetime) -> None:
        values = _values(approval) | {"updated_at": at}
        new = self._database.insert(approvals).values(values).on_conflict_do_nothing(index_elements=[approvals.c.id])
        if (await connection.execute(new)).rowcount == 1:
            return
        query = select(approvals).where(approvals.c.id == approval.id).with_for_update()
        stored = (await connection.execute(query)).mappings().one()
        if _supersedes(approval, at, stored):
            await connection.execute(update(approvals).where(approvals.c.id == approval.id).values(values))

    async def _add(self, connection: AsyncConnection, **values: Any) -> None:
        same = [audit.c.subject, audit.c.what, audit.c.actor, audit.c.at]
        await connection.execute(
            self._database.insert(audit).values(values).on_conflict_do_nothing(index_elements=same)
        )


def _supersedes(approval: Approval, at: datetime, stored: RowMapping) -> bool:
    decided = stored["state"] != ApprovalState.OPEN
    if approval.state is ApprovalState.OPEN:
        # of one moment, the event that knows of more votes is the later one
        return not decided and (at, len(approval.votes)) >= (stored["updated_at"], len(stored["votes"]))
    return not decided or bool(at >= stored["updated_at"])


def _values(approval: Approval) -> dict[str, Any]:
    votes = [{**asdict(vote), "decision": vote.decision.value, "at": vote.at.isoformat()} for vote in approval.votes]
    return {f.name: getattr(approval, f.name) for f in fields(Approval)} | {"votes": votes}


def _approval(row: RowMapping) -> Approval:
    votes = [
        Vote(**{**vote, "decision": Decision(vote["decision"]), "at": datetime.fromisoformat(vote["at"])})
        for vote in row["votes"]
    ]
    return Approval(**{**row, "ask": Ask(row["ask"]), "state": ApprovalState(row["state"]), "votes": votes})
