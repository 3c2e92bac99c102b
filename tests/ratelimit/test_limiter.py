import asyncio
import gc
import pickle
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ratelimit import events
from ratelimit.errors import (
    NEVER,
    BadCost,
    BadQuota,
    CostTooLarge,
    Denied,
    RateLimitError,
    StoreLost,
    UnknownLimit,
    UnknownScope,
)
from ratelimit.headers import Observed
from ratelimit.limiter import Denial, Limiter, Permit, Place
from ratelimit.places import Closed, Kind, Rejection
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from tests.ratelimit.clocks import CountingStore, JumpingClock, s

SCOPE = "openai/sim"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=60, burst=10), "tokens": Limit(capacity=60_000)})
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
    async with Limiter(store, {SCOPE: QUOTA}, observer=told.append, clock=clock) as found:
        await found.configure(QUOTA, full=True)
        yield found


async def level(limiter: Limiter, name: str = "requests") -> float:
    return (await limiter.inspect(SCOPE)).limits[name].level


async def test_what_is_free_is_granted_at_once(limiter: Limiter, told: list[events.Event]) -> None:
    permit = await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    assert isinstance(permit, Permit)
    assert (permit.scope, permit.cost, permit.waited) == (SCOPE, ONE, s(0))
    assert told == [
        events.Booked(scope=SCOPE, wait_s=0.0, rebooked=False),
        events.Granted(scope=SCOPE, waited_s=0.0),
    ]


async def test_a_permit_comes_when_its_time_has_come(limiter: Limiter, clock: JumpingClock) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    permit = await limiter.acquire(SCOPE, {"requests": 5}, max_wait=s(5))
    assert clock.now == pytest.approx(1005, abs=0.01)
    assert permit.waited.total_seconds() == pytest.approx(5, abs=0.01)


async def test_a_wait_beyond_max_wait_is_denied_and_spends_nothing(limiter: Limiter, told: list[events.Event]) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    with pytest.raises(Denied) as caught:
        await limiter.acquire(SCOPE, {"requests": 5}, max_wait=s(4))
    assert (caught.value.scope, caught.value.limit) == (SCOPE, "requests")
    assert s(5) <= caught.value.retry_after <= s(5.0001)
    assert await level(limiter) == 0
    assert told[-1] == events.Denied(scope=SCOPE, limit="requests", retry_after_s=5.0, held=False)


async def test_a_held_place_is_still_there_when_the_caller_comes_back(limiter: Limiter, clock: JumpingClock) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    with pytest.raises(Denied) as caught:
        await limiter.acquire(SCOPE, {"requests": 5}, max_wait=s(1), key="k", asker="1", hold=True)
    await limiter.reserve(SCOPE, {"requests": 50}, max_wait=s(1000))
    clock.now += caught.value.retry_after.total_seconds()
    permit = await limiter.acquire(SCOPE, {"requests": 5}, max_wait=s(1), key="k", asker="2", hold=True)
    assert permit.waited.total_seconds() == pytest.approx(5, abs=0.01)


async def test_a_thousand_denied_callers_get_a_thousand_different_times(limiter: Limiter) -> None:
    asks = (limiter.reserve(SCOPE, ONE, max_wait=s(1), key=str(i), hold=True) for i in range(1000))
    answers = await asyncio.gather(*asks)
    times = {a.retry_after for a in answers if isinstance(a, Denial)}
    assert len(times) == 1000 - sum(isinstance(a, Place) for a in answers)


async def test_reserve_answers_with_data(limiter: Limiter) -> None:
    place = await limiter.reserve(SCOPE, {"requests": 10}, max_wait=s(0), key="k")
    assert isinstance(place, Place)
    assert (place.id, place.wait) == ("k#1", s(0))
    denial = await limiter.reserve(SCOPE, {"requests": 2}, max_wait=s(0))
    assert isinstance(denial, Denial)
    assert (denial.limit, denial.held) == ("requests", False)


async def test_asks_during_a_call_travel_together_in_the_next(limiter: Limiter, store: CountingStore) -> None:
    permits = await asyncio.gather(*(limiter.acquire(SCOPE, ONE, max_wait=s(300)) for _ in range(250)))
    assert len(permits) == 250
    assert store.batches == [1, 249]
    # from then on those who ask in one turn of the loop travel together
    await asyncio.gather(*(limiter.acquire(SCOPE, ONE, max_wait=s(300)) for _ in range(250)))
    assert store.batches == [1, 249, 250]


async def test_first_come_first_served(limiter: Limiter) -> None:
    order: list[int] = []

    async def caller(number: int) -> None:
        await limiter.acquire(SCOPE, {"requests": 1 + number % 3}, max_wait=s(1000))
        order.append(number)

    await asyncio.gather(*(caller(n) for n in range(50)))
    assert order == list(range(50))


async def test_while_anyone_waits_the_clock_is_read_four_times_a_second(limiter: Limiter, store: CountingStore) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    await asyncio.gather(*(limiter.acquire(SCOPE, {"requests": 0.001}, max_wait=s(20)) for _ in range(3)))
    store.looks.clear()
    await limiter.acquire(SCOPE, {"requests": 5}, max_wait=s(20))
    gaps = [b - a for a, b in zip(store.looks, store.looks[1:], strict=False)]
    assert max(gaps) == pytest.approx(0.25)
    assert len(store.looks) < 30


async def test_nobody_looks_when_nobody_waits(limiter: Limiter, store: CountingStore) -> None:
    await limiter.acquire(SCOPE, {"requests": 11}, max_wait=s(5))
    line = limiter._lines[SCOPE]
    for _ in range(50):
        await asyncio.sleep(0)
    assert line._watcher is None
    assert line._flight is None


async def test_a_cooldown_set_elsewhere_is_never_missed(
    limiter: Limiter, store: CountingStore, clock: JumpingClock
) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 2}, max_wait=s(60)))
    await clock.reach(1001)
    until = clock.now + 30
    await store.cool_down(SCOPE, Rejection(30.0, cut=False))
    await waiting
    assert clock.now >= until


async def test_a_place_that_a_cooldown_has_put_off_is_denied_and_kept(
    limiter: Limiter, store: CountingStore, clock: JumpingClock
) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    kept = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 2}, max_wait=s(5), key="k", hold=True))
    dropped = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 2}, max_wait=s(5)))
    await clock.reach(1001)
    await store.cool_down(SCOPE, Rejection(30.0, cut=False))
    for task in (kept, dropped):
        with pytest.raises(Denied) as caught:
            await task
        assert s(30) < caught.value.retry_after < s(34)
    assert await level(limiter) == pytest.approx(-1, abs=0.3)
    clock.now += 32
    again = await limiter.acquire(SCOPE, {"requests": 2}, max_wait=s(1), key="k", asker="2", hold=True)
    assert again.generation == 1


async def test_a_refund_calls_up_who_waits(limiter: Limiter, clock: JumpingClock) -> None:
    spender = await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 8}, max_wait=s(60)))
    await clock.reach(1001)
    await limiter.settle(spender, {"requests": 1})
    assert (await waiting).waited < s(1.5)


async def test_settling_twice_equals_once(limiter: Limiter, told: list[events.Event]) -> None:
    permit = await limiter.acquire(SCOPE, {"requests": 4}, max_wait=s(0))
    for _ in range(2):
        await limiter.settle(permit, {"requests": 1})
    assert await level(limiter) == 9
    assert told.count(events.Settled(scope=SCOPE)) == 1


async def test_a_cancelled_caller_gives_its_place_back(limiter: Limiter, clock: JumpingClock) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = [
        asyncio.create_task(limiter.acquire(SCOPE, {"requests": 30}, max_wait=s(60), key=key)) for key in ("k", None)
    ]
    await clock.reach(1001)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await level(limiter) > 0


@pytest.mark.parametrize("turns", range(8))
async def test_a_caller_cancelled_at_any_turn_leaves_nothing_charged(limiter: Limiter, turns: int) -> None:
    task = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 4}, max_wait=s(60)))
    for _ in range(turns):
        await asyncio.sleep(0)
    finished = not task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await limiter.aclose()
    assert await level(limiter) == (6 if finished else 10)


async def test_rejections_of_one_burst_cut_the_pace_once(limiter: Limiter, told: list[events.Event]) -> None:
    permits = [await limiter.acquire(SCOPE, ONE, max_wait=s(0)) for _ in range(3)]
    for permit in permits:
        await limiter.cool_down(SCOPE, retry_after=s(7), permit=permit)
    seen = await limiter.inspect(SCOPE)
    assert (seen.pace, seen.closed_for, seen.epoch) == (0.5, s(7), 1)
    assert [e.cut for e in told if isinstance(e, events.Cooled)] == [True, False, False]


async def test_a_store_that_knows_nothing_is_seeded_cold(store: CountingStore, clock: JumpingClock) -> None:
    async with Limiter(store, {SCOPE: QUOTA}, clock=clock) as limiter:
        permit = await limiter.acquire(SCOPE, {"requests": 3}, max_wait=s(60))
        assert permit.waited.total_seconds() == pytest.approx(3, abs=0.01)
        store.model.scopes.clear()
        await limiter.cool_down(SCOPE, retry_after=s(1))
        store.model.scopes.clear()
        assert (await limiter.clock(SCOPE)).dials["requests"].clock == 0


async def test_who_waits_while_the_state_is_lost_is_booked_anew(
    limiter: Limiter, store: CountingStore, clock: JumpingClock
) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 4}, max_wait=s(60)))
    await clock.reach(1002)
    lost_at = clock.now
    store.model.scopes.clear()
    permit = await waiting
    assert clock.now >= lost_at + 4
    assert permit.waited.total_seconds() == pytest.approx(clock.now - 1000, abs=0.01)


async def test_who_waits_outlives_a_short_outage(limiter: Limiter, store: CountingStore, clock: JumpingClock) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 4}, max_wait=s(4)))
    await clock.reach(1001)
    store.lost_until = clock.now + 2
    assert (await waiting).waited < s(4.5)


async def test_an_outage_beyond_max_wait_is_reported(
    limiter: Limiter, store: CountingStore, clock: JumpingClock
) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 4}, max_wait=s(4)))
    await clock.reach(1001)
    store.lost_until = clock.now + 1e6
    with pytest.raises(StoreLost):
        await waiting
    with pytest.raises(StoreLost):
        await limiter.acquire(SCOPE, ONE, max_wait=s(4))


async def test_who_waits_when_the_limiter_closes_is_told(limiter: Limiter, clock: JumpingClock) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 400}, max_wait=s(1e6)))
    await clock.reach(1001)
    await limiter.aclose()
    with pytest.raises(StoreLost, match="closed"):
        await waiting


async def test_what_cannot_be_is_refused(limiter: Limiter) -> None:
    with pytest.raises(UnknownScope, match="openai/other"):
        await limiter.acquire("openai/other", ONE, max_wait=s(0))
    with pytest.raises(UnknownScope):
        await limiter.clock("openai/other")
    with pytest.raises(UnknownLimit, match="pages"):
        await limiter.acquire(SCOPE, {"pages": 1}, max_wait=s(0))
    with pytest.raises(CostTooLarge):
        await limiter.acquire(SCOPE, {"requests": float("inf")}, max_wait=s(0))
    with pytest.raises(BadCost):
        await limiter.reserve(SCOPE, {"requests": -1}, max_wait=s(0))
    with pytest.raises(BadCost):
        await limiter.cool_down(SCOPE, retry_after=s(-1))
    permit = await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    with pytest.raises(UnknownLimit, match="pages"):
        await limiter.settle(permit, {"pages": 1})
    await limiter.cancel(permit)
    for wrong in (0, -5):
        with pytest.raises(BadQuota, match="for_"):
            await limiter.configure(QUOTA, for_=s(wrong))
    for more in ({"key": "\ud800"}, {"key": "k", "asker": "a\nb"}, {"key": "k", "asker": "\udfff"}):
        with pytest.raises(BadCost):
            await limiter.acquire(SCOPE, ONE, max_wait=s(0), **more)
    assert await level(limiter) == 10


async def test_what_cannot_be_asked_keeps_nobody_waiting(limiter: Limiter, store: CountingStore, monkeypatch) -> None:
    def book(*_: object, **__: object) -> None:
        raise UnicodeError("cannot be sent")

    with monkeypatch.context() as patch:
        patch.setattr(store, "book", book)
        with pytest.raises(UnicodeError):
            await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    await limiter.acquire(SCOPE, ONE, max_wait=s(0))


def test_a_denial_survives_pickling() -> None:
    denied = pickle.loads(pickle.dumps(Denied(s(3), SCOPE, "requests")))
    assert (denied.retry_after, denied.scope, denied.limit) == (s(3), SCOPE, "requests")
    assert isinstance(denied, RateLimitError)


async def test_two_processes_share_one_quota(redis_store: RedisStore, valkey: str) -> None:
    quota = Quota(scope=SCOPE, limits={"requests": Limit(capacity=200, period=s(1), burst=1)})
    other_store = RedisStore.from_url(valkey)
    async with Limiter(redis_store, {SCOPE: quota}) as one, Limiter(other_store, {SCOPE: quota}) as other:
        began = time.monotonic()
        await asyncio.gather(
            *(limiter.acquire(SCOPE, ONE, max_wait=s(5)) for limiter in (one, other) for _ in range(20))
        )
        assert 0.19 <= time.monotonic() - began < 2
        counters = (await one.inspect(SCOPE)).counters
        assert counters.grants == 40
    await other_store.aclose()


@pytest.mark.parametrize("age", [0.0, 2.0])
async def test_headers_lower_the_level_but_for_what_may_have_come_back(limiter: Limiter, age: float) -> None:
    permit = await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    before = (await limiter.inspect(SCOPE)).limits["requests"].level
    await limiter.settle(permit, ONE, {"requests": Observed(remaining=1), "unheard": Observed(remaining=0)}, age=s(age))
    after = (await limiter.inspect(SCOPE)).limits["requests"]
    assert after.level == 1 + after.rate * age < before


async def test_observing_tells_whether_somebody_else_uses_the_key(limiter: Limiter) -> None:
    assert not await limiter.observe(SCOPE, {"requests": Observed(remaining=1e6, limit=500.0)})
    assert await limiter.observe(SCOPE, {"requests": Observed(remaining=4.0)})
    heard = (await limiter.inspect(SCOPE)).heard["requests"]
    assert (heard.remaining, heard.granted, heard.taken) == (4, 500, 6)


ORG, ACME = "openai/org", "openai/sim/acme"
NESTED = {
    SCOPE: Quota(scope=SCOPE, limits={"requests": Limit(capacity=60, burst=10)}, within=ORG),
    ORG: Quota(scope=ORG, limits={"requests": Limit(capacity=600, burst=100)}),
    f"{SCOPE}/*": Quota(scope=f"{SCOPE}/*", limits={"requests": Limit(capacity=60, burst=2)}),
}


@pytest.fixture
async def nested(store: CountingStore, clock: JumpingClock, told: list[events.Event]) -> AsyncIterator[Limiter]:
    async with Limiter(store, NESTED, observer=told.append, clock=clock) as found:
        await found.configure(NESTED[SCOPE], full=True)
        await found.configure(NESTED[ORG], full=True)
        yield found


async def test_a_tenants_share_is_made_when_it_first_asks_and_starts_full(nested: Limiter) -> None:
    permit = await nested.acquire(ACME, {"requests": 2}, max_wait=s(0))
    levels = [(await nested.inspect(scope)).limits["requests"].level for scope in (ACME, SCOPE, ORG)]
    assert levels == [0, 8, 98]
    with pytest.raises(Denied, match="openai/sim/acme requests"):
        await nested.acquire(ACME, ONE, max_wait=s(0))
    await nested.acquire("openai/sim/other", {"requests": 2}, max_wait=s(0))
    await nested.settle(permit, {"requests": 1})
    assert (await nested.inspect(ORG)).limits["requests"].level == 97


async def test_what_tenants_spend_is_known_where_the_gate_looks(nested: Limiter) -> None:
    await nested.clock(SCOPE)
    for tenant in ("a", "b", "c"):
        await nested.acquire(f"{SCOPE}/{tenant}", ONE, max_wait=s(0))
    assert (await nested.ahead(SCOPE)).per_call > s(0)


async def test_a_template_that_was_changed_live_holds_for_tenants_that_come_later(nested: Limiter) -> None:
    template = Quota(scope=f"{SCOPE}/*", limits={"requests": Limit(capacity=60, burst=7)})
    await nested.configure(template)
    await nested.acquire(ACME, ONE, max_wait=s(0))
    assert (await nested.inspect(ACME)).limits["requests"].level == 6


async def test_a_rejection_closes_what_the_provider_counts_by_not_the_tenant(nested: Limiter) -> None:
    permit = await nested.acquire(ACME, ONE, max_wait=s(0))
    await nested.cool_down(ACME, retry_after=s(9), permit=permit)
    closed = {scope: (await nested.inspect(scope)).closed_for for scope in (ACME, SCOPE, ORG)}
    assert closed == {ACME: s(0), SCOPE: s(9), ORG: s(0)}
    with pytest.raises(Denied, match="requests@openai/sim"):
        await nested.acquire("openai/sim/other", ONE, max_wait=s(0))


async def test_quotas_that_contradict_each_other_are_refused_by_name(store: CountingStore) -> None:
    def one(scope: str, capacity: float, within: str | None = None) -> Quota:
        return Quota(scope=scope, limits={"requests": Limit(capacity=capacity)}, within=within)

    for quotas, said in (
        ([one("a/x", 5, "a/y")], "lies within 'a/y', which has no quota"),
        ([one("a/x", 5, "a/y"), one("a/y", 5, "a/x")], "lies within itself: a/x -> a/y -> a/x"),
        ([one("a/x", 50, "a/y"), one("a/y", 5)], "is more than the"),
    ):
        with pytest.raises(BadQuota, match=said):
            Limiter(store, {quota.scope: quota for quota in quotas})
    with pytest.raises(BadQuota, match="another scope of the same provider"):
        one("a/x", 5, "b/y")


FLIGHTS = Quota(scope=SCOPE, limits={"in_flight": Limit(capacity=2, period=timedelta(seconds=30), kind=Kind.IN_FLIGHT)})


@pytest.fixture
async def flights(store: CountingStore, clock: JumpingClock) -> AsyncIterator[Limiter]:
    async with Limiter(store, {SCOPE: FLIGHTS}, clock=clock) as found:
        await found.configure(FLIGHTS, full=True)
        yield found


async def test_who_waits_starts_when_a_call_in_flight_ends(flights: Limiter, clock: JumpingClock) -> None:
    permits = [await flights.acquire(SCOPE, ONE, max_wait=s(0)) for _ in range(2)]
    waiting = asyncio.create_task(flights.acquire(SCOPE, ONE, max_wait=s(600)))
    await clock.reach(1100)
    assert not waiting.done()
    await flights.settle(permits[0], {})
    assert (await waiting).waited.total_seconds() == pytest.approx(clock.now - 1000, abs=1)


async def test_a_permit_is_renewed_while_it_is_held_and_let_go_when_it_is_dropped(
    flights: Limiter, clock: JumpingClock
) -> None:
    kept = await flights.acquire(SCOPE, ONE, max_wait=s(0))
    dropped = await flights.acquire(SCOPE, ONE, max_wait=s(0))
    assert kept.id != dropped.id
    await clock.reach(1100)
    assert await level(flights, "in_flight") == 0
    del dropped
    gc.collect()
    await clock.reach(1200)
    assert await level(flights, "in_flight") == 1


async def test_a_call_that_waits_too_long_for_others_to_end_is_denied(flights: Limiter) -> None:
    permits = [await flights.acquire(SCOPE, ONE, max_wait=s(0)) for _ in range(2)]
    with pytest.raises(Denied, match="in_flight"):
        await flights.acquire(SCOPE, ONE, max_wait=s(20))
    assert len(permits) == 2
    with pytest.raises(CostTooLarge, match="in_flight can never grant so much: at most 2 at once"):
        await flights.acquire(SCOPE, {"requests": 3}, max_wait=s(20))


async def test_a_cancelled_permit_gives_its_cost_back_once(limiter: Limiter, told: list[events.Event]) -> None:
    permit = await limiter.acquire(SCOPE, {"requests": 4}, max_wait=s(0))
    await limiter.cancel(permit)
    await limiter.cancel(permit)
    assert await level(limiter) == 10
    assert told[-1] == events.Cancelled(scope=SCOPE)
    assert told.count(told[-1]) == 1


async def test_a_frozen_scope_says_so_and_opens_again(limiter: Limiter, told: list[events.Event]) -> None:
    assert await limiter.close(SCOPE, by="ann", reason="audit")
    assert not await limiter.close(SCOPE, by="ann")
    with pytest.raises(Denied, match="openai/sim frozen: closed until it is opened") as caught:
        await limiter.acquire(SCOPE, ONE, max_wait=s(1e9))
    assert caught.value.retry_after == NEVER
    assert await limiter.open(SCOPE, by="ann")
    await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    assert [e.cause for e in told if isinstance(e, events.Shut)] == [Closed.FROZEN, Closed.NO]


async def test_whoever_opens_a_scope_ends_its_cooldown(limiter: Limiter) -> None:
    await limiter.cool_down(SCOPE, retry_after=s(300), cut=False)
    assert await limiter.open(SCOPE, by="ann", reason="the provider was wrong")
    await limiter.acquire(SCOPE, ONE, max_wait=s(2))
    assert not await limiter.open(SCOPE)


async def test_whoever_waits_when_a_scope_is_closed_is_told(limiter: Limiter, clock: JumpingClock) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))
    waiting = asyncio.create_task(limiter.acquire(SCOPE, {"requests": 9}, max_wait=s(60)))
    await clock.reach(1001)
    await limiter.close(SCOPE, Closed.BILLING, reason="insufficient_quota")
    with pytest.raises(Denied, match="openai/sim billing"):
        await waiting


async def test_a_shadow_limit_tells_what_it_would_have_refused(limiter: Limiter, told: list[events.Event]) -> None:
    shadow = Quota(scope=SCOPE, limits={"requests": Limit(capacity=60, burst=1, shadow=True)})
    await limiter.configure(shadow)
    for _ in range(3):
        await limiter.acquire(SCOPE, ONE, max_wait=s(0))
    assert told.count(events.Shadowed(scope=SCOPE, limit="requests")) == 2


async def test_asks_wait_for_a_look_that_comes_soon_anyway(limiter: Limiter, store: CountingStore) -> None:
    await limiter.acquire(SCOPE, {"requests": 10}, max_wait=s(0))

    async def agent() -> None:
        for _ in range(5):
            await limiter.acquire(SCOPE, {"requests": 0.02}, max_wait=s(60))

    before = len(store.batches) + len(store.looks)
    await asyncio.gather(*(agent() for _ in range(20)))
    # one call a grant: what asks and what looks travel together
    assert len(store.batches) + len(store.looks) - before <= 120


async def test_a_place_outlives_a_limit_that_the_quota_has_lost(limiter: Limiter) -> None:
    await limiter.reserve(SCOPE, {"requests": 1, "tokens": 10}, max_wait=s(9), key="k", asker="1")
    await limiter.configure(Quota(scope=SCOPE, limits={"requests": Limit(capacity=60, burst=10)}))
    again = await limiter.reserve(SCOPE, ONE, max_wait=s(9), key="k", asker="1")
    assert isinstance(again, Place)
    assert isinstance(await limiter.reserve(SCOPE, ONE, max_wait=s(9)), Place)


async def test_a_short_lease_is_renewed_in_time_beside_a_long_one(store: CountingStore, clock: JumpingClock) -> None:
    def flight(scope: str, lease: float) -> Quota:
        limit = Limit(capacity=2, period=s(lease), kind=Kind.IN_FLIGHT)
        return Quota(scope=scope, limits={"in_flight": limit})

    quotas = {scope: flight(scope, lease) for scope, lease in (("a/long", 60), ("a/short", 2))}
    async with Limiter(store, quotas, clock=clock) as limiter:
        for quota in quotas.values():
            await limiter.configure(quota, full=True)
        permits = [await limiter.acquire(scope, ONE, max_wait=s(0)) for scope in quotas]
        await clock.reach(1010)
        assert (await limiter.inspect("a/short")).limits["in_flight"].level == 1
        assert len(permits) == 2
