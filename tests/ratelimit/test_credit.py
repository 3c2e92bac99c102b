"""The credit window: places booked ahead, bound when they come due."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ratelimit import events
from ratelimit.credit import LARGEST
from ratelimit.errors import BadQuota, CostTooLarge, Denied, StoreLost, UnknownLimit
from ratelimit.headers import Observed
from ratelimit.limiter import Limiter
from ratelimit.places import Kind
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from tests.ratelimit.clocks import CountingStore, JumpingClock, s

SCOPE = "openai/sim"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=600, burst=10)})
FAST = Quota(scope=SCOPE, limits={"requests": Limit(capacity=10_000, period=timedelta(seconds=1))})
ONE = {"requests": 1.0}


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def store(clock: JumpingClock) -> CountingStore:
    return CountingStore(clock)


@pytest.fixture
def told() -> list[events.Event]:
    return []


@pytest.fixture
async def limiter(store: CountingStore, clock: JumpingClock, told: list[events.Event]) -> AsyncIterator[Limiter]:
    async with Limiter(store, {SCOPE: QUOTA}, observer=told.append, clock=clock, credit_window=256) as found:
        await found.configure(QUOTA, full=True)
        await found.clock(SCOPE)
        yield found


async def pass_time(clock: JumpingClock, seconds: float) -> None:
    end = clock.now + seconds
    while clock.now < end:
        await clock.wait(asyncio.Event(), end - clock.now)


async def level(limiter: Limiter) -> float:
    return (await limiter.inspect(SCOPE)).limits["requests"].level


def calls(store: CountingStore) -> int:
    return len(store.batches) + len(store.looks)


async def test_permits_come_at_the_quotas_pace_for_a_fraction_of_the_calls(limiter, store, clock) -> None:
    async def agent() -> list[float]:
        started = []
        for _ in range(5):
            await limiter.acquire(SCOPE, ONE, max_wait=s(60))
            started.append(clock.now)
        return started

    before, began = calls(store), clock.now
    started = sorted(at for found in await asyncio.gather(*(agent() for _ in range(40))) for at in found)
    assert len(started) == 200
    for number, at in enumerate(started):
        # ten at once, then ten a second
        assert at - began >= (number + 1 - 10) / 10 - 1e-6
    assert started[-1] - began < 20
    assert calls(store) - before < 0.35 * 200


async def test_first_come_first_served_within_a_process(limiter, clock) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        await limiter.acquire(SCOPE, ONE, max_wait=s(60))
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(50)))
    assert order == list(range(50))


async def test_whoever_leaves_costs_nothing(limiter, clock) -> None:
    async def leave() -> None:
        waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(30)]
        await clock.reach(clock.now + 0.5)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    await leave()
    granted = 10 + 0.5 * 10
    await pass_time(clock, 10)
    await asyncio.gather(*(limiter.acquire(SCOPE, ONE, max_wait=s(60)) for _ in range(2)))
    snapshot = await limiter.inspect(SCOPE)
    # what was booked ahead is back
    assert snapshot.limits["requests"].level >= 10 - 2 - 1
    assert snapshot.counters.grants >= granted


async def test_a_cooldown_of_this_process_holds_at_once_and_one_of_another_within_a_look(limiter, store, clock) -> None:
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(40)]
    await clock.reach(clock.now + 0.3)
    await limiter.cool_down(SCOPE, retry_after=s(5), cut=False)
    # those who were called up just before
    await asyncio.sleep(0)
    done = sum(task.done() for task in waiting)
    await clock.reach(clock.now + 4.5)
    assert sum(task.done() for task in waiting) == done
    await clock.reach(clock.now + 1)
    done = sum(task.done() for task in waiting)
    async with Limiter(store, {SCOPE: QUOTA}, clock=clock) as other:
        await other.cool_down(SCOPE, retry_after=s(9), cut=False)
    await clock.reach(clock.now + 0.6)
    late = sum(task.done() for task in waiting)
    assert late - done <= 6
    await clock.reach(clock.now + 8)
    assert sum(task.done() for task in waiting) == late
    await asyncio.gather(*waiting)


async def test_a_wait_beyond_max_wait_is_denied(limiter, clock, told) -> None:
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(40)]
    await clock.reach(clock.now + 0.1)
    with pytest.raises(Denied) as denied:
        await limiter.acquire(SCOPE, ONE, max_wait=s(0.2))
    assert denied.value.retry_after > s(0)
    assert any(isinstance(event, events.Denied) for event in told)
    await asyncio.gather(*waiting)


async def test_who_could_never_start_in_time_is_told_at_once(limiter, clock) -> None:
    await asyncio.gather(*(limiter.acquire(SCOPE, ONE, max_wait=s(60)) for _ in range(10)))
    at = clock.now
    with pytest.raises(Denied):
        await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0.5))
    assert clock.now - at < 0.5


async def test_calls_of_another_cost_are_booked_one_by_one(limiter, clock) -> None:
    async def each(cost: float) -> None:
        for _ in range(4):
            await limiter.acquire(SCOPE, {"requests": cost}, max_wait=s(60))

    began = clock.now
    await asyncio.gather(*(each(cost) for cost in (1, 1, 2, 3)))
    assert clock.now - began >= (4 * 7 - 10) / 10 - 1e-6


async def test_what_cannot_be_is_refused(limiter, store) -> None:
    with pytest.raises(CostTooLarge):
        await limiter.acquire(SCOPE, {"requests": float("inf")}, max_wait=s(1))
    await asyncio.sleep(0)
    with pytest.raises(UnknownLimit, match="pages"):
        await limiter.acquire(SCOPE, {"pages": 1}, max_wait=s(1))
    for wrong in (-1, LARGEST + 1):
        with pytest.raises(BadQuota, match="credit_window"):
            Limiter(store, {SCOPE: QUOTA}, credit_window=wrong)


async def test_without_the_store_all_who_wait_are_told(limiter, store, clock) -> None:
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(40)]
    await clock.reach(clock.now + 0.3)
    store.lost_until = clock.now + 20
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(one, StoreLost) for one in found)
    await pass_time(clock, 20)
    await limiter.acquire(SCOPE, ONE, max_wait=s(60))


async def test_a_state_that_is_lost_takes_the_places_with_it(limiter, store, clock) -> None:
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(40)]
    await clock.reach(clock.now + 0.3)
    store.model.scopes.clear()
    began = clock.now
    await asyncio.gather(*waiting)
    # a state that is new is empty: whoever waits begins anew
    assert clock.now - began > 2


async def test_who_waits_when_the_limiter_closes_is_told_and_nothing_stays_booked(store, clock) -> None:
    limiter = Limiter(store, {SCOPE: QUOTA}, clock=clock, credit_window=256)
    await limiter.configure(QUOTA, full=True)
    await limiter.clock(SCOPE)
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(40)]
    await clock.reach(clock.now + 0.05)
    await limiter.aclose()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(one, StoreLost) for one in found)
    async with Limiter(store, {SCOPE: QUOTA}, clock=clock) as other:
        assert await level(other) >= -1e-6


async def test_above_a_thousand_a_second_blocks_are_taken_and_what_is_unused_goes_back(store, clock) -> None:
    async with Limiter(store, {SCOPE: FAST}, clock=clock, credit_window=256) as limiter:
        await limiter.configure(FAST, full=True)
        await limiter.clock(SCOPE)
        before = calls(store)
        permits = [await limiter.acquire(SCOPE, ONE, max_wait=s(1)) for _ in range(3000)]
        assert calls(store) - before < 40
        assert len({permit.id for permit in permits}) == 3000
        await pass_time(clock, 2)
        assert await level(limiter) == 10_000
        # each of a block is settled and cancelled for itself
        taken = await limiter.acquire(SCOPE, ONE, max_wait=s(1))
        at = await level(limiter)
        await limiter.settle(taken, {"requests": 3})
        await limiter.settle(taken, {"requests": 3})
        assert await level(limiter) == pytest.approx(at - 2)


async def test_what_is_in_flight_is_counted_call_by_call(store, clock) -> None:
    quota = Quota(scope=SCOPE, limits={"in_flight": Limit(capacity=3, period=s(60), kind=Kind.IN_FLIGHT)})
    async with Limiter(store, {SCOPE: quota}, clock=clock, credit_window=256) as limiter:
        await limiter.configure(quota, full=True)
        await limiter.clock(SCOPE)
        permits = [await limiter.acquire(SCOPE, ONE, max_wait=s(0)) for _ in range(3)]
        assert all(permit.parts[0].lease for permit in permits)
        with pytest.raises(Denied):
            await limiter.acquire(SCOPE, ONE, max_wait=s(0))


async def test_a_limit_in_flight_that_is_set_live_holds_from_then_on(limiter, store, clock) -> None:
    await limiter.acquire(SCOPE, ONE, max_wait=s(1))
    flights = Limit(capacity=2, period=s(60), kind=Kind.IN_FLIGHT)
    await limiter.configure(Quota(scope=SCOPE, limits={**QUOTA.limits, "in_flight": flights}), full=True)
    await limiter.clock(SCOPE)
    permits = [await limiter.acquire(SCOPE, ONE, max_wait=s(1)) for _ in range(2)]
    assert all(permit.parts[0].lease for permit in permits)
    with pytest.raises(Denied):
        await limiter.acquire(SCOPE, ONE, max_wait=s(1))


async def test_who_waits_while_the_quota_changes_its_kind_is_booked_one_by_one(limiter, clock) -> None:
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(20)]
    await clock.reach(clock.now + 0.2)
    flights = Limit(capacity=50, period=s(60), kind=Kind.IN_FLIGHT)
    await limiter.configure(Quota(scope=SCOPE, limits={**QUOTA.limits, "in_flight": flights}), full=True)
    permits = await asyncio.gather(*waiting)
    assert sum(bool(permit.parts[0].lease) for permit in permits) >= 5
    # what was booked ahead is back: nothing but the permits is charged
    assert await level(limiter) >= -1e-6


async def test_a_call_with_a_key_is_never_served_from_a_window(store, clock) -> None:
    async with Limiter(store, {SCOPE: FAST}, clock=clock, credit_window=256) as limiter:
        await limiter.configure(FAST, full=True)
        await limiter.clock(SCOPE)
        for _ in range(20):
            await limiter.acquire(SCOPE, ONE, max_wait=s(1))
        permits = [await limiter.acquire(SCOPE, ONE, max_wait=s(1), key="k", asker="1") for _ in range(2)]
        assert permits[0].id == permits[1].id
        assert "k" in store.model.places or any("k" in place for place in store.model.places)


async def test_what_is_free_is_granted_to_those_who_cannot_wait(limiter) -> None:
    for _ in range(10):
        await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    with pytest.raises(Denied):
        await limiter.acquire(SCOPE, ONE, max_wait=s(0))


async def test_nothing_is_booked_for_those_who_have_left(limiter, clock) -> None:
    await limiter.cool_down(SCOPE, retry_after=s(20), cut=False)
    patient = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(90))) for _ in range(8)]

    async def impatient() -> None:
        for _ in range(8):
            with pytest.raises(Denied):
                await limiter.acquire(SCOPE, ONE, max_wait=s(0.3))

    await asyncio.gather(*(impatient() for _ in range(20)))
    await clock.reach(clock.now + 1.1)
    assert await level(limiter) >= -8
    await asyncio.gather(*patient)


async def test_others_who_stand_in_line_are_waited_for_once(limiter, store, clock) -> None:
    async with Limiter(store, {SCOPE: QUOTA}, clock=clock) as other:
        others = [asyncio.create_task(other.acquire(SCOPE, ONE, max_wait=s(90))) for _ in range(60)]
        await clock.reach(clock.now + 0.2)
        # fifty before them, ten a second: all of them are there within seven seconds, whoever comes later
        mine = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(8))) for _ in range(8)]
        await clock.reach(clock.now + 0.3)
        others += [asyncio.create_task(other.acquire(SCOPE, ONE, max_wait=s(90))) for _ in range(60)]
        await asyncio.gather(*mine)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_places_that_are_on_their_way_when_the_limiter_closes_go_back(store, clock) -> None:
    limiter = Limiter(store, {SCOPE: QUOTA}, clock=clock, credit_window=256)
    await limiter.configure(QUOTA, full=True)
    await limiter.clock(SCOPE)
    waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await limiter.aclose()
    await asyncio.gather(*waiting, return_exceptions=True)
    granted = sum(task.exception() is None for task in waiting)
    async with Limiter(store, {SCOPE: QUOTA}, clock=clock) as other:
        assert await level(other) == pytest.approx(10 - granted, abs=0.5)


@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_cancelled_at_any_turn_leaves_nothing_charged(limiter, clock, turns) -> None:
    asking = asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(9)))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    found = await asyncio.gather(asking, return_exceptions=True)
    await pass_time(clock, 1)
    granted = not isinstance(found[0], BaseException)
    assert await level(limiter) == (10 if not granted or clock.now > 1000 else 9)


async def test_an_outer_scope_that_is_closed_holds_the_window_too(store, clock) -> None:
    org = Quota(scope="openai/org", limits={"requests": Limit(capacity=6000)})
    inner = Quota(scope=SCOPE, limits=QUOTA.limits, within="openai/org")
    async with Limiter(store, {SCOPE: inner, "openai/org": org}, clock=clock, credit_window=64) as limiter:
        for quota in (org, inner):
            await limiter.configure(quota, full=True)
        await limiter.clock(SCOPE)
        waiting = [asyncio.create_task(limiter.acquire(SCOPE, ONE, max_wait=s(60))) for _ in range(60)]
        began = clock.now
        for _ in range(20):
            # hearing of the outer scope puts nobody off
            await limiter.observe("openai/org", {"requests": Observed(remaining=5000)})
            await clock.reach(clock.now + 0.05)
        assert sum(task.done() for task in waiting) >= 10 + 10 * (clock.now - began) - 3
        await limiter.cool_down("openai/org", retry_after=s(5), cut=False)
        await asyncio.sleep(0)
        done = sum(task.done() for task in waiting)
        await clock.reach(clock.now + 4.5)
        assert sum(task.done() for task in waiting) == done
        await asyncio.gather(*waiting)


async def test_two_processes_share_one_quota(redis_store: RedisStore, valkey: str) -> None:
    """Over a real server: together they are granted what the quota grants, and no more."""
    quota = Quota(scope=SCOPE, limits={"requests": Limit(capacity=100, period=s(1), burst=20)})
    other = RedisStore.from_url(valkey)
    loop, started = asyncio.get_running_loop(), []
    async with (
        Limiter(redis_store, {SCOPE: quota}, credit_window=64) as one,
        Limiter(other, {SCOPE: quota}, credit_window=64) as two,
    ):
        await one.configure(quota, full=True)
        for limiter in (one, two):
            await limiter.clock(SCOPE)
        began = loop.time()

        async def agent(limiter: Limiter) -> None:
            for _ in range(4):
                await limiter.acquire(SCOPE, ONE, max_wait=s(30))
                started.append(loop.time() - began)

        await asyncio.gather(*(agent(limiter) for limiter in (one, two) for _ in range(20)))
    await other.aclose()
    for number, at in enumerate(sorted(started)):
        assert at >= (number + 1 - 20) / 100 - 0.02
    assert len(started) == 160
