"""A primary that dies under Sentinels: another takes over, with its state, again and again. Nothing outlives them."""

import asyncio
import os
import re
import signal
from datetime import timedelta

import psutil
import pytest

from load.failover import NAME, Failover
from ratelimit.errors import StoreLost
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from workers.embedded import EmbeddedError, valkey_says

pytestmark = pytest.mark.trial

SCOPE = "openai/m"
TAKEN_OVER = r"127\.0\.0\.1:(\d+) has taken over from 127\.0\.0\.1:(\d+) \(pid \d+\)$"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=6000, burst=100)})


async def acquired(limiter):
    async with asyncio.timeout(30):
        while True:
            try:
                return await limiter.acquire(SCOPE, {"requests": 1}, max_wait=timedelta(seconds=5))
            except StoreLost:
                await asyncio.sleep(0.05)


async def test_the_limiter_follows_from_primary_to_primary_and_keeps_its_state(tmp_path):
    others = set(psutil.Process().children(recursive=True))
    async with Failover(tmp_path / "sentinel") as servers:
        children = set(psutil.Process().children(recursive=True)) - others
        async with Limiter.from_url(servers.url, {SCOPE: QUOTA}) as limiter:
            await limiter.configure(QUOTA, full=True)
            await acquired(limiter)
            killed = 0
            for _ in range(2):
                said = await servers.kill_primary()
                took_over, killed = map(int, re.match(TAKEN_OVER, said).groups())
                assert took_over != killed
                await acquired(limiter)
                await servers.rejoin()
            assert (await limiter.inspect(SCOPE)).counters.grants >= 2
            # the one that was killed follows the other; a busy machine may make the Sentinels change their minds
            if await servers.primary() != killed:
                told = await valkey_says(killed, "INFO", "replication")
                assert (told["role"], told["master_link_status"]) == ("slave", "up")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert len(children) == 10
    assert alive == []


async def test_sets_that_start_at_once_do_not_meet(tmp_path):
    async with Failover(tmp_path / "a" / "sentinel") as one, Failover(tmp_path / "b" / "sentinel") as other:
        assert await one.primary() != await other.primary()
        assert one.url != other.url
        assert one.url.endswith(f"/{NAME}/0")


async def test_without_a_replica_nobody_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("load.failover.START_TIMEOUT_S", 3.0)
    async with Failover(tmp_path / "sentinel") as servers:
        primary = await servers.primary()
        os.kill(int((tmp_path / "logs" / "valkey-2.pid").read_text()), signal.SIGKILL)
        async with asyncio.timeout(10):
            while (await valkey_says(primary, "INFO", "replication"))["connected_slaves"]:
                await asyncio.sleep(0.05)
        with pytest.raises(EmbeddedError, match="no replica follows the primary: nobody could take over"):
            await servers.kill_primary()
        assert await valkey_says(primary, "PING")
