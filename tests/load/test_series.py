"""Series and figures are the providers' ledger and the looks, and nothing else."""

from dataclasses import replace

import pytest

from load.series import agents, quota, series, together
from load.trial import Arrival, Call, Change, Ended, Engine, Evidence, Look, Mark, Rated

BEGAN = 1_790_000_000.0
MODEL, RELAY = "openai/sim-large", "email/relay"


def call(at_s, outcome="ok", run_id="run-0", requests=1.0, tokens=100.0, outsider=False):
    asked = {"requests": requests, "tokens": tokens}
    charged = asked if outcome == "ok" else {}
    return Call(
        at=BEGAN + at_s, ended=BEGAN + at_s + 0.1, outcome=outcome, asked=asked, charged=charged,
        run_id=run_id, outsider=outsider,
    )  # fmt: skip


def evidence(seconds=10, runs=4, **changes):
    """Two calls a second of a quota of four; a run arrives each second and ends five seconds later."""
    arrivals = [Arrival(at_s=float(n), run_id=f"run-{n}", agent="caller", goal="go") for n in range(runs)]
    calls = [call(n / 2 + 0.25, run_id=f"run-{n % runs}") for n in range(2 * seconds)]
    looks = [
        Look(
            at=BEGAN + n / 2,
            active=min(runs, n // 2 + 1),
            waiting={MODEL: 1.5 if n > 4 else 0.0},
            pace={MODEL: 1.0},
            rss_mb={"llm-1/11": 90.0 + n},
        )
        for n in range(2 * seconds)
    ]
    found = Evidence(
        began=BEGAN,
        load_s=float(runs),
        finished=BEGAN + seconds,
        arrivals=arrivals,
        ended={one.run_id: Ended(outcome="completed", at=BEGAN + one.at_s + 5.0) for one in arrivals},
        calls={MODEL: calls, RELAY: []},
        limits={
            MODEL: {"requests": Rated(rate=4.0, burst=4.0), "tokens": Rated(rate=1000.0, burst=1000.0)},
            RELAY: {"messages": Rated(rate=5.0, burst=5.0)},
        },
        looks=looks,
        engine=Engine(activities_per_s=100.0, offered_per_s=20.0),
    )
    return replace(found, **changes)


def test_granted_and_offered_are_units_a_second_by_limit():
    calls = [call(0.2), call(0.4, "429"), call(1.5, tokens=400.0)]
    found = series(evidence(calls={MODEL: calls})).scopes[MODEL]
    assert found.limits["requests"].offered[:3] == [2.0, 1.0, 0.0]
    assert found.limits["requests"].granted[:3] == [1.0, 1.0, 0.0]
    assert found.limits["tokens"].granted[:2] == [100.0, 400.0]
    assert found.limits["tokens"].quota == [1000.0] * 10
    assert found.refused[:2] == [1.0, 0.0]


def test_the_quota_is_drawn_and_counted_as_its_provider_has_changed_it():
    halved = [Change(at=BEGAN + 5.0, scope=MODEL, limit="requests", to=Rated(rate=2.0, burst=4.0))]
    found = series(evidence(changes=halved)).scopes[MODEL]
    assert found.limits["requests"].quota == [4.0] * 5 + [2.0] * 5
    # two calls a second of four, then of two
    assert quota(evidence(changes=halved), MODEL, None)["utilisation"] == pytest.approx(20 / 30, abs=0.02)


def test_other_failures_are_no_refusals_and_outsiders_are_not_us():
    calls = [call(0.2, "dropped"), call(0.4, "503"), call(0.5, outsider=True), call(0.6, "429", outsider=True)]
    found = series(evidence(calls={MODEL: calls})).scopes[MODEL]
    assert (found.refused[0], found.errors[0]) == (0.0, 2.0)
    assert found.limits["requests"].granted[0] == 0.0
    assert found.limits["requests"].offered[0] == 2.0
    assert found.limits["requests"].outside[0] == 1.0


def test_backlog_is_what_has_arrived_and_not_ended():
    found = series(evidence())
    assert found.arrived[:5] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert found.backlog == [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0]
    assert found.active[0] == 1.0


def test_a_bin_without_a_look_is_a_gap_and_not_zero():
    looks = [Look(at=BEGAN + 0.5, active=1, waiting={MODEL: 2.0}), Look(at=BEGAN + 2.5, active=1)]
    found = series(evidence(looks=looks))
    assert found.scopes[MODEL].wait_s[:4] == [2.0, None, None, None]
    assert found.active[:4] == [1.0, None, 1.0, None]


def test_a_long_trial_has_few_bins_of_a_round_length():
    found = series(evidence(seconds=700))
    assert found.bin_s == 10.0
    assert len(found.arrived) == 70


def test_the_last_bin_is_measured_by_its_own_length():
    found = series(evidence(finished=BEGAN + 9.75, calls={MODEL: [call(9.5)]}))
    assert found.length_s == 9.75
    assert found.scopes[MODEL].limits["requests"].granted[-1] == pytest.approx(1 / 0.75, abs=0.001)


def test_what_is_charged_after_the_last_run_ended_is_still_drawn():
    found = series(evidence(calls={MODEL: [call(1.0), call(12.5)]}))
    assert sum(found.scopes[MODEL].limits["requests"].granted) == pytest.approx(2 + 1, abs=0.01)  # 0.5 s: doubled
    assert found.length_s == 12.5


def test_a_trial_in_which_nothing_happened_has_one_empty_bin():
    empty = Evidence(began=BEGAN, load_s=0.0, finished=BEGAN, arrivals=[], ended={}, calls={}, limits={})
    found = series(empty)
    assert (found.arrived, found.scopes, found.marks) == ([0.0], {}, [])


def test_marks_are_in_seconds_from_the_begin_and_never_end_before_they_begin():
    marks = [Mark(kind="kill", what="kill -9", at=BEGAN + 3, until=0.0)]
    (band,) = series(evidence(marks=marks)).marks
    assert (band.from_s, band.until_s) == (3.0, 3.0)


def test_processes_that_follow_each_other_are_one_worker():
    assert together({"llm-1/11": [90.0, 95.0, None], "llm-1/12": [None, 60.0, 62.0], "llm-2/13": [1.0, 1.0, 1.0]}) == {
        "llm-1": [90.0, 95.0, 62.0],
        "llm-2": [1.0, 1.0, 1.0],
    }


def test_the_limit_that_is_used_most_says_how_much_of_a_quota_was_used():
    found = quota(evidence(), MODEL, None)
    assert found["binding"] == "requests"
    # 2 of 4 a second
    assert found["utilisation"] == pytest.approx(0.5, abs=0.001)
    assert found["queued_s"] == 7.0
    assert found["utilisation_queued"] == pytest.approx(0.5, abs=0.02)
    assert (found["granted"], found["provider_429"], found["errors"], found["outsiders"]) == (20, 0, 0, 0)


def test_waits_are_those_of_calls_where_they_are_known():
    found = quota(evidence(), MODEL, [3.0, 1.0, 2.0])
    assert (found["wait_p50_s"], found["wait_p99_s"], found["waits_of"]) == (2.0, 3.0, "calls")
    found = quota(evidence(), MODEL, None)
    assert (found["wait_p50_s"], found["waits_of"]) == (1.5, "looks")


def test_a_scope_that_nobody_called_is_not_used():
    found = quota(evidence(), RELAY, None)
    assert (found["granted"], found["utilisation"], found["utilisation_queued"]) == (0, 0.0, None)


def test_a_run_that_has_not_ended_is_lost_unless_it_was_interrupted():
    some = {"run-0": Ended(outcome="completed", at=BEGAN + 5), "run-1": Ended(outcome="budget_exhausted", at=BEGAN + 5)}
    found = agents(evidence(ended=some))
    assert (found["started"], found["completed"], found["budget_exhausted"]) == (4, 1, 1)
    assert (found["lost"], found["open"]) == (2, 0)
    found = agents(evidence(ended=some, interrupted=True))
    assert (found["lost"], found["open"]) == (0, 2)
