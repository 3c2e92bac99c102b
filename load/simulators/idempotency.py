"""Answers kept by Idempotency-Key, as in draft-ietf-httpapi-idempotency-key-header.

What was carried out is recorded, success or not; what was refused before (429, invalid input, a fault) is not, so that
the key may be tried again.
"""

import json
import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from starlette.responses import Response

REPLAYED = "idempotent-replayed"


class Busy(Exception):
    """A request with the key is still being carried out."""


class Reused(Exception):
    """The key belongs to another payload."""


@dataclass(slots=True, kw_only=True)
class _Record:
    payload: str
    begun: float
    status: int = 0
    """0: not finished."""
    body: bytes = b""
    media_type: str | None = None


class Answers:
    """What every key was answered. `now` is wall-clock seconds."""

    def __init__(self, expires_s: float = math.inf) -> None:
        self._expires_s = expires_s
        self._records: dict[str, _Record] = {}

    def begin(self, key: str, payload: Any, now: float) -> Response | None:
        """The recorded answer; or None, for a new key: `finish` must follow.

        Raises:
            Busy: a request with the key is still being carried out.
            Reused: the key belongs to another payload.
        """
        print_ = blake2b(json.dumps(payload, sort_keys=True).encode(), digest_size=16).hexdigest()
        record = self._records.get(key)
        if record is None or now - record.begun > self._expires_s:
            self._records[key] = _Record(payload=print_, begun=now)
            return None
        if record.payload != print_:
            raise Reused(key)
        if not record.status:
            raise Busy(key)
        return Response(record.body, record.status, {REPLAYED: "true"}, media_type=record.media_type)

    def finish(self, key: str, response: Response) -> None:
        """Record what the key is answered from now on."""
        record = self._records[key]
        record.status, record.body, record.media_type = response.status_code, bytes(response.body), response.media_type


def unquoted(key: str | None) -> str:
    """The draft's header is a quoted string; most clients send it bare. Empty: there is none."""
    key = (key or "").strip()
    return key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
