"""Accounting profiles, and estimates that calibrate themselves."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import events
from ratelimit.estimates import QUANTILE, Estimate, Learnt, Used
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.profiles import PROFILES
from ratelimit.store import RedisStore

SCOPE = "openai/sim"
ESTIMATE = Estimate(input_tokens=1000.0, output_tokens=300.0, characters=6000)
USED = Used(input_tokens=1200, output_tokens=100, cached_tokens=800)


@pytest.mark.parametrize(
    ("profile", "booked", "settled"),
    [
        # the larger of limit and characters / 4; nothing comes back; cached input counts
        ("openai", (1500, 1000, 500), (1500, 1200)),
        ("azure", (1500, 1000, 500), (1500, 1200)),
        # output as generated; reads of the cache are free
        ("anthropic", (1300, 1000, 300), (500, 400)),
        ("groq", (1500, 1000, 500), (500, 400)),
        ("cerebras", (1500, 1000, 500), (1300, 1200)),
    ],
)
def test_each_provider_counts_in_its_own_way(profile, booked, settled) -> None:
    charged = PROFILES[profile].cost(ESTIMATE, 500)
    assert charged == dict(zip(("requests", "tokens", "input_tokens", "output_tokens"), (1, *booked), strict=True))
    actual = PROFILES[profile].actual(charged, USED)
    assert actual == {"requests": 1, "tokens": settled[0], "input_tokens": settled[1], "output_tokens": 100}


def test_openai_charges_the_limit_where_that_is_larger() -> None:
    assert PROFILES["openai"].cost(ESTIMATE, 4000)["tokens"] == 4000


def test_estimates_find_the_ratio_and_the_quantile() -> None:
    draw = random.Random(7)
    learnt, below = Learnt(), 0
    for number in range(4000):
        characters = draw.randint(500, 20_000)
        output = draw.lognormvariate(5.5, 0.6)
        below += number >= 1000 and output <= learnt.output
        learnt.learn(characters, characters * 0.31 * draw.uniform(0.95, 1.05), output)
    assert learnt.per_character == pytest.approx(0.31, rel=0.03)
    assert below / 3000 == pytest.approx(QUANTILE, abs=0.04)


def test_estimates_follow_a_role_that_changes() -> None:
    learnt = Learnt()
    for output in [100.0] * 200 + [900.0] * 200:
        learnt.learn(1000, 250, output)
    assert learnt.output > 700


def test_an_estimate_is_no_more_than_the_call_may_write() -> None:
    assert Learnt(output=900.0).estimate(10, 50) == Estimate(input_tokens=3.0, output_tokens=50.0, characters=10)


calls = st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=12)


async def test_what_is_learnt_is_the_same_in_lua_and_in_python(redis_store: RedisStore) -> None:
    draw = random.Random(3)
    memory = MemoryStore()
    assert await redis_store.learnt(SCOPE, "a") is None
    for _ in range(300):
        characters, read, written = draw.uniform(0, 1e5), draw.uniform(0, 1e5), draw.lognormvariate(5, 1)
        for role in ("a", "b")[: draw.randint(1, 2)]:
            seen = {"characters": characters, "input_tokens": read, "output_tokens": written}
            assert await redis_store.learn(SCOPE, role, **seen) == await memory.learn(SCOPE, role, **seen)
    assert await redis_store.learnt(SCOPE, "b") == await memory.learnt(SCOPE, "b")


@settings(max_examples=100, deadline=None)
@given(calls)
def test_estimates_stay_numbers_above_zero(calls) -> None:
    learnt = Learnt()
    for call in calls:
        learnt.learn(*call)
    estimate = learnt.estimate(1000, 10**6)
    assert 0 <= estimate.input_tokens < 1e300
    assert 0 <= estimate.output_tokens <= 1e6


async def test_what_one_process_learns_the_others_use(redis_store: RedisStore) -> None:
    told: list[events.Event] = []
    async with Limiter(redis_store, {}, observer=told.append) as one, Limiter(redis_store, {}) as other:
        estimate = await one.estimate(SCOPE, "researcher", characters=4000, max_output_tokens=500)
        assert estimate == Estimate(input_tokens=1000.0, output_tokens=256.0, characters=4000)
        used = Used(input_tokens=2000, output_tokens=128)
        await one.learn(SCOPE, "researcher", characters=4000, estimate=estimate, used=used)
        assert told == [
            events.Estimated(scope=SCOPE, what="input_tokens", ratio=0.5),
            events.Estimated(scope=SCOPE, what="output_tokens", ratio=2.0),
        ]
        found = await other.estimate(SCOPE, "researcher", characters=4000, max_output_tokens=500)
        assert found == Estimate(input_tokens=2000.0, output_tokens=128.0, characters=4000)
