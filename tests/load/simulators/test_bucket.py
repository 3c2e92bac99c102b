"""How the providers count, with the time in our hands."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.simulators.bucket import new_bucket
from load.simulators.options import LimitOptions
from load.simulators.quota import Meter


def limit(units, period_s=60.0, burst=None, window="continuous"):
    return LimitOptions(limit=units, period_s=period_s, burst=burst, window=window)


def test_a_continuous_bucket_refills_all_the_time():
    bucket = new_bucket(limit(60, burst=10), 0.0)
    bucket.spend(10, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0)
    assert bucket.available(5.0) == pytest.approx(5.0)
    assert bucket.available(500.0) == 10
    assert math.isinf(bucket.wait(11, 500.0))
    assert bucket.full_in(500.0) == 0


def test_a_fixed_window_starts_anew_at_multiples_of_its_period():
    bucket = new_bucket(limit(10, window="fixed"), 59.0)
    bucket.spend(10, 59.0)
    assert bucket.wait(1, 59.0) == pytest.approx(1.0)
    assert bucket.available(60.0) == 10


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 12)), max_size=60))
def test_no_window_ever_grants_more_than_burst_plus_refill(asked):
    meter, now, granted = Meter(), 0.0, []
    meter.update({"requests": limit(60, burst=10)}, now)
    for pause, units in asked:
        now += pause
        if meter.admit({"requests": float(units)}, now) is None:
            granted.append((now, units))
    for begin, _ in granted:
        for end, _ in granted:
            spent = sum(units for at, units in granted if begin <= at <= end)
            if end >= begin:
                assert spent <= 10 + (end - begin) + 1e-6


def test_all_limits_are_charged_or_none():
    meter = Meter()
    meter.update({"requests": limit(60, burst=5), "tokens": limit(6000, burst=100)}, 0.0)
    refusal = meter.admit({"requests": 1.0, "tokens": 101.0}, 0.0)
    assert refusal.limit == "tokens"
    assert math.isinf(refusal.retry_after_s)
    assert meter.standing(0.0)["requests"].remaining == 5


def test_new_limits_keep_what_was_spent():
    meter = Meter()
    meter.update({"requests": limit(60, burst=10)}, 0.0)
    meter.admit({"requests": 8.0}, 0.0)
    meter.update({"requests": limit(120, burst=20)}, 0.0)
    assert meter.standing(0.0)["requests"].remaining == 2


def test_a_sliding_window_grants_again_what_is_older_than_the_window():
    bucket = new_bucket(limit(10, window="sliding"), 0.0)
    bucket.spend(6, 0.0)
    bucket.spend(4, 20.0)
    assert bucket.available(59.0) == 0
    assert bucket.wait(6, 59.0) == pytest.approx(1.0)
    assert bucket.wait(7, 59.0) == pytest.approx(21.0)
    assert bucket.available(60.0) == 6
    assert bucket.full_in(60.0) == pytest.approx(20.0)
    assert bucket.available(80.0) == 10
    assert math.isinf(bucket.wait(11, 80.0))


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0.5, 12)), max_size=60))
def test_no_sliding_window_ever_holds_more_than_the_limit_and_the_wait_is_sufficient(asked):
    bucket, now, granted = new_bucket(limit(10, window="sliding"), 0.0), 0.0, []
    for pause, units in asked:
        now += pause
        wait = bucket.wait(units, now)
        if math.isfinite(wait):
            now += wait
            assert bucket.wait(units, now + 1e-6) == 0
            bucket.spend(units, now + 1e-6)
            granted.append((now + 1e-6, units))
    for end, _ in granted:
        assert sum(units for at, units in granted if end - 60 < at <= end) <= 10 + 1e-6


def test_a_limit_enforced_over_a_shorter_time_grants_its_share_of_it():
    bucket = new_bucket(LimitOptions(limit=600, enforced_s=1), 0.0)
    assert bucket.available(0.0) == 10
    bucket.spend(10, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(0.1)
    for window in ("fixed", "sliding"):
        bucket = new_bucket(LimitOptions(limit=600, enforced_s=1, window=window), 0.0)
        bucket.spend(10, 0.25)
        assert bucket.available(0.75) == 0
        assert bucket.available(1.25) == 10
        assert math.isinf(bucket.wait(11, 1.25))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"limit": 30, "enforced_s": 1}, "enforced_s must be at least 2"),
        ({"limit": 60, "enforced_s": 61}, "at most period_s, 60"),
        ({"limit": 60, "enforced_s": 10, "burst": 5}, "give one"),
    ],
)
def test_a_time_of_enforcement_that_makes_no_sense_is_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        LimitOptions(**options)


def test_a_debt_of_a_fixed_window_is_paid_by_the_next_ones():
    bucket = new_bucket(limit(10, window="fixed"), 0.0)
    bucket.spend(25, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(120.0)
    assert bucket.available(60.0) == -5
    assert bucket.available(120.0) == 5


@pytest.mark.parametrize("window", ["continuous", "fixed", "sliding"])
def test_a_shorter_time_of_enforcement_takes_effect_at_once_and_forgives_nothing(window):
    meter = Meter()
    meter.update({"requests": LimitOptions(limit=600, window=window)}, 0.0)
    meter.admit({"requests": 595.0}, 0.0)
    meter.update({"requests": LimitOptions(limit=600, window=window, enforced_s=1)}, 0.0)
    refusal = meter.admit({"requests": 10.0}, 0.25)
    assert refusal.limit == "requests"
    assert 0 < refusal.retry_after_s <= 1
    assert meter.admit({"requests": 10.0}, 2.0) is None


def test_a_longer_window_keeps_what_was_counted():
    for window in ("fixed", "sliding"):
        meter = Meter()
        meter.update({"requests": LimitOptions(limit=600, window=window, enforced_s=1)}, 0.0)
        meter.admit({"requests": 8.0}, 0.0)
        meter.update({"requests": LimitOptions(limit=600, window=window)}, 0.0)
        assert meter.standing(0.0)["requests"].remaining == 592


def test_another_kind_of_window_starts_full():
    meter = Meter()
    meter.update({"requests": limit(10)}, 0.0)
    meter.admit({"requests": 10.0}, 0.0)
    meter.update({"requests": limit(10, window="sliding")}, 0.0)
    assert meter.standing(0.0)["requests"].remaining == 10
