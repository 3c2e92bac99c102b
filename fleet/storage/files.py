"""Payloads as files of one folder, by namespace and SHA-256: `ns-default/ab/abcdef…`."""

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from fleet.errors import BadInput, PayloadLost

DRIVER: Final = "fleet.file"
"""Name of the driver, which claims name."""
MOST_BYTES: Final = 50 * 1024 * 1024
"""Of one payload, as the SDK's S3 driver has it."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LOCK: Final = "lock"


class FileStore(StorageDriver):
    """Keeps payloads in a folder that all processes of a fleet on one machine, or over one network mount, share.

    A file is written beside its place, synced and renamed, so that what is there is whole; it is read with its digest
    checked. The same bytes are one file: storing them again makes it young again. Only its user may read it.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Args:
        folders: the first is written to and made when needed; all are read.
        """
        self._folders = tuple(folders)

    def name(self) -> str:
        """`fleet.file`."""
        return DRIVER

    def type(self) -> str:
        """`fleet.file`."""
        return DRIVER

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Write payloads; a claim names namespace and digest.

        Raises:
            PayloadLost: the folder cannot be written, or one is too large.
        """
        namespace = context.target.namespace if context.target else ""
        return await asyncio.to_thread(lambda: [self._store(namespace, payload) for payload in payloads])

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """Read payloads back.

        Raises:
            PayloadLost: one is not there, or is not what was written.
        """
        del context
        return await asyncio.to_thread(lambda: [self._retrieve(claim) for claim in claims])

    def _store(self, namespace: str, payload: Payload) -> StorageDriverClaim:
        content = payload.SerializeToString(deterministic=True)
        if len(content) > MOST_BYTES:
            raise PayloadLost(f"a payload has {len(content)} bytes; {MOST_BYTES} are the most that is stored")
        digest = hashlib.sha256(content).hexdigest()
        try:
            self._write(path(self._folders[0], namespace, digest), content)
        except OSError as error:
            raise PayloadLost(
                f"{self._folders[0]} cannot be written ({error.strerror}): see FLEET_PAYLOAD_STORE"
            ) from None
        return StorageDriverClaim(claim_data={"namespace": namespace, "algorithm": "sha256", "digest": digest})

    def _write(self, target: Path, content: bytes) -> None:
        root = self._folders[0]
        with suppress(FileNotFoundError), locked(root, fcntl.LOCK_SH):
            if target.stat().st_size == len(content):
                os.utime(target)
                return
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (target.parent.parent, target.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync(target.parent)

    def _retrieve(self, claim: StorageDriverClaim) -> Payload:
        digest, namespace = claim.claim_data.get("digest", ""), claim.claim_data.get("namespace", "")
        if not _DIGEST.fullmatch(digest):
            raise PayloadLost("a claim of external storage names no SHA-256: it was changed, or others wrote it")
        for folder in self._folders:
            file = path(folder, namespace, digest)
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise PayloadLost(f"{file} cannot be read ({error.strerror}): who runs this must own it") from None
            if hashlib.sha256(content).hexdigest() != digest:
                raise PayloadLost(f"{file} is not what was written: bring it back from a backup")
            try:
                return Payload.FromString(content)
            except DecodeError:
                raise PayloadLost(f"{file} is no payload") from None
        raise PayloadLost(
            f"payload {digest[:12]} of namespace {namespace!r} is not in {', '.join(map(str, self._folders))}: it was"
            " written with another FLEET_PAYLOAD_STORE, or was deleted"
        )


def path(folder: Path, namespace: str, digest: str) -> Path:
    """Where a payload lies. Whatever the namespace is called, that is inside `folder`."""
    return folder / f"ns-{quote(namespace, safe='')}" / digest[:2] / digest


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the folder's lock: shared while a file is made young, exclusive while an old one is deleted.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def stored(folder: Path, namespace: str) -> Iterator[Path]:
    """All payloads of a namespace in a folder."""
    for file in (folder / f"ns-{quote(namespace, safe='')}").glob("??/*"):
        if _DIGEST.fullmatch(file.name):
            yield file


def delete(file: Path, *, folder: Path, untouched_since: float) -> int:
    """Delete a payload unless it was stored again meanwhile. Answers the bytes that are free now.

    Args:
        file: of `stored`.
        folder: its store.
        untouched_since: POSIX seconds: a file that was written after it stays.

    Raises:
        BadInput: it cannot be deleted.
    """
    try:
        with locked(folder, fcntl.LOCK_EX):
            found = file.stat()
            if found.st_mtime >= untouched_since:
                return 0
            file.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise BadInput(f"{file} cannot be deleted ({error.strerror})") from None
    return found.st_size


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
