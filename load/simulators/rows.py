"""One request as the ledger keeps it."""

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any


@dataclass(slots=True, kw_only=True)
class Row:
    """One request. Its dicts are replaced, never changed: rows may share them."""

    provider: str
    path: str
    mono: float
    """Monotonic seconds at arrival."""
    wall: float
    """Wall-clock seconds at arrival: when the call was charged."""
    ended: float = 0.0
    """Wall-clock seconds at its end."""
    seq: int = 0
    """Order in which requests ended."""
    key: str = ""
    """The last four characters."""
    model: str = ""
    asked: dict[str, float] = field(default_factory=dict)
    """Units by limit that were asked for on arrival, granted or not."""
    charged: dict[str, float] = field(default_factory=dict)
    """Units by limit, as counted against the quota; `money` against the spend cap."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, read from the provider's cache."""
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
    outsider: bool = False
    """Not a request at all: somebody else has spent from the same quota."""
    message_id: str | None = None
    sender: str | None = None
    recipients: list[str] | None = None


Kept = tuple[Any, ...]
"""A row's values in the order of its fields, dicts as pairs. The garbage collector forgets tuples of plain values: a
million rows as objects would make it pause for most of a second."""

_NAMES = tuple(one.name for one in fields(Row))
PROVIDER, MODEL, OUTCOME, OUTSIDER, WALL, ENDED, ASKED, CHARGED, RECIPIENTS = map(
    _NAMES.index, ("provider", "model", "outcome", "outsider", "wall", "ended", "asked", "charged", "recipients")
)
"""Places in a kept row."""
_values = attrgetter(*_NAMES)


def kept(row: Row) -> Kept:
    """A row as it is kept once its request has ended."""
    values = list(_values(row))
    charged = values[CHARGED] = tuple(row.charged.items())
    values[ASKED] = charged if row.asked is row.charged else tuple(row.asked.items())
    if row.recipients is not None:
        values[RECIPIENTS] = tuple(row.recipients)
    return tuple(values)


def document(one: Kept) -> dict[str, Any]:
    """A kept row as JSON tells it."""
    found = dict(zip(_NAMES, one, strict=True))
    found["asked"], found["charged"] = dict(one[ASKED]), dict(one[CHARGED])
    return found
