"""Ours, redis-py's own floor, and nothing at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from redis.asyncio import BlockingConnectionPool, Redis

from load.bench.wanted import Acquire, Wanted
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore

NAMES = ("requests", "tokens", "input_tokens", "output_tokens")
LONGEST_WAIT = timedelta(minutes=5)

RAW = """
local s = redis.call('HMGET', KEYS[1], 'level', 'at')
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local level, at = tonumber(s[1]) or 1e12, tonumber(s[2]) or now
level = math.min(1e12, level + (now - at) * 1e9)
if level < 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'level', string.format('%.17g', level - 1), 'at', string.format('%.17g', now))
return 1
"""


def quota(wanted: Wanted) -> Quota:
    """The same for the limiter."""
    one = Limit(capacity=wanted.rate, period=timedelta(seconds=1), burst=wanted.burst)
    return Quota(
        scope=f"bench/{wanted.name}",
        limits=dict.fromkeys(NAMES[: wanted.limits], one),
        headroom=wanted.headroom,
        burst_headroom=wanted.burst_headroom,
    )


@asynccontextmanager
async def limiter(url: str, quota: Quota, window: int = 0) -> AsyncIterator[Limiter]:
    """A limiter that knows the quota."""
    store = RedisStore.from_url(url)
    async with Limiter(store, {quota.scope: quota}, credit_window=window) as found:
        await found.seed(quota)
        yield found
    await store.aclose()


@asynccontextmanager
async def ours(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
    """The limiter."""
    known = quota(wanted)
    cost = dict.fromkeys(known.limits, 1.0)
    async with limiter(url, known, wanted.window) as found:
        yield lambda: found.acquire(known.scope, cost, max_wait=LONGEST_WAIT)


@asynccontextmanager
async def raw(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
    """redis-py's pool of 50 connections, and a minimal script."""
    client = Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=50, timeout=60))
    sha = await client.script_load(RAW)
    yield lambda: client.evalsha(sha, 1, wanted.name)
    await client.aclose()


@asynccontextmanager
async def none(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
    """No limiter: the provider says what it does not want."""
    del url, wanted

    async def acquire() -> None:
        return

    yield acquire


CONTENDERS = {"ours": ours, "raw": raw, "none": none}
