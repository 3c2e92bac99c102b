"""Commands about runs."""

import asyncio
from pathlib import Path
from typing import Any

import typer

from fleet import documents
from fleet.cli import context, forecast, output, pending, stories
from fleet.client import STATES, FleetClient, connect
from fleet.contracts.runs import Outcome, RunResult
from fleet.errors import BadInput, FleetError

_EXIT = {Outcome.COMPLETED: 0, Outcome.BUDGET_EXHAUSTED: 3, Outcome.STOPPED: 3, Outcome.FAILED: 1}
_FAULT_OF_THE_CALLER = ("ProviderRefused", "BadRequest", "QuotaExhausted")


async def _client(manifest: Path | None) -> FleetClient:
    settings, loaded = context.load(manifest)
    return FleetClient(await connect(settings), loaded)


def run(
    agent: str,
    goal: str,
    *,
    wait: bool,
    run_id: str | None,
    tenant: str,
    priority: int,
    tell: list[str],
    manifest: Path | None,
    json: bool,
) -> None:
    """Start a run; with `wait`, follow it to its end."""

    async def work() -> int:
        settings, loaded = context.load(manifest)
        client = FleetClient(await connect(settings), loaded)
        async with forecast.asked(
            client.temporal, settings, loaded, agent, tenant=tenant, priority=priority
        ) as expecting:
            started = await client.start(agent, goal, run_id=run_id, tenant=tenant, priority=priority, tell=tell)
            expected = await expecting
        told: dict[str, Any] = {"run": started} | ({"forecast": expected} if expected else {})
        if expected and not json:
            typer.echo(forecast.text(expected), err=True)
        if not wait:
            output.document(told) if json else typer.echo(started)
            return 0
        if not json:
            typer.echo(f"started {started}", err=True)
        result = await _follow(client, started, quiet=json)
        if json:
            output.document({**told, "result": result})
        elif result.outcome is Outcome.FAILED:
            output.problem(f"run {started} failed: {result.reason}")
        else:
            if result.reason:
                output.problem(f"run {started}: {result.outcome.value}: {result.reason}")
            typer.echo(result.answer)
        refused = result.outcome is Outcome.FAILED and result.reason.startswith(_FAULT_OF_THE_CALLER)
        return 2 if refused else _EXIT[result.outcome]

    raise typer.Exit(context.run(work()))


async def _follow(client: FleetClient, run_id: str, *, quiet: bool) -> RunResult:
    waiting = asyncio.create_task(client.result(run_id))
    shown = ""
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=1)
        if quiet or waiting.done():
            continue
        try:
            status = await asyncio.wait_for(client.status(run_id), 2)
        except (FleetError, TimeoutError):
            line = "waits for a worker of the agents' pool: `fleet worker agents`"
        else:
            line = f"{status.phase.value} {status.doing} · step {status.steps} · {status.tokens} tokens"
        if line != shown:
            typer.echo(f"  {line}", err=True)
            shown = line
    return await waiting


def ps(*, state: str | None, query: str | None, limit: int, manifest: Path | None, json: bool) -> None:
    """List runs."""
    if state is not None and state.lower() not in STATES:
        raise BadInput(f"--state {state!r} is not one of {', '.join(STATES)}")
    named = state.lower() if state else None

    async def work() -> None:
        client = await _client(manifest)
        found = [info async for info in client.runs(state=named, query=query or "", limit=limit)]
        if json:
            output.document([{**documents.plain(i), "duration_s": round(i.duration_s, 3)} for i in found])
            return
        rows = [
            (
                i.id,
                i.agent,
                i.tenant,
                i.state,
                i.status or "-",
                output.seconds(i.duration_s),
                f"{i.cost:.4g}" if i.cost else "-",
                output.shorten(i.goal, 60),
            )
            for i in found
        ]
        columns = ("RUN", "AGENT", "TENANT", "STATE", "STATUS", "FOR", "COST", "GOAL")
        output.table(columns, rows, empty="no runs; start one with `fleet run`")

    context.run(work())


def show(run_id: str, *, manifest: Path | None, json: bool) -> None:
    """Show one run."""

    async def work() -> None:
        client = await _client(manifest)
        info = await client.info(run_id)
        status = result = None
        if info.closed_at is None:
            try:
                status = await asyncio.wait_for(client.status(run_id), 5)
            except (FleetError, TimeoutError):
                status = None
        elif info.state in ("completed", "failed"):
            result = await client.result(run_id)
        waits = await pending.pending(client, run_id) if info.closed_at is None else []
        if json:
            output.document({"run": info, "status": status, "waits_for": waits, "result": result})
        else:
            stories.print_run(info, status, waits, result)

    context.run(work())
