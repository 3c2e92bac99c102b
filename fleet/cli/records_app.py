"""Declarations of the commands over the database: effects, memories, the audit, its revisions."""

from typing import Annotated

import typer

from fleet.cli.options import JsonOption, LimitOption, ManifestOption, OfRunOption, OfTenantOption

effects_app = typer.Typer(help="The ledger of what was done to the outside world.", no_args_is_help=True)
memory_app = typer.Typer(help="What agents remember.", no_args_is_help=True)
db_app = typer.Typer(help="The database of the ledger, the memories and the audit.", no_args_is_help=True)

MemoryArgument = Annotated[str, typer.Argument(metavar="ID", help="As `fleet memory search` shows it.")]
OfAgentOption = Annotated[str | None, typer.Option("--agent", help="Only of this agent.")]


def register(app: typer.Typer) -> None:
    """Join the commands to `app`."""
    app.add_typer(effects_app, name="effects")
    app.add_typer(memory_app, name="memory")
    app.add_typer(db_app, name="db")
    app.command()(audit)


@effects_app.command("ls")
def effects_ls(
    state: Annotated[str | None, typer.Option(help="intended, executing, done, failed or unknown.")] = None,
    run_id: OfRunOption = None,
    limit: LimitOption = 50,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """List effects, newest first: `--state unknown` what nobody knows of, `failed` dead letters too."""
    from fleet.cli import effects

    effects.ls(state=state, run_id=run_id, limit=limit, manifest=manifest, json=json)


@effects_app.command("show")
def effects_show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `fleet effects ls` shows it: RUN/STEP.")],
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Show one effect: how it ended, what proves it, and when."""
    from fleet.cli import effects

    effects.show(key, manifest=manifest, json=json)


@memory_app.command("search")
def memory_search(
    query: Annotated[str, typer.Argument(help="A few words. Default: the newest.")] = "",
    tenant: OfTenantOption = None,
    agent: OfAgentOption = None,
    limit: LimitOption = 20,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Find memories by their words, best match first; expired ones too."""
    from fleet.cli import memories

    memories.search(query, tenant=tenant, agent=agent, limit=limit, manifest=manifest, json=json)


@memory_app.command("show")
def memory_show(memory_id: MemoryArgument, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Show one memory, whole."""
    from fleet.cli import memories

    memories.show(memory_id, manifest=manifest, json=json)


@memory_app.command("forget")
def memory_forget(
    memory_id: Annotated[str | None, typer.Argument(metavar="ID", help="One memory; or give --tenant.")] = None,
    tenant: Annotated[str | None, typer.Option(help="All memories of this tenant.")] = None,
    agent: Annotated[str | None, typer.Option(help="With --tenant: only of this agent.")] = None,
    subject: Annotated[str | None, typer.Option(help="With --tenant: only those filed under it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Forget many: none comes back.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Forget one memory, or a tenant's."""
    from fleet.cli import memories

    memories.forget(memory_id, tenant=tenant, agent=agent, subject=subject, yes=yes, manifest=manifest, json=json)


@db_app.command("upgrade")
def db_upgrade(manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Bring the tables to this release's revision. Safe to run twice."""
    from fleet.cli import database

    database.upgrade(manifest=manifest, json=json)


@db_app.command("status")
def db_status(manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Show the revision in force and the newest. The exit code is 2 where they differ."""
    from fleet.cli import database

    database.status(manifest=manifest, json=json)


def audit(
    run_id: OfRunOption = None,
    subject: Annotated[str | None, typer.Option(help="Only of this approval, run or other thing.")] = None,
    limit: LimitOption = 50,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """List who did what to what, newest first."""
    from fleet.cli import audit as audits

    audits.ls(run_id=run_id, subject=subject, limit=limit, manifest=manifest, json=json)
