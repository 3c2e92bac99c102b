"""A report is three files that say the same, and need nothing else."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from fleet.errors import BadInput
from load.charts import Chart, Line, Span, clock, figure, ticks
from load.report import FORMAT, markdown, page, read, series_of, summed
from load.trial import Arrival, Call, Ended, Engine, Finding, Mark
from tests.load.test_series import BEGAN, MODEL, call, evidence

EVIL = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=y>|`&\x1b[2J"
HOLDS = Finding(name="lost", value=0.0, bound=0.0, ok=True, says="nobody")
BROKEN = Finding(name="overrun", value=1.5, bound=1.0, ok=False, says="at 12.5 s")
KILL = Mark(kind="kill", what="kill -9 of llm-1 (pid 4711)", at=BEGAN + 3, until=BEGAN + 3)
DOWN = Mark(kind="redis_down", what="Redis for 2 s", at=BEGAN + 5, until=BEGAN + 7)


def report(findings=(HOLDS,), parameters=None, scenario="steady", seed=7, interrupted=False, **changes):
    return summed(
        evidence(**{"marks": [DOWN, KILL], **changes}),
        findings,
        scenario=scenario,
        seed=seed,
        parameters={"agents": 4} if parameters is None else parameters,
        interrupted=interrupted,
    )


class Tags(HTMLParser):
    """Which tags there are, with which attributes, and what is read."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_document_begins_as_promised():
    document = report([HOLDS, BROKEN]).document()
    assert list(document)[:6] == ["scenario", "seed", "duration_s", "agents", "oracles", "ok"]
    assert (document["scenario"], document["seed"], document["duration_s"], document["ok"]) == (
        "steady",
        7,
        10.0,
        False,
    )
    assert {"started": 4, "completed": 4, "failed": 0, "lost": 0}.items() <= document["agents"].items()
    assert list(document["oracles"][0])[:4] == ["name", "value", "bound", "ok"]
    assert document["oracles"][1] == {
        "name": "overrun", "value": 1.5, "bound": 1.0, "ok": False, "least": False, "judged": True,
        "says": "at 12.5 s", "meaning": "",
    }  # fmt: skip
    assert document["marks"][0] == {"kind": "kill", "what": KILL.what, "at_s": 3.0, "for_s": 0.0, "scope": ""}
    assert document["engine"]["share"] == 0.2
    assert document["command"] == "fleet load run steady --seed 7"
    assert "series" not in document


def test_the_document_is_json_whatever_was_measured():
    strange = Finding(name="strange", value=float("nan"), bound=float("inf"), ok=False)
    document = report([strange], parameters={"x": float("-inf")}).document()
    assert document["oracles"][0]["value"] is document["oracles"][0]["bound"] is document["parameters"]["x"] is None
    json.dumps(document, allow_nan=False)
    page(report([strange]).stored())


def test_what_nothing_has_judged_is_not_well():
    assert report([]).document()["ok"] is False
    assert "nothing was judged" in markdown(report([]).stored())


def test_an_oracle_that_had_nothing_to_judge_does_not_pass_for_one_that_holds():
    blind = Finding(name="recovery", value=0.0, bound=10.0, ok=True, says="no fault", judged=False)
    stored = report([HOLDS, blind]).stored()
    assert "**every oracle holds; nothing to judge for recovery**" in markdown(stored)
    assert "| not judged | recovery | 0 | ≤ 10 | no fault |" in markdown(stored)
    assert "not judged" in page(stored)
    assert "nothing was judged" in markdown(report([blind]).stored())
    assert not report([blind]).ok


def test_a_written_report_is_read_again(tmp_path):
    made = report([HOLDS, BROKEN])
    assert made.write(tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "report.html"
    assert sorted(one.name for one in (tmp_path / "new" / "folder").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    found = read(tmp_path / "new" / "folder")
    assert found == read(tmp_path / "new" / "folder" / "report.json") == json.loads(json.dumps(made.stored()))
    assert found["format"] == FORMAT
    assert {key: found[key] for key in made.document()} == json.loads(json.dumps(made.document()))
    assert series_of(found) == made.series


def test_a_second_report_replaces_the_first_in_the_same_folder(tmp_path):
    report(seed=1).write(tmp_path)
    report(seed=2).write(tmp_path)
    assert read(tmp_path)["seed"] == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file: the report cannot be written .*: name a folder"):
        report().write(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory: name a folder or file"),
        ("no json", "is not JSON: name the report.json"),
        ("[]", "is no report: name the report.json"),
        ('{"scenario": "x"}', "is no report: name the report.json"),
        (f'{{"format": {FORMAT + 1}}}', f"has format {FORMAT + 1}, and this version reads up to {FORMAT}"),
        (f'{{"format": {FORMAT}}}', "is no whole report: scenario: Field required; run the trial again"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, text, said):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)) as raised:
        read(tmp_path if text is not None else tmp_path / "missing.json")
    assert "\n" not in str(raised.value)


def test_a_report_whose_series_are_damaged_is_refused(tmp_path):
    report().write(tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    del stored["series"]["bin_s"]
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=r"series\.bin_s: Field required"):
        read(tmp_path)


def test_the_page_asks_nothing_of_any_network():
    text = page(report([HOLDS, BROKEN]).stored())
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)
    tags = Tags(text).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "embed", "image", "use"}
    assert not [attrs for _, attrs in tags if {"src", "href", "xlink:href", "data", "srcset"} & set(attrs)]
    assert (
        "meta",
        {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"},
    ) in tags


def test_the_page_shows_the_verdict_the_oracles_and_the_command():
    text = " ".join(Tags(page(report([HOLDS, BROKEN]).stored())).text)
    for said in ("1 of 2 oracles do not hold: overrun", "at 12.5 s", "1.5", "fleet load run steady --seed 7", MODEL,
                 KILL.what, DOWN.what, "4 of 4"):  # fmt: skip
        assert said in text


def test_every_chart_says_in_words_what_it_shows_and_where_faults_struck():
    tags = Tags(page(report().stored())).tags
    drawn = [attrs["aria-label"] for tag, attrs in tags if tag == "svg" and attrs.get("role") == "img"]
    assert any(said.startswith("Requests, requests/s, over 10 s: granted 2 to 2; offered 2 to 2") for said in drawn)
    assert any(said.startswith("Workers, ") for said in drawn)
    bands = [attrs for tag, attrs in tags if tag == "rect" and attrs["class"] == "fault"]
    assert len(bands) == 2 * len(drawn)


def test_what_strangers_wrote_is_text_and_nothing_else():
    evil = Finding(name=EVIL, value=1.0, bound=0.0, ok=False, says=EVIL)
    made = report(
        [evil],
        parameters={EVIL: EVIL},
        scenario=EVIL,
        arrivals=[Arrival(at_s=0.0, run_id=EVIL, agent=EVIL, goal=EVIL)],
        ended={EVIL: Ended(outcome=EVIL, at=BEGAN + 1)},
        calls={EVIL: [Call(at=BEGAN + 1, ended=BEGAN + 1, outcome="ok", asked={EVIL: 1.0}, charged={EVIL: 1.0})]},
        marks=[Mark(kind=EVIL, what=EVIL, at=BEGAN + 1, until=BEGAN + 2)],
    )
    text = page(made.stored())
    found = Tags(text)
    assert not {tag for tag, _ in found.tags} & {"script", "img"}
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert "\x1b" not in text
    lines = markdown(made.stored())
    assert "\x1b" not in lines
    outside = [line for line in lines.splitlines() if not line.startswith("    ")]
    assert not [line for line in outside if re.search(r"(?<!\\)<(script|img)", line)]


def test_the_summary_is_markdown_whose_tables_hold_together():
    lines = markdown(report([HOLDS, BROKEN]).stored()).splitlines()
    assert lines[0] == "# steady, seed 7"
    assert "**1 of 2 oracles do not hold: overrun**" in lines
    assert "| holds | lost | 0 | ≤ 0 | nobody |" in lines
    assert "| **broken** | overrun | 1.5 | ≤ 1 | at 12.5 s |" in lines
    assert "    fleet load run steady --seed 7" in lines
    for before, line in pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.replace("\\|", "").count("|") == line.replace("\\|", "").count("|")
        if line.startswith("|") and not before.startswith("|"):
            assert before == ""


def test_an_interrupted_trial_says_so_first():
    stored = report(interrupted=True, ended={}).stored()
    assert "**interrupted; of what was done until then: every oracle holds**" in markdown(stored)
    assert "interrupted; of what was done until then" in page(stored)


def test_an_engine_at_its_end_is_named_as_the_bound_and_one_that_was_not_measured_is_left_out():
    busy = Engine(activities_per_s=100.0, offered_per_s=90.0)
    assert "the engine, not the fleet, is the bound" in page(report(engine=busy).stored())
    assert "the engine, not the fleet, is the bound" not in page(report().stored())
    assert report(engine=Engine(activities_per_s=0.0)).document()["engine"] is None


def test_nothing_at_all_is_a_page_too():
    made = report([], arrivals=[], ended={}, calls={}, limits={}, looks=[], marks=[], engine=None, parameters={})
    assert "nothing was judged" in page(made.stored())
    assert markdown(made.stored())


def test_only_what_happened_is_drawn():
    quiet = page(report().stored())
    assert "<b>Refused</b>" not in quiet
    assert "<b>Pace</b>" not in quiet
    refused = [call(n / 2, "429" if n % 3 else "ok") for n in range(20)]
    assert "<b>Refused</b>" in page(report(calls={MODEL: refused}).stored())


def test_many_scopes_and_hours_stay_a_page_that_a_browser_opens():
    calls = [call(n / 2) for n in range(7200)]
    found = report(seconds=3600, calls={f"provider/model-{n}": calls for n in range(8)})
    assert len(page(found.stored())) < 1_500_000


def test_a_chart_leaves_gaps_and_steps():
    line = Line(name="x", values=[1.0, 1.0, 2.0, None, 3.0], bin_s=1.0)
    drawn = str(Chart(title="t", unit="u", lines=[line], length_s=5.0).svg())
    paths = re.findall(r'<path class="line c0 step" d="(M[^"]*)"', drawn)[1:]
    assert len(paths) == 2
    assert (paths[0].count("H"), paths[0].count("V")) == (2, 1)
    assert "<title>2 s\nx: 2</title>" in drawn
    assert "<title>3 s</title>" in drawn


def test_a_fault_is_told_where_the_pointer_rests_and_numbers_do_not_lie_upon_each_other():
    line = Line(name="x", values=[1.0] * 100, bin_s=1.0)
    spans = [Span(number=n + 1, what=f"kill {n}", from_s=50 + n / 10, until_s=50 + n / 10) for n in range(9)]
    drawn = str(Chart(title="t", unit="u", lines=[line], length_s=100.0, spans=spans).svg())
    assert "fault 9: kill 8" in drawn
    where = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" class="fault">', drawn)]
    assert all(after - before >= 11 for before, after in pairwise(where))
    assert 1 <= len(where) < 9


def test_axes_are_read_in_round_numbers():
    assert ticks(95) == [0, 25, 50, 75, 100]
    assert ticks(0) == ticks(float("nan")) == [0, 1]
    assert ticks(0.07)[-1] >= 0.07
    assert [figure(x) for x in (0, 0.05, 12.34, 999, 1500, 90_000, 2.5e6, None)] == [
        "0", "0.05", "12.3", "999", "1.5k", "90k", "2.5M", "-",
    ]  # fmt: skip
    assert [clock(x) for x in (0, 1.5, 45, 60, 90, 3600, 5400)] == [
        "0 s", "1.5 s", "45 s", "1 min", "1:30 min", "1 h", "1:30 h",
    ]  # fmt: skip
