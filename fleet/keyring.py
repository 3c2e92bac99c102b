"""The keys that payloads are encrypted with: the first one encrypts, all of them decrypt."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleet.errors import BadInput
from fleet.settings import Settings

KEY_BYTES: Final = 32
"""Of AES-256."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REFERENCE: Final = re.compile(r"(env|file):\S+")
_MAKE: Final = "make one with `openssl rand -base64 32`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Keys by id. Neither its text nor its errors show one."""

    newest: str
    """Id of the key that encrypts."""
    ciphers: Mapping[str, AESGCM] = field(repr=False)
    """All that decrypt, the newest first."""

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The keys that `FLEET_PAYLOAD_KEYS` names; None if it is not set.

        Raises:
            BadInput: it names nothing that can be read, or a line is no key. What it holds is never shown.
        """
        reference = settings.payload_keys
        if reference is None:
            return None
        if not _REFERENCE.fullmatch(reference):
            raise BadInput("FLEET_PAYLOAD_KEYS: must say where the keys are, env:NAME or file:/path, not what they are")
        text = settings.secret(reference)
        if text is None:
            # going on without would write what is to be secret for all to read
            raise BadInput(f"FLEET_PAYLOAD_KEYS: {reference} holds no key: add a line id:base64, and {_MAKE}")
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Keys as lines `id:base64`, the newest first; empty lines and those with `#` say nothing.

        Raises:
            BadInput: a line is no key, an id comes twice, or there is no key.
        """
        ciphers: dict[str, AESGCM] = {}
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            name, colon, encoded = (part.strip() for part in stripped.partition(":"))
            if not colon or not _ID.fullmatch(name):
                raise BadInput(f"FLEET_PAYLOAD_KEYS: line {number} is not id:base64 (id: letters, digits, _ . -)")
            if name in ciphers:
                raise BadInput(
                    f"FLEET_PAYLOAD_KEYS: line {number}: a key {name!r} is there already: give it another id"
                )
            ciphers[name] = AESGCM(_key(number, name, encoded))
        if not ciphers:
            raise BadInput(f"FLEET_PAYLOAD_KEYS: there is no key: add a line id:base64, and {_MAKE}")
        return cls(newest=next(iter(ciphers)), ciphers=ciphers)


def _key(number: int, name: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(f"FLEET_PAYLOAD_KEYS: line {number}: the key {name!r} is not base64: {_MAKE}") from None
    if len(key) != KEY_BYTES:
        raise BadInput(
            f"FLEET_PAYLOAD_KEYS: line {number}: the key {name!r} has {len(key)} bytes; it must have {KEY_BYTES}:"
            f" {_MAKE}"
        )
    return key
