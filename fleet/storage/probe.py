"""Whether what is set for payloads works here: a payload goes the whole way and comes back."""

import os

from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter

from fleet.errors import PayloadLost
from fleet.storage import files
from fleet.storage.objects import Bucket
from fleet.storage.places import Places, claimed
from fleet.storage.shelf import Shelf


async def probe(converter: DataConverter, found: Places, namespace: str) -> str:
    """Encode, store, fetch, decode and delete a payload. Answers what became of it.

    Raises:
        PayloadLost: it does not come back.
    """
    shelf = Shelf(converter, found)
    storage = converter.external_storage
    large = storage.payload_size_threshold if storage and found.written != "none" else 0
    # noise: it is as large compressed
    sent = Payload(metadata={"encoding": b"binary/plain"}, data=os.urandom(large + 64))
    encoded = await shelf.encoded(sent, namespace)
    if await shelf.fetched(encoded, namespace=namespace, most=2**30) != sent:
        raise PayloadLost("a payload came back as another one than was sent")
    reference = claimed(encoded)
    if reference is None:
        return "nothing is stored outside of histories"
    assert storage is not None  # it has stored it
    claim = reference.claim_data
    if reference.driver_name == files.DRIVER:
        files.path(found.folders[0], claim["namespace"], claim["digest"]).unlink()
        return f"stored in {found}: written, read back, deleted"
    driver = next(one for one in storage.drivers if isinstance(one, Bucket))
    if await driver.deleted(claim["key"]):
        return f"stored in {found}: written, read back, deleted"
    return f"stored in {found}: written and read back; deleting is not allowed, the probe stays"
