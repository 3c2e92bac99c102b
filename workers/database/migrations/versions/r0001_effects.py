"""The effect ledger of release 0.1, which made its table without Alembic."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create it, unless that release already has."""
    op.create_table(
        "effects",
        sa.Column("key", sa.String(512), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("evidence", sa.String(2048), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        # the name that PostgreSQL has given it where that release made the table
        sa.PrimaryKeyConstraint("key", name="effects_pkey"),
        if_not_exists=True,
    )
