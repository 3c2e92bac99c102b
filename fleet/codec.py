"""What a payload becomes on its way to Temporal: compressed, then encrypted, then stored elsewhere if still large.

A payload is wrapped whole, its metadata included, as the samples of Temporal's SDKs do; so whatever encoding it has
comes back. What is not wrapped is read as it is: histories of before compression or encryption stay readable.
"""

import asyncio
import os
import sys
import zlib
from collections.abc import Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)

from fleet.errors import PayloadLost
from fleet.keyring import Keyring
from fleet.settings import Compression, Settings
from fleet.storage.places import external

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS_FROM: Final = 2048
"""Bytes. Of smaller payloads compression saves less than Temporal's own event around them takes."""
OFF_LOOP_FROM: Final = 256 * 1024
"""Bytes at once that are worth a thread: less takes under a millisecond."""
MOST_BYTES: Final = 128 * 1024 * 1024
"""Of a payload once decompressed. More comes of no payload of ours."""

CIPHER: Final = b"AES-256-GCM"
ENCRYPTED: Final = b"binary/encrypted"
_ENCODING: Final = "encoding"
_CIPHER: Final = "encryption-cipher"
_KEY_ID: Final = "encryption-key-id"
_ZLIB: Final = b"binary/zlib"
_ZSTD: Final = b"binary/zstd"
_OURS: Final = frozenset({ENCRYPTED, _ZLIB, _ZSTD})
_NONCE_BYTES: Final = 12
"""96 bits, which NIST SP 800-38D (8.2) recommends; by its 8.3 a key serves 2^32 random ones."""


class TooLarge(PayloadLost):
    """A payload has more bytes than there is room for."""

    def __init__(self, why: str, spent: int) -> None:
        """Args:
        why: for people.
        spent: bytes that were read or decompressed in vain.
        """
        super().__init__(why)
        self.spent = spent


class Codec(PayloadCodec):
    """Compresses and encrypts; undoes both whatever its own setting is.

    The id of the key and the names of cipher and encoding are authenticated together with the content. Metadata
    that somebody adds to an encrypted payload is dropped. Not authenticated is where a payload belongs: who can write
    to Temporal's database can put one encrypted payload in another's place, or an unencrypted one.
    """

    def __init__(self, compression: Compression = "zstd", keyring: Keyring | None = None) -> None:
        """Args:
        compression: of what is written.
        keyring: encrypts what is written. None: nothing is encrypted.
        """
        self._compression = compression
        self._keyring = keyring

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Wrap those that are large enough to compress, or all if there are keys."""
        if sum(len(payload.data) for payload in payloads) >= OFF_LOOP_FROM:
            return await asyncio.to_thread(lambda: [self._encoded(payload) for payload in payloads])
        return [self._encoded(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Unwrap what is wrapped.

        Raises:
            PayloadLost: its key is not there, it was changed, or it is not whole.
        """
        if sum(len(payload.data) for payload in payloads) >= OFF_LOOP_FROM:
            return await asyncio.to_thread(lambda: [self._decoded(payload) for payload in payloads])
        return [self._decoded(payload) for payload in payloads]

    async def decoded_within(self, payload: Payload, most: int) -> Payload:
        """Unwrap one that a stranger may have made: decompression ends at `most` bytes.

        Raises:
            PayloadLost: as `decode`; `TooLarge` where it has more.
        """
        # a kilobyte may become all of the room
        return await asyncio.to_thread(self._decoded, payload, max(0, min(most, MOST_BYTES)))

    def _encoded(self, payload: Payload) -> Payload:
        # what only looks like ours is wrapped in any case, or decoding would unwrap it
        alike = payload.metadata.get(_ENCODING) in _OURS
        if alike or (len(payload.data) >= COMPRESS_FROM and self._compression != "none"):
            payload = _compressed(payload, self._compression, always=alike)
        return payload if self._keyring is None else _encrypted(payload, self._keyring)

    def _decoded(self, payload: Payload, most: int | None = None) -> Payload:
        encoding = payload.metadata.get(_ENCODING)
        if encoding not in _OURS:
            return payload
        if encoding == ENCRYPTED:
            payload = _decrypted(payload, self._keyring)
            encoding = payload.metadata.get(_ENCODING)
        if encoding not in (_ZLIB, _ZSTD):
            return payload
        return _decompressed(payload, encoding, MOST_BYTES if most is None else most)


def data_converter(settings: Settings, *, embedded: bool = False) -> DataConverter:
    """The one converter of this fleet's clients and workers.

    With keys the texts and stack traces of failures are encrypted too.

    Args:
        settings: compression, keys, store and threshold.
        embedded: Temporal is the embedded one of the settings' state folder: large payloads lie there by default.

    Raises:
        BadInput: keys or store are set to what they cannot be.
    """
    keyring = Keyring.of(settings)
    return DataConverter(
        payload_codec=Codec(settings.payload_compression, keyring),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes if keyring else DefaultFailureConverter,
        external_storage=external(settings, embedded=embedded),
    )


async def readable(failure: Failure, converter: DataConverter) -> Failure:
    """A failure of a history, with the texts that were encrypted, down to its last cause.

    Raises:
        PayloadLost: they cannot be decrypted here.
    """
    plain = Failure()
    plain.CopyFrom(failure)
    link = plain
    while True:
        if link.HasField("encoded_attributes"):
            (told,) = await converter.decode([link.encoded_attributes])
            link.message, link.stack_trace = str(told.get("message", "")), str(told.get("stack_trace", ""))
            link.ClearField("encoded_attributes")
        if not link.HasField("cause"):
            return plain
        link = link.cause


def _compressed(payload: Payload, compression: Compression, *, always: bool) -> Payload:
    plain = payload.SerializeToString()
    if len(plain) > MOST_BYTES:
        return payload
    if compression == "zstd":
        wrapped = Payload(metadata={_ENCODING: _ZSTD}, data=zstd.compress(plain))
    else:
        wrapped = Payload(metadata={_ENCODING: _ZLIB}, data=zlib.compress(plain))
    return wrapped if always or wrapped.ByteSize() < len(plain) else payload


def _decompressed(payload: Payload, encoding: bytes | None, most: int) -> Payload:
    inflater: Any = zstd.ZstdDecompressor() if encoding == _ZSTD else zlib.decompressobj()
    try:
        # zstd's frames tell their size, as a rule
        told = zstd.get_frame_info(payload.data).decompressed_size if encoding == _ZSTD else None
        if told is not None and told > most:
            raise TooLarge(f"a compressed payload has more than {most} bytes", spent=0)
        # one byte more: zlib has not looked at its checksum when all bytes are out
        plain = inflater.decompress(payload.data, most + 1)
    except (zstd.ZstdError, zlib.error):
        raise PayloadLost("a compressed payload is not whole: it was changed or cut off") from None
    if len(plain) > most:
        raise TooLarge(f"a compressed payload has more than {most} bytes", spent=len(plain))
    if not inflater.eof:
        raise PayloadLost("a compressed payload is cut off")
    return _parsed(plain)


def _associated(key_id: str) -> bytes:
    """What is authenticated beside the content. Ids have no line ends."""
    return b"\n".join((ENCRYPTED, CIPHER, key_id.encode()))


def _encrypted(payload: Payload, keyring: Keyring) -> Payload:
    name, nonce = keyring.newest, os.urandom(_NONCE_BYTES)
    sealed = keyring.ciphers[name].encrypt(nonce, payload.SerializeToString(), _associated(name))
    return Payload(metadata={_ENCODING: ENCRYPTED, _CIPHER: CIPHER, _KEY_ID: name.encode()}, data=nonce + sealed)


def _decrypted(payload: Payload, keyring: Keyring | None) -> Payload:
    name = payload.metadata.get(_KEY_ID, b"").decode(errors="replace")
    shown = repr(name[:64])
    if keyring is None:
        raise PayloadLost(f"a payload is encrypted with the key {shown}, and FLEET_PAYLOAD_KEYS is not set: set it")
    if (cipher := payload.metadata.get(_CIPHER)) != CIPHER:
        raise PayloadLost(f"a payload's cipher {(cipher or b'')[:64]!r} is not {CIPHER.decode()}: others wrote it")
    if name not in keyring.ciphers:
        raise PayloadLost(
            f"a payload is encrypted with the key {shown}, which FLEET_PAYLOAD_KEYS does not have (it has"
            f" {', '.join(keyring.ciphers)}): add it below the others"
        )
    nonce, sealed = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
    try:
        plain = keyring.ciphers[name].decrypt(nonce, sealed, _associated(name))
    except (InvalidTag, ValueError):
        raise PayloadLost(
            f"a payload encrypted with the key {shown} is not what was written: it was changed, or another key has"
            " that id here"
        ) from None
    return _parsed(plain)


def _parsed(plain: bytes) -> Payload:
    try:
        return Payload.FromString(plain)
    except DecodeError:
        raise PayloadLost("a payload cannot be read: it was changed, or others wrote it") from None
