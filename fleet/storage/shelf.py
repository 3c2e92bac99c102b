"""Single payloads as the codec server sees them: encoded and stored, or fetched and decoded."""

from temporalio.api.common.v1 import Payload
from temporalio.api.sdk.v1.external_storage_pb2 import ExternalStorageReference
from temporalio.converter import (
    DataConverter,
    JSONProtoPayloadConverter,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverSelectContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)

from fleet.codec import Codec, TooLarge
from fleet.errors import PayloadLost
from fleet.storage.places import MARKER, Places, belongs, claimed


class Shelf:
    """What a converter does with values, done with payloads."""

    def __init__(self, converter: DataConverter, found: Places) -> None:
        """Args:
        converter: of `fleet.codec.data_converter`.
        found: the stores that claims may name.
        """
        codec = converter.payload_codec
        self._codec = codec if isinstance(codec, Codec) else Codec("none")
        self._storage = converter.external_storage
        self._found = found

    async def encoded(self, payload: Payload, namespace: str) -> Payload:
        """As it would go into a history: a claim if it is large.

        Raises:
            PayloadLost: it cannot be stored.
        """
        (done,) = await self._codec.encode([payload])
        driver = self._driver(done, namespace)
        if driver is None:
            return done
        target = StorageDriverWorkflowInfo(namespace=namespace)
        (claim,) = await driver.store(StorageDriverStoreContext(target=target), [done])
        reference = ExternalStorageReference(driver_name=driver.name(), claim_data=claim.claim_data)
        stored = JSONProtoPayloadConverter().to_payload(reference)
        assert stored is not None  # it is a message of protobuf
        stored.external_payloads.add().size_bytes = done.ByteSize()
        return stored

    async def decoded(self, payload: Payload, *, most: int) -> Payload:
        """Decoded; a claim stays a claim.

        Args:
            payload: as it is in a history.
            most: bytes that it may have then.

        Raises:
            PayloadLost: its key is missing, or it was changed; `TooLarge` where it has more.
        """
        if MARKER in payload.metadata:
            plain = Payload()
            plain.CopyFrom(payload)
            del plain.metadata[MARKER]
            payload = plain
        decoded = await self._codec.decoded_within(payload, most)
        if payload.external_payloads and not decoded.external_payloads:
            # the Web UI reads the size of what a claim stands for there
            decoded.external_payloads.extend(payload.external_payloads)
        return decoded

    async def fetched(self, payload: Payload, *, namespace: str | None, most: int) -> Payload:
        """Decoded; a claim is fetched.

        Args:
            payload: as it is in a history.
            namespace: whose claims may be fetched. None: all.
            most: bytes that it may have then.

        Raises:
            PayloadLost: its key is missing, it was changed, or of another namespace or store; `TooLarge` where it has
                more.
        """
        payload = await self.decoded(payload, most=most)
        reference = claimed(payload)
        if reference is None:
            return payload
        if not belongs(reference, namespace, self._found):
            raise PayloadLost(
                f"a claim of {reference.driver_name[:64]!r} is not of namespace {namespace!r}, or not of a store here"
            )
        told = sum(external.size_bytes for external in payload.external_payloads)
        if told > most:
            raise TooLarge(f"a stored payload has {told} bytes", spent=0)
        assert self._storage is not None  # it has the store that the claim belongs to
        driver = next(one for one in self._storage.drivers if one.name() == reference.driver_name)
        claim = StorageDriverClaim(claim_data=dict(reference.claim_data))
        (stored,) = await driver.retrieve(StorageDriverRetrieveContext(), [claim])
        # what a claim tells of its size is anybody's word
        if (size := stored.ByteSize()) > most:
            raise TooLarge(f"a stored payload has {size} bytes", spent=size)
        try:
            return await self._codec.decoded_within(stored, most)
        except TooLarge as error:
            raise TooLarge(str(error), spent=error.spent + size) from None

    def _driver(self, payload: Payload, namespace: str) -> StorageDriver | None:
        if self._storage is None or payload.ByteSize() < self._storage.payload_size_threshold:
            return None
        select = self._storage.driver_selector
        context = StorageDriverSelectContext(target=StorageDriverWorkflowInfo(namespace=namespace))
        return select(context, payload) if select else self._storage.drivers[0]
