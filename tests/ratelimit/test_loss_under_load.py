"""Redis dies under load, and comes back empty, with its state, or as another. The provider's own ledger judges."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from load.simulators.server import Where
from ratelimit.errors import Denied, StoreLost
from ratelimit.limiter import Limiter
from ratelimit.outage import Posture
from ratelimit.quota import Limit, Quota
from tests.ratelimit.servers import valkey_binary
from tests.ratelimit.test_routes import Watched, free_port, node
from tests.ratelimit.test_routes import sentinel as sentinel

RATE, BURST = 60.0, 30.0
SCOPE = "openai/m"
QUOTA = Quota(
    scope=SCOPE,
    limits={"requests": Limit(capacity=RATE, period=timedelta(seconds=1), burst=BURST)},
    headroom=0.98,
    burst_headroom=0.9,
)
AGENTS, CALLS = 40, 12

pytestmark = [pytest.mark.trial, pytest.mark.alone]


@asynccontextmanager
async def fleet(url: str, posture: Posture) -> AsyncIterator[list[Limiter]]:
    """Two processes' worth of limiters."""
    async with (
        Limiter.from_url(url, {SCOPE: QUOTA}, posture=posture) as one,
        Limiter.from_url(url, {SCOPE: QUOTA}, posture=posture) as other,
    ):
        yield [one, other]


async def load(limiters: list[Limiter], where: Where) -> None:
    """Every agent makes all its calls, however long that takes."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    limits = httpx2.Limits(max_connections=AGENTS)
    headers = {"authorization": "Bearer sk-x"}
    async with httpx2.AsyncClient(base_url=where.http, headers=headers, limits=limits, timeout=30) as http:

        async def agent(limiter: Limiter) -> None:
            done = 0
            while done < CALLS:
                try:
                    permit = await limiter.acquire(SCOPE, {"requests": 1.0}, max_wait=timedelta(seconds=20))
                except (StoreLost, Denied):
                    await asyncio.sleep(0.1)
                    continue
                answer = await http.post("/v1/chat/completions", json=body)
                done += answer.status_code == 200
                if answer.status_code == 429:
                    with suppress(StoreLost):
                        await limiter.cool_down(SCOPE, retry_after=timedelta(seconds=0.2), permit=permit)

        await asyncio.gather(*(agent(limiters[number % len(limiters)]) for number in range(AGENTS)))


async def outcomes(where: Where) -> list[str]:
    """Of every call, as the provider has noted it."""
    async with httpx2.AsyncClient(base_url=where.http) as http:
        rows = (await http.get("/_ledger", params={"provider": "openai", "limit": 1_000_000})).json()
    return [row["outcome"] for row in rows]


async def judged(url: str, simulators, posture: Posture, *faults: tuple[float, Callable[[], object]]) -> None:
    where = await simulators(openai={"models": {"m": {"requests": {"limit": RATE, "period_s": 1, "burst": BURST}}}})
    began = time.monotonic()
    async with fleet(url, posture) as limiters, asyncio.timeout(120):
        await limiters[0].configure(QUOTA)
        work = asyncio.create_task(load(limiters, where))
        for after, fault in faults:
            await asyncio.sleep(max(0.0, began + after - time.monotonic()))
            await asyncio.to_thread(fault)
        await work
    noted = await outcomes(where)
    rejected = noted.count("429")
    assert noted.count("ok") == AGENTS * CALLS
    # no overrun beyond one burst
    assert rejected <= BURST, rejected
    ideal = AGENTS * CALLS / RATE
    assert time.monotonic() - began < 3 * ideal + 20


@pytest.mark.parametrize(("keeps", "posture"), [("no", Posture.PAUSE), ("yes", Posture.DEGRADE)])
async def test_redis_is_killed_and_started_again(tmp_path: Path, simulators, keeps: str, posture: Posture) -> None:
    port = free_port()
    with ExitStack() as stack:
        options = ("--appendonly", keeps, "--appendfsync", "everysec")
        first = stack.enter_context(node(valkey_binary(), tmp_path, *options, port=port))

        def kill() -> None:
            first.process.kill()
            first.process.wait()

        def start() -> None:
            stack.enter_context(node(valkey_binary(), tmp_path, *options, port=port))

        await judged(f"redis://127.0.0.1:{port}", simulators, posture, (3, kill), (5, start))


@pytest.mark.by_name("master_dies")
async def test_a_master_dies_and_its_replica_takes_over(sentinel: Watched, simulators) -> None:
    await judged(sentinel.url, simulators, Posture.PAUSE, (3, sentinel.master.process.kill))
