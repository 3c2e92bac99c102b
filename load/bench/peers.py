"""The limiters that one can install, each as its own documentation uses it.

Run by an interpreter of their own (`load.bench.environment`): some of them need an older redis-py.
"""

import ast
import asyncio
import importlib.util
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from redis.asyncio import BlockingConnectionPool, Redis

from load.bench.wanted import Acquire, Wanted

LOOK_S = 0.05
"""Those that only answer yes or no are asked again after so long, jittered by half."""


def _until(try_: Callable[[], Awaitable[bool]], pause_s: float = LOOK_S) -> Acquire:
    async def acquire() -> None:
        while not await try_():  # noqa: ASYNC110 - what they offer is an answer, not a wait
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))

    return acquire


def _pool(url: str, wanted: Wanted) -> "Redis":
    most = min(100, max(2, wanted.waiters))
    return Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=most, timeout=300))


def _limits(strategy: str, *, per_minute: bool) -> Callable[[str, Wanted], AsyncIterator[Acquire]]:
    async def contend(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
        from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
        from limits.aio import storage, strategies

        store = storage.RedisStorage(
            f"async+{url}", connection_pool=_pool(url, wanted).connection_pool, implementation="redispy"
        )
        seconds, kind = (60, RateLimitItemPerMinute) if per_minute else (1, RateLimitItemPerSecond)
        item = kind(int(wanted.rate * wanted.headroom * seconds))
        limiter = getattr(strategies, strategy)(store)
        yield _until(lambda: limiter.hit(item, wanted.name))

    return contend


async def _pyrate(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

    client = _pool(url, wanted)
    # a log of the last second; it costs a member of a set for each permit, so that plenty is cut
    rate = Rate(int(min(wanted.rate * wanted.headroom, 1e9)), Duration.SECOND)
    limiter = Limiter(await RedisBucket.init([rate], client, wanted.name))
    yield lambda: limiter.try_acquire_async(wanted.name)
    await client.aclose()


def _throttled(algorithm: str) -> Callable[[str, Wanted], AsyncIterator[Acquire]]:
    async def contend(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
        from throttled.asyncio import RedisStore, Throttled, rate_limiter

        planned = int(min(wanted.rate * wanted.headroom, 1e9))
        burst = int(min(wanted.burst * wanted.burst_headroom, 1e9))
        throttle = Throttled(
            key=wanted.name,
            using=algorithm,
            quota=rate_limiter.per_duration(timedelta(seconds=1), planned, burst=burst),
            store=RedisStore(server=url),
            timeout=300,
        )
        yield throttle.limit

    return contend


async def _self_limiters(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
    from self_limiters import TokenBucket

    # refills in steps, a thousand a second or one permit each
    step = max(1, int(min(wanted.rate, 1e9) * wanted.headroom / 1000))
    bucket = TokenBucket(
        name=wanted.name,
        capacity=int(min(wanted.burst * wanted.burst_headroom, 1e9)),
        refill_frequency=step / min(wanted.rate * wanted.headroom, 1e9),
        refill_amount=step,
        redis_url=url,
        max_sleep=300,
        connection_pool_size=max(15, wanted.waiters),
    )

    async def acquire() -> None:
        async with bucket:
            return

    yield acquire


def _litellms_script() -> str:
    # read, not imported: the module needs the whole proxy
    found = importlib.util.find_spec("litellm")
    assert found is not None
    assert found.submodule_search_locations
    hook = Path(found.submodule_search_locations[0], "proxy", "hooks", "parallel_request_limiter_v3.py")
    text: str = next(
        ast.literal_eval(node.value)
        for node in ast.parse(hook.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and node.value is not None
        if isinstance(node.target, ast.Name) and node.target.id == "BATCH_RATE_LIMITER_SCRIPT"
    )
    return text


async def _litellm(url: str, wanted: Wanted) -> AsyncIterator[Acquire]:
    """Its script alone, with a minute's window and redis-py's pool: what its proxy asks for each call."""
    client = _pool(url, wanted)
    text = _litellms_script()
    script, most = client.register_script(text), wanted.rate * wanted.headroom * 60
    keys = [f"{{{wanted.name}}}:window", f"{{{wanted.name}}}:requests"]

    async def try_() -> bool:
        _, counter = await script(keys, [int(time.time()), 60])
        return int(counter) <= most

    yield _until(try_, 1.0)
    await client.aclose()


PEERS = {
    name: asynccontextmanager(contend)
    for name, contend in {
        "limits, moving window": _limits("MovingWindowRateLimiter", per_minute=False),
        "limits, sliding counter": _limits("SlidingWindowCounterRateLimiter", per_minute=False),
        "limits, fixed minute": _limits("FixedWindowRateLimiter", per_minute=True),
        "pyrate-limiter, log": _pyrate,
        "throttled-py, token bucket": _throttled("token_bucket"),
        "throttled-py, GCRA": _throttled("gcra"),
        "self-limiters": _self_limiters,
        "LiteLLM's script": _litellm,
    }.items()
}
