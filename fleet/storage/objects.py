"""The S3 client that the SDK's storage driver uses: opened at the first payload, closed with its event loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from temporalio.api.common.v1 import Payload
from temporalio.contrib.aws.s3driver import S3StorageDriver, S3StorageDriverClient
from temporalio.converter import (
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from fleet.errors import BadInput, PayloadLost

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_open: "WeakKeyDictionary[asyncio.AbstractEventLoop, list[AsyncIterator[S3Client]]]" = WeakKeyDictionary()
"""Clients by their event loop. One whose last user has gone is not closed by the garbage collector, whose closing the
loop's own end would cancel, but by that end."""


class Bucket(S3StorageDriver):
    """The SDK's driver for one bucket, whose errors are one line."""

    def __init__(self, bucket: str) -> None:
        """Args:
        bucket: is written to. Claims name theirs.

        Raises:
            BadInput: aioboto3 is not installed.
        """
        self.objects = Objects()
        self._bucket_name = bucket
        super().__init__(self.objects, bucket)

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Write payloads.

        Raises:
            PayloadLost: S3 does not take one.
        """
        try:
            return await super().store(context, payloads)
        except (RuntimeError, ValueError) as error:
            raise _lost("written", error) from None

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """Read payloads back.

        Raises:
            PayloadLost: S3 does not give one, or it is not what was written.
        """
        try:
            return await super().retrieve(context, claims)
        except (RuntimeError, ValueError, KeyError) as error:
            raise _lost("read", error) from None

    async def deleted(self, key: str) -> bool:
        """Delete an object, which the SDK's driver never does. False: it is not allowed."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            await self.objects.delete_object(bucket=self._bucket_name, key=key)
        except (BotoCoreError, ClientError):
            return False
        return True


def _lost(what: str, error: Exception) -> PayloadLost:
    cause = error.__cause__
    code = getattr(cause, "response", {}).get("Error", {}).get("Code", "") if cause else ""
    why = f" ({code or type(cause).__name__})" if cause else ""
    return PayloadLost(f"a payload cannot be {what}: {error}{why}: look at FLEET_PAYLOAD_STORE and AWS_*")


class Objects(S3StorageDriverClient):
    """Objects of S3, or of a server that speaks its protocol; address and credentials by `AWS_*` and `~/.aws`.

    The connection belongs to the event loop that first needs it, and is closed when that loop shuts down its
    asynchronous generators, as `asyncio.run` does at its end: nobody has to close it. Most commands never open it.
    """

    def __init__(self) -> None:
        """Raises:
        BadInput: the library is not installed.
        """
        try:
            import aioboto3
            from temporalio.contrib.aws.s3driver.aioboto3 import new_aioboto3_client
        except ImportError:
            raise BadInput("FLEET_PAYLOAD_STORE is s3://…, which needs aioboto3: install agent-fleet[s3]") from None
        # the settings of the environment, whatever this process has imported before
        self._session: Any = aioboto3.Session()
        self._wrap = new_aioboto3_client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[S3StorageDriverClient] | None = None

    async def put_object(self, *, bucket: str, key: str, data: bytes) -> None:
        """Write an object."""
        await (await self._client()).put_object(bucket=bucket, key=key, data=data)

    async def object_exists(self, *, bucket: str, key: str) -> bool:
        """Whether there is such an object."""
        return await (await self._client()).object_exists(bucket=bucket, key=key)

    async def get_object(self, *, bucket: str, key: str) -> bytes:
        """Read an object."""
        return await (await self._client()).get_object(bucket=bucket, key=key)

    async def delete_object(self, *, bucket: str, key: str) -> None:
        """Delete an object, which the driver never does."""
        await self._client()
        await self._raw.delete_object(Bucket=bucket, Key=key)

    def describe(self) -> Mapping[str, str]:
        """What the SDK puts into its errors: the region."""
        return {"client_region": region} if (region := self._session.region_name) else {}

    async def _client(self) -> S3StorageDriverClient:
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._opening is None:
            self._loop, self._opening = loop, loop.create_task(self._open())
        try:
            # who is cancelled while it opens must not take it from the others
            return await asyncio.shield(self._opening)
        except Exception:
            self._opening = None
            raise

    async def _open(self) -> S3StorageDriverClient:
        held = self._lasting()
        self._raw = await anext(held)
        _open.setdefault(asyncio.get_running_loop(), []).append(held)
        return self._wrap(self._raw)

    async def _lasting(self) -> "AsyncIterator[S3Client]":
        async with self._session.client("s3") as client:
            yield cast("S3Client", client)
