"""How long a dip is, and whose."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.oracles import Dip
from load.trial import Call, Change, Evidence, Look, Mark, Rated

BEGAN, SCOPE, RATE = 1_000_000.0, "openai/sim", 100.0


def call(at_s, units, outcome="ok", **more):
    at = BEGAN + at_s
    asked = {"tokens": units}
    return Call(at=at, ended=at + 0.2, outcome=outcome, asked=asked, charged=asked, **more)


def evidence(calls, restarts=(("llm", 20, 25),), queued=(0, 60), **more):
    begin, end = queued
    return Evidence(
        began=BEGAN,
        load_s=40,
        finished=BEGAN + 60,
        arrivals=[],
        ended={},
        calls={SCOPE: sorted(calls, key=lambda one: one.at)},
        limits={SCOPE: {"requests": Rated(rate=1e6, burst=1e6), "tokens": Rated(rate=RATE, burst=2 * RATE)}},
        looks=[Look(at=BEGAN + n / 2, active=9, waiting={SCOPE: float(begin <= n / 2 <= end)}) for n in range(121)],
        marks=[Mark(kind="restart", what=t, at=BEGAN + a, until=BEGAN + u, target=t) for t, a, u in restarts],
        **more,
    )


def paced(rate=RATE, units=20.0, from_s=0.0, until_s=60.0):
    """Calls of so many units, as often as the rate has them."""
    step = units / rate
    return [call(from_s + (n + 1) * step, units) for n in range(int((until_s - from_s) / step))]


def outage(begin_s, end_s):
    return [*paced(until_s=begin_s), *paced(from_s=end_s)]


@given(begin_s=st.floats(20.0, 25.0), length_s=st.floats(1.0, 12.0))
def test_a_dip_is_as_long_as_the_outage_and_what_a_window_adds(begin_s, length_s):
    found = Dip().judge(evidence(outage(begin_s, begin_s + length_s)))
    assert found.value == pytest.approx(length_s + 0.4, abs=0.3)
    assert found.ok is (found.value <= 5)


@pytest.mark.parametrize(("rate", "dips"), [(0.7 * RATE, False), (0.5 * RATE, True)])
def test_less_than_the_share_is_a_dip_however_even_it_is(rate, dips):
    calls = [*paced(until_s=20), *paced(rate, from_s=20, until_s=40), *paced(from_s=40)]
    found = Dip().judge(evidence(calls, [("llm", 20, 35)]))
    assert found.value == pytest.approx(20 if dips else 0, abs=1.5)
    assert found.ok is not dips


def test_large_calls_at_the_rate_of_the_quota_are_none():
    dice, at, calls = random.Random(1), 0.0, []
    while at < 59:
        units = dice.choice([10.0, 20.0, 300.0])
        at += units / RATE
        calls.append(call(at, units))
    assert Dip().judge(evidence(calls)).value == 0


def test_what_goes_wrong_is_no_use_and_what_outsiders_use_is():
    usual = outage(20, 30)
    refused = [call(20 + n / 5, 20.0, "500") for n in range(50)]
    foreign = [call(20 + n / 5, 20.0, outsider=True) for n in range(50)]
    assert Dip().judge(evidence([*usual, *refused])).value == pytest.approx(10.4, abs=0.3)
    assert Dip().judge(evidence([*usual, *foreign])).value < 0.5


def test_each_restart_has_its_own_and_the_longest_is_named():
    restarts = [("agents", 10, 14), ("llm", 20, 25), ("search", 40, 42)]
    calls = [*paced(until_s=11), *paced(from_s=13, until_s=24), *paced(from_s=30)]
    found = Dip(targets=("agents", "llm", "search")).judge(evidence(calls, restarts))
    assert not found.ok
    longest = r"the longest begins 23\.[89] s after the begin, openai/sim"
    assert re.fullmatch(rf"agents 2\.[34] s, llm 6\.[34] s, search 0\.0 s; {longest}", found.says), found.says


def test_what_is_no_restarts_is_not_judged():
    # long before, long after, and while nobody waited
    calls = [*paced(from_s=7, until_s=33), *paced(from_s=41, until_s=50)]
    found = Dip(targets=("llm",)).judge(evidence(calls, [("llm", 20, 22)], queued=(0, 50)))
    assert found.ok, found
    assert found.value == 0


def test_a_restart_that_outlasts_the_line_says_nothing_of_load():
    found = Dip(targets=("llm",)).judge(evidence(paced(), queued=(0, 24)))
    assert not found.ok
    assert found.says.startswith("no restart of llm lay in a time in which work was queued")
    # of the same pool a second one did
    twice = evidence(paced(), [("llm", 5, 9), ("llm", 20, 25)], queued=(0, 24))
    assert Dip(targets=("llm",)).judge(twice).ok


def test_a_provider_that_grants_less_is_held_against_what_it_grants():
    half = Rated(rate=RATE / 2, burst=RATE)
    calls = [*paced(until_s=20), *paced(RATE / 2, from_s=20)]
    changed = evidence(calls, changes=[Change(at=BEGAN + 20, scope=SCOPE, limit="tokens", to=half)])
    assert Dip().judge(changed).value == 0
    closed = evidence(calls, changes=[Change(at=BEGAN + 20, scope=SCOPE, limit="tokens", to=Rated(rate=0, burst=1))])
    assert Dip().judge(closed).ok
