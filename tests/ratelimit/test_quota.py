from datetime import timedelta

import pytest

from ratelimit.errors import BadCost, BadQuota, CostTooLarge
from ratelimit.keys import done_key, place_key, scope_key
from ratelimit.quota import Limit, Quota, check_cost

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("capacity", [0, -1, NAN, INF, 1e300])
def test_a_capacity_must_be_a_finite_number_above_zero(capacity: float) -> None:
    with pytest.raises(BadQuota, match=r"^capacity is .*: must be [^\n]*$"):
        Limit(capacity=capacity)


@pytest.mark.parametrize("burst", [0, -1, NAN, INF])
def test_a_burst_must_be_a_finite_number_above_zero(burst: float) -> None:
    with pytest.raises(BadQuota, match="burst"):
        Limit(capacity=1, burst=burst)


def test_a_period_must_be_above_zero() -> None:
    with pytest.raises(BadQuota, match="period"):
        Limit(capacity=1, period=timedelta(0))


@pytest.mark.parametrize("headroom", [0, -0.5, 1.01, NAN, INF])
def test_a_headroom_is_a_share(headroom: float) -> None:
    with pytest.raises(BadQuota, match="openai/sim: headroom"):
        Quota(scope="openai/sim", limits={"requests": Limit(capacity=1)}, headroom=headroom)


@pytest.mark.parametrize("scope", ["", "openai", "openai/", "/x", "a/{b}", "a b/c", "a/b\n"])
def test_a_scope_names_a_provider_and_what_it_counts(scope: str) -> None:
    with pytest.raises(BadQuota, match="must look like provider/model"):
        Quota(scope=scope, limits={"requests": Limit(capacity=1)})


@pytest.mark.parametrize("name", ["", "Requests", "per minute", "a:b"])
def test_a_limit_has_a_plain_name(name: str) -> None:
    with pytest.raises(BadQuota, match="limit"):
        Quota(scope="openai/sim", limits={name: Limit(capacity=1)})


def test_a_quota_without_limits_is_refused() -> None:
    with pytest.raises(BadQuota, match="at least one limit"):
        Quota(scope="openai/sim", limits={})


def test_headroom_scales_rate_and_burst() -> None:
    limits = {"a": Limit(capacity=600), "b": Limit(capacity=600, burst=100), "c": Limit(capacity=600, burst=580)}
    quota = Quota(scope="openai/sim", limits=limits, headroom=0.9)
    assert quota.rate("a") == 9.0
    assert [quota.burst(name) for name in "abc"] == [540.0, 100.0, 540.0]


def test_a_cost_that_no_bucket_can_count_is_too_large() -> None:
    for units in (INF, 1e17):
        with pytest.raises(CostTooLarge):
            check_cost({"tokens": units})


@pytest.mark.parametrize("units", [-1.0, NAN])
def test_a_cost_below_zero_or_not_a_number_is_refused(units: float) -> None:
    with pytest.raises(BadCost, match="tokens"):
        check_cost({"tokens": units})


def test_all_keys_of_a_provider_share_one_hash_tag() -> None:
    assert scope_key("openai/sim-large") == "fleet:{openai}:state:openai/sim-large"
    assert place_key("openai/a", "run-1") == "fleet:{openai}:place:openai/a run-1"
    assert done_key("openai/b/org", "run-1#1") == "fleet:{openai}:done:openai/b/org run-1#1"
    # a scope may have colons: no two share a key
    assert place_key("openai/a", "b:c") != place_key("openai/a:b", "c")
    assert done_key("openai/a", "b:c") != done_key("openai/a:b", "c")
