"""What limits beyond the plain bucket promise: nesting, what is in flight, windows, shadow limits, closing."""

from datetime import UTC, datetime, timedelta

import pytest

from ratelimit.model import permit_id
from ratelimit.places import Ask, Booking, Claim, Closed, Kind, Origin, Outcome, Rejection
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore, Store, reserve

SIM, ORG, ACME = "openai/sim", "openai/org", "openai/sim/acme"
T = 1_795_244_434.0
SPAN = timedelta(seconds=1000)


def plain(scope: str, burst: float, rate: float = 1, **more: object) -> Quota:
    return Quota(scope=scope, limits={"requests": Limit(capacity=1e3 * rate, period=SPAN, burst=burst)}, **more)


def flights(capacity: float, lease: float = 10.0) -> Quota:
    limit = Limit(capacity=capacity, period=timedelta(seconds=lease), kind=Kind.IN_FLIGHT)
    return Quota(scope=SIM, limits={"in_flight": limit})


async def book(store: Store, chain: tuple[str, ...], cost: dict[str, float], now: float = T, **more: object) -> Booking:
    more.setdefault("max_wait", 1e9)
    answer = await reserve(store, chain, [Ask(cost=cost, **more)], now=now)
    assert answer is not None
    return answer.bookings[0]


async def level(store: Store, scope: str, limit: str, now: float = T) -> float:
    return (await store.inspect(scope, now=now)).limits[limit].level


def claim(booking: Booking, name: str = "anonymous", key: str | None = None) -> Claim:
    return Claim(
        name if key is None else permit_id(key, booking.generation),
        key,
        booking.generation,
        booking.booked_at,
        booking.parts,
    )


async def test_nested_quotas_are_charged_together_or_not_at_all(store: Store) -> None:
    for quota in (plain(ACME, 2), plain(SIM, 5), plain(ORG, 3)):
        await store.configure(quota, full=True, seed=True, now=T)
    chain = (ACME, SIM, ORG)
    denied = await book(store, chain, {"requests": 4}, max_wait=1)
    assert (denied.outcome, denied.limit, denied.wait) == (Outcome.DENIED, "requests", 2)
    assert [await level(store, scope, "requests") for scope in chain] == [2, 5, 3]
    taken = await book(store, chain, {"requests": 2})
    assert [await level(store, scope, "requests") for scope in chain] == [0, 3, 1]
    assert len(taken.parts) == 3


async def test_a_limit_of_an_outer_scope_is_named_with_it(store: Store) -> None:
    for quota in (plain(SIM, 5), plain(ORG, 1)):
        await store.configure(quota, full=True, seed=True, now=T)
    denied = await book(store, (SIM, ORG), {"requests": 3}, max_wait=0)
    assert (denied.limit, denied.wait) == ("requests@openai/org", 2)


async def test_a_neighbours_scope_shares_what_is_around_both(store: Store) -> None:
    other = "openai/other"
    for quota in (plain(SIM, 9), plain(other, 9), plain(ORG, 4)):
        await store.configure(quota, full=True, seed=True, now=T)
    await book(store, (SIM, ORG), {"requests": 4})
    behind = await book(store, (other, ORG), {"requests": 1})
    assert (behind.wait, behind.limit) == (1, "requests@openai/org")


async def test_settling_and_cancelling_reach_every_scope_of_the_chain(store: Store) -> None:
    for quota in (plain(SIM, 9), plain(ORG, 9)):
        await store.configure(quota, full=True, seed=True, now=T)
    first = await book(store, (SIM, ORG), {"requests": 4})
    await store.settle((SIM, ORG), claim(first), actual={"requests": 1.0}, now=T)
    assert [await level(store, scope, "requests") for scope in (SIM, ORG)] == [8, 8]
    second = await book(store, (SIM, ORG), {"requests": 4})
    await store.cancel((SIM, ORG), claim(second, "second"), now=T)
    assert [await level(store, scope, "requests") for scope in (SIM, ORG)] == [8, 8]


async def test_a_chain_that_lacks_a_scope_is_not_charged(store: Store) -> None:
    await store.configure(plain(SIM, 9), full=True, seed=True, now=T)
    assert await reserve(store, (SIM, ORG), [Ask(cost={"requests": 1}, max_wait=0)], now=T) is None
    assert await level(store, SIM, "requests") == 9


async def test_what_is_in_flight_returns_when_the_call_ends(store: Store) -> None:
    await store.configure(flights(2), full=True, seed=True, now=T)
    one, two = [await book(store, (SIM,), {"requests": 1}) for _ in range(2)]
    third = await book(store, (SIM,), {"requests": 1}, key="k", max_wait=0, hold=True)
    assert third.outcome is Outcome.HELD
    for now in (T + 1, T + 5):
        assert (await book(store, (SIM,), {"requests": 1}, now, key="k", max_wait=0)).outcome is Outcome.HELD
    await store.settle((SIM,), claim(one), actual={"requests": 1.0}, now=T + 5)
    assert (await book(store, (SIM,), {"requests": 1}, T + 5, key="k", max_wait=0)).outcome is Outcome.TAKEN
    await store.settle((SIM,), claim(two, "two"), actual={}, now=T + 5)
    assert await level(store, SIM, "in_flight", T + 5) == 1


async def test_a_lease_that_nobody_renews_ends(store: Store) -> None:
    await store.configure(flights(2), full=True, seed=True, now=T)
    dead, alive = [await book(store, (SIM,), {"requests": 1}) for _ in range(2)]
    assert (await store.renew(SIM, [alive.parts[0].lease, 99], now=T + 9))[0] == 1
    assert await level(store, SIM, "in_flight", T + 9.9) == 0
    assert await level(store, SIM, "in_flight", T + 10) == 1
    # what it held is not given back twice
    await store.settle((SIM,), claim(dead), actual={}, now=T + 11)
    assert await level(store, SIM, "in_flight", T + 11) == 1
    assert await level(store, SIM, "in_flight", T + 19) == 2


async def test_places_that_wait_hold_nothing_of_those_before_them(store: Store) -> None:
    await store.configure(flights(1), full=True, seed=True, now=T)
    runs = await book(store, (SIM,), {"requests": 1})
    first = await book(store, (SIM,), {"requests": 1}, key="first", max_wait=0, hold=True)
    second = await book(store, (SIM,), {"requests": 1}, key="second", max_wait=0, hold=True)
    await store.cancel((SIM,), claim(second, key="second"), now=T + 1)
    assert (await book(store, (SIM,), {"requests": 1}, T + 1, key="first", max_wait=0)).outcome is Outcome.HELD
    await store.settle((SIM,), claim(runs), actual={}, now=T + 2)
    assert (await book(store, (SIM,), {"requests": 1}, T + 2, key="first", max_wait=0)).outcome is Outcome.TAKEN
    assert first.parts[0].lease > 0


async def test_state_that_is_lost_takes_calls_to_be_in_flight(store: Store) -> None:
    await store.configure(flights(4, lease=8), full=False, seed=True, now=T)
    assert [await level(store, SIM, "in_flight", T + dt) for dt in (0, 2, 4, 8)] == [0, 1, 2, 4]


async def test_more_than_can_ever_be_in_flight_is_refused(store: Store) -> None:
    await store.configure(flights(2), full=True, seed=True, now=T)
    for key in (None, "k"):
        booking = await book(store, (SIM,), {"requests": 3}, key=key)
        assert (booking.outcome, booking.limit) == (Outcome.TOO_LARGE, "in_flight")
    assert await level(store, SIM, "in_flight") == 2


async def test_fewer_at_once_takes_effect_as_calls_end(store: Store) -> None:
    await store.configure(flights(3), full=True, seed=True, now=T)
    running = [await book(store, (SIM,), {"requests": 1}) for _ in range(3)]
    await store.configure(flights(1), full=False, seed=False, now=T)
    assert await level(store, SIM, "in_flight") == -2
    for i, booking in enumerate(running):
        await store.settle((SIM,), claim(booking, str(i)), actual={}, now=T)
    assert await level(store, SIM, "in_flight") == 1


async def test_a_day_is_given_all_at_once_with_midnight(store: Store) -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
    day = Limit(capacity=100, period=timedelta(days=1), kind=Kind.FIXED)
    await store.configure(Quota(scope=SIM, limits={"requests_per_day": day}), full=False, seed=True, now=noon)
    # what was used of the day is not known: taken to be half of it at noon
    assert await level(store, SIM, "requests_per_day", noon) == 50
    await book(store, (SIM,), {"requests": 50}, noon)
    waits = [(await book(store, (SIM,), {"requests": 60}, noon, key=k)).wait for k in ("a", "b")]
    assert waits == [43200, 43200 + 86400]
    assert await level(store, SIM, "requests_per_day", noon + 43199) == -120
    assert await level(store, SIM, "requests_per_day", noon + 43200) == -20


async def test_a_month_ends_with_the_calendars(store: Store) -> None:
    february = datetime(2028, 2, 28, 23, tzinfo=UTC).timestamp()
    quota = Quota(scope=SIM, limits={"requests_per_month": Limit(capacity=10, kind=Kind.MONTHS)})
    await store.configure(quota, full=True, seed=True, now=february)
    await book(store, (SIM,), {"requests": 10}, february)
    assert (await book(store, (SIM,), {"requests": 1}, february, max_wait=0)).wait == 25 * 3600
    assert await level(store, SIM, "requests_per_month", february + 25 * 3600) == 10


async def test_one_cost_is_charged_to_all_limits_that_count_it(store: Store) -> None:
    limits = {"tokens": Limit(capacity=600), "tokens_per_day": Limit(capacity=9000, period=timedelta(days=1))}
    await store.configure(Quota(scope=SIM, limits=limits), full=True, seed=True, now=T)
    booking = await book(store, (SIM,), {"tokens": 100})
    assert booking.parts[0].cost == {"tokens": 100, "tokens_per_day": 100}
    await store.settle((SIM,), claim(booking), actual={"tokens": 150.0}, now=T)
    assert await level(store, SIM, "tokens") == 450
    assert await level(store, SIM, "tokens_per_day") == 8850


async def test_a_shadow_limit_counts_and_refuses_nothing(store: Store) -> None:
    limits = {"requests": Limit(capacity=100), "tokens": Limit(capacity=60, shadow=True)}
    await store.configure(Quota(scope=SIM, limits=limits), full=True, seed=True, now=T)
    answer = await reserve(store, (SIM,), [Ask(cost={"requests": 1, "tokens": 25}, max_wait=0)] * 4, now=T)
    assert answer is not None
    assert [b.outcome for b in answer.bookings] == [Outcome.TAKEN] * 4
    assert ["tokens" in b.parts[0].cost for b in answer.bookings] == [True, True, False, False]
    seen = (await store.inspect(SIM, now=T)).limits
    assert (seen["tokens"].shadowed, seen["tokens"].level, seen["requests"].level) == (2, 10, 96)


async def test_one_limit_cools_down_alone(store: Store) -> None:
    limits = {"requests": Limit(capacity=600), "tokens": Limit(capacity=6000)}
    await store.configure(Quota(scope=SIM, limits=limits), full=True, seed=True, now=T)
    await store.cool_down(SIM, Rejection(30.0, limit="tokens", cut=False), now=T)
    assert (await book(store, (SIM,), {"requests": 1}, max_wait=0)).outcome is Outcome.TAKEN
    closed = await book(store, (SIM,), {"requests": 1, "tokens": 0.001}, max_wait=0)
    assert (closed.outcome, closed.limit, closed.wait) == (Outcome.DENIED, "tokens", pytest.approx(30, abs=1e-3))
    assert await level(store, SIM, "tokens", T + 30) == 0
    assert await level(store, SIM, "tokens", T + 31) == 100


async def test_without_a_hint_cooldowns_grow_with_each_burst_and_not_within_one(store: Store) -> None:
    await store.configure(plain(SIM, 9), full=True, seed=True, now=T)
    waits = []
    for epoch in (0, 0, 0, 1, 2, 3, 4, 5, 6):
        _, for_s, _ = await store.cool_down(SIM, Rejection(None, epoch, jitter=0.5), now=T)
        waits.append(for_s)
    assert waits == [2, 0, 0, 4, 8, 16, 32, 60, 60]
    _, least, _ = await store.cool_down(SIM, Rejection(None, jitter=0.0), now=T)
    assert least == 45


async def test_a_late_rejection_of_a_call_that_was_booked_anew_changes_nothing(store: Store) -> None:
    await store.configure(plain(SIM, 9), full=True, seed=True, now=T)
    first = await book(store, (SIM,), {"requests": 1}, key="k", asker="1")
    second = await book(store, (SIM,), {"requests": 1}, key="k", asker="2")
    assert (second.origin, second.generation) == (Origin.REBOOKED, 2)
    late = Rejection(60.0, first.parts[0].epoch, key=(SIM, "k"), generation=1)
    assert (await store.cool_down(SIM, late, now=T))[:2] == (False, 0.0)
    seen = await store.inspect(SIM, now=T)
    assert (seen.pace, seen.closed_for, seen.counters.rejections) == (1.0, timedelta(0), 1)


@pytest.mark.parametrize("verb", ["settle", "cancel"])
async def test_what_an_older_generation_says_changes_nothing(store: Store, verb: str) -> None:
    await store.configure(plain(SIM, 9), full=True, seed=True, now=T)
    first = await book(store, (SIM,), {"requests": 1}, key="k", asker="1")
    await book(store, (SIM,), {"requests": 1}, key="k", asker="2")
    more = {"actual": {"requests": 0.0}} if verb == "settle" else {}
    outcome, _ = await getattr(store, verb)((SIM,), claim(first, key="k"), **more, now=T)
    assert outcome == "stale"
    assert await level(store, SIM, "requests") == 7


async def test_a_closed_scope_grants_nothing_until_somebody_opens_it(store: Store) -> None:
    await store.configure(plain(SIM, 9), full=True, seed=True, now=T)
    await book(store, (SIM,), {"requests": 9})
    assert (await store.close(SIM, Closed.FROZEN, by="ann", reason="audit", now=T))[0]
    assert not (await store.close(SIM, Closed.FROZEN, now=T))[0]
    denied = await book(store, (SIM,), {"requests": 1}, T + 1e6, max_wait=1e9)
    assert (denied.outcome, denied.limit, denied.wait) == (Outcome.DENIED, "frozen", float("inf"))
    assert (await store.inspect(SIM, now=T + 1e6)).closed is Closed.FROZEN
    assert (await store.close(SIM, Closed.NO, by="bob", now=T + 1e6))[0]
    # nothing came back meanwhile: the provider may not have forgotten either
    assert await level(store, SIM, "requests", T + 1e6) == 0
    assert await level(store, SIM, "requests", T + 1e6 + 2) == 2
    assert [(c.action, c.by, c.reason) for c in await store.changes(SIM, 2)] == [
        ("thaw", "bob", ""),
        ("freeze", "ann", "audit"),
    ]


async def test_a_quota_that_is_set_for_a_while_ends_on_its_instant(store: Store) -> None:
    await store.configure(plain(SIM, 1), full=True, seed=True, now=T)
    await book(store, (SIM,), {"requests": 1})
    await store.configure(plain(SIM, 100, 100), full=False, seed=False, for_s=10.0, by="ann", reason="launch", now=T)
    assert (await store.inspect(SIM, now=T + 1)).ends_in == timedelta(seconds=9)
    await book(store, (SIM,), {"requests": 1100}, T + 1)
    # 9 seconds at 100 a second, and then 1 a second
    assert await level(store, SIM, "requests", T + 30) == pytest.approx(100 - 1100 + 9 * 100 + 20)
    found = await store.quota(SIM)
    assert found == plain(SIM, 1)
    assert [(c.action, c.for_s, c.version) for c in await store.changes(SIM, 9)] == [
        ("end", None, 3),
        ("set", 10.0, 2),
        ("set", None, 1),
    ]


async def test_a_quota_that_is_set_for_good_ends_the_one_for_a_while(store: Store) -> None:
    await store.configure(plain(SIM, 1), full=True, seed=True, now=T)
    await store.configure(plain(SIM, 100, 100), full=False, seed=False, for_s=10.0, now=T)
    await store.configure(plain(SIM, 7), full=False, seed=False, now=T + 1)
    assert await store.quota(SIM) == plain(SIM, 7)
    seen = await store.inspect(SIM, now=T + 60)
    assert (seen.ends_in, seen.limits["requests"].burst) == (None, 7)


async def test_a_passing_scope_is_forgotten_once_it_is_as_new(redis_store: RedisStore) -> None:
    quota = plain(ACME, 10, within=SIM, passing=True)
    await redis_store.configure(quota, full=True, seed=True)
    key = "fleet:{openai}:state:openai/sim/acme"
    assert 0 < await redis_store.execute("PTTL", key) <= 60_100
    await reserve(redis_store, (ACME,), [Ask(cost={"requests": 10}, max_wait=0)])
    assert 69_000 < await redis_store.execute("PTTL", key) <= 70_100
    assert await redis_store.execute("EXISTS", "fleet:{openai}:changes:openai/sim/acme") == 0
