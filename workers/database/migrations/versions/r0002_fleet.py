"""Effects with their tool, run and result; approvals, audit, spend and memories."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EXACT = sa.Numeric().with_variant(sa.Text(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _times(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, _TIME, nullable=False) for name in names]


def upgrade() -> None:
    """Copy the effects over; create the rest."""
    _effects()
    _approvals()
    _spend()
    _memories()


def _effects() -> None:
    op.rename_table("effects", "effects_0001")
    op.create_table(
        "effects",
        *_text("key", "tool", "digest", "run_id", "agent", "tenant", "arguments", "state"),
        sa.Column("fence", sa.Integer, nullable=False),
        *_text("result", "evidence", "reason"),
        *_times("created_at"),
        sa.Column("executing_since", _TIME),
        *_times("updated_at"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_effects")),
    )
    # it knew neither tool, arguments nor run; `evidence` was the relay's reply
    reply = "json_object('reply', evidence)" if _sqlite() else "json_build_object('reply', evidence)::text"
    op.execute(f"""
        INSERT INTO effects (key, tool, digest, run_id, agent, tenant, arguments, state, fence, result, evidence,
                             reason, created_at, executing_since, updated_at)
        SELECT key, '', '', '', '', '', '{{}}', state, fence, '', CASE evidence WHEN '' THEN '{{}}' ELSE {reply} END,
               '', updated_at, CASE state WHEN 'executing' THEN updated_at END, updated_at
        FROM effects_0001
    """)  # noqa: S608
    op.drop_table("effects_0001")
    op.create_index(op.f("ix_effects_state"), "effects", ["state"])
    op.create_index(op.f("ix_effects_run_id"), "effects", ["run_id"])


def _approvals() -> None:
    op.create_table(
        "approvals",
        *_text("id", "run_id", "agent", "tenant", "ask", "tool", "arguments", "digest", "why", "goal", "said"),
        *_text("approvers"),
        sa.Column("needed", sa.Integer, nullable=False),
        *_text("notify"),
        *_times("opened_at", "expires_at"),
        *_text("state"),
        sa.Column("decided_at", _TIME),
        *_text("reason", "votes"),
        *_times("updated_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
    )
    op.create_index(op.f("ix_approvals_state"), "approvals", ["state"])
    op.create_index(op.f("ix_approvals_run_id"), "approvals", ["run_id"])
    op.create_table(
        "audit",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        *_times("at"),
        *_text("what", "subject", "run_id", "tenant", "actor", "channel", "comment", "detail"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("subject", "what", "actor", "at", name=op.f("uq_audit_subject_what_actor_at")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_run_id"), "audit", ["run_id"])


def _spend() -> None:
    op.create_table(
        "spend_calls",
        *_text("call"),
        sa.Column("day", sa.Date, nullable=False),
        sa.PrimaryKeyConstraint("call", name=op.f("pk_spend_calls")),
    )
    op.create_index(op.f("ix_spend_calls_day"), "spend_calls", ["day"])
    op.create_table(
        "spend",
        *_text("tenant"),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("steps", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("money", _EXACT, nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", name=op.f("pk_spend")),
    )


def _memories() -> None:
    op.create_table(
        "memories",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        *_text("id", "tenant", "agent", "subject", "text", "kind", "digest", "source_run", "source_step"),
        *_times("created_at", "seen_at", "expires_at"),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_memories")),
        sa.UniqueConstraint("id", name=op.f("uq_memories_id")),
        sa.UniqueConstraint("tenant", "agent", "digest", name=op.f("uq_memories_tenant_agent_digest")),
    )
    op.create_index(op.f("ix_memories_expires_at"), "memories", ["expires_at"])
    op.create_index(op.f("ix_memories_tenant_agent_seen_at"), "memories", ["tenant", "agent", "seen_at"])
    for statement in _FTS5 if _sqlite() else _TSVECTOR:
        op.execute(statement)


def _sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


# external content: https://www.sqlite.org/fts5.html#external_content_tables
_FTS5 = (
    """
    CREATE VIRTUAL TABLE memories_words USING fts5 (
        subject, text, content='memories', content_rowid='number', tokenize='porter unicode61'
    )
    """,
    """
    CREATE TRIGGER memories_words_added AFTER INSERT ON memories BEGIN
        INSERT INTO memories_words (rowid, subject, text) VALUES (new.number, new.subject, new.text);
    END
    """,
    """
    CREATE TRIGGER memories_words_removed AFTER DELETE ON memories BEGIN
        INSERT INTO memories_words (memories_words, rowid, subject, text)
        VALUES ('delete', old.number, old.subject, old.text);
    END
    """,
    """
    CREATE TRIGGER memories_words_changed AFTER UPDATE OF subject, text ON memories BEGIN
        INSERT INTO memories_words (memories_words, rowid, subject, text)
        VALUES ('delete', old.number, old.subject, old.text);
        INSERT INTO memories_words (rowid, subject, text) VALUES (new.number, new.subject, new.text);
    END
    """,
)

# PostgreSQL's parser takes `a.b`, `a/b`, `a_b` and addresses as one word: without their punctuation they are several,
# as in FTS5
_APART = "translate({}, '.-_/:@+,~%&=?#', '              ')"
_TSVECTOR = (
    f"""
    ALTER TABLE memories ADD COLUMN memories_words tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('english', {_APART.format("subject")}), 'A')
        || setweight(to_tsvector('english', {_APART.format("text")}), 'B')
    ) STORED
    """,
    "CREATE INDEX ix_memories_words ON memories USING gin (memories_words)",
)
