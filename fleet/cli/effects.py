"""The effect ledger, as operators read it: what nobody knows of, what was never delivered."""

import json as jsons
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fleet.cli import context, database, output
from fleet.contracts.effects import EffectState
from fleet.errors import BadInput

if TYPE_CHECKING:
    from workers.effects.ledger import Entry


def ls(*, state: str | None, run_id: str | None, limit: int, manifest: Path | None, json: bool) -> None:
    """List effects, newest first."""
    if state is not None and state not in list(EffectState):
        raise BadInput(f"--state {state!r} is not one of {', '.join(EffectState)}")
    wanted = None if state is None else EffectState(state)

    async def work() -> "list[Entry]":
        from workers.effects.ledger import Ledger

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found:
            return await Ledger(found).entries(state=wanted, run_id=run_id, limit=limit)

    found = context.run(work())
    if json:
        output.document(found)
        return
    rows = [
        (
            entry.key,
            entry.tool,
            entry.state.value,
            entry.fence,
            f"{entry.agent}/{entry.tenant}",
            output.moment(entry.updated_at),
            output.shorten(entry.reason or _evidence(entry), 70),
        )
        for entry in found
    ]
    output.table(("EFFECT", "TOOL", "STATE", "FENCE", "OF", "SINCE", "BECAUSE"), rows, empty="no effects")


def show(key: str, *, manifest: Path | None, json: bool) -> None:
    """Show one effect."""

    async def work() -> "Entry | None":
        from workers.effects.ledger import Ledger

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found:
            return await Ledger(found).get(key)

    entry = context.run(work())
    if entry is None:
        raise BadInput(f"no effect {key!r}: `fleet effects ls` lists them")
    if json:
        output.document(entry)
        return
    typer.echo(f"effect    {entry.key}")
    typer.echo(f"tool      {entry.tool}, arguments {entry.digest or 'not known'}")
    for name, value in entry.arguments.items():
        typer.echo(f"argument  {output.visible(f'{name}: {jsons.dumps(value, ensure_ascii=False)}')}")
    typer.echo(f"run       {entry.run_id} (agent {entry.agent}, tenant {entry.tenant})")
    typer.echo(f"state     {entry.state.value}, fence {entry.fence}")
    if entry.reason:
        typer.echo(f"because   {output.visible(entry.reason)}")
    for name, value in entry.evidence.items():
        typer.echo(f"evidence  {output.visible(f'{name}: {value}')}")
    if entry.result:
        typer.echo(f"answered  {output.visible(entry.result)}")
    typer.echo(f"intended  {output.moment(entry.created_at)}")
    typer.echo(f"begun     {output.moment(entry.executing_since) if entry.executing_since else 'never'}")
    typer.echo(f"since     {output.moment(entry.updated_at)}")
    if entry.state is EffectState.UNKNOWN:
        typer.echo(f"asked     fleet approvals ls --state all --run {entry.run_id}")


def _evidence(entry: "Entry") -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.evidence.items())
