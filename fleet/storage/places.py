"""Where payloads lie that are too large for a history: a folder, or S3 through the SDK's own driver.

The history keeps a claim. What is stored is what would have gone into the history: compressed and encrypted by
`fleet.codec`, if that is on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from temporalio.api.common.v1 import Payload
from temporalio.api.sdk.v1.external_storage_pb2 import ExternalStorageReference
from temporalio.converter import (
    ExternalStorage,
    JSONProtoPayloadConverter,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverSelectContext,
    StorageDriverStoreContext,
)

from fleet.errors import BadInput, PayloadLost
from fleet.settings import Settings
from fleet.storage import files
from fleet.storage.objects import Bucket

FOLDER: Final = "payloads"
"""In the state folder: the store of the embedded stack."""
S3_DRIVER: Final = "aws.s3driver"
"""The SDK's default name of its driver, which claims name."""
MARKER: Final = "__temporal_external_storage_reference"
"""Metadata that the SDK puts on a claim which has been through the codec, as later versions will do."""
_REFERENCE_TYPE: Final = ExternalStorageReference.DESCRIPTOR.full_name.encode()
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_S3_SAFE: Final = "!-_.*'()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where payloads are written, and where else they are looked for."""

    written: str
    """`file`, `s3` or `none`."""
    folders: tuple[Path, ...] = ()
    buckets: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = {"file": lambda: str(self.folders[0]), "s3": lambda: f"s3://{self.buckets[0]}"}
        return kinds[self.written]() if self.written in kinds else "none"


def places(settings: Settings, *, embedded: bool) -> Places:
    """What `FLEET_PAYLOAD_STORE` says; by default a folder of the embedded stack, or nothing.

    Raises:
        BadInput: it names something else than folders and buckets.
    """
    text = settings.payload_store
    if text is None:
        default = (settings.state_dir / FOLDER).absolute()
        return Places(written="file", folders=(default,)) if embedded else Places(written="none")
    folders: list[Path] = []
    buckets: list[str] = []
    kinds: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if part.startswith("file:") and Path(part.removeprefix("file:")).is_absolute():
            folders.append(Path(part.removeprefix("file:")))
            kinds.append("file")
        elif part.startswith("s3://") and _BUCKET.fullmatch(part.removeprefix("s3://")):
            buckets.append(part.removeprefix("s3://"))
            kinds.append("s3")
        elif part == "none":
            kinds.append("none")
        else:
            raise BadInput(
                f"FLEET_PAYLOAD_STORE: {part!r} must be file:/absolute/folder, s3://bucket or none; of several,"
                " with commas, the first is written to and all are read"
            )
    return Places(written=kinds[0], folders=tuple(folders), buckets=tuple(buckets))


def external(settings: Settings, *, embedded: bool) -> ExternalStorage:
    """The SDK's external storage by the settings. Where nothing is stored, claims of others are still explained.

    Raises:
        BadInput: the store is set to what it cannot be, or its libraries are not installed.
    """
    found = places(settings, embedded=embedded)
    drivers: dict[str, StorageDriver] = {
        "file": files.FileStore(found.folders) if found.folders else Absent(files.DRIVER, "file:/folder"),
        "s3": Bucket(found.buckets[0]) if found.buckets else Absent(S3_DRIVER, "s3://bucket"),
    }
    written = drivers.get(found.written)

    def chosen(context: StorageDriverSelectContext, payload: Payload) -> StorageDriver | None:
        del context, payload
        return written

    return ExternalStorage(
        drivers=list(drivers.values()), driver_selector=chosen, payload_size_threshold=settings.payload_threshold
    )


class Absent(StorageDriver):
    """Stands for a store that is not set here: says so when a payload of it is met."""

    def __init__(self, name: str, form: str) -> None:
        """Args:
        name: of the driver that wrote.
        form: how `FLEET_PAYLOAD_STORE` names such a store.
        """
        self._name = name
        self._form = form

    def name(self) -> str:
        """As the driver that it stands for."""
        return self._name

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Nothing is ever written to it.

        Raises:
            PayloadLost: always.
        """
        del context, payloads
        raise self._lost("")

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """Raises:
        PayloadLost: always: says which setting is missing.
        """
        del context
        where = next((claim.claim_data["bucket"] for claim in claims if "bucket" in claim.claim_data), "")
        raise self._lost(where)

    def _lost(self, bucket: str) -> PayloadLost:
        form = f"s3://{bucket}" if bucket else self._form
        return PayloadLost(
            f"a payload of this run lies in external storage ({self._name}), which is not set here: set"
            f" FLEET_PAYLOAD_STORE={form} as where it was written"
        )


def claimed(payload: Payload) -> ExternalStorageReference | None:
    """What a payload claims from external storage; None if it is no claim."""
    if payload.metadata.get("encoding") != b"json/protobuf" or payload.metadata.get("messageType") != _REFERENCE_TYPE:
        return None
    found = JSONProtoPayloadConverter().from_payload(payload, ExternalStorageReference)
    return found if isinstance(found, ExternalStorageReference) else None


def belongs(reference: ExternalStorageReference, namespace: str | None, found: Places) -> bool:
    """Whether a claim is of this namespace, None for any, and of a store that is set here.

    Claims may come from strangers (the codec server's callers): by them nobody reads another namespace, nor another
    bucket.
    """
    claim = reference.claim_data
    if reference.driver_name == files.DRIVER:
        return bool(found.folders) and namespace in (None, claim.get("namespace"))
    if reference.driver_name != S3_DRIVER or claim.get("bucket") not in found.buckets:
        return False
    key = claim.get("key", "")
    prefix = "v0/" if namespace is None else f"v0/ns/{quote(namespace, safe=_S3_SAFE)}/"
    return key.startswith(prefix) and not {".", ".."} & set(key.split("/"))
