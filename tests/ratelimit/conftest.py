"""The stores, over real servers and in memory."""

from collections.abc import AsyncIterator

import pytest

from ratelimit.memory import MemoryStore
from ratelimit.store import RedisStore, Store


@pytest.fixture
async def redis_store(valkey: str) -> AsyncIterator[RedisStore]:
    """An empty store on the real server."""
    store = RedisStore.from_url(valkey)
    await store.execute("FLUSHALL")
    yield store
    await store.aclose()


@pytest.fixture(params=["valkey", "redis7", "memory"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each implementation of the protocol, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    found = RedisStore.from_url(request.getfixturevalue(request.param))
    await found.execute("FLUSHALL")
    yield found
    await found.aclose()
