"""One process of a benchmark: `python -m load.bench.drive '{"what": …}'` prints what it measured as one JSON line.

The contenders are `ours` (the limiter) and `raw` (redis-py's pool calling a minimal one-limit bucket with `EVALSHA`).
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2

from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore

SCOPE = "openai/bench"
NAMES = ("requests", "tokens", "input_tokens", "output_tokens")
WARM_UP_S = 0.3
LONGEST_WAIT = timedelta(minutes=5)
PLENTY = 1e14

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

Acquire = Callable[[], Awaitable[Any]]


def quota(limits: int, rate: float, burst: float | None, headroom: float, burst_headroom: float) -> Quota:
    """A quota of equal limits of `rate` units a second."""
    one = Limit(capacity=rate, period=timedelta(seconds=1), burst=burst)
    return Quota(
        # a trial finds its own quota in the store, not that of the one before
        scope=f"{SCOPE}-{limits}-{rate:.0f}-{headroom:.2f}",
        limits=dict.fromkeys(NAMES[:limits], one),
        headroom=headroom,
        burst_headroom=burst_headroom,
    )


@asynccontextmanager
async def ours(url: str, wanted: Quota, window: int = 0) -> AsyncIterator[Acquire]:
    """The limiter."""
    store = RedisStore.from_url(url)
    async with Limiter(store, {wanted.scope: wanted}, credit_window=window) as limiter:
        await limiter.seed(wanted)
        cost = dict.fromkeys(wanted.limits, 1.0)
        yield lambda: limiter.acquire(wanted.scope, cost, max_wait=LONGEST_WAIT)
    await store.aclose()


@asynccontextmanager
async def raw(url: str, wanted: Quota) -> AsyncIterator[Acquire]:
    """redis-py's pool and a minimal script."""
    from load.bench.raw import pool

    del wanted
    async with pool(url) as redis:
        sha = await redis.script_load(RAW)
        yield lambda: redis.evalsha(sha, 1, "bench-raw")


async def speed(asked: dict[str, Any]) -> dict[str, Any]:
    """Acquires per second while permits are plentiful."""
    wanted = quota(asked["limits"], PLENTY, None, 1.0, 1.0)
    async with CONTENDERS[asked["contender"]](asked["url"], wanted) as acquire:
        await _loop(acquire, asked["tasks"], WARM_UP_S)
        cpu = time.process_time()
        done, took, waits = await _loop(acquire, asked["tasks"], asked["seconds"])
        cpu = time.process_time() - cpu
    return {"rate": done / took, "p50_us": statistics.median(waits) * 1e6, "cpu_us": cpu / done * 1e6}


async def _loop(acquire: Acquire, tasks: int, seconds: float) -> tuple[int, float, list[float]]:
    clock, waits = time.perf_counter, []
    begin = clock()
    end = begin + seconds
    done = 0

    async def one(sample: bool) -> None:
        nonlocal done
        while (at := clock()) < end:
            await acquire()
            done += 1
            if sample:
                waits.append(clock() - at)

    await asyncio.gather(*(one(number == 0) for number in range(tasks)))
    return done, clock() - begin, waits


async def saturate(asked: dict[str, Any]) -> dict[str, Any]:
    """Agents that call a provider as fast as the limiter lets them: each call's wait, outcome and end."""
    wanted = quota(1, asked["rate"], asked["burst"], asked["headroom"], asked["burst_headroom"])
    body = {"model": "bench", "messages": [{"role": "user", "content": "x"}]}
    agents: list[list[tuple[float, float, int]]] = [[] for _ in range(asked["tasks"])]
    limits = httpx2.Limits(max_connections=asked["tasks"], max_keepalive_connections=asked["tasks"])
    headers = {"authorization": "Bearer sk-bench"}
    async with (
        httpx2.AsyncClient(base_url=asked["provider"], headers=headers, limits=limits, timeout=30) as http,
        ours(asked["url"], wanted, asked.get("window", 0)) as acquire,
    ):
        await asyncio.sleep(max(0.0, asked["begin"] - time.time()))

        async def one(calls: list[tuple[float, float, int]]) -> None:
            while time.time() < asked["end"]:
                at = time.time()
                await acquire()
                waited = time.time() - at
                answer = await http.post("/v1/chat/completions", json=body)
                calls.append((time.time(), waited, answer.status_code))

        tasks = [asyncio.create_task(one(calls)) for calls in agents]
        # whoever still waits at the end has waited in vain: counted by what it has until then
        await asyncio.wait(tasks, timeout=asked["end"] - time.time() + 0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {"agents": agents, "scope": wanted.scope}


CONTENDERS = {"ours": ours, "ours, window": lambda url, wanted: ours(url, wanted, 1000), "raw": raw}
WHATS = {"speed": speed, "saturate": saturate}


def main() -> None:
    """Measure what the first argument asks for."""
    asked = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run(WHATS[asked["what"]](asked))))  # noqa: T201 - the program's answer


if __name__ == "__main__":
    main()
