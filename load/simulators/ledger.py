"""Every request the simulated providers have seen: the evidence of a trial."""

import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

CAPACITY = 1_000_000


@dataclass(slots=True, kw_only=True)
class Row:
    """One request."""

    provider: str
    path: str
    mono: float
    """Monotonic seconds at arrival."""
    wall: float
    """Wall-clock seconds at arrival: when the call was charged."""
    seq: int = 0
    """Order in which requests ended."""
    key: str = ""
    """The last four characters."""
    model: str = ""
    charged: dict[str, float] = field(default_factory=dict)
    """Units by limit, as counted against the quota."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    idempotency_key: str | None = None
    client_request_id: str | None = None
    outcome: str = "ok"
    """`ok`, `dropped`, or the status as text: `429`, `401`, `500`, `451`."""
    status: int = 0
    """As sent; 0 if no answer was."""
    digest: str = ""
    """Of the request's body."""
    latency_s: float = 0.0
    stream: bool = False
    message_id: str | None = None
    sender: str | None = None
    recipients: list[str] | None = None


@dataclass(slots=True)
class _Tally:
    outcomes: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    first: float = 0.0
    last: float = 0.0
    request_ids: Counter[str] = field(default_factory=Counter)
    digests: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        self.first = min(self.first, row.wall) if self.outcomes else row.wall
        self.last = max(self.last, row.wall)
        self.outcomes[row.outcome] += 1
        for name, units in row.charged.items():
            self.charged[name] += units  # type: ignore[assignment]  # units may be fractions
        self.prompt_tokens += row.prompt_tokens
        self.output_tokens += row.output_tokens
        if row.client_request_id:
            self.request_ids[row.client_request_id] += 1
        if row.outcome == "ok" and row.digest:
            self.digests[row.digest] += 1

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.outcomes.total(),
            "outcomes": dict(self.outcomes),
            "charged": dict(self.charged),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "first": self.first,
            "last": self.last,
            "duplicate_request_ids": self.request_ids.total() - len(self.request_ids),
            "duplicate_bodies": self.digests.total() - len(self.digests),
        }


class Ledger:
    """Keeps the last million rows, counts all of them, appends them to a file if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._rows: deque[Row] = deque(maxlen=CAPACITY)
        self._tallies: dict[str, dict[str, _Tally]] = {}
        self._totals: dict[str, _Tally] = {}
        self._seq = 0
        self._file: IO[str] | None = path.open("a", encoding="utf-8", buffering=1) if path else None

    def add(self, row: Row) -> None:
        """Append a request that has ended."""
        self._seq += 1
        row.seq = self._seq
        self._rows.append(row)
        self._totals.setdefault(row.provider, _Tally()).add(row)
        self._tallies.setdefault(row.provider, {}).setdefault(row.model, _Tally()).add(row)
        if self._file:
            self._file.write(json.dumps(asdict(row)) + "\n")

    def rows(self, provider: str | None = None, since: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Rows with a `seq` above `since`, oldest first."""
        found: list[dict[str, Any]] = []
        for row in self._rows:
            if limit is not None and len(found) >= limit:
                break
            if row.seq > since and provider in (None, row.provider):
                found.append(asdict(row))
        return found

    def summary(self) -> dict[str, Any]:
        """Counts by provider and model, of all rows ever."""
        return {
            "rows": self._seq,
            "providers": {
                name: {
                    **total.document(),
                    "models": {model: tally.document() for model, tally in self._tallies[name].items()},
                }
                for name, total in self._totals.items()
            },
        }

    def window(self, begin: float, end: float, provider: str | None = None, model: str | None = None) -> dict[str, Any]:
        """Sums over the rows that arrived in [begin, end), in wall-clock seconds."""
        outcomes: Counter[str] = Counter()
        charged: dict[str, float] = {}
        for row in self._between(begin, end):
            if provider not in (None, row.provider) or model not in (None, row.model):
                continue
            outcomes[row.outcome] += 1
            for name, units in row.charged.items():
                charged[name] = charged.get(name, 0.0) + units
        return {
            "from": begin,
            "to": end,
            "seconds": end - begin,
            "requests": outcomes.total(),
            "outcomes": dict(outcomes),
            "charged": charged,
        }

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _between(self, begin: float, end: float) -> Iterator[Row]:
        return (row for row in self._rows if begin <= row.wall < end)


def digest(body: bytes) -> str:
    """A short fingerprint of a request's body."""
    return blake2b(body, digest_size=8).hexdigest()


def masked(key: str) -> str:
    """The last four characters of a key."""
    return f"…{key[-4:]}" if key else ""
