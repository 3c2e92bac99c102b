"""What agents remember, as operators look it up and forget it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fleet.cli import context, database, output
from fleet.cli.audit import Auditor
from fleet.errors import BadInput

if TYPE_CHECKING:
    from workers.memory.store import Memory


def search(query: str, *, tenant: str | None, agent: str | None, limit: int, manifest: Path | None, json: bool) -> None:
    """Find memories by their words; without any, the newest. Expired ones too, until they are swept."""

    async def work() -> "list[Memory]":
        from workers.memory.store import MemoryStore

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found:
            return await MemoryStore(found).search(tenant=tenant, agent=agent, query=query, limit=limit)

    found = context.run(work())
    if json:
        output.document(found)
        return
    rows = [
        (
            memory.id,
            memory.tenant,
            memory.agent,
            memory.kind,
            output.shorten(memory.subject, 40),
            output.shorten(memory.text, 70),
        )
        for memory in found
    ]
    output.table(("MEMORY", "TENANT", "AGENT", "KIND", "SUBJECT", "TEXT"), rows, empty="nothing is remembered")


def show(memory_id: str, *, manifest: Path | None, json: bool) -> None:
    """Show one memory, whole."""

    async def work() -> "Memory | None":
        from workers.memory.store import MemoryStore

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found:
            return await MemoryStore(found).get(memory_id)

    memory = context.run(work())
    if memory is None:
        raise _unknown(memory_id)
    if json:
        output.document(memory)
        return
    typer.echo(f"memory    {memory.id} ({memory.kind})")
    typer.echo(f"of        agent {memory.agent}, tenant {memory.tenant}")
    typer.echo(f"from      {memory.source_run}, step {memory.source_step}")
    typer.echo(f"kept      {output.moment(memory.created_at)}, expires {output.moment(memory.expires_at)}")
    typer.echo(f"subject   {output.visible(memory.subject)}")
    for line in memory.text.splitlines():
        typer.echo(f"text      {output.visible(line)}")


def forget(
    memory_id: str | None,
    *,
    tenant: str | None,
    agent: str | None,
    subject: str | None,
    yes: bool,
    manifest: Path | None,
    json: bool,
) -> None:
    """Forget one memory, or those of a tenant. It is written into the audit.

    Raises:
        BadInput: not exactly one of id and tenant, no memory of that id, or many without `yes`.
    """
    if (memory_id is None) == (tenant is None):
        raise BadInput("name one memory by its ID, or many with --tenant: one of both")
    if memory_id is not None and (agent is not None or subject is not None):
        raise BadInput("--agent and --subject go with --tenant: an ID names one memory")
    if tenant is not None and not yes:
        whose = " ".join(f"--{n} {v!r}" for n, v in (("tenant", tenant), ("agent", agent), ("subject", subject)) if v)
        raise BadInput(f"{whose} may name many memories, and none comes back: add --yes to forget them")

    async def work() -> int:
        from workers.memory.store import MemoryStore

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found, Auditor(settings) as auditor:
            store = MemoryStore(found)
            if tenant is not None:
                count = await store.forget_where(tenant, agent, subject)
                detail = {"agent": agent, "subject": subject, "forgotten": count}
                await auditor.note("memory.forgotten", tenant, tenant=tenant, detail=detail)
                return count
            assert memory_id is not None
            memory = await store.get(memory_id)
            if memory is None or not await store.forget(memory.tenant, memory.agent, memory_id):
                raise _unknown(memory_id)
            await auditor.note("memory.forgotten", memory_id, tenant=memory.tenant, detail={"agent": memory.agent})
            return 1

    count = context.run(work())
    if json:
        output.document({"forgotten": count})
    else:
        typer.echo(f"forgot {count} {'memory' if count == 1 else 'memories'}")


def _unknown(memory_id: str) -> BadInput:
    return BadInput(f"no memory {memory_id!r}: `fleet memory search` finds them")
