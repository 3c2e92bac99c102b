"""Quotas as Valkey has them."""

import time
from datetime import timedelta
from uuid import uuid4

import pytest

from fleet.contracts import metrics
from ratelimit.errors import StoreLost
from ratelimit.headers import Observed
from ratelimit.limiter import Limiter
from ratelimit.places import Closed, Kind
from ratelimit.quota import Limit, Quota
from workers.exporter.scopes import Scopes

NONE = timedelta(0)


@pytest.fixture
def scope():
    """Of this test alone."""
    return f"sim/{uuid4().hex[:8]}"


@pytest.fixture
async def shared(valkey, scope):
    """A limiter that knows the scope's quota."""
    quota = Quota(
        scope=scope,
        limits={
            "requests": Limit(capacity=600, burst=100),
            "tokens": Limit(capacity=60_000, burst=1000),
            "in_flight": Limit(capacity=5, kind=Kind.IN_FLIGHT),
        },
        headroom=0.5,
        burst_headroom=1.0,
    )
    async with Limiter.from_url(valkey, {scope: quota}) as found:
        await found.configure(quota, full=True)
        yield found


async def look(shared, scope, **clock):
    found = {}
    for sample in await Scopes(shared, [scope], **clock).look():
        assert sample.labels[0] == scope
        found[(sample.metric, *sample.labels[1:])] = sample.value
    return found


async def test_a_scope_that_is_full_has_no_line(shared, scope):
    found = await look(shared, scope)
    assert found[metrics.QUOTA_RATE, "requests"] == pytest.approx(5)
    assert found[metrics.QUOTA_BURST, "requests"] == found[metrics.QUOTA_LEVEL, "requests"] == 100
    assert {key[1]: value for key, value in found.items() if key[0] is metrics.QUOTA_LINE} == {
        "requests": 0,
        "tokens": 0,
    }
    assert found[(metrics.QUOTA_PACE,)] == 1
    assert found[(metrics.QUOTA_COOLDOWN,)] == 0
    assert {cause: found[metrics.QUOTA_CLOSED, cause] for cause in ("billing", "frozen")} == {"billing": 0, "frozen": 0}
    assert {found[(metric,)] for metric in (metrics.QUOTA_GRANTS, metrics.QUOTA_DENIALS, metrics.QUOTA_REJECTIONS)} == {
        0
    }
    assert not any(key[0] is metrics.QUOTA_DRIFT for key in found)


async def test_the_limit_with_the_longest_line_is_the_bottleneck(shared, scope):
    for _ in range(3):
        await shared.reserve(scope, {"requests": 1, "tokens": 1000}, max_wait=timedelta(hours=1))
    found = await look(shared, scope)
    # two bursts of a thousand are owed, five hundred come back in a second
    assert found[metrics.QUOTA_LINE, "tokens"] == pytest.approx(4, abs=0.5)
    assert found[metrics.QUOTA_LEVEL, "tokens"] == pytest.approx(-2000, abs=250)
    assert found[metrics.QUOTA_LINE, "requests"] == 0
    assert found[(metrics.QUOTA_GRANTS,)] == 3


async def test_of_calls_in_flight_nobody_knows_how_long_the_line_is(shared, scope):
    # nine asked for five places: by the lease that each holds the last one would wait for hours, and calls take seconds
    for _ in range(9):
        await shared.reserve(scope, {"in_flight": 1}, max_wait=timedelta(days=1))
    found = await look(shared, scope)
    assert found[metrics.QUOTA_LEVEL, "in_flight"] == -4
    assert {key[1] for key in found if key[0] is metrics.QUOTA_LINE} == {"requests", "tokens"}


async def test_after_a_429_the_scope_is_closed_for_a_while_and_the_line_is_longer(shared, scope):
    for _ in range(3):
        await shared.reserve(scope, {"tokens": 1000}, max_wait=timedelta(hours=1))
    before = await look(shared, scope)
    await shared.cool_down(scope, retry_after=timedelta(seconds=30))
    found = await look(shared, scope)
    assert 25 < found[(metrics.QUOTA_COOLDOWN,)] <= 30
    assert found[(metrics.QUOTA_PACE,)] < 0.6
    assert found[metrics.QUOTA_LINE, "tokens"] > 1.5 * before[metrics.QUOTA_LINE, "tokens"]
    assert found[(metrics.QUOTA_REJECTIONS,)] == 1


async def test_who_is_sent_away_is_counted_in_the_store(shared, scope, valkey):
    await shared.reserve(scope, {"tokens": 1000}, max_wait=NONE)
    await shared.reserve(scope, {"tokens": 1000}, max_wait=NONE)
    # another process, as after a restart of the exporter
    async with Limiter.from_url(valkey, {}) as other:
        found = await look(other, scope)
    assert (found[(metrics.QUOTA_GRANTS,)], found[(metrics.QUOTA_DENIALS,)]) == (1, 1)


@pytest.mark.parametrize(("cause", "name"), [(Closed.BILLING, "billing"), (Closed.FROZEN, "frozen")])
async def test_a_scope_that_somebody_must_open_says_why(shared, scope, cause, name):
    await shared.close(scope, cause)
    found = await look(shared, scope)
    closed = {cause: found[metrics.QUOTA_CLOSED, cause] for cause in ("billing", "frozen")}
    assert closed == {"billing": 0, "frozen": 0} | {name: 1}
    assert found[(metrics.QUOTA_COOLDOWN,)] == 0


async def test_what_the_provider_grants_is_told_by_what_is_configured(shared, scope):
    said = {
        "requests": Observed(limit=300, remaining=300),
        "tokens": Observed(limit=1000, period_s=1),
        "unheard_of": Observed(limit=5, remaining=5),
    }
    await shared.observe(scope, said)
    found = await look(shared, scope)
    assert {key[1]: value for key, value in found.items() if key[0] is metrics.QUOTA_DRIFT} == {
        "requests": pytest.approx(0.5),
        "tokens": pytest.approx(1.0),
    }


async def test_what_the_provider_said_more_than_an_hour_ago_is_told_no_more(shared, scope):
    await shared.observe(scope, {"requests": Observed(limit=300, remaining=300)})
    found = await look(shared, scope, clock=lambda: time.time() + 3500)
    assert found[metrics.QUOTA_DRIFT, "requests"] == pytest.approx(0.5)
    found = await look(shared, scope, clock=lambda: time.time() + 3700)
    assert not any(key[0] is metrics.QUOTA_DRIFT for key in found)


async def test_a_scope_that_the_store_does_not_know_is_not_told(shared, valkey):
    assert await Scopes(shared, ["sim/nobody"]).look() == []


async def test_a_store_that_is_away_is_a_failure():
    async with Limiter.from_url("redis://127.0.0.1:1/0", {}) as lost:
        with pytest.raises(StoreLost):
            await Scopes(lost, ["sim/any"]).look()
