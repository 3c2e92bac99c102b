"""Recorded reservations replayed: as it was they end as recorded, and otherwise as the change says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from fleet import manifest as manifests
from fleet.cli import main
from fleet.errors import BadInput
from load import cli_planner
from load.replay import (
    FACTORS,
    Change,
    Reservation,
    Tokens,
    estimated,
    read,
    replay,
    runs_of,
    write,
)
from load.simulation import Conditions, simulate
from load.workload import Call, Run
from ratelimit.quota import Limit, Quota

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"
SCOPE = "openai/sim-large"
QUOTAS = {
    SCOPE: Quota(
        scope=SCOPE,
        limits={"requests": Limit(capacity=600, burst=60), "tokens": Limit(capacity=90_000, burst=15_000)},
        headroom=0.98,
        burst_headroom=0.9,
    )
}
GIVEN = Conditions(quotas=QUOTAS)


def recorded(runs=60, estimate=1000.0, actual=1000.0, tokens=None):
    """What a fleet of so many runs would have recorded, by a simulation of it."""
    calls = [
        Call(
            latency_s=2.0, pool="", scope=SCOPE, gap_s=0.5,
            estimate={"requests": 1.0, "tokens": estimate}, actual={"requests": 1.0, "tokens": actual},
        )
    ] * 3  # fmt: skip
    offer = [Run(at_s=n * 0.1, calls=calls, tenant="ab"[n % 2], run_id=f"run-{n}") for n in range(runs)]
    found = simulate(offer, GIVEN)
    last, seq, told = {}, {}, []
    for number, waited in zip(found.of_run, found.waits, strict=True):
        run = offer[number]
        asked = last.get(number, run.at_s) + 0.5
        seq[number] = seq.get(number, 0) + 1
        told.append(
            Reservation(
                at=1e9 + asked, scope=SCOPE, run_id=run.run_id, tenant=run.tenant, first=seq[number] == 1,
                estimate=calls[0].estimate, actual=calls[0].actual, waited_s=waited, took_s=2.0, seq=seq[number],
                tokens=tokens,
            )
        )  # fmt: skip
        last[number] = asked + waited + 2.0
    return sorted(told, key=lambda one: (one.at, one.run_id, one.seq))


def test_what_is_written_is_read(tmp_path):
    told = recorded(4, tokens=Tokens(characters=4000, max_output=400, input=1000, output=90))
    assert write(tmp_path / "reservations.jsonl", told) == 12
    assert read(tmp_path) == told
    assert read(tmp_path / "reservations.jsonl") == told
    first = json.loads((tmp_path / "reservations.jsonl").read_text().splitlines()[0])
    assert {"at", "scope", "run_id", "tenant", "priority", "first", "estimate", "actual", "waited_s"} <= first.keys()


NEGATIVE = {"at": -1, "scope": "a/b", "run_id": "r", "estimate": {}, "actual": {}, "waited_s": 0, "took_s": 0}


@pytest.mark.parametrize("line", ['{"at": 1}', "nonsense", "[1]", json.dumps(NEGATIVE)])
def test_what_is_no_reservation_is_refused_with_its_line(tmp_path, line):
    file = tmp_path / "reservations.jsonl"
    write(file, recorded(1))
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(BadInput, match=r"reservations.jsonl:4: is no reservation"):
        read(tmp_path)


def test_an_empty_or_missing_record_is_refused(tmp_path):
    with pytest.raises(BadInput, match="name the folder of a report"):
        read(tmp_path)
    write(tmp_path / "reservations.jsonl", [])
    with pytest.raises(BadInput, match="nothing to replay"):
        read(tmp_path)


def test_without_a_change_it_ends_as_recorded():
    found = replay(recorded(), GIVEN, Change(conditions=GIVEN), sweep=False)
    assert found.drift < 0.02
    assert found.baseline == found.changed
    assert found.baseline["call_wait_s"]["p50"] == pytest.approx(found.recorded["call_wait_s"]["p50"], rel=0.05)
    assert found.baseline["busiest"]["limit"] == "tokens"
    assert found.baseline["busiest"]["utilisation"] == pytest.approx(found.recorded["busiest"]["utilisation"], abs=0.02)
    assert found.baseline["refused"] == {}


def test_twice_the_quota_takes_half_the_time():
    double = {
        SCOPE: replace(QUOTAS[SCOPE], limits={**QUOTAS[SCOPE].limits, "tokens": Limit(capacity=180_000, burst=15_000)})
    }
    found = replay(recorded(), GIVEN, Change(conditions=replace(GIVEN, quotas=double)), sweep=False)
    assert found.changed["finished_s"] == pytest.approx(found.baseline["finished_s"] / 2, rel=0.1)
    assert found.changed["call_wait_s"]["p99"] < found.baseline["call_wait_s"]["p99"]


def test_the_curve_falls_with_the_quotas():
    found = replay(recorded(), GIVEN, Change(conditions=GIVEN))
    assert [factor for factor, *_ in found.curve] == list(FACTORS)
    waits = [p99 for _, _, p99, _ in found.curve]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 1.5 * waits[-1]


def test_weights_and_jitter_change_who_waits():
    heavy = Change(conditions=replace(GIVEN, weights={"a": 10.0}))
    found = replay(recorded(), GIVEN, heavy, sweep=False)
    assert found.changed["tenants"]["a"]["finished_s"] < 0.8 * found.changed["tenants"]["b"]["finished_s"]
    spread = replay(recorded(), GIVEN, Change(conditions=GIVEN, jitter_s=300.0), sweep=False)
    assert spread.changed["call_wait_s"]["p99"] < spread.baseline["call_wait_s"]["p99"] / 3


def test_estimates_that_are_too_low_would_have_been_refused_by_the_provider():
    told = recorded(estimate=1000.0, actual=1000.0)
    low = replay(told, GIVEN, Change(conditions=GIVEN, estimator="x0.2"), sweep=False)
    assert low.baseline["refused"] == {}
    assert low.changed["refused"][SCOPE] > 0
    high = replay(
        recorded(estimate=2000.0, actual=500.0), GIVEN, Change(conditions=GIVEN, estimator="exact"), sweep=False
    )
    assert high.changed["call_wait_s"]["p50"] <= high.baseline["call_wait_s"]["p50"]


def test_estimators_change_estimates_alone():
    tokens = Tokens(characters=4000, max_output=3000, input=900, output=90)
    told = recorded(3, estimate=1000.0, actual=990.0, tokens=tokens)
    manifest = manifests.load(MANIFEST)

    def of(estimator):
        found = estimated(told, estimator, manifest)
        assert [one.actual for one in found] == [one.actual for one in told]
        assert {one.estimate["requests"] for one in found} == {1.0}
        return [one.estimate["tokens"] for one in found]

    assert set(of("recorded")) == {1000.0}
    assert set(of("exact")) == {990.0}
    assert set(of("x1.5")) == {1500.0}
    assert set(of("max_output")) == {3900.0}
    # OpenAI charges the larger of the output limit and a quarter of the characters
    assert set(of("profile")) == {3000.0}


@pytest.mark.parametrize("estimator", ["guess", "x0", "xyz", "max_output", "profile"])
def test_an_estimator_that_cannot_be_is_refused(estimator):
    with pytest.raises(BadInput, match="--estimator"):
        estimated(recorded(2), estimator, None)


def test_gaps_are_what_a_run_did_between_its_calls():
    (run,) = runs_of(recorded(1))
    assert [round(call.gap_s, 6) for call in run.calls] == [0.0, 0.5, 0.5]
    assert run.begun is False


@pytest.fixture
def command(capsys):
    app = typer.Typer()
    app.command("simulate")(cli_planner.simulate)
    app.command("replay")(cli_planner.replay)

    def run(*arguments):
        code = main._run(lambda **options: app(list(arguments), **options))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_prints_both_and_writes_a_page(command, tmp_path):
    write(tmp_path / "reservations.jsonl", recorded())
    page = tmp_path / "what-if.html"
    asked = ("replay", str(tmp_path), "--manifest", str(MANIFEST), "--set", f"{SCOPE}:tokens=180k/m", "--weight", "a=3")
    code, out, _ = command(*asked, "--html", str(page))
    assert code == 0
    for word in ("recorded", "replayed as it was", "what if", "drift", "x 1.5"):
        assert word in out
    html = page.read_text()
    assert "<svg" in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    code, out, _ = command(*asked, "--json", "--estimator", "x0.8", "--jitter", "30s", "--order", "fifo")
    told = json.loads(out)
    assert code == 0
    assert told["drift"] < 0.05
    assert told["curve"][0].keys() == {"factor", "wait_p50_s", "wait_p99_s", "utilisation"}
    # the trial's own manifest is used where it was kept
    (tmp_path / "fleet.toml").write_text(MANIFEST.read_text())
    assert command("replay", str(tmp_path), "--no-sweep")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--weight", "a"),
        ("--weight", "a=0"),
        ("--order", "lifo"),
        ("--estimator", "x0"),
        ("--set", "x"),
        ("--jitter", "x"),
    ],
)
def test_a_change_that_makes_no_sense_is_one_line(command, tmp_path, arguments):
    write(tmp_path / "reservations.jsonl", recorded(2))
    code, out, err = command("replay", str(tmp_path), "--manifest", str(MANIFEST), *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_recorded_runs_are_offered_to_the_planner(command, tmp_path):
    write(tmp_path / "reservations.jsonl", recorded())
    code, out, _ = command("simulate", "--agents", "30", "--from", str(tmp_path), "--manifest", str(MANIFEST), "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["runs"], told["calls"]) == (30, 90)
