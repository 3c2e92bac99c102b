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
