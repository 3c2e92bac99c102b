"""Which of two trials was better, and which way to limit."""

import json

import pytest

from fleet.errors import BadInput
from load.comparing import compare, modes
from load.trial import Ended, Finding, Rated
from tests.load.test_report import EVIL, Tags, report
from tests.load.test_series import BEGAN, MODEL, call


def oracle(value, bound, ok, name="one", **more):
    return Finding(name=name, value=value, bound=bound, ok=ok, **more)


def change(first, second):
    found = compare(report([first]).stored(), report([second]).stored())
    return next(row.change for row in found.rows if row.group == "oracle")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (oracle(0, 0, True), oracle(2, 0, False), "worse"),
        (oracle(2, 0, False), oracle(0, 0, True), "better"),
        (oracle(2, 0, False), oracle(5, 0, False), "worse"),
        (oracle(0.97, 0.95, True, least=True), oracle(0.60, 0.95, False, least=True), "worse"),
        (oracle(0.80, 0.95, False, least=True), oracle(0.60, 0.95, False, least=True), "worse"),
        (oracle(0.96, 0.50, True, least=True), oracle(0.70, 0.50, True, least=True), "worse"),
        (oracle(3.0, 10.0, True), oracle(8.0, 10.0, True), "worse"),
        (oracle(8.0, 10.0, True), oracle(3.0, 10.0, True), "better"),
        (oracle(8.0, 10.0, True), oracle(8.1, 10.0, True), "same"),
        (oracle(float("inf"), 10.0, False), oracle(3.0, 10.0, True), "better"),
        (oracle(0, 0, True), oracle(0, 0, True), "same"),
        (oracle(3.0, 10.0, True), oracle(0.0, 10.0, True, judged=False), "changed"),
        (oracle(3.0, 10.0, True), oracle(0.0, 10.0, False, judged=False), "worse"),
    ],
)
def test_an_oracle_is_better_towards_the_good_side_of_its_bound(first, second, said):
    assert change(first, second) == said


def test_an_oracle_that_only_one_report_has_is_named():
    found = compare(report([oracle(1, 2, True)]).stored(), report([oracle(1, 2, False, "two")]).stored())
    notes = {row.name: row.note for row in found.rows if row.group == "oracle"}
    assert notes == {"one": "only A has it, and it holds", "two": "only B has it, and it is broken"}


def test_more_429s_fewer_agents_and_longer_waits_are_worse():
    refusing = [call(n / 2, "429" if n % 2 else "ok", run_id=f"run-{n % 4}") for n in range(20)]
    failed = {"run-0": Ended(outcome="failed", at=BEGAN + 5)}
    found = compare(report().stored(), report(calls={MODEL: refusing}, ended=failed).stored())
    rows = {(row.group, row.name): row.change for row in found.rows}
    assert rows[MODEL, "provider_429"] == "worse"
    assert rows[MODEL, "utilisation"] == "worse"
    assert rows["agents", "completed"] == rows["agents", "lost"] == "worse"
    assert rows["trial", "duration_s"] == "same"
    assert rows[MODEL, "granted"] == "changed"


def test_a_report_is_the_same_as_itself():
    stored = report().stored()
    found = compare(stored, stored)
    assert {row.change for row in found.rows} == {"same"}
    assert (found.warnings, found.worse) == ([], [])


def test_trials_of_other_scenarios_seeds_and_parameters_are_warned_about():
    first = report(parameters={"agents": 4, "for": 60.0}).stored()
    second = report(parameters={"agents": 9}, scenario="burst", seed=8, interrupted=True).stored()
    assert list(compare(first, second).warnings) == [
        "scenario differs: steady and burst",
        "seed differs: 7 and 8",
        "parameter agents differs: 4 and 9",
        "parameter for differs: 60.0 and nothing",
        "B was interrupted",
    ]


def test_a_comparison_is_printed_as_json_as_a_table_and_as_a_page(capsys):
    found = compare(report([oracle(0, 0, True)]).stored(), report([oracle(2, 0, False)], seed=8).stored())
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["worse"] >= 1
    assert document["rows"][0] == {
        "group": "oracle", "name": "one", "a": 0.0, "b": 2.0, "change": "worse", "note": "is broken",
    }  # fmt: skip
    found.show()
    said = capsys.readouterr()
    assert "fleet: warning: seed differs: 7 and 8" in said.err
    assert "WORSE" in said.out
    text = found.html()
    assert "B is worse in" in text
    assert "http://" not in text
    assert len([1 for tag, attrs in Tags(text).tags if tag == "svg" and attrs.get("role") == "img"]) >= 4


def test_a_comparison_of_what_strangers_wrote_is_text():
    evil = report([oracle(1, 0, False, EVIL)], parameters={EVIL: EVIL}, scenario=EVIL).stored()
    for text in (compare(evil, report().stored()).html(), modes({"global": evil, EVIL: report().stored()}).html()):
        assert not {tag for tag, _ in Tags(text).tags} & {"script", "img"}
        assert "\x1b" not in text


def saturated(refused=0, seconds=10):
    """Four calls a second of four, or half of them refused."""
    calls = [call(n / 4, "429" if refused and n % refused else "ok", run_id=f"run-{n % 4}") for n in range(4 * seconds)]
    ends = {f"run-{n}": Ended(outcome="completed", at=BEGAN + seconds - 4 + n) for n in range(4)}
    limits = {MODEL: {"requests": Rated(rate=4.0, burst=4.0)}}
    return report(calls={MODEL: calls}, ended=ends, seconds=seconds, limits=limits)


@pytest.fixture
def three():
    return {
        "backoff": saturated(refused=2, seconds=20).stored(),
        "global": saturated().stored(),
        "process": saturated(seconds=12).stored(),
    }


def test_modes_are_held_against_each_other_in_the_scarcest_quota(three):
    found = modes(three)
    assert found.scope == MODEL
    assert found.figures["global"]["refused_per_ok"] == 0
    assert found.figures["backoff"]["refused_per_ok"] == pytest.approx(1.0)
    assert found.figures["backoff"]["utilisation"] == pytest.approx(0.5, abs=0.02)
    assert found.figures["backoff"]["duration_s"] == 20.0
    assert found.best("duration_s") == ["global"]
    assert set(found.best("utilisation")) == {"global", "process"}


def test_the_conclusion_is_one_line_of_what_was_measured(three):
    said = modes(three).conclusion
    assert "\n" not in said
    assert said.startswith("global uses ")
    assert "with 0 429s a success and finishes after 10.0s" in said
    assert "backoff 50.0%, 1, 20.0s" in said
    assert "global is as good as the best in " in said


def test_the_conclusion_does_not_flatter_us(three):
    swapped = {"global": three["backoff"], "backoff": three["global"]}
    said = modes(swapped).conclusion
    assert "finished after (backoff)" in said
    assert "quota used (backoff)" in said


def test_a_mode_that_completes_fewer_agents_does_not_finish_early_unnoticed(three):
    fewer = report(ended={"run-0": Ended(outcome="completed", at=BEGAN + 1)}, seconds=1).stored()
    assert "and 3 agents fewer" in modes({"global": three["global"], "backoff": fewer}).conclusion


def test_modes_are_printed_and_drawn(three, capsys):
    found = modes(three)
    json.dumps(found.document(), allow_nan=False)
    found.show()
    assert "QUOTA USED" in capsys.readouterr().out
    lines = found.markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert len({line.count("|") for line in table}) == 1
    assert "**10.0s**" in found.markdown()
    assert "<b>Granted</b>" in found.html()


def test_one_mode_alone_concludes_nothing_and_none_is_refused(three):
    assert "needs global and another mode" in modes({"global": three["global"]}).conclusion
    assert "needs global and another mode" in modes({"backoff": three["backoff"]}).conclusion
    with pytest.raises(BadInput, match="no report"):
        modes({})
