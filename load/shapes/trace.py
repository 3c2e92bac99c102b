"""Arrivals as a file has recorded them."""

import csv
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet.errors import BadInput
from load.shapes.patterns import above_zero, jittered, not_below_zero, refuse_too_many

_EPOCH_S = 1e9
"""Seconds above that are instants since 1970, not offsets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a file has recorded."""

    path: Path
    """CSV, or JSON lines if it ends with `.jsonl`. The column or key `at`, or else the first column, has seconds or an
    ISO 8601 instant. Instants, and seconds since 1970, count from the earliest."""
    speed: float = 1.0
    """So many times faster."""
    for_s: float = math.inf
    """Later arrivals are left out."""
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        above_zero(speed=self.speed)
        not_below_zero(jitter_s=self.jitter_s)
        if math.isnan(self.for_s) or self.for_s <= 0:
            raise BadInput(f"for_s {self.for_s:g}: must be above 0")

    @property
    def ends_s(self) -> float:
        """The last recorded arrival and its jitter. Reads the file."""
        return max(self._recorded(), default=0.0) + self.jitter_s

    def times(self, dice: random.Random) -> list[float]:
        """Read the file.

        Raises:
            BadInput: it cannot be read, or a line of it has no time.
        """
        return jittered(self._recorded(), self.jitter_s, dice)

    def _recorded(self) -> list[float]:
        return [at / self.speed for at in _recorded(self.path) if at / self.speed <= self.for_s]


def _recorded(path: Path) -> list[float]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); a CSV file has the seconds in its first column") from None
    if path.suffix in (".jsonl", ".ndjson"):
        cells = [(number, _of_json(line)) for number, line in enumerate(lines, 1) if line.strip()]
    else:
        cells = _of_csv(lines)
    found, instants = [], False
    for number, cell in cells:
        try:
            at = float(cell)
        except (TypeError, ValueError):
            at, instants = _instant(path, number, cell), True
        if not math.isfinite(at) or at < 0:
            raise BadInput(f"{path}, line {number}: {cell!r} is not a time of 0 s or later")
        found.append(at)
    refuse_too_many(len(found))
    begin = min(found, default=0.0)
    return sorted(at - begin if instants or begin >= _EPOCH_S else at for at in found)


def _of_csv(lines: Sequence[str]) -> list[tuple[int, Any]]:
    rows = [(number, row) for number, row in enumerate(csv.reader(lines), 1) if any(cell.strip() for cell in row)]
    column = 0
    if rows and not rows[0][1][0][:1].isdigit():
        heads = [cell.strip() for cell in rows[0][1]]
        column = heads.index("at") if "at" in heads else 0
        rows = rows[1:]
    return [(number, row[column] if column < len(row) else "") for number, row in rows]


def _of_json(line: str) -> Any:
    try:
        said = json.loads(line)
    except ValueError:
        return line
    return said.get("at") if isinstance(said, dict) else said


def _instant(path: Path, number: int, cell: Any) -> float:
    try:
        at = datetime.fromisoformat(str(cell).strip())
    except ValueError:
        raise BadInput(f"{path}, line {number}: {cell!r} is not a time: seconds such as 12.5, or ISO 8601") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
