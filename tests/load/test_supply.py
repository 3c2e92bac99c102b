"""What a quota implies: a bucket that may owe, replayed, agrees with one that is stepped through slowly."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from load.oracles.supply import Bucket, Supply, ideal, implied, latencies, others, work
from load.simulators.bucket import ContinuousBucket
from load.simulators.options import LimitOptions
from load.trial import Arrival, Call, Change, Ended, Evidence, Rated

BEGAN = 5000.0
SCOPE = "openai/sim"

RATES = st.floats(0.5, 20)
INSTANTS = st.floats(0, 100)


def trial(runs, *, rate=10.0, burst=10.0, outsiders=(), changes=(), marks=(), tenants=()):
    """Runs as (arrival, units); outsiders as (instant, units)."""
    arrivals = [
        Arrival(at_s=at, run_id=f"run-{n}", agent="a", goal="", tenant=tenants[n] if tenants else "default")
        for n, (at, _) in enumerate(runs)
    ]
    calls = [
        Call(at=BEGAN + at, ended=BEGAN + at, outcome="ok", asked={}, charged={"tokens": units}, run_id=f"run-{n}")
        for n, (at, units) in enumerate(runs)
    ]
    calls += [
        Call(at=BEGAN + at, ended=BEGAN + at, outcome="ok", asked={}, charged={"tokens": units}, outsider=True)
        for at, units in outsiders
    ]
    return Evidence(
        began=BEGAN,
        load_s=100,
        finished=BEGAN + 200,
        arrivals=arrivals,
        ended={},
        calls={SCOPE: sorted(calls, key=lambda call: call.at)},
        limits={SCOPE: {"tokens": Rated(rate=rate, burst=burst)}},
        changes=[Change(at=BEGAN + at, scope=SCOPE, limit="tokens", to=to) for at, to in changes],
        marks=marks,
    )


def ends(evidence, **more):
    return {run: at - BEGAN for run, at in ideal(evidence, **more).items()}


STEPS = st.lists(st.tuples(INSTANTS, RATES), max_size=4, unique_by=lambda step: step[0])
SPANS = st.lists(st.tuples(INSTANTS, st.floats(0, 20)), max_size=3)


@settings(deadline=None)
@given(RATES, STEPS, SPANS, INSTANTS, st.floats(0.1, 300))
def test_when_is_the_inverse_of_between(rate, steps, spans, begin, units):
    changes = [(at, Rated(rate=to, burst=to)) for at, to in sorted(steps)]
    closed = [(BEGAN + at, BEGAN + at + length) for at, length in spans]
    supply = Supply.of(trial([], rate=rate, changes=changes), SCOPE, "tokens", closed=closed)
    at = supply.when(BEGAN + begin, units)
    assert supply.between(BEGAN + begin, at) == pytest.approx(units, abs=1e-6)


@settings(deadline=None)
@given(RATES, STEPS, SPANS, st.lists(INSTANTS, min_size=3, max_size=3))
def test_units_of_two_spans_that_touch_add_up(rate, steps, spans, instants):
    changes = [(at, Rated(rate=to, burst=to)) for at, to in sorted(steps)]
    closed = [(BEGAN + at, BEGAN + at + length) for at, length in spans]
    supply = Supply.of(trial([], rate=rate, changes=changes), SCOPE, "tokens", closed=closed)
    a, b, c = sorted(BEGAN + at for at in instants)
    assert supply.between(a, b) + supply.between(b, c) == pytest.approx(supply.between(a, c), abs=1e-6)


def test_nothing_returns_while_closed_and_a_change_counts_from_its_instant():
    evidence = trial([], rate=10, changes=[(20, Rated(rate=1, burst=3))])
    supply = Supply.of(evidence, SCOPE, "tokens", closed=[(BEGAN + 5, BEGAN + 10), (BEGAN + 8, BEGAN + 12)], share=0.5)
    assert supply.between(BEGAN, BEGAN + 30) == pytest.approx(0.5 * (13 * 10 + 10))
    assert (supply.burst(BEGAN), supply.burst(BEGAN + 20)) == (5, 1.5)
    assert supply.when(BEGAN + 4, 10) == BEGAN + 13
    shut = Supply.of(evidence, SCOPE, "tokens", closed=[(BEGAN, math.inf)])
    assert shut.when(BEGAN, 1) == math.inf


@settings(deadline=None)
@given(st.lists(st.tuples(INSTANTS, st.floats(0, 30)), max_size=40), RATES, RATES)
def test_the_bucket_is_the_providers_own(spent, rate, burst):
    mine = Bucket(Supply.of(trial([], rate=rate, burst=burst), SCOPE, "tokens"), BEGAN)
    theirs = ContinuousBucket(LimitOptions(limit=rate, period_s=1, burst=burst), burst, BEGAN)
    for at, units in sorted(spent):
        theirs.spend(units, BEGAN + at)
        assert mine.spend(BEGAN + at, units) == pytest.approx(theirs.available(BEGAN + at), abs=1e-6)


# on a grid, outsiders between its lines: who comes first at one instant is nobody's business
RUNS = st.lists(st.tuples(st.integers(0, 1000).map(lambda n: n / 100), st.floats(0.5, 30)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(RUNS, st.lists(st.tuples(st.integers(1, 999).map(lambda n: n / 100 + 0.005), st.floats(1, 20)), max_size=4))
def test_the_fluid_is_what_small_steps_come_to(runs, outsiders):
    runs = sorted(runs)
    found = ends(trial(runs, outsiders=outsiders))
    # an outsider who comes with a run's end comes before it or after it by less than a step can tell
    early, late = (
        _stepped(runs, sorted((at + by, units) for at, units in outsiders), rate=10.0, burst=10.0)
        for by in (-0.01, 0.01)
    )
    for n in range(len(runs)):
        assert min(early[n], late[n]) - 0.05 <= found[f"run-{n}"] <= max(early[n], late[n]) + 0.05


def _stepped(runs, outsiders, *, rate, burst, step=0.004):
    left, taken, level, now, done = [units for _, units in runs], 0, burst, 0.0, {}
    while len(done) < len(runs):
        while taken < len(outsiders) and outsiders[taken][0] <= now:
            level -= outsiders[taken][1]
            taken += 1
        for n, (at, _) in enumerate(runs):
            if at > now or n in done:
                continue
            paid = max(0.0, min(level, left[n]))
            level, left[n] = level - paid, left[n] - paid
            if left[n] > 1e-9:
                break
            done[n] = now
        now += step
        level = min(burst, level + rate * step)
    return done


def test_first_come_first_served_and_a_burst_is_free():
    assert ends(trial([(0, 10), (0, 20), (1, 5), (50, 10)])) == {
        "run-0": 0,
        "run-1": pytest.approx(2.0),
        "run-2": pytest.approx(2.5),
        "run-3": 50,
    }


def test_others_are_served_before_whoever_waits():
    assert ends(trial([(0, 30)], outsiders=[(1, 10)])) == {"run-0": pytest.approx(3.0)}


def test_nothing_is_granted_while_it_is_closed():
    assert ends(trial([(0, 30)]), closed=[(BEGAN + 1, BEGAN + 5)]) == {"run-0": pytest.approx(6.0)}


def test_a_tenants_share_is_as_if_nobody_else_were_there():
    evidence = trial([(0, 500), (0, 10)], tenants=["noisy", "quiet"])
    assert ends(evidence, tenant="quiet", share=0.5) == {"run-1": pytest.approx(1.0)}


def test_the_slowest_limit_counts():
    evidence = trial([(0, 30)])
    evidence.limits[SCOPE]["requests"] = Rated(rate=0.1, burst=0.5)
    evidence.calls[SCOPE][0].charged["requests"] = 1.0
    assert ends(evidence) == {"run-0": pytest.approx(5.0)}


def test_refused_calls_are_no_work_and_calls_of_nobody_are_others():
    evidence = trial([(0, 30)])
    refused = Call(at=BEGAN, ended=BEGAN, outcome="429", asked={"tokens": 9}, charged={"tokens": 9}, run_id="run-0")
    unnamed = Call(at=BEGAN, ended=BEGAN, outcome="ok", asked={}, charged={"tokens": 7})
    evidence.calls[SCOPE].extend([refused, unnamed])
    assert work(evidence) == {(SCOPE, "tokens"): {"run-0": 30}}
    assert others(evidence, SCOPE, "tokens", outsiders_only=False) == [(BEGAN, 7)]
    assert others(evidence, SCOPE, "tokens", outsiders_only=True) == []


def test_what_a_run_takes_alone_is_rehearsed_or_that_of_the_quickest():
    dice = random.Random(1)
    evidence = trial([(0, 1)] * 40)
    for n in range(40):
        evidence.ended[f"run-{n}"] = Ended(outcome="completed", at=BEGAN + 3 + dice.random() + n / 4)
    assert latencies(evidence)["a"] == pytest.approx(3.5, abs=0.75)
    evidence.alone_s["a"] = 2.0
    assert latencies(evidence) == {"a": 2.0}
    assert implied(evidence, 1.0)["run-39"] == pytest.approx(3.0 + 3.0)
