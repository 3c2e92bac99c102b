"""What Alembic runs around the migrations: on the connection that `workers.database.revisions` hands over."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo

from workers.database.tables import metadata, ours


def _note(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:
    context.config.attributes["applied"].append(step.up_revision_id)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_object=ours,
    on_version_apply=_note,
    # SQLite's DDL takes part in transactions once BEGIN is our own: all revisions are applied, or none
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
