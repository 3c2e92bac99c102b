"""`fleet schedule preview`: its options, and how it is drawn."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import JsonOption, ManifestOption

if TYPE_CHECKING:
    from rich.text import Text

    from fleet.manifest import Manifest
    from load.previewed import Due, Offered, Preview, Series

COLUMNS = 48
"""Of one drawing; two stand side by side."""
HEIGHT = 5
LISTED = 20
"""Names whose waits alone are simulated and listed, those with the most runs."""
_BLOCKS = " ▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Join the command to `fleet schedule`."""
    app.command("preview")(preview)


def preview(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Only these tables. Default: all.")
    ] = None,
    for_: Annotated[str, typer.Option("--for", help="How far to look ahead.")] = "24h",
    begin: Annotated[str | None, typer.Option("--from", help="Since when. Default: the next full hour.")] = None,
    jitter: Annotated[
        str | None, typer.Option("--jitter", help="What if all had this jitter, as 30m, instead of their own?")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask Temporal for its schedules, instead of the manifest.")
    ] = False,
    recorded: Annotated[
        Path | None, typer.Option("--recorded", metavar="FOLDER", help="What runs cost as a trial has recorded it.")
    ] = None,
    waits: Annotated[bool, typer.Option(help="Also simulate how long calls wait.")] = True,
    seed: Annotated[int, typer.Option(help="Draws jitter and what runs cost.")] = 1,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Draw the load that schedules will offer against each quota, without and with their jitter. Starts nothing."""
    from dataclasses import replace

    from fleet.cli import context, output, schedules
    from fleet.errors import BadInput
    from fleet.rates import read_duration
    from load import previewing
    from load.replay import read, runs_of

    _, loaded = context.load(manifest)
    for_s = read_duration("--for", for_).total_seconds()
    now = datetime.now(UTC)
    since = (
        schedules.moment("--from", begin)
        if begin
        else now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    )
    for name in names or []:
        if name not in loaded.schedules and not live:
            known = ", ".join(sorted(loaded.schedules)) or "none"
            raise BadInput(f"the manifest has no [schedules.{name}]; it has: {known}")
    if jitter is not None:
        if live:
            raise BadInput("--jitter belongs to the manifest's schedules, not to --live: name one of both")
        loaded = _jittered(loaded, jitter, names or loaded.schedules)
    due = (
        context.run(_live(loaded, names or [], since, for_s))
        if live
        else previewing.due(loaded, since, for_s, names=names or (), seed=seed)
    )
    if not due:
        raise BadInput("there are no schedules to preview: add a [schedules.NAME] to the manifest, or look with --live")
    costs = runs_of(read(recorded), loaded) if recorded else ()
    found = previewing.preview(loaded, due, since, for_s, recorded=costs, waits=waits, seed=seed)
    if not live and waits:
        found = replace(found, alone=previewing.alone(loaded, due, most=LISTED))
    if json:
        output.document(found.document())
    else:
        _print(found)


def _jittered(manifest: "Manifest", text: str, names: "Iterable[str]") -> "Manifest":
    from fleet.errors import BadInput
    from fleet.instants import span
    from fleet.rates import read_duration

    jitter = read_duration("--jitter", text)
    changed = {}
    for name in names:
        entry = manifest.schedules[name]
        if jitter >= entry.period:
            raise BadInput(f"--jitter {text}: is not below the time between two runs of {name}, {span(entry.period)}")
        changed[name] = entry.model_copy(update={"jitter": jitter})
    return manifest.model_copy(update={"schedules": {**manifest.schedules, **changed}})


async def _live(manifest: "Manifest", names: Sequence[str], begin: datetime, for_s: float) -> "list[Due]":
    from fleet import scheduled
    from fleet import settings as environment
    from fleet.client import connect
    from fleet.errors import BadInput
    from load.previewed import Due

    client = await connect(environment.load())
    found = await scheduled.times(client, begin, begin + timedelta(seconds=for_s), names=names)
    for one in found:
        if one.agent not in manifest.agents:
            raise BadInput(f"schedule {one.id!r} starts agent {one.agent!r}, which the manifest does not have")
    return [
        Due(
            id=one.id,
            name=one.schedule,
            agent=one.agent,
            tenant=one.tenant,
            priority=one.priority,
            plain=[(at - begin).total_seconds() for at in one.plain],
            jittered=[(at - begin).total_seconds() for at in one.jittered],
        )
        for one in found
    ]


def _print(found: "Preview") -> None:
    import sys

    from rich.console import Console

    from fleet.cli import output

    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False, highlight=False)
    until = found.begin + timedelta(seconds=found.for_s)
    runs = found.offered[0].jittered
    console.print(
        f"{len(found.due)} schedules, {sum(runs.minutes):,.0f} runs from {output.moment(found.begin)} to"
        f" {output.moment(until)}"
    )
    told = "each column shows its busiest minute; PEAK/M is the most of one WINDOW, the quota's own (runs: a minute)"
    console.print(told, style="dim")
    for one in found.offered:
        console.print()
        _draw(console.print, one)
    console.print()
    rows = [row for one in found.offered for row in _rows(one)]
    columns = (
        "SCOPE", "LIMIT", "JITTER", "GRANTED/M", "MEAN/M", "WINDOW", "PEAK/M", "PEAK/MEAN", f"{found.step} MIN/MEAN",
        "BUSIEST MIN", "MIN ABOVE",
    )  # fmt: skip
    output.table(columns, rows, empty="")
    for window in found.windows:
        per = f"in {window['days']:g} days" if window["days"] else "in a month"
        console.print(
            f"{window['scope']} {window['limit']}: {window['offered']:,.0f} offered; {window['planned']:,.0f} {per}"
        )
    _print_waits(found)


def _print_waits(found: "Preview") -> None:
    from fleet.cli import output

    if found.left_out:
        typer.echo(f"waits are not simulated: {found.left_out}; name fewer tables, or take a shorter --for")
    for name, told in found.waits.items():
        wait = told["first_call_s"]
        said = ", ".join(f"{key} {output.seconds(wait[key])}" for key in ("p50", "p95", "max"))
        typer.echo(f"{name.replace('_', ' '):<15} a run waits for its first call {said}")
    if found.alone:
        rows = [
            (
                one["name"],
                one["agent"],
                f"{one['runs']:,}",
                output.seconds(one["every_s"]),
                output.seconds(one["wait_p99_s"]),
                "yes" if one["fits"] else "no",
            )
            for one in found.alone
        ]
        output.table(("NAME", "AGENT", "RUNS", "PERIOD", "P99 WAIT ALONE", "FITS"), rows, empty="")


def _rows(one: "Offered") -> list[tuple[str, ...]]:
    granted = "-" if one.planned is None else f"{one.planned:,.0f}"
    return [
        (
            one.scope,
            one.limit,
            name,
            granted,
            f"{series.mean:,.1f}",
            f"{series.window} min",
            f"{series.peak:,.1f}",
            f"{series.ratio:.2f}",
            f"{series.smooth:.2f}",
            f"{series.worst:,.0f}",
            "-" if one.planned is None else f"{series.above}",
        )
        for name, series in (("without", one.plain), ("with", one.jittered))
    ]


def _draw(show: "Callable[[Text], None]", one: "Offered") -> None:
    from rich.text import Text

    granted = "" if one.planned is None else f", granted {one.planned:,.0f} a minute"
    show(Text(f"{one.scope} {one.limit}{granted}", style="bold"))
    top = max(one.plain.worst, one.jittered.worst, one.planned or 0.0) or 1.0
    left, right = (drawing(series, top, one.planned) for series in (one.plain, one.jittered))
    for number, (a, b) in enumerate(zip(left, right, strict=True)):
        scale = f"{top:>9,.0f}" if number == 0 else f"{0:>9}" if number == HEIGHT - 1 else " " * 9
        show(Text.assemble(scale, " ", a, "  ", b))
    show(Text(f"{'':>10}{'without jitter':<{COLUMNS + 2}}with jitter", style="dim"))


def drawing(series: "Series", top: float, limit: float | None) -> "list[Text]":
    """Bars, as lines from the top; where there are none, the line of the limit.

    Args:
        series: what is drawn.
        top: the largest value of the scale.
        limit: above it bars are red.
    """
    from rich.text import Text

    from load.previewed import columns

    bars = columns(series.minutes, COLUMNS)
    line = None if limit is None else min(HEIGHT - 1, int(limit / top * HEIGHT))
    lines = []
    for row in reversed(range(HEIGHT)):
        text = Text()
        for value in bars:
            full = value / top * HEIGHT - row
            # what is there at all is seen
            block = _BLOCKS[8 if full >= 1 else max(int(row == 0 and value > 0), int(full * 8))]
            over = limit is not None and value > limit
            if block == " " and row == line:
                text.append("┄", "yellow")
            else:
                text.append(block, "red" if over else "cyan")
        text.append(" " * (COLUMNS - len(bars)))
        lines.append(text)
    return lines
