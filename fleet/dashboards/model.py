"""What a dashboard is made of: rows of panels on 24 columns, each with its queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

COLUMNS: Final = 24

GREEN: Final = "#3a8f4d"
BLUE: Final = "#3274d9"
AMBER: Final = "#e0a006"
ORANGE: Final = "#e0692b"
RED: Final = "#d2393c"
PURPLE: Final = "#8f5bd1"
TEAL: Final = "#2a9aa0"
GREY: Final = "#8a8f98"
PINK: Final = "#d65a9c"
BROWN: Final = "#96704a"
PALETTE: Final = (BLUE, ORANGE, TEAL, PURPLE, AMBER, PINK, BROWN, GREEN, RED, GREY)
"""For series without a colour of their own: readable on white and on dark."""

SECONDS: Final = "s"
NUMBER: Final = "short"
SHARE: Final = "percentunit"
PER_SECOND: Final = "suffix:/s"
PER_MINUTE: Final = "suffix:/min"
RATIO: Final = "suffix: ×"  # noqa: RUF001 - the sign that is meant
STATE: Final = "none"


class Draw(StrEnum):
    """How a panel shows its answers."""

    LINES = "lines"
    STACK = "stack"
    """Areas upon each other: parts of a whole."""
    STAT = "stat"
    """One number."""
    BARS = "bars"
    """One bar a series, largest first."""
    TABLE = "table"
    """One line a set of labels, one column a query."""
    STATES = "states"
    """One band a series, coloured by its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression."""

    expr: str
    legend: str = ""
    """Name of a series, with `{{label}}` for a label. Of a table: the column."""
    unit: str = ""
    """Of a table's column. Default: the panel's."""
    exemplars: bool = False
    """Traces are shown upon it: the histogram has exemplars."""
    decimals: int | None = None
    """Of a table's column."""

    @property
    def instant(self) -> bool:
        """It is of the whole range: asked once, at its end."""
        return "$__range" in self.expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What a value means."""

    value: int
    text: str
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One question and its answer."""

    title: str
    """A question, or a plain noun."""
    says: str
    """What to look for."""
    unit: str
    """One of Grafana's, or `suffix:…`."""
    queries: Sequence[Query]
    width: int
    draw: Draw = Draw.LINES
    thresholds: Sequence[tuple[float, str]] = ()
    """From a value on, a colour; below the first: `base`."""
    base: str = GREEN
    colours: Mapping[str, str] = field(default_factory=dict)
    """Of series, by their name."""
    mappings: Sequence[Mapped] = ()
    least: float | None = 0.0
    """Where the axis begins. None: at the smallest value."""
    most: float | None = None
    """Where the axis ends. None: at the largest value."""
    decimals: int | None = None
    alert: str | None = None
    """Alert whose runbook the panel links to."""
    spark: bool = False
    """A stat also shows its course."""
    none: str = ""
    """Shown for no data."""
    labels: Sequence[str] = ()
    """Columns of a table that come before those of the queries, in this order."""
    most_series: int | None = None
    """Of a table: most lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels beside each other, under a heading. Those that do not fit go on below."""

    title: str
    panels: Sequence[Panel]
    height: int = 8
    """Of each panel, in units of the grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """What the reader of a dashboard chooses by."""

    name: str
    label: str
    says: str
    query: str
    """Grafana's: `label_values(…)`."""
    regex: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that is drawn behind every chart: when it held."""

    name: str
    expr: str
    """Has a series for as long as it holds."""
    title: str
    text: str
    colour: str
    instant: bool = False
    """Only when it began matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page."""

    uid: str
    """Stable: links and bookmarks hold it."""
    title: str
    says: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    begin: str = "now-1h"
    refresh: str = "30s"

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.uid}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where on the grid."""

    x: int
    y: int
    w: int
    h: int


def placed(dashboard: Dashboard) -> list[tuple[Place, Row | Panel]]:
    """Headings and panels with their places, from left to right and top to bottom.

    Raises:
        ValueError: a panel is wider than the grid.
    """
    found: list[tuple[Place, Row | Panel]] = []
    y = 0
    for row in dashboard.rows:
        found.append((Place(x=0, y=y, w=COLUMNS, h=1), row))
        y += 1
        x = 0
        for panel in row.panels:
            if not 0 < panel.width <= COLUMNS:
                raise ValueError(f"{panel.title}: width {panel.width} is not in 1 to {COLUMNS}")
            if x + panel.width > COLUMNS:
                x, y = 0, y + row.height
            found.append((Place(x=x, y=y, w=panel.width, h=row.height), panel))
            x += panel.width
        y += row.height
    return found
