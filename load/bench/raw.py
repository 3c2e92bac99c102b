"""The floor that the limiter is compared with: redis-py as it comes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis


@asynccontextmanager
async def pool(url: str) -> AsyncIterator[Any]:
    """A client over a pool of 50 connections; callers wait for a free one."""
    client = Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=50, timeout=60))
    try:
        yield client
    finally:
        await client.aclose()
