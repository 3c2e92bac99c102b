"""Where things stand on the screen: panels, their columns, and how they share a terminal of any size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rich.text import Text

LEAST: Final = 4
"""Lines of the smallest table: its header and three rows."""


class Panel(StrEnum):
    """The four parts of the picture, in their order."""

    QUOTAS = "quotas"
    POOLS = "pools"
    RUNS = "runs"
    APPROVALS = "approvals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    name: str
    wide: int
    """Cells; 0: all that is left."""
    right: bool = False
    least: int = 0
    """Cells that a terminal must have for it."""


COLUMNS: Final[Mapping[Panel, tuple[Column, ...]]] = {
    Panel.QUOTAS: (
        Column(name="SCOPE", wide=0),
        Column(name="LIMIT", wide=10),
        Column(name="USED", wide=10),
        Column(name="LEFT", wide=18, right=True, least=110),
        Column(name="PACE", wide=4, right=True),
        Column(name="STATE", wide=11),
        Column(name="LINE", wide=7, right=True),
        Column(name="IN LINE", wide=7, right=True),
        Column(name="CALLS/s", wide=7, right=True, least=100),
        Column(name="WAITED", wide=7, right=True, least=110),
        Column(name="429s", wide=9, right=True),
    ),
    Panel.POOLS: (
        Column(name="POOL", wide=12),
        Column(name="LIVE", wide=4, right=True),
        Column(name="SILENT", wide=6, right=True),
        Column(name="SLOTS USED", wide=15),
        Column(name="WAITING", wide=7, right=True),
        Column(name="OLDEST", wide=7, right=True),
        Column(name="IN/s", wide=6, right=True, least=110),
        Column(name="OUT/s", wide=6, right=True, least=110),
        Column(name="BUILD", wide=14, least=94),
        Column(name="", wide=0),
    ),
    Panel.RUNS: (
        Column(name="RUN", wide=22),
        Column(name="AGENT", wide=11),
        Column(name="TENANT", wide=10, least=100),
        Column(name="STATUS", wide=10),
        Column(name="FOR", wide=7, right=True),
        Column(name="COST", wide=8, right=True, least=110),
        Column(name="WAITS FOR", wide=0),
        Column(name="GOAL", wide=32, least=140),
    ),
    Panel.APPROVALS: (
        Column(name="APPROVAL", wide=24),
        Column(name="TOOL", wide=10),
        Column(name="OPEN", wide=7, right=True),
        Column(name="EXPIRES", wide=8, right=True),
        Column(name="VOTES", wide=5, right=True),
        Column(name="AGENT", wide=11, least=100),
        Column(name="ASKS", wide=0),
    ),
}


def fitted(panel: Panel, width: int) -> list[tuple[int, Column]]:
    """The columns that a table of so many cells has room for, with their numbers; each is followed by a space."""
    shown = [(i, column) for i, column in enumerate(COLUMNS[panel]) if column.least <= width]
    rest = width - sum(column.wide + 1 for _, column in shown if column.wide) - 1
    return [(i, c if c.wide else Column(name=c.name, wide=max(8, rest), right=c.right)) for i, c in shown]


def fit(cell: Text | str, column: Column) -> Text:
    """The cell at exactly its column's width."""
    text = cell.copy() if isinstance(cell, Text) else Text(cell)
    if text.cell_len > column.wide:
        text.truncate(column.wide, overflow="ellipsis")
    text.align("right" if column.right else "left", column.wide)
    return text


def heights(needs: Sequence[int], available: int, focused: int) -> list[int]:
    """How the tables share the lines of a screen: everybody what they need, the focused one what is left.

    Args:
        needs: lines of each table, its header included.
        available: lines for all tables.
        focused: number of the table that the operator works with.
    """
    if available < LEAST * len(needs):
        return [available if i == focused else 0 for i in range(len(needs))]
    given = [min(need, LEAST) for need in needs]
    left = available - sum(given)
    grow = min(left, max(0, min(needs[focused], available // 2) - given[focused]))
    given[focused] += grow
    left -= grow
    while left > 0 and (hungry := [i for i, need in enumerate(needs) if given[i] < need]):
        for i in hungry[:left]:
            given[i] += 1
        left -= len(hungry[:left])
    given[focused] += max(0, left)
    return given


def bar(share: float, cells: int) -> str:
    """A share (0-1) as a bar; something is never drawn as nothing."""
    full = round(share * cells)
    full = max(full, 1 if share > 0 else 0)
    full = min(full, cells - 1 if share < 1 else cells)
    return "█" * full + "·" * (cells - full)
