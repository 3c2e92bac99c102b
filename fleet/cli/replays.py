"""Executing histories again against the code at hand."""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import typer
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from fleet.cli import context, output
from fleet.cli.histories import Source
from fleet.contracts import names
from fleet.documents import plain, visible
from fleet.errors import BadInput, UnknownRun, Unreachable
from fleet.history import Chain, fetch, replaying
from fleet.history.replaying import Replayed
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.batch import BatchWorkflow
from fleet.workflows.effect import EffectWorkflow

DIVERGES = 1
"""Exit code where a history does not replay."""
WORKFLOWS: list[type] = [AgentWorkflow, BatchWorkflow, EffectWorkflow]
"""The code at hand."""


@dataclass(slots=True, kw_only=True)
class _Tally:
    runs: int = 0
    diverging: int = 0
    """Runs of which a history diverges."""


def replay(what: list[str], query: str | None, *, limit: int, manifest: Path | None, json: bool) -> None:
    """Replay runs and files, or what a query names among the runs in flight.

    Raises:
        BadInput: neither or both were named, one of them is unknown, or a bad query.
    """
    if bool(what) == (query is not None):
        raise BadInput("""name runs or files, or many runs with --query 'Agent="payer"': one of both""")
    raise typer.Exit(context.run(_replay(what, query, limit, manifest, json=json)))


async def _replay(what: list[str], query: str | None, limit: int, manifest: Path | None, *, json: bool) -> int:
    from workers.pool import SANDBOX

    # the engine prints every divergence with all its structure
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    quiet = Runtime(telemetry=TelemetryConfig(logging=None))
    source = Source(manifest)
    tally, found = _Tally(), list[Replayed]()
    async for chain in _chains(source, what, query, limit):
        replayed = await replaying.replay(chain, WORKFLOWS, SANDBOX, await source.converter(), runtime=quiet)
        tally.runs += 1
        tally.diverging += any(not each.ok for each in replayed)
        found += replayed
        if not json:
            _print(chain, replayed)
    if json:
        output.document(
            {
                "runs": tally.runs,
                "diverging": tally.diverging,
                "ok": not tally.diverging,
                "histories": [plain(each) for each in found],
            }
        )
    elif query is not None and not tally.runs:
        typer.echo(f"no run in flight matches {query!r}: nothing was replayed" if query else "no run is in flight")
    elif tally.runs != 1:
        typer.echo(f"{tally.runs - tally.diverging} of {tally.runs} runs replay on the code at hand")
    return DIVERGES if tally.diverging else 0


def _print(chain: Chain, replayed: list[Replayed]) -> None:
    diverging = [each for each in replayed if not each.ok]
    if not diverging:
        events = sum(each.events for each in replayed)
        effects = len(chain.children)
        more = f" of {len(chain.executions)} executions" if len(chain.executions) > 1 else ""
        more += f" and {effects} effect{'s' if effects > 1 else ''}" if effects else ""
        typer.echo(visible(f"{chain.run_id}: {events} events{more} replay"))
    for each in diverging:
        typer.echo("\n".join(visible(line) for line in each.said))


async def _chains(source: Source, what: list[str], query: str | None, limit: int) -> AsyncIterator[Chain]:
    for each in what:
        yield await source.chain(each)
    if query is None:
        return
    client = await source.client()
    whole = names.RUNNING_RUNS
    try:
        runs = [
            run.id async for run in client.list_workflows(f"{whole} AND ({query})" if query else whole, limit=limit)
        ]
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            raise BadInput(f"query {query!r}: {error.message}") from None
        raise Unreachable(f"Temporal: {error.message}") from None
    for run in runs:
        try:
            yield await fetch(client, run)
        except UnknownRun:
            # retention was faster
            continue
