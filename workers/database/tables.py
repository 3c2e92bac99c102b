"""All tables, as the newest migration leaves them. A change here needs a migration, and a test says so."""

from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Date, Float, Index, Integer, MetaData, Table, UniqueConstraint
from sqlalchemy.schema import SchemaItem

from workers.database.columns import Exact, Json, Prose, Utc

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers rows by itself only in an INTEGER
_Number = BigInteger().with_variant(Integer(), "sqlite")


def _text(name: str, **options: Any) -> Column[Any]:
    return Column(name, Prose, nullable=False, **options)


effects = Table(
    "effects",
    metadata,
    _text("key", primary_key=True),
    _text("tool"),
    _text("digest"),
    _text("run_id", index=True),
    _text("agent"),
    _text("tenant"),
    Column("arguments", Json, nullable=False),
    _text("state", index=True),
    Column("fence", Integer, nullable=False),
    _text("result"),
    Column("evidence", Json, nullable=False),
    _text("reason"),
    Column("created_at", Utc, nullable=False),
    Column("executing_since", Utc),
    Column("updated_at", Utc, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    _text("id", primary_key=True),
    _text("run_id", index=True),
    _text("agent"),
    _text("tenant"),
    _text("ask"),
    _text("tool"),
    Column("arguments", Json, nullable=False),
    _text("digest"),
    _text("why"),
    _text("goal"),
    _text("said"),
    Column("approvers", Json, nullable=False),
    Column("needed", Integer, nullable=False),
    Column("notify", Json, nullable=False),
    Column("opened_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False),
    _text("state", index=True),
    Column("decided_at", Utc),
    _text("reason"),
    Column("votes", Json, nullable=False),
    Column("updated_at", Utc, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("at", Utc, nullable=False),
    _text("what"),
    _text("subject"),
    _text("run_id", index=True),
    _text("tenant"),
    _text("actor"),
    _text("channel"),
    _text("comment"),
    Column("detail", Json, nullable=False),
    UniqueConstraint("subject", "what", "actor", "at"),
    sqlite_autoincrement=True,  # a number is never used again, whoever deletes rows
)

spend_calls = Table(
    "spend_calls", metadata, _text("call", primary_key=True), Column("day", Date, nullable=False, index=True)
)

spend = Table(
    "spend",
    metadata,
    _text("tenant", primary_key=True),
    Column("day", Date, primary_key=True),
    Column("steps", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("money", Exact, nullable=False),
    Column("seconds", Float(53), nullable=False),
)

memories = Table(
    "memories",
    metadata,
    # SQLite's full-text index refers to rows by number, and VACUUM renumbers rows that have none of their own
    Column("number", _Number, primary_key=True, autoincrement=True),
    _text("id", unique=True),
    _text("tenant"),
    _text("agent"),
    _text("subject"),
    _text("text"),
    _text("kind"),
    _text("digest"),
    _text("source_run"),
    _text("source_step"),
    Column("created_at", Utc, nullable=False),
    Column("seen_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False, index=True),
    Column("bytes", Integer, nullable=False),
    UniqueConstraint("tenant", "agent", "digest"),
    Index(None, "tenant", "agent", "seen_at"),
)

batches = Table(
    "batches",
    metadata,
    _text("id", primary_key=True),
    _text("token"),
    _text("tenant"),
    Column("work", Json, nullable=False),
    _text("digest"),
    Column("total", BigInteger, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("staged_at", Utc),
)

batch_items = Table(
    "batch_items",
    metadata,
    _text("batch", primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("input", Json, nullable=False),
    Column("tried", Integer, nullable=False),
)

batch_results = Table(
    "batch_results",
    metadata,
    _text("batch", primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _text("outcome"),
    Column("attempts", Integer, nullable=False),
    _text("error"),
    Column("result", Json, nullable=False),
    _text("run"),
    Column("ended_at", Utc, nullable=False),
    Index(None, "batch", "outcome"),
)

WORDS = "memories_words"
"""SQLite's full-text index of memories, and the column of that name on PostgreSQL: each exists on one dialect only."""

_Kind = Literal["schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint", "check_constraint"]


def ours(item: SchemaItem, name: str | None, kind: _Kind, reflected: bool, other: SchemaItem | None) -> bool:
    """Whether Alembic compares this: all but the full-text index, which each dialect has in its own way."""
    return not (reflected and other is None and name is not None and WORDS in name)
