"""What a benchmark has found, and whether it is enough."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure and what it must be."""

    name: str
    value: float
    target: str
    ok: bool


@dataclass(slots=True)
class Report:
    """Everything that was measured."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def row(self, trial: str, limiter: str, **figures: float) -> None:
        """Note what was measured of one contender."""
        rounded = {name: round(value, 4) if value < 10 else round(value, 1) for name, value in figures.items()}
        self.rows.append({"trial": trial, "limiter": limiter, **rounded})

    def check(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        """Note a figure and whether it is within its bound."""
        ok = (least is None or value >= least) and (most is None or value <= most)
        target = f">= {least:g}" if least is not None else f"<= {most:g}"
        self.checks.append(Check(name=name, value=round(value, 4), target=target, ok=ok))

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, heads and lines of a table for each trial."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(row["trial"], []).append(row)
        tables = []
        for trial, rows in found.items():
            heads = list(dict.fromkeys(key for row in rows for key in row if key != "trial"))
            lines = [[_cell(row.get(head, "")) for head in heads] for row in rows]
            tables.append((trial, [head.upper() for head in heads], lines))
        return tables


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def jain(shares: list[float]) -> float:
    """Jain's fairness index: 1 if all are equal, 1/n if one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0
