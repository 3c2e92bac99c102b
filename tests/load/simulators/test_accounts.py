"""What a key may spend on a model beside its quota, with the time in our hands."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.simulators.caching import KEPT_S, Beginning, Beginnings, PromptCache
from load.simulators.limits import AccelerationOptions, QuotaOptions
from load.simulators.quota import Account, Wallet
from load.simulators.ramp import Ramp

ONE = {"requests": 1.0}


def account(wallet=None, **quota):
    made = Account(wallet or Wallet())
    made.adopt(QuotaOptions.model_validate(quota), 0.0)
    return made


def test_no_more_calls_at_once_than_granted_and_nobody_knows_how_long_to_wait():
    one = account(in_flight=2)
    assert one.take(ONE, 0.0) is None
    assert one.take(ONE, 0.0) is None
    refusal = one.take(ONE, 0.0)
    assert (refusal.kind, refusal.granted, refusal.used, refusal.retry_after_s) == ("in_flight", 2, 2, None)
    one.give_back()
    assert one.take(ONE, 0.0) is None


def test_fewer_calls_at_once_wait_for_those_that_run():
    one = account(in_flight=3)
    for _ in range(3):
        one.take(ONE, 0.0)
    one.adopt(QuotaOptions(in_flight=1), 0.0)
    one.give_back()
    one.give_back()
    assert one.take(ONE, 0.0).kind == "in_flight"
    one.give_back()
    assert one.take(ONE, 0.0) is None


def test_a_refused_call_takes_no_place_and_spends_nothing():
    one = account(in_flight=5, requests={"limit": 1}, acceleration={"start": 100})
    assert one.take(ONE, 0.0) is None
    assert one.take(ONE, 0.0).kind == "quota"
    assert one.running == 1


def test_usage_grows_by_no_more_than_its_factor_from_one_period_to_the_next():
    ramp, granted = Ramp(AccelerationOptions(start=10, factor=2, period_s=60)), []
    for period in range(4):
        count = 0
        for tenth in range(600):
            now = period * 60 + tenth / 10
            if ramp.wait(1, now) == 0:
                ramp.spend(1, now)
                count += 1
        granted.append(count)
    assert granted == [10, 20, 40, 80]


def test_who_pauses_for_a_period_starts_again_from_the_beginning():
    ramp = Ramp(AccelerationOptions(start=10, factor=2, period_s=60))
    ramp.spend(10, 0.0)
    ramp.spend(20, 60.0)
    assert ramp.wait(40, 120.0) == 0
    assert ramp.wait(40, 190.0) > 0
    assert ramp.wait(10, 190.0) == 0


def test_a_sharp_rise_is_refused_under_the_quota_and_told_when_it_fits():
    one = account(requests={"limit": 6000}, acceleration={"start": 10, "factor": 2, "period_s": 60})
    for _ in range(10):
        assert one.take(ONE, 0.0) is None
    refusal = one.take(ONE, 30.0)
    assert (refusal.kind, refusal.limit, refusal.granted) == ("acceleration", "requests", 10)
    assert refusal.retry_after_s == pytest.approx(30.0)
    assert one.take(ONE, 30.0 + refusal.retry_after_s) is None


def test_a_call_larger_than_any_growth_never_fits():
    assert math.isinf(Ramp(AccelerationOptions(start=10, of="tokens")).wait(11, 0.0))


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 6)), max_size=80))
def test_waiting_as_told_is_enough_after_a_sharp_rise(asked):
    ramp, now = Ramp(AccelerationOptions(start=6, factor=1.5, period_s=60)), 0.0
    for pause, units in asked:
        now += pause
        now += ramp.wait(units, now)
        assert ramp.wait(units, now + 1e-6) == 0
        ramp.spend(units, now + 1e-6)


def test_money_is_spent_by_key_for_all_its_models_until_the_cap():
    wallet = Wallet()
    small = account(wallet, price={"input": 1, "output": 4})
    large = account(wallet, price={"input": 10, "output": 40, "cached": 1})
    assert small.pay(1000, 0, 250) == pytest.approx(0.002)
    assert large.pay(1000, 500, 100) == pytest.approx(0.0095)
    assert large.take(ONE, 0.0, spend_cap=0.02) is None
    refusal = small.take(ONE, 0.0, spend_cap=0.011)
    assert (refusal.kind, refusal.used) == ("spend", pytest.approx(0.0115))
    assert math.isinf(refusal.retry_after_s)
    assert small.take(ONE, 0.0) is None


def beginnings(*parts, billed=True):
    made = [Beginning(digest=name.encode(), tokens=tokens) for name, tokens in parts]
    return Beginnings(read=made[::-1], written=made[-1:], billed=billed)


def test_a_beginning_is_read_for_five_minutes_after_its_last_use():
    cache = PromptCache()
    prompt = beginnings(("a", 2000))
    assert (cache.find(prompt, 0.0).read, cache.find(prompt, 0.0).written) == (0, 2000)
    cache.keep(prompt, 0.0)
    assert (cache.find(prompt, KEPT_S - 1).read, cache.find(prompt, KEPT_S - 1).written) == (2000, 0)
    cache.keep(prompt, KEPT_S - 1)
    assert cache.find(prompt, 2 * KEPT_S - 2).read == 2000
    assert cache.find(prompt, 2 * KEPT_S).read == 0


def test_a_longer_prompt_reads_its_known_beginning_and_writes_the_rest():
    cache = PromptCache()
    cache.keep(beginnings(("a", 2000)), 0.0)
    found = cache.find(beginnings(("a", 2000), ("ab", 3000)), 1.0)
    assert (found.read, found.written) == (2000, 1000)
    assert cache.find(beginnings(("a", 2000), ("ab", 3000), billed=False), 1.0).written == 0
