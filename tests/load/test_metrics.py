"""What a trial tells Prometheus."""

from time import time

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fleet.contracts.metrics import REGISTRY, Source
from load.metrics import TrialMetrics
from load.offering import Runs
from load.trial import Arrival, Finding, Mark


def read(told):
    text = generate_latest(told.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for name, family in families.items()
    }


def arrivals(count):
    return [Arrival(at_s=n, run_id=f"r-{n}", agent="a" if n % 2 else "b", goal="g") for n in range(count)]


def test_before_a_trial_there_are_all_families_and_no_runs():
    found = read(TrialMetrics())
    assert found.keys() == {one.name for one in REGISTRY.values() if one.source is Source.LOAD}
    assert found["fleet_load_planned"] == {(): 0.0}
    assert found["fleet_load_ended"] == {}


def test_runs_are_told_as_they_come_and_end():
    told, runs = TrialMetrics(), Runs(arrivals(5))
    told.begin(runs, [])
    runs.arrived += runs.planned[:3]
    runs.closed["r-0"], runs.outcomes["r-0"] = 1.0, "completed"
    found = read(told)
    assert found["fleet_load_planned"] == {(): 5.0}
    assert found["fleet_load_active"] == {(): 2.0}
    assert found["fleet_load_arrivals"] == {("b",): 2.0, ("a",): 1.0}
    assert found["fleet_load_ended"] == {("completed",): 1.0}


def test_a_fault_is_told_while_it_lasts_and_an_instant_long_enough_to_be_seen():
    told, now, marks = TrialMetrics(), time(), []
    told.begin(Runs(()), marks)
    marks += [
        Mark(kind="redis_down", what="kill -9 of Redis", at=now - 30, until=now + 30),
        Mark(kind="provider", what="429s", at=now - 60, until=now - 30, target="openai"),
        Mark(kind="kill", what="kill -9 of llm-1", at=now, until=now, target="llm"),
    ]
    assert read(told)["fleet_load_fault"] == {
        ("redis_down", ""): 1.0,
        ("provider", "openai"): 0.0,
        ("kill", "llm"): 1.0,
    }


def test_answers_and_the_verdict_are_of_the_trial_that_runs():
    told = TrialMetrics()
    told.begin(Runs(()), [])
    told.called({("openai/m", "ok"): 7, ("openai/m", "429"): 1})
    told.judged([Finding(name="waits", value=1, bound=2, ok=True), Finding(name="overrun", value=3, bound=2, ok=False)])
    found = read(told)
    assert found["fleet_load_provider_calls"] == {("openai/m", "ok"): 7.0, ("openai/m", "429"): 1.0}
    assert found["fleet_load_oracle"] == {("waits",): 1.0, ("overrun",): 0.0}
    told.begin(Runs(()), [])
    assert read(told)["fleet_load_oracle"] == {}
