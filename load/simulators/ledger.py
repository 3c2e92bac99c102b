"""Every request the simulated providers have seen: the evidence of a trial."""

import json
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from load.simulators.rows import ENDED, MODEL, OUTSIDER, PROVIDER, WALL, Kept, document, kept
from load.simulators.rows import Row as Row
from load.simulators.tallies import Tally, binned, summed

CAPACITY = 1_000_000
FLUSH_ROWS = 500
"""Rows that wait for the file at most."""
Outsiders = Literal["without", "with", "only"]
"""Whether sums count what outsiders have spent."""


class Ledger:
    """Keeps the last million rows, counts all of them, appends them to a file if there is one.

    The file gets whole lines in batches: `flush` must be called now and then.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._rows: deque[Kept] = deque(maxlen=CAPACITY)
        self._tallies: dict[str, dict[str, Tally]] = {}
        self._totals: dict[str, Tally] = {}
        self._outsiders: dict[str, dict[str, Tally]] = {}
        self._seq = 0
        self._file: IO[str] | None = path.open("a", encoding="utf-8") if path else None
        self._unwritten: list[Kept] = []
        self._encode = json.JSONEncoder(check_circular=False).encode

    def add(self, row: Row) -> None:
        """Append a request that has ended."""
        self._seq += 1
        row.seq = self._seq
        one = kept(row)
        self._rows.append(one)
        if row.outsider:
            _tally(self._outsiders.setdefault(row.provider, {}), row.model).add(row)
        else:
            _tally(self._totals, row.provider).add(row)
            models = self._tallies.get(row.provider)
            if models is None:
                models = self._tallies[row.provider] = {}
            _tally(models, row.model).add(row)
        if self._file:
            self._unwritten.append(one)
            if len(self._unwritten) >= FLUSH_ROWS:
                self.flush()

    def flush(self) -> None:
        """Write what waits to the file."""
        if self._file and self._unwritten:
            encode = self._encode
            self._file.write("".join([encode(document(one)) + "\n" for one in self._unwritten]))
            self._file.flush()
            self._unwritten.clear()

    def rows(self, provider: str | None = None, since: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Rows with a `seq` above `since`, oldest first."""
        gone = self._seq - len(self._rows)
        rows = (one for one in islice(self._rows, max(0, since - gone), None) if provider in (None, one[PROVIDER]))
        return [document(one) for one in islice(rows, limit)]

    def summary(self) -> dict[str, Any]:
        """Counts by provider and model, of all rows ever; apart from them what outsiders have spent."""
        return {
            "rows": self._seq,
            "providers": {
                name: {
                    **total.document(),
                    "models": {model: tally.document() for model, tally in self._tallies[name].items()},
                }
                for name, total in self._totals.items()
            },
            "outsiders": {
                name: {model: tally.document() for model, tally in models.items()}
                for name, models in self._outsiders.items()
            },
        }

    def window(
        self, begin: float, end: float, provider: str | None = None, model: str | None = None,
        outsiders: Outsiders = "without",
    ) -> dict[str, Any]:  # fmt: skip
        """Sums over the rows that arrived in [begin, end), in wall-clock seconds."""
        rows = self._between(begin, end, provider, model, outsiders)
        return {"from": begin, "to": end, "seconds": end - begin, **summed(rows)}

    def series(
        self, begin: float | None, end: float, step: float, provider: str | None = None, model: str | None = None,
        outsiders: Outsiders = "without",
    ) -> dict[str, Any]:  # fmt: skip
        """Sums in bins of `step` seconds, from the first request that is kept if there is no `begin`.

        Raises:
            ValueError: there would be too many bins.
        """
        if begin is None:
            begin = min((one[WALL] for one in islice(self._rows, 1000)), default=end)
        bins = binned(self._between(begin, end, provider, model, outsiders), begin, end, step)
        return {"from": begin, "to": end, "step": step, "bins": bins}

    def close(self) -> None:
        """Close the file."""
        self.flush()
        if self._file:
            self._file.close()

    def _between(
        self, begin: float, end: float, provider: str | None, model: str | None, outsiders: Outsiders
    ) -> Iterator[Kept]:
        for one in reversed(self._rows):
            # they are in the order of their ends, so all that are left ended before the window, and arrived before it
            if one[ENDED] < begin:
                return
            if (
                begin <= one[WALL] < end
                and provider in (None, one[PROVIDER])
                and model in (None, one[MODEL])
                and (outsiders == "with" or one[OUTSIDER] == (outsiders == "only"))
            ):
                yield one


def _tally(tallies: dict[str, Tally], name: str) -> Tally:
    found = tallies.get(name)
    if found is None:
        found = tallies[name] = Tally()
    return found


def digest(body: bytes) -> str:
    """A short fingerprint of a request's body."""
    return blake2b(body, digest_size=8).hexdigest()


def masked(key: str) -> str:
    """The last four characters of a key."""
    return f"…{key[-4:]}" if key else ""
