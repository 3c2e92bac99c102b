"""What every store promises."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ratelimit.errors import StoreLost
from ratelimit.headers import Observed
from ratelimit.memory import MemoryStore
from ratelimit.model import permit_id
from ratelimit.places import Ask, Booking, Claim, Origin, Outcome, Part, Rejection
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore, Store, reserve

SCOPE = "openai/sim"
CHAIN = (SCOPE,)
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=60, burst=10), "tokens": Limit(capacity=6000)})
T = 1000.0


@pytest.fixture
async def full(store: Store) -> Store:
    await store.configure(QUOTA, full=True, seed=True, now=T)
    return store


def ask(requests: float = 1, *, max_wait: float = 1e9, key: str | None = None, asker: str = "1", hold: bool = False):
    return Ask(cost={"requests": requests}, max_wait=max_wait, key=key, asker=asker, hold=hold)


async def book(store: Store, one: Ask, now: float = T) -> Booking:
    answer = await reserve(store, CHAIN, [one], now=now)
    assert answer is not None
    return answer.bookings[0]


async def level(store: Store, now: float = T) -> float:
    return (await store.inspect(SCOPE, now=now)).limits["requests"].level


def permit(booking: Booking, key: str | None = None) -> Claim:
    name = "anonymous" if key is None else permit_id(key, booking.generation)
    return Claim(name, key, booking.generation, booking.booked_at, booking.parts)


def due(booking: Booking) -> float:
    return booking.parts[0].due["requests"]


async def test_a_scope_that_nobody_configured_is_answered_as_such(store: Store) -> None:
    assert await reserve(store, CHAIN, [ask()]) is None
    assert await store.clock(CHAIN) is None
    assert await store.cool_down(SCOPE, Rejection(1.0)) == (False, 0.0, None)
    settled = await store.settle(CHAIN, Claim("p", None, 1, 0.0, [Part(0, 0, {}, {})]), actual={})
    assert settled == ("unconfigured", None)
    assert not (await store.inspect(SCOPE)).configured


async def test_new_state_starts_cold(store: Store) -> None:
    assert await store.configure(QUOTA, full=False, seed=True, now=T)
    assert await level(store) == 0
    assert await level(store, T + 3) == 3


async def test_seeding_leaves_a_live_quota_alone(full: Store) -> None:
    other = Quota(scope=SCOPE, limits={"requests": Limit(capacity=1)})
    assert not await full.configure(other, full=False, seed=True, now=T)
    assert (await full.inspect(SCOPE, now=T)).limits["requests"].burst == 10


async def test_a_live_quota_change_keeps_the_level(full: Store) -> None:
    await book(full, ask(9))
    changed = Quota(scope=SCOPE, limits={"requests": Limit(capacity=600), "recipients": Limit(capacity=5)})
    assert await full.configure(changed, full=False, seed=False, now=T)
    limits = (await full.inspect(SCOPE, now=T)).limits
    assert {name: limit.level for name, limit in limits.items()} == {"requests": 1, "recipients": 0}


async def test_all_limits_are_charged_or_none(full: Store) -> None:
    cost = {"requests": 1.0, "tokens": 1e6}
    denied = await book(full, Ask(cost=cost, max_wait=1))
    assert (denied.outcome, denied.limit) == (Outcome.DENIED, "tokens")
    assert await level(full) == 10
    taken = await book(full, Ask(cost=cost, max_wait=1e9))
    assert taken.outcome is Outcome.TAKEN
    assert {n: x.level for n, x in (await full.inspect(SCOPE, now=T)).limits.items()} == {
        "requests": 9,
        "tokens": 6000 - 1e6,
    }


async def test_a_limit_that_the_quota_lacks_is_named(full: Store) -> None:
    booking = await book(full, Ask(cost={"requests": 1, "pages": 1}, max_wait=1))
    assert (booking.outcome, booking.limit) == (Outcome.UNKNOWN, "pages")
    assert await level(full) == 10


async def test_asks_of_one_batch_are_served_in_order(full: Store) -> None:
    answer = await reserve(full, CHAIN, [ask(10), ask(1), ask(1)], now=T)
    assert answer is not None
    assert [b.wait for b in answer.bookings] == [0, 1, 2]


async def test_asking_again_charges_once(full: Store) -> None:
    first = await book(full, ask(key="k"))
    again = await book(full, ask(key="k"))
    assert (first.origin, again.origin) == (Origin.BOOKED, Origin.SAME)
    assert again.parts == first.parts
    assert await level(full) == 9


async def test_a_held_place_is_picked_up_by_whoever_comes_in_time(full: Store) -> None:
    await book(full, ask(10))
    held = await book(full, ask(5, key="k", asker="1", max_wait=1, hold=True))
    assert (held.outcome, held.wait) == (Outcome.HELD, 5)
    early = await book(full, ask(5, key="k", asker="2", max_wait=1, hold=True), now=T + 2)
    assert (early.outcome, early.wait) == (Outcome.HELD, 3)
    picked = await book(full, ask(5, key="k", asker="3", max_wait=1, hold=True), now=T + 4)
    assert (picked.outcome, picked.origin, picked.wait) == (Outcome.TAKEN, Origin.PICKED, 1)
    assert await level(full, T + 4) == -1


async def test_a_place_taken_by_another_attempt_is_booked_anew(full: Store) -> None:
    await book(full, ask(key="k", asker="1"))
    again = await book(full, ask(key="k", asker="2"), now=T + 0.25)
    assert (again.origin, again.generation, again.first_at) == (Origin.REBOOKED, 2, T)
    assert (await full.inspect(SCOPE, now=T)).counters.rebooked == 1


async def test_a_place_picked_up_too_late_is_booked_anew(full: Store) -> None:
    await book(full, ask(10))
    await book(full, ask(1, key="k", max_wait=0, hold=True))
    again = await book(full, ask(1, key="k"), now=T + 6.5)
    assert (again.origin, again.generation) == (Origin.REBOOKED, 2)


async def test_a_place_does_not_expire_on_one_limit_while_it_waits_for_another(full: Store) -> None:
    cost = {"requests": 1.0, "tokens": 12000.0}
    await book(full, Ask(cost=cost, max_wait=0, key="k", hold=True))
    again = await book(full, Ask(cost=cost, max_wait=0, key="k", hold=True), now=T + 59)
    assert (again.outcome, again.origin, again.wait) == (Outcome.HELD, Origin.PICKED, 1)


async def test_a_place_of_a_lost_state_is_booked_anew(full: Store) -> None:
    await book(full, ask(1000, key="k"))
    if isinstance(full, MemoryStore):
        full.model.scopes.clear()
    else:
        assert isinstance(full, RedisStore)
        await full.execute("DEL", "fleet:{openai}:state:openai/sim")
    await full.configure(QUOTA, full=True, seed=True, now=T + 1)
    again = await book(full, ask(1, key="k"), now=T + 1)
    assert (again.origin, again.wait) == (Origin.REBOOKED, 0)


async def test_a_settled_key_is_charged_anew(full: Store) -> None:
    first = await book(full, ask(key="k"))
    await full.settle(CHAIN, permit(first, "k"), actual={"requests": 1.0}, now=T)
    again = await book(full, ask(key="k"), now=T + 0.5)
    assert (again.origin, again.generation, again.first_at) == (Origin.BOOKED, 2, T + 0.5)


async def test_a_refund_calls_up_those_in_line_and_a_debt_sends_them_back(full: Store) -> None:
    spender = await book(full, ask(10))
    waiting = await book(full, ask(5, key="k"))
    assert waiting.wait == 5
    _, reading = await full.settle(CHAIN, permit(spender), actual={"requests": 7.0}, now=T)
    assert reading is not None
    assert due(waiting) - reading[0].dials["requests"].clock == 2
    other = replace(permit(spender), permit="other")
    _, reading = await full.settle(CHAIN, other, actual={"requests": 14.0}, now=T)
    assert reading is not None
    assert due(waiting) - reading[0].dials["requests"].clock == 6


async def test_a_refund_never_lifts_a_level_above_its_burst(full: Store) -> None:
    booking = await book(full, ask(8))
    await full.settle(CHAIN, permit(booking), actual={"requests": 0.0}, now=T + 5)
    assert await level(full, T + 5) == 10


async def test_settling_an_older_generation_leaves_the_newer_place_open(full: Store) -> None:
    first = await book(full, ask(key="k", asker="1"))
    second = await book(full, ask(key="k", asker="2"))
    await full.settle(CHAIN, permit(first, "k"), actual={"requests": 1.0}, now=T)
    assert (await book(full, ask(key="k", asker="2"))).origin is Origin.SAME
    await full.settle(CHAIN, permit(second, "k"), actual={"requests": 1.0}, now=T)
    assert (await book(full, ask(key="k", asker="2"))).origin is Origin.BOOKED


async def test_a_permit_of_a_lost_state_settles_nothing(store: Store) -> None:
    await store.configure(QUOTA, full=False, seed=True, now=T)
    old = Claim("p", None, 1, T - 1, [Part(0, 0, {"requests": 9.0}, {})])
    assert (await store.settle(CHAIN, old, actual={"requests": 0.0}, now=T))[0] == "lost"
    assert await level(store) == 0


async def test_a_cancelled_place_returns_its_cost_once(full: Store) -> None:
    booking = await book(full, ask(4))
    for expected in ("done", "again"):
        assert (await full.cancel(CHAIN, permit(booking), now=T))[0] == expected
        assert await level(full) == 10


async def test_nobody_is_left_standing_behind_a_cancelled_place(full: Store) -> None:
    large = await book(full, ask(1000))
    behind = await book(full, ask(5, key="k", hold=True))
    assert behind.wait == 995
    await full.cancel(CHAIN, permit(large), now=T)
    assert (await book(full, ask(5, key="k", max_wait=0))).outcome is Outcome.TAKEN


async def test_a_cooldown_stops_the_clock(full: Store) -> None:
    await full.cool_down(SCOPE, Rejection(10.0, cut=False), now=T)
    closed = await book(full, Ask(cost={}, max_wait=0), now=T + 4)
    assert (closed.outcome, closed.wait, closed.limit) == (Outcome.DENIED, 6, "cooldown")
    assert await level(full, T + 10) == 0
    assert await level(full, T + 12) == 2


async def test_many_rejections_of_one_burst_cut_the_pace_once(full: Store) -> None:
    booking = await book(full, ask())
    cuts = [(await full.cool_down(SCOPE, Rejection(1.0, booking.parts[0].epoch), now=T))[0] for _ in range(3)]
    assert cuts == [True, False, False]
    seen = await full.inspect(SCOPE, now=T)
    assert (seen.pace, seen.epoch, seen.strikes, seen.counters.rejections) == (0.5, 1, 1, 3)
    assert seen.closed_for == timedelta(seconds=1)


async def test_the_pace_is_never_cut_to_nothing_and_comes_back(full: Store) -> None:
    for _ in range(10):
        await full.cool_down(SCOPE, Rejection(0.0), now=T)
    assert (await full.inspect(SCOPE, now=T)).pace == 0.05
    later = await full.inspect(SCOPE, now=T + 57)
    assert (later.pace, later.strikes) == (1.0, 0)


async def test_a_clock_that_was_set_back_stands_still(full: Store) -> None:
    await book(full, ask(10))
    await full.clock(CHAIN, now=T + 5)
    assert await level(full, T) == 5
    assert await level(full, T + 6) == 6


async def test_without_an_instant_the_stores_own_clock_counts(store: Store) -> None:
    await store.configure(QUOTA, full=True, seed=True)
    reading = await store.clock(CHAIN)
    assert reading is not None
    assert reading[0].now > 1.7e9


async def test_places_do_not_stay_for_ever(redis_store: RedisStore) -> None:
    await redis_store.configure(QUOTA, full=True, seed=True)
    answer = await reserve(redis_store, CHAIN, [ask(key="k")])
    assert answer is not None
    place, done = "fleet:{openai}:place:openai/sim k", "fleet:{openai}:done:openai/sim k#1"
    assert 86_000_000 < await redis_store.execute("PTTL", place) <= 86_400_000
    await redis_store.settle(CHAIN, permit(answer.bookings[0], "k"), actual={})
    assert 0 < await redis_store.execute("PTTL", place) <= 600_000
    assert 0 < await redis_store.execute("PTTL", done) <= 600_000
    assert await redis_store.execute("PTTL", "fleet:{openai}:state:openai/sim") == -1


async def test_memory_forgets_settled_places_too() -> None:
    now = T
    store = MemoryStore(clock=lambda: now)
    await store.configure(QUOTA, full=True, seed=True)
    first = await book(store, ask(key="k"))
    await store.settle(CHAIN, permit(first, "k"), actual={})
    now = T + 1300
    await store.clock(CHAIN)
    assert not store.model.places
    assert not store.model.done


async def test_a_lost_server_is_named_without_its_password() -> None:
    store = RedisStore.from_url("redis://someone:secret@127.0.0.1:1/0")
    for verb in (store.ping(), store.clock(CHAIN)):
        with pytest.raises(StoreLost) as caught:
            await verb
        assert str(caught.value) == "Redis at 127.0.0.1:1 does not answer (ConnectionError)"
    await store.aclose()


async def test_a_provider_that_has_less_left_lowers_the_level_and_sets_the_clock_back(full: Store) -> None:
    before = await full.clock(CHAIN, now=T)
    lowered, reading = await full.observe(
        SCOPE, told={"requests": Observed(remaining=4.0), "unheard": Observed(remaining=0.0)}, now=T
    )
    assert lowered
    assert (await full.inspect(SCOPE, now=T)).limits["requests"].level == 4.0
    assert before[0].dials["requests"].clock - reading.dials["requests"].clock == 6.0
    assert not (await full.observe(SCOPE, told={"requests": Observed(remaining=1e9)}, now=T))[0]
    assert (await full.inspect(SCOPE, now=T)).limits["requests"].level == 4.0


async def test_what_is_left_travels_with_a_settlement(full: Store) -> None:
    answer = await reserve(full, CHAIN, [ask(2)], now=T)
    spent = permit(answer.bookings[0])
    await full.settle(CHAIN, spent, actual={"requests": 1.0}, observed={"requests": Observed(remaining=3.0)}, now=T)
    assert (await full.inspect(SCOPE, now=T)).limits["requests"].level == 3.0
    await full.settle(CHAIN, spent, actual={"requests": 1.0}, observed={"requests": Observed(remaining=0.0)}, now=T)
    assert (await full.inspect(SCOPE, now=T)).limits["requests"].level == 3.0


async def test_a_change_is_kept_with_who_and_why(full: Store) -> None:
    changed = Quota(scope=SCOPE, limits={"requests": Limit(capacity=30, burst=3)}, headroom=0.9, burst_headroom=0.8)
    assert await full.configure(changed, full=False, seed=False, by="ann", reason="Märchenstunde\nzwei", now=T)
    assert await full.quota(SCOPE) == changed
    newest, first = await full.changes(SCOPE, 10)
    assert (newest.version, newest.by, newest.reason, newest.quota) == (2, "ann", "Märchenstunde\nzwei", changed)
    assert (first.version, first.quota) == (1, QUOTA)
    assert newest.at == T
    assert len(await full.changes(SCOPE, 1)) == 1


async def test_a_change_over_another_version_is_refused(full: Store) -> None:
    assert (await full.inspect(SCOPE, now=T)).version == 1
    assert not await full.configure(QUOTA, full=False, seed=False, expect=0, now=T)
    assert await full.configure(QUOTA, full=False, seed=False, expect=1, now=T)
    assert (await full.inspect(SCOPE, now=T)).version == 2
    assert len(await full.changes(SCOPE, 10)) == 2


async def test_a_scope_that_nobody_set_has_no_quota(store: Store) -> None:
    assert await store.quota(SCOPE) is None
    assert await store.changes(SCOPE, 10) == []
