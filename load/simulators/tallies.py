"""Sums over the ledger's rows: of all time, of a window, and in bins for charts."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from load.simulators.rows import CHARGED, OUTCOME, WALL, Kept, Row

MOST_BINS = 10_000


@dataclass(slots=True)
class Tally:
    """Rows of all time."""

    outcomes: dict[str, int] = field(default_factory=dict)
    charged: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    output_tokens: int = 0
    first: float = 0.0
    last: float = 0.0
    request_ids: Counter[str] = field(default_factory=Counter)
    digests: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.first = min(self.first, row.wall) if self.outcomes else row.wall
        self.last = max(self.last, row.wall)
        self.outcomes[row.outcome] = self.outcomes.get(row.outcome, 0) + 1
        for name, units in row.charged.items():
            self.charged[name] = self.charged.get(name, 0.0) + units
        self.prompt_tokens += row.prompt_tokens
        self.output_tokens += row.output_tokens
        if row.client_request_id:
            self.request_ids[row.client_request_id] += 1
        if row.outcome == "ok" and row.digest:
            self.digests[row.digest] += 1

    def document(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {
            "requests": sum(self.outcomes.values()),
            "outcomes": dict(self.outcomes),
            "charged": dict(self.charged),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "first": self.first,
            "last": self.last,
            "duplicate_request_ids": self.request_ids.total() - len(self.request_ids),
            "duplicate_bodies": self.digests.total() - len(self.digests),
        }


class _Sums:
    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.charged: dict[str, float] = {}

    def add(self, one: Kept) -> None:
        outcome = one[OUTCOME]
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        for name, units in one[CHARGED]:
            self.charged[name] = self.charged.get(name, 0.0) + units

    def document(self) -> dict[str, Any]:
        return {"requests": sum(self.outcomes.values()), "outcomes": self.outcomes, "charged": self.charged}


def summed(rows: Iterable[Kept]) -> dict[str, Any]:
    """Requests, outcomes, and units charged."""
    sums = _Sums()
    for row in rows:
        sums.add(row)
    return sums.document()


def binned(rows: Iterable[Kept], begin: float, end: float, step: float) -> list[dict[str, Any]]:
    """The same for every `step` seconds from `begin` on, empty bins too, by when a row's request arrived.

    Raises:
        ValueError: there would be too many bins.
    """
    if not step > 0:
        raise ValueError(f"step is {step:g}: seconds, above 0")
    count = max(0, math.ceil((end - begin) / step - 1e-9))
    if count > MOST_BINS:
        raise ValueError(f"{count} bins of {step:g} s: at most {MOST_BINS}, so give a longer step or a shorter time")
    bins = [_Sums() for _ in range(count)]
    for row in rows:
        place = int((row[WALL] - begin) / step)
        if 0 <= place < count:
            bins[place].add(row)
    return [{"at": begin + number * step, **one.document()} for number, one in enumerate(bins)]
