"""Postures: what happens while the store is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ratelimit import events
from ratelimit.errors import BadQuota, Denied, StoreLost
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.outage import PRESENT_S, Posture, Shares
from ratelimit.places import Kind
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore, Store

SCOPE = "openai/sim"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=6000, burst=10)})
ONE = {"requests": 1.0}


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


class Away(MemoryStore):
    """A store that may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked = 0

    def _now(self, given: float | None) -> float:
        self.asked += 1
        if self.away:
            raise StoreLost("Redis at nowhere does not answer")
        return super()._now(given)

    def book(self, scopes, asks, answer, *, now=None) -> None:
        try:
            super().book(scopes, asks, answer, now=now)
        except StoreLost as lost:
            answer(lost)


@pytest.fixture
def store() -> Away:
    return Away()


@pytest.fixture
def told() -> list[events.Event]:
    return []


@pytest.fixture
async def limiter(store: Away, told: list[events.Event]) -> AsyncIterator[Limiter]:
    async with Limiter(store, {SCOPE: QUOTA}, observer=told.append, posture=Posture.DEGRADE, safety=0.5) as found:
        await found.configure(QUOTA, full=True)
        yield found


async def test_paused_nothing_is_granted() -> None:
    store = Away()
    async with Limiter(store, {SCOPE: QUOTA}) as limiter:
        store.away = True
        with pytest.raises(StoreLost):
            await limiter.acquire(SCOPE, ONE, max_wait=s(1))


async def test_degraded_a_share_is_granted_at_its_pace(limiter: Limiter, store: Away, told: list[events.Event]) -> None:
    store.away = True
    began = time.monotonic()
    permits = [await limiter.acquire(SCOPE, ONE, max_wait=s(5)) for _ in range(75)]
    # half of 100 a second, of which a second's worth comes at once
    assert 0.4 < time.monotonic() - began < 2
    assert told[-1] == events.Degraded(scope=SCOPE)
    for permit in permits:
        await limiter.settle(permit, ONE)
        await limiter.cancel(permit)


async def test_a_share_is_that_of_one_of_all_processes(limiter: Limiter, store: Away) -> None:
    others = [f"other-{number}" for number in range(4)]
    for other in others:
        await store.present(SCOPE, other, PRESENT_S)
    await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    await asyncio.sleep(0)
    store.away = True
    began = time.monotonic()
    for _ in range(15):
        await limiter.acquire(SCOPE, ONE, max_wait=s(5))
    # a fifth of fifty a second
    assert 0.4 < time.monotonic() - began < 2


async def test_degraded_waits_are_bounded(limiter: Limiter, store: Away) -> None:
    store.away = True
    with pytest.raises(Denied, match="openai/sim outage"):
        await limiter.acquire(SCOPE, {"requests": 500}, max_wait=s(0.1))


async def test_the_store_is_asked_once_a_second_and_found_again(limiter: Limiter, store: Away, monkeypatch) -> None:
    monkeypatch.setattr("ratelimit.outage.PROBE_S", 0.1)
    store.away = True
    before = store.asked
    for _ in range(20):
        await limiter.acquire(SCOPE, ONE, max_wait=s(1))
    assert store.asked - before <= 4
    store.away = False
    async with asyncio.timeout(5):
        while (await limiter.acquire(SCOPE, ONE, max_wait=s(1))).id.startswith("local:"):
            await asyncio.sleep(0.01)
    assert (await limiter.inspect(SCOPE)).counters.grants == 1


async def test_who_waits_when_the_store_goes_takes_the_local_share(limiter: Limiter, store: Away) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 100}, max_wait=s(30)))
    await asyncio.sleep(0)
    store.away = True
    assert (await waiting).id.startswith("local:")


async def test_a_rejection_meanwhile_keeps_the_process_away(limiter: Limiter, store: Away) -> None:
    store.away = True
    permit = await limiter.acquire(SCOPE, ONE, max_wait=s(1))
    await limiter.cool_down(SCOPE, retry_after=s(30), permit=permit)
    with pytest.raises(Denied, match="cooldown"):
        await limiter.acquire(SCOPE, ONE, max_wait=s(10))
    assert (await limiter.ahead(SCOPE)).wait == s(0)


async def test_what_was_closed_stays_closed(limiter: Limiter, store: Away) -> None:
    await limiter.acquire(SCOPE, ONE, max_wait=s(1))
    await limiter.close(SCOPE)
    store.away = True
    with pytest.raises(Denied, match="frozen"):
        await limiter.acquire(SCOPE, ONE, max_wait=s(10))


async def test_of_many_large_calls_some_are_granted(limiter: Limiter, store: Away) -> None:
    store.away = True
    large = (limiter.acquire(SCOPE, {"requests": 60}, max_wait=s(3)) for _ in range(6))
    found = await asyncio.gather(*large, return_exceptions=True)
    assert sum(isinstance(one, Denied) for one in found) < 6
    assert sum(not isinstance(one, Exception) for one in found) >= 2


async def test_a_quota_that_was_set_live_counts(limiter: Limiter, store: Away) -> None:
    await store.configure(Quota(scope=SCOPE, limits={"requests": Limit(capacity=60)}), full=False, seed=False)
    await limiter.clock(SCOPE)
    store.away = True
    # half of one a second, and not of sixty
    await limiter.acquire(SCOPE, {"requests": 0.5}, max_wait=s(0))
    with pytest.raises(Denied):
        await limiter.acquire(SCOPE, {"requests": 0.5}, max_wait=s(0))


async def test_what_is_in_flight_has_a_share_too(store: Away) -> None:
    flights = Limit(capacity=4, period=s(60), kind=Kind.IN_FLIGHT)
    quota = Quota(scope=SCOPE, limits={"in_flight": flights})
    async with Limiter(store, {SCOPE: quota}, posture=Posture.DEGRADE, safety=0.5) as limiter:
        store.away = True
        first, second = [await limiter.acquire(SCOPE, ONE, max_wait=s(0)) for _ in range(2)]
        with pytest.raises(Denied):
            await limiter.acquire(SCOPE, ONE, max_wait=s(0.01))
        await limiter.settle(first, {})
        third = await limiter.acquire(SCOPE, ONE, max_wait=s(0))
        waiting = asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(30)))
        await asyncio.sleep(0)
        await limiter.cancel(second)
        assert (await waiting).id not in {first.id, second.id, third.id}


async def test_a_shadow_limit_refuses_nothing(store: Away) -> None:
    limits = {"requests": Limit(capacity=60, shadow=True), "tokens": Limit(capacity=60_000)}
    async with Limiter(store, {SCOPE: Quota(scope=SCOPE, limits=limits)}, posture=Posture.DEGRADE) as limiter:
        store.away = True
        for _ in range(5):
            await limiter.acquire(SCOPE, {"requests": 1, "tokens": 10}, max_wait=s(0))


async def test_a_scope_that_nobody_configured_has_no_share(limiter: Limiter, store: Away) -> None:
    store.away = True
    with pytest.raises(StoreLost, match="nobody knows the quota"):
        await limiter.acquire("openai/other", ONE, max_wait=s(1))


async def test_processes_that_are_gone_are_not_counted(store_of_all: Store) -> None:
    assert await store_of_all.present(SCOPE, "a", 30.0, now=1000.0) == 1
    assert await store_of_all.present(SCOPE, "b", 30.0, now=1020.0) == 2
    assert await store_of_all.present(SCOPE, "b", 30.0, now=1031.0) == 1


@pytest.fixture(params=["valkey", "memory"])
async def store_of_all(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    found = RedisStore.from_url(request.getfixturevalue("valkey"))
    await found.execute("FLUSHALL")
    yield found
    await found.aclose()


@pytest.mark.parametrize("safety", [0.0, 1.0, -1.0, 2.0])
def test_a_share_without_a_margin_is_refused(safety: float) -> None:
    with pytest.raises(BadQuota, match="safety"):
        Shares(safety)
