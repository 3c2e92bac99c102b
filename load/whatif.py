"""A replay for people: rows of figures, and a page with curves that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleet.cli.output import seconds
from fleet.errors import BadInput
from load.charts import Chart, Line
from load.replay import Replayed
from load.report import render

HEADS = ("Wait p50", "Wait p99", "Most used", "Done after", "429s")


def rows(found: Replayed) -> list[tuple[str, tuple[str, ...]]]:
    """As recorded, as replayed, and otherwise; cells in the order of `HEADS`."""
    named = (("recorded", found.recorded), ("replayed as it was", found.baseline), ("what if", found.changed))
    return [(name, _cells(one)) for name, one in named]


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    wait, most = one["call_wait_s"], one["busiest"]
    return (
        seconds(wait["p50"]),
        seconds(wait["p99"]),
        f"{most['utilisation']:.1%} {most['scope']} {most['limit']}",
        seconds(one["finished_s"]),
        f"{sum(one['refused'].values())}" if "refused" in one else "-",
    )


def swept(found: Replayed) -> list[tuple[str, str, str, str]]:
    """The curve, a row for each factor of the quotas."""
    return [(f"x {factor:g}", seconds(p50), seconds(p99), f"{used:.1%}") for factor, p50, p99, used in found.curve]


def write(path: Path, found: Replayed, *, title: str) -> None:
    """Write the page.

    Raises:
        BadInput: the file cannot be written.
    """
    page = render(
        "whatif.html",
        title=title,
        drift=f"{found.drift:.1%}",
        heads=HEADS,
        rows=rows(found),
        sections=_sections(found),
        curve=swept(found),
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"--html {path}: cannot be written ({error.strerror}): name a file in a folder that exists"
        ) from None


def _sections(found: Replayed) -> list[tuple[str, list[Any]]]:
    before, after = found.baseline["curves"], found.changed["curves"]
    length = max(found.baseline["finished_s"], found.changed["finished_s"])
    runs = [_chart("Runs active", "runs", before["active"], after["active"], length)]
    waiting = [
        _chart(f"Waiting: {name}", "calls", before["queued"].get(name, []), after["queued"].get(name, []), length)
        for name in sorted({*before["queued"], *after["queued"]})
    ]
    return [("Runs", runs), ("Lines", waiting)]


def _chart(title: str, unit: str, before: Sequence[Any], after: Sequence[Any], length_s: float) -> Any:
    lines = [
        Line(name=name, values=[value for _, value in points], bin_s=_width(points, length_s), colour=colour)
        for name, points, colour in (("as it was", before, 7), ("what if", after, 0))
        if points
    ]
    return Chart(title=title, unit=unit, lines=lines, length_s=length_s).svg()


def _width(points: Sequence[Any], length_s: float) -> float:
    return points[1][0] - points[0][0] if len(points) > 1 else length_s
