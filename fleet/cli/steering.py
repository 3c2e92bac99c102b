"""Stopping and steering runs: one, or all that a query names."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from fleet.cli import context, output
from fleet.cli.audit import Auditor
from fleet.client import LONGEST_MESSAGE, FleetClient, connect
from fleet.errors import BadInput, FleetError

AT_ONCE = 16
"""Runs that are acted on at the same time."""
TERMINATE = "terminate"
"""The act after which a run closes nothing that it has asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What is done to runs."""

    name: str
    done: str
    """In the past."""
    said: str
    """Of one run."""
    call: Callable[[FleetClient, str, str], Awaitable[None]]
    """With the run and the words that go with it."""


ACTS = {
    act.name: act
    for act in (
        Act(name="stop", done="stopped", said="asked to stop", call=lambda c, run, why: c.stop(run, why)),
        Act(name="cancel", done="cancelled", said="asked to cancel", call=lambda c, run, _: c.cancel(run)),
        Act(name=TERMINATE, done="terminated", said="terminated", call=lambda c, run, why: c.terminate(run, why)),
        Act(name="tell", done="told", said="told", call=lambda c, run, message: c.tell(run, message)),
        Act(name="pause", done="paused", said="paused", call=lambda c, run, why: c.pause(run, why)),
        Act(name="resume", done="resumed", said="resumed", call=lambda c, run, why: c.resume(run, why)),
    )
}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of each run of many."""

    done: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """They had ended before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Run to why it could not be done."""


def act(
    name: str, run_id: str | None, query: str | None, *, words: str, dry_run: bool, manifest: Path | None, json: bool
) -> None:
    """Do it to one run, or to all running ones that a query names.

    Args:
        name: of the act.
        run_id: the one.
        query: the many.
        words: the reason, or what is said to the agent.
        dry_run: only list the many.
        manifest: where it is.
        json: answer with a document.

    Raises:
        BadInput: not exactly one of run and query, a run that there is not or that has ended, or a bad query.
    """
    if (run_id is None) == (query is None):
        raise BadInput("""name one RUN, or many with --query 'Agent="payer" AND Tenant="acme"': one of both""")
    if dry_run and query is None:
        raise BadInput("--dry-run lists what --query names: give a query")
    what = ACTS[name]
    if run_id is not None:
        context.run(_one(what, run_id, words, manifest, json=json))
    elif query is not None:
        raise typer.Exit(context.run(_many(what, query, words, manifest, dry_run=dry_run, json=json)))


def tell(words: Sequence[str], query: str | None, *, dry_run: bool, manifest: Path | None, json: bool) -> None:
    """Say something to one run (`RUN MESSAGE`), or to all that a query names (`MESSAGE`).

    Raises:
        BadInput: as `act`; the message is missing, empty or too long.
    """
    if len(words) != (2 if query is None else 1):
        raise BadInput("write `fleet tell RUN MESSAGE`, or `fleet tell --query QUERY MESSAGE`, the message in quotes")
    message = words[-1]
    # of many runs each would refuse it
    if not message.strip() or len(message) > LONGEST_MESSAGE:
        raise BadInput(
            f"the message has {len(message)} characters; it must say something, in {LONGEST_MESSAGE} at most"
        )
    run_id = words[0] if query is None else None
    act("tell", run_id, query, words=message, dry_run=dry_run, manifest=manifest, json=json)


async def _one(what: Act, run_id: str, words: str, manifest: Path | None, *, json: bool) -> None:
    settings, loaded = context.load(manifest)
    client = FleetClient(await connect(settings), loaded)
    async with Auditor(settings) as auditor:
        await what.call(client, run_id, words)
        await _written(auditor, what, run_id, words)
        if json:
            output.document({"act": what.name, "run": run_id, "audited": auditor.written})
        else:
            typer.echo(f"{run_id}: {what.said}")


async def _many(what: Act, query: str, words: str, manifest: Path | None, *, dry_run: bool, json: bool) -> int:
    settings, loaded = context.load(manifest)
    client = FleetClient(await connect(settings), loaded)
    found = await client.running(query)
    if dry_run:
        if json:
            output.document({"act": what.name, "query": query, "matched": found, "dry_run": True})
        else:
            typer.echo("\n".join([*found, f"{_runs(len(found))} would be {what.done}"]))
        return 0
    typer.echo(f"{_runs(len(found))} match", err=True)
    async with Auditor(settings) as auditor:
        outcome = await each(client, what, found, words, auditor, query=query)
        audited = auditor.written
    if json:
        document = {"act": what.name, "query": query, "matched": len(found), "done": outcome.done}
        output.document(document | {"ended": outcome.ended, "failed": outcome.failed, "audited": audited})
    else:
        ended = f"; {len(outcome.ended)} had ended already" if outcome.ended else ""
        typer.echo(f"{what.done} {len(outcome.done)} of {len(found)}{ended}")
    return 1 if outcome.failed else 0


def _runs(count: int) -> str:
    return f"{count} running run" if count == 1 else f"{count} running runs"


async def each(
    client: FleetClient, what: Act, runs: Sequence[str], words: str, auditor: Auditor, *, query: str
) -> Outcome:
    """Do it to every run, up to sixteen at once. What goes wrong with one is said on stderr, and holds up no other.

    Args:
        client: to the runs.
        what: is done.
        runs: which.
        words: the reason, or what is said to the agent.
        auditor: writes down what was done.
        query: that has named them, for the audit.
    """
    outcome = Outcome()
    left = iter(runs)

    async def work() -> None:
        for run_id in left:
            try:
                await what.call(client, run_id, words)
            except FleetError as error:
                if await _has_ended(client, run_id):
                    outcome.ended.append(run_id)
                else:
                    outcome.failed[run_id] = str(error)
                    output.problem(f"{run_id}: {error}")
                continue
            outcome.done.append(run_id)
            await _written(auditor, what, run_id, words, detail={"query": query})

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, len(runs))):
            tasks.create_task(work())
    return outcome


async def _written(
    auditor: Auditor, what: Act, run_id: str, words: str, *, detail: Mapping[str, Any] | None = None
) -> None:
    await auditor.note(f"run.{what.done}", run_id, run_id=run_id, comment=words, detail=detail)
    if what.name == TERMINATE:
        await auditor.withdraw(run_id)


async def _has_ended(client: FleetClient, run_id: str) -> bool:
    try:
        return (await client.info(run_id)).closed_at is not None
    except FleetError:
        return False
