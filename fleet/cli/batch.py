"""Batches, as operators run them: staged, started, followed, steered, their results as JSON lines."""

import asyncio
import json as jsons
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer

from fleet import batches, documents
from fleet.batches import BatchClient
from fleet.cli import batch_inputs, context, database, output
from fleet.cli.audit import Auditor
from fleet.client import connect
from fleet.contracts.batch import BatchState, BatchStatus, ItemOutcome, Work
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from fleet.settings import Settings

if TYPE_CHECKING:
    from workers.database.batches import Batch, Batches, ResultRow

LOOK_S: Final = 1.0
"""Between two looks at a batch that is followed."""
ANSWER_S: Final = 5.0
"""How long a worker may take to say where a batch stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a batch is to do, in the words of the command."""

    agent: str | None = None
    goal: str | None = None
    tool: str | None = None
    model: str | None = None
    prompt: str | None = None
    max_output_tokens: int = 1024
    tenant: str = "default"
    priority: int = 4
    window: int = 100
    on_failure: str = "skip"
    max_failures: str = "10%"

    def work(self, manifest: Manifest) -> Work:
        """What is done with each item.

        Raises:
            BadInput: not exactly one of agent, tool and model, or one that cannot be.
        """
        named = [name for name in ("agent", "tool", "model") if getattr(self, name) is not None]
        if len(named) != 1:
            raise BadInput("name one: --agent NAME --goal TEMPLATE, --tool NAME, or --model MODEL --prompt TEMPLATE")
        if self.goal is not None and self.agent is None:
            raise BadInput("--goal is of an agent: name it with --agent")
        if self.prompt is not None and self.model is None:
            raise BadInput("--prompt is of a model: name it with --model")
        if self.agent is not None:
            return batches.agent_work(manifest, self.agent, self.goal or "")
        if self.tool is not None:
            return batches.tool_work(manifest, self.tool)
        assert self.model is not None
        return batches.model_work(manifest, self.model, self.prompt or "", max_output_tokens=self.max_output_tokens)


@dataclass(frozen=True, slots=True)
class _Desk:
    """What every command about batches needs."""

    settings: Settings
    manifest: Manifest
    store: "Batches"
    client: BatchClient

    async def known(self, batch: str) -> "Batch":
        found = await self.store.get(batch)
        if found is None:
            raise BadInput(f"no batch {batch!r}: `fleet batch ls` lists them")
        if found.staged_at is None:
            raise BadInput(f"batch {batch!r} is not staged: run `fleet batch run` with its inputs")
        return found

    async def status(self, batch: str) -> BatchStatus:
        """Where it stands, as its workflow says, or as the database does where none answers."""
        total, counts = await self.store.count(batch)
        if await self.client.running(batch):
            try:
                status = await asyncio.wait_for(self.client.status(batch), ANSWER_S)
            except (FleetError, TimeoutError):
                reason = "no worker of the pool `agents` answers: fleet worker agents"
                return BatchStatus(state=BatchState.RUNNING, reason=reason, total=total, counts=counts)
            return replace(status, total=status.total or total)
        left = total - sum(counts.values())
        reason = f"{left} items are left: `fleet batch resume {batch}` goes on" if left else ""
        return BatchStatus(state=BatchState.FINISHED, reason=reason, total=total, counts=counts, executions=0)


@asynccontextmanager
async def _opened(manifest: Path | None) -> AsyncIterator[_Desk]:
    from workers.database.batches import Batches

    settings, loaded = context.load(manifest)
    async with database.opened(settings) as found:
        yield _Desk(settings, loaded, Batches(found), BatchClient(await connect(settings), loaded))


def run(
    source: str,
    wanted: Wanted,
    *,
    batch: str | None,
    limit: int | None,
    out: Path | None,
    wait: bool,
    manifest: Path | None,
    json: bool,
) -> None:
    """Stage the inputs, start the batch; with `wait` follow it and write its results."""
    if out is not None and not wait:
        raise BadInput("--out is written when the batch has ended: add --wait, or use `fleet batch results` later")

    async def work() -> int:
        async with _opened(manifest) as desk:
            named = batch or f"batch-{secrets.token_hex(4)}"
            started, again = await _started(desk, source, wanted, named, limit)
            told = {"batch": named, "items": started, "resumed": again}
            if not wait:
                output.document(told) if json else typer.echo(named)
                return 0
            if not json:
                verb = "goes on with" if again else "started"
                typer.echo(f"{verb} {named}: {started} items", err=True)
            status = await _follow(desk, named, quiet=json)
            if out is not None:
                await _write_file(desk, named, out, failed=False, with_input=False)
            if json:
                output.document(told | {"status": _document(named, status)})
            else:
                typer.echo(_line(status))
            return _code(status)

    raise typer.Exit(context.run(work()))


async def _started(desk: _Desk, source: str, wanted: Wanted, batch: str, limit: int | None) -> tuple[int, bool]:
    """Items of the batch, and whether it had been staged before."""
    from workers.database.batches import StagedElsewhere

    work, token = wanted.work(desk.manifest), secrets.token_hex(8)
    batches.failure_policy(wanted.on_failure, wanted.max_failures, total=1)
    made = batches.batch_input(
        desk.manifest,
        batch,
        work,
        token=token,
        tenant=wanted.tenant,
        priority=wanted.priority,
        window=wanted.window,
    )
    inputs = batch_inputs.read(source, work, limit)
    try:
        found = await desk.store.claim(batch, token, tenant=wanted.tenant, work={})
        if found.token != token:
            return found.total, await _resumed(desk, found, made, inputs, wanted)
        staged = await batch_inputs.stage(desk.store, batch, token, inputs)
        failures = batches.failure_policy(wanted.on_failure, wanted.max_failures, total=staged.total)
        made = replace(made, failures=failures)
        await desk.store.seal(batch, token, total=staged.total, digest=staged.digest, work=batches.stored(made))
    except StagedElsewhere as elsewhere:
        raise BadInput(f"{elsewhere}: let it, or choose another id") from None
    await desk.client.start(made)
    return staged.total, False


async def _resumed(desk: _Desk, found: "Batch", made: Any, inputs: Any, wanted: Wanted) -> bool:
    """Go on with a batch that was staged before, if it is the same."""
    before = batches.restored(found.work)
    if batches.described(before.work) != batches.described(made.work) or before.tenant != made.tenant:
        told = batches.described(before.work)
        raise BadInput(f"batch {found.id!r} exists and does something else ({told[:120]}): choose another id")
    weighed = batch_inputs.weigh(inputs)
    if (weighed.total, weighed.digest) != (found.total, found.digest):
        raise BadInput(
            f"batch {found.id!r} exists with other inputs ({found.total} of them, here are {weighed.total}):"
            " choose another id"
        )
    failures = batches.failure_policy(wanted.on_failure, wanted.max_failures, total=found.total)
    # its definition is the one that it was staged with
    await desk.client.start(replace(before, window=made.window, failures=failures))
    return True


def status(batch: str, *, watch: bool, manifest: Path | None, json: bool) -> None:
    """Show where a batch stands; with `watch` until it has ended."""

    async def work() -> int:
        async with _opened(manifest) as desk:
            found = await desk.known(batch)
            shown = await _follow(desk, batch, quiet=json) if watch else await desk.status(batch)
            latest = await _latest(desk, batch, shown)
            if json:
                output.document(_document(batch, shown) | {"latest": latest})
                return _code(shown) if watch else 0
            typer.echo(f"batch     {batch} (tenant {found.tenant})")
            typer.echo(f"does      {output.visible(batches.described(batches.restored(found.work).work))[:160]}")
            typer.echo(f"state     {_state(shown)}")
            typer.echo(f"items     {_line(shown)}")
            typer.echo(f"in flight {shown.in_flight} of {shown.window}")
            for one in latest[:5]:
                said = one.error or jsons.dumps(one.result, ensure_ascii=False)
                typer.echo(f"latest    {one.number} {one.outcome.value}: {output.shorten(said, 100)}")
            return _code(shown) if watch else 0

    raise typer.Exit(context.run(work()))


async def _latest(desk: _Desk, batch: str, shown: BatchStatus) -> Any:
    if shown.state is BatchState.FINISHED:
        return []
    try:
        return await asyncio.wait_for(desk.client.latest(batch), ANSWER_S)
    except (FleetError, TimeoutError):
        return []


def results(batch: str, *, out: Path | None, failed: bool, with_input: bool, manifest: Path | None) -> None:
    """Write the results as JSON lines, in the order of the inputs."""

    async def work() -> None:
        async with _opened(manifest) as desk:
            await desk.known(batch)
            if out is None:
                await _write(desk, batch, sys.stdout, failed=failed, with_input=with_input)
            else:
                count = await _write_file(desk, batch, out, failed=failed, with_input=with_input)
                typer.echo(f"{count} results in {out}", err=True)

    context.run(work())


def steer(what: str, batch: str, reason: str, *, manifest: Path | None, json: bool) -> None:
    """Pause or stop a batch."""

    async def work() -> None:
        async with _opened(manifest) as desk, Auditor(desk.settings) as auditor:
            await desk.known(batch)
            await (desk.client.pause if what == "pause" else desk.client.stop)(batch, reason)
            await auditor.note(f"batch.{what}", batch, run_id=batch, comment=reason)
            _acted(what, batch, json=json)

    context.run(work())


def resume(batch: str, window: int | None, *, manifest: Path | None, json: bool) -> None:
    """Let a batch go on, whether it was paused, stopped, terminated or has lost its workflow."""

    async def work() -> None:
        async with _opened(manifest) as desk, Auditor(desk.settings) as auditor:
            found = batches.restored((await desk.known(batch)).work)
            if await desk.client.running(batch):
                if window is not None:
                    await desk.client.window(batch, window)
                await desk.client.resume(batch)
            else:
                total, counts = await desk.store.count(batch)
                if sum(counts.values()) >= total:
                    raise BadInput(f"batch {batch!r} has ended: `fleet batch retry {batch}` does failed items again")
                await desk.client.start(found if window is None else replace(found, window=window))
            await auditor.note("batch.resume", batch, run_id=batch)
            _acted("resume", batch, json=json)

    context.run(work())


def retry(batch: str, *, manifest: Path | None, json: bool) -> None:
    """Have the items that are not done done again."""

    async def work() -> None:
        async with _opened(manifest) as desk, Auditor(desk.settings) as auditor:
            found = batches.restored((await desk.known(batch)).work)
            count = await desk.store.again(batch)
            if count:
                await desk.client.start(found)
                await auditor.note("batch.retry", batch, run_id=batch, detail={"items": count})
            if json:
                output.document({"act": "retry", "batch": batch, "items": count})
            else:
                typer.echo(f"{batch}: {count} items again" if count else f"{batch}: no item has failed")

    context.run(work())


def ls(*, limit: int, manifest: Path | None, json: bool) -> None:
    """List batches, newest first."""

    async def work() -> list[dict[str, Any]]:
        async with _opened(manifest) as desk:
            rows = []
            for one in await desk.store.all(limit=limit):
                total, counts = await desk.store.count(one.id)
                state = "staging" if one.staged_at is None else await desk.client.state(one.id) or "lost"
                does = batches.described(batches.restored(one.work).work) if one.work else ""
                rows.append(
                    {
                        "batch": one.id,
                        "tenant": one.tenant,
                        "workflow": state,
                        "total": total,
                        "counts": counts,
                        "created_at": one.created_at,
                        "does": does,
                    }
                )
            return rows

    found = context.run(work())
    if json:
        output.document(found)
        return
    rows = [
        (
            row["batch"],
            row["tenant"],
            row["workflow"],
            f"{sum(row['counts'].values())}/{row['total']}",
            sum(n for outcome, n in row["counts"].items() if outcome != ItemOutcome.DONE),
            output.moment(row["created_at"]),
            output.shorten(row["does"], 60),
        )
        for row in found
    ]
    output.table(
        ("BATCH", "TENANT", "WORKFLOW", "ENDED", "FAILED", "SINCE", "DOES"),
        rows,
        empty="no batches; start one with `fleet batch run`",
    )


# ---- following and writing


async def _follow(desk: _Desk, batch: str, *, quiet: bool) -> BatchStatus:
    waiting = asyncio.create_task(desk.client.result(batch))
    shown = ""
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=LOOK_S)
            if quiet or waiting.done():
                continue
            line = _line(await desk.status(batch))
            if line != shown:
                typer.echo(f"  {line}", err=True)
                shown = line
        return await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _write_file(desk: _Desk, batch: str, out: Path, *, failed: bool, with_input: bool) -> int:
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            count = await _write(desk, batch, file, failed=failed, with_input=with_input)
        # whoever reads it sees all of it or what was there before
        partial.replace(out)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from None
    return count


async def _write(desk: _Desk, batch: str, file: TextIO, *, failed: bool, with_input: bool) -> int:
    count = 0
    async for row in desk.store.results(batch, failed=failed):
        file.write(jsons.dumps(_result(row, with_input=with_input), ensure_ascii=False) + "\n")
        count += 1
    return count


def _result(row: "ResultRow", *, with_input: bool) -> dict[str, Any]:
    told = {"index": row.number, "outcome": row.outcome.value, "result": row.result}
    told |= {"error": row.error or None, "attempts": row.attempts, "run": row.run or None}
    return told | ({"input": row.input} if with_input else {})


def _document(batch: str, status: BatchStatus) -> dict[str, Any]:
    found: dict[str, Any] = documents.plain(status)
    return {"batch": batch, **found, "ended": status.ended, "eta_s": status.eta_s}


def _state(status: BatchStatus) -> str:
    return f"{status.state.value}: {output.visible(status.reason)}" if status.reason else status.state.value


def _line(status: BatchStatus) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in status.counts.items()) or "none yet"
    line = f"{status.ended} of {status.total}: {counts}"
    if status.state is not BatchState.RUNNING:
        line += f" · {_state(status)}"
    elif status.eta_s is not None:
        line += f" · {status.per_s:.1f}/s · {output.seconds(status.eta_s)} left"
    return line


def _code(status: BatchStatus) -> int:
    if status.ended < status.total:
        return 3
    return 0 if status.counts.get(ItemOutcome.DONE.value, 0) == status.total else 1


def _acted(what: str, batch: str, *, json: bool) -> None:
    output.document({"act": what, "batch": batch}) if json else typer.echo(f"{batch}: asked to {what}")
