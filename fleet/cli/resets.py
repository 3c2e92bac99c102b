"""Running a run again from one of its steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fleet.cli import context, output
from fleet.cli.audit import Auditor
from fleet.client import connect
from fleet.contracts.effects import EffectRequest
from fleet.documents import visible
from fleet.errors import BadInput
from fleet.history import fetch, of_chain, resetting
from fleet.history.resetting import Plan


def reset(
    run_id: str, to: str, *, reason: str, drop_signals: bool, yes: bool, manifest: Path | None, json: bool
) -> None:
    """Show what a reset would do; with `yes` do it.

    Raises:
        BadInput: there is no such run or step, or it cannot be reset.
    """
    if not reason.strip():
        raise BadInput("the reason is empty: say why, with --reason")

    async def work() -> None:
        settings, _ = context.load(manifest)
        client = await connect(settings)
        chain = await fetch(client, run_id)
        told = await of_chain(chain, client.data_converter)
        planned = resetting.plan(told, chain, to, drop_signals=drop_signals)
        done: str | None = None
        audited = False
        if yes:
            async with Auditor(settings) as auditor:
                done = await resetting.reset(client, planned, reason)
                detail = {"to": to, "execution": planned.execution, "new_execution": done}
                await auditor.note("run.reset", run_id, run_id=run_id, comment=reason, detail=detail)
                audited = auditor.written
        if json:
            output.document(_as_json(planned) | {"done": done is not None, "new_execution": done, "audited": audited})
            return
        for line in _lines(planned):
            typer.echo(visible(line))
        typer.echo(f"reset: it runs as execution {done}" if done else "nothing is done yet: --yes does it")

    context.run(work())


def _as_json(planned: Plan) -> dict[str, Any]:
    return {
        "run": planned.run_id,
        "to": planned.step,
        "execution": planned.execution,
        "link": planned.link,
        "links": planned.links,
        "event_id": planned.event_id,
        "running": planned.running,
        "again": [{"step": step.name, "what": step.what, "outcome": step.outcome} for step in planned.again],
        "not_again": [step.name for step in planned.had],
        "void_approvals": planned.void,
        "signals": planned.signals,
        "signals_dropped": planned.dropped,
    }


def _lines(planned: Plan) -> Iterator[str]:
    of = f"execution {planned.link} of {planned.links}, " if planned.links > 1 else ""
    yield f"{planned.run_id}: back to step {planned.step} ({of}workflow task of event {planned.event_id})"
    if planned.running:
        yield "  it is running: what is under way is ended first, effects are accounted for"
    yield f"  again     {', '.join(f'{step.name} {step.what}' for step in planned.again)}"
    for step in planned.had:
        tool = step.request.tool if isinstance(step.request, EffectRequest) else step.what
        yield f"  not again {step.name} {tool}: the ledger knows it as done, if the arguments are the same"
    for approval in planned.void:
        yield f"  void      {approval}: asked again if the run comes to it"
    if planned.signals:
        said = "forgotten" if planned.dropped else "said again"
        for signal in planned.signals:
            yield f"  {said:<9} {output.shorten(signal, 120)}"
