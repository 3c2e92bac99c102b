"""Memories of agents: kept once, found by their words, gone when they expire."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Select,
    and_,
    column,
    delete,
    desc,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.contracts.memories import Finding, Keep, Kept
from workers.corpus import query as fts
from workers.database.columns import Prose
from workers.database.engine import Database
from workers.database.tables import WORDS, memories

_SUBJECT_WEIGHT = 2.5  # PostgreSQL's ts_rank has A at 2.5 times B
_LONGEST_TERM = (
    64  # PostgreSQL refuses a word of 2 KB: https://www.postgresql.org/docs/current/textsearch-limitations.html
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Something an agent remembers."""

    id: str
    tenant: str
    agent: str
    subject: str
    text: str
    kind: str
    """`finding`, `outcome` or `note`."""
    source_run: str
    source_step: str
    created_at: datetime
    expires_at: datetime
    score: float = 0.0
    """How well it matches the query, in the dialect's own measure: only comparable within one answer."""


_COLUMNS = [memories.c[name] for name in Memory.__dataclass_fields__ if name != "score"]


class MemoryStore:
    """Memories of all agents of all tenants; an agent finds only its own.

    Every method raises `DatabaseLost` when the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, request: Keep, *, now: datetime) -> Kept:
        """Remember what is new; what is known (the same subject and text, case and spaces aside) is seen again.

        Expired memories of the agent go, then the oldest seen until the rest fits into `max_bytes`. An empty finding,
        and one that alone is larger than `max_bytes`, is not remembered.
        """
        expires_at = now + timedelta(seconds=request.expires_s)
        mine = _of(request.tenant, request.agent)
        kept = known = 0
        async with self._database.begin() as connection:
            await self._lock(connection, request)
            await connection.execute(delete(memories).where(mine, memories.c.expires_at <= now))
            for finding in request.findings:
                row = _row(request, finding)
                if not row["text"] or row["bytes"] > request.max_bytes:
                    continue
                seen = {"seen_at": now, "expires_at": expires_at}
                again = update(memories).where(mine, memories.c.digest == row["digest"]).values(seen)
                if (await connection.execute(again)).rowcount:
                    known += 1
                    continue
                await connection.execute(insert(memories).values(row | seen | {"created_at": now}))
                kept += 1
            await connection.execute(_beyond(mine, request.max_bytes))
        return Kept(kept=kept, known=known)

    async def recall(
        self, tenant: str, agent: str, query: str, *, subject: str = "", limit: int = 5, now: datetime
    ) -> list[Memory]:
        """What the agent remembers about it, best match first; without a word worth searching, the newest.

        Args:
            tenant: whose agent.
            agent: only its own memories are found.
            query: free text. A memory with any of its words is found.
            subject: only memories filed under it.
            limit: most memories to return.
            now: what has expired by then is not found.
        """
        wanted = [_of(tenant, agent), memories.c.expires_at > now]
        if subject.strip():
            wanted.append(_filed_under(subject))
        return await self._found(query, wanted, limit)

    async def search(
        self, *, tenant: str | None = None, agent: str | None = None, query: str = "", limit: int = 100
    ) -> list[Memory]:
        """What is stored, for operators: of all tenants and agents unless one is named, expired ones too."""
        return await self._found(query, _named(tenant, agent, None), limit)

    async def get(self, memory_id: str) -> Memory | None:
        """The memory; None: there is none of that id."""
        async with self._database.reading() as connection:
            answer = await connection.execute(select(*_COLUMNS).where(memories.c.id == memory_id))
            found = answer.mappings().one_or_none()
        return None if found is None else Memory(**found)

    async def forget(self, tenant: str, agent: str, memory_id: str) -> bool:
        """Forget one memory. False: the agent has none of that id."""
        async with self._database.begin() as connection:
            gone = await connection.execute(delete(memories).where(_of(tenant, agent), memories.c.id == memory_id))
            return gone.rowcount == 1

    async def forget_where(self, tenant: str, agent: str | None = None, subject: str | None = None) -> int:
        """Forget a tenant's memories: all, one agent's, those filed under a subject. How many they were."""
        async with self._database.begin() as connection:
            return (await connection.execute(delete(memories).where(*_named(tenant, agent, subject)))).rowcount

    async def sweep(self, now: datetime) -> int:
        """Drop what has expired, of all agents. How many they were."""
        async with self._database.begin() as connection:
            return (await connection.execute(delete(memories).where(memories.c.expires_at <= now))).rowcount

    async def _lock(self, connection: AsyncConnection, request: Keep) -> None:
        # two that keep at once would each leave room for themselves only; SQLite has one writer anyway
        if not self._database.sqlite:
            whose = json.dumps([request.tenant, request.agent])
            await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(whose, 0))))

    async def _found(self, query: str, wanted: list[ColumnElement[bool]], limit: int) -> list[Memory]:
        terms = [term for term in fts.words(query) if term not in fts.STOPWORDS and len(term) <= _LONGEST_TERM]
        terms = list(dict.fromkeys(terms))[: fts.MAX_TERMS]
        if not terms:
            answer = select(*_COLUMNS, literal(0.0).label("score"))
        elif self._database.sqlite:
            answer = _by_fts5(terms)
        else:
            answer = _by_tsvector(terms)
        answer = answer.where(*wanted).limit(limit)
        answer = answer.order_by(desc("score"), memories.c.seen_at.desc(), memories.c.number.desc())
        async with self._database.reading() as connection:
            return [Memory(**row) for row in (await connection.execute(answer)).mappings()]


def _by_fts5(terms: list[str]) -> Select[Any]:
    index = table(WORDS, column("rowid"))
    score = -func.bm25(literal_column(WORDS), _SUBJECT_WEIGHT, 1.0)
    found = select(*_COLUMNS, score.label("score")).join_from(memories, index, index.c.rowid == memories.c.number)
    return found.where(literal_column(WORDS).op("MATCH")(fts.any_of(terms)))


def _by_tsvector(terms: list[str]) -> Select[Any]:
    words = literal_column(f"memories.{WORDS}", TSVECTOR)
    # letters and digits in quotes: nothing in them is an operator
    asked = func.to_tsquery(literal_column("'english'"), " | ".join(f"'{term}'" for term in terms), type_=TSQUERY)
    found = select(*_COLUMNS, func.ts_rank(words, asked).label("score"))
    # PostgreSQL has stop words of its own: where nothing else was asked, there is no question
    return found.where(or_(func.numnode(asked) == 0, words.op("@@", is_comparison=True)(asked)))


def _of(tenant: str, agent: str) -> ColumnElement[bool]:
    return and_(memories.c.tenant == tenant, memories.c.agent == agent)


def _named(tenant: str | None, agent: str | None, subject: str | None) -> list[ColumnElement[bool]]:
    named: list[ColumnElement[bool]] = []
    if tenant is not None:
        named.append(memories.c.tenant == tenant)
    if agent is not None:
        named.append(memories.c.agent == agent)
    if subject is not None:
        named.append(_filed_under(subject))
    return named


def _filed_under(subject: str) -> ColumnElement[bool]:
    # both sides in lower case by the database: Python's differs beyond ASCII
    return func.lower(memories.c.subject) == func.lower(literal(_line(subject), Prose))


def _beyond(mine: ColumnElement[bool], max_bytes: int) -> Delete:
    """What no longer fits, the last seen counted first."""
    latest = (memories.c.seen_at.desc(), memories.c.number.desc())
    sums = select(memories.c.number, func.sum(memories.c.bytes).over(order_by=latest).label("upto")).where(mine)
    counted = sums.subquery()
    return delete(memories).where(memories.c.number.in_(select(counted.c.number).where(counted.c.upto > max_bytes)))


def _row(request: Keep, finding: Finding) -> dict[str, Any]:
    subject, body = _line(finding.subject), finding.text.strip()
    digest = _digest(subject.casefold(), _line(body).casefold())
    return {
        "id": _digest(request.tenant, request.agent, digest)[:20],
        "tenant": request.tenant,
        "agent": request.agent,
        "subject": subject,
        "text": body,
        "kind": finding.kind,
        "digest": digest,
        "source_run": request.run_id,
        "source_step": request.step,
        "bytes": len((subject + body).encode("utf-8", "replace")),
    }


def _digest(*parts: str) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()


def _line(text: str) -> str:
    return " ".join(text.split())
