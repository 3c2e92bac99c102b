"""The evidence: what is written down, summed up, and kept."""

import asyncio
import gc
import json
import time
from itertools import count

import httpx2
import pytest

from load.simulators import ledger as ledgers
from load.simulators.ledger import Ledger, Row
from load.simulators.options import Options
from load.simulators.server import Serving, running


def row(wall=0.0, **fields):
    fields.setdefault("provider", "openai")
    fields.setdefault("model", "m")
    fields.setdefault("ended", wall + 0.5)
    return Row(path="/", mono=wall, wall=wall, **fields)


@pytest.fixture
def ledger():
    made = Ledger()
    for number in range(6):
        made.add(row(100.0 + number * 0.5, charged={"requests": 1.0, "tokens": 10.0}))
    made.add(row(103.2, outcome="429"))
    made.add(row(103.3, outcome="ok", charged={"requests": 1.0}, outsider=True))
    made.add(row(103.4, provider="anthropic", model="c"))
    return made


def test_a_series_counts_in_bins_empty_ones_too(ledger):
    found = ledger.series(99.0, 104.0, 1.0, "openai")
    assert [one["at"] for one in found["bins"]] == [99, 100, 101, 102, 103]
    assert [one["requests"] for one in found["bins"]] == [0, 2, 2, 2, 1]
    assert [one["charged"].get("tokens", 0) for one in found["bins"]] == [0, 20, 20, 20, 0]
    assert found["bins"][-1]["outcomes"] == {"429": 1}


def test_a_series_may_be_of_one_model_and_begins_with_the_first_request(ledger):
    found = ledger.series(None, 104.0, 2.0, None, "c")
    assert found["from"] == 100
    assert [one["requests"] for one in found["bins"]] == [0, 1]


def test_a_last_bin_may_be_cut_short(ledger):
    found = ledger.series(100.0, 101.5, 1.0, "openai")
    assert [one["requests"] for one in found["bins"]] == [2, 1]


@pytest.mark.parametrize(("step", "problem"), [(0, "step is 0"), (-1, "step is -1"), (1e-6, "at most 10000")])
def test_a_step_that_makes_no_chart_is_refused(ledger, step, problem):
    with pytest.raises(ValueError, match=problem):
        ledger.series(100.0, 104.0, step)


def test_sums_leave_outsiders_out_unless_they_are_asked_for(ledger):
    asked = [ledger.window(100, 104, "openai", "m", which)["requests"] for which in ("without", "with", "only")]
    assert asked == [7, 8, 1]
    assert ledger.series(100.0, 104.0, 4.0, outsiders="only")["bins"][0]["requests"] == 1
    summary = ledger.summary()
    assert summary["providers"]["openai"]["models"]["m"]["requests"] == 7
    assert summary["outsiders"]["openai"]["m"]["requests"] == 1


def test_a_request_that_takes_long_is_found_by_when_it_arrived():
    made = Ledger()
    made.add(row(105.0, ended=105.1))
    made.add(row(100.0, ended=200.0))
    assert made.window(99, 101)["requests"] == 1
    assert made.window(104, 106)["requests"] == 1


def test_rows_are_read_in_pages_and_only_the_last_are_kept(monkeypatch):
    monkeypatch.setattr(ledgers, "CAPACITY", 10)
    made, numbers = Ledger(), count()
    for _ in range(25):
        made.add(row(float(next(numbers))))
    assert [one["seq"] for one in made.rows()] == list(range(16, 26))
    assert [one["seq"] for one in made.rows(since=17, limit=3)] == [18, 19, 20]
    assert made.rows(since=25) == []
    assert made.summary()["rows"] == 25


def test_the_file_gets_whole_lines_in_batches_and_all_of_them_at_the_end(tmp_path):
    file = tmp_path / "ledger.jsonl"
    made = Ledger(file)
    made.add(row(1.0, charged={"requests": 1.0}))
    assert file.read_text() == ""
    made.flush()
    assert json.loads(file.read_text())["charged"] == {"requests": 1.0}
    for number in range(ledgers.FLUSH_ROWS):
        made.add(row(float(number)))
    assert len(file.read_text().splitlines()) == ledgers.FLUSH_ROWS + 1
    made.add(row(7.0))
    made.close()
    assert len(file.read_text().splitlines()) == ledgers.FLUSH_ROWS + 2


async def test_a_row_is_in_the_file_shortly_after_its_call_and_says_what_was_asked(tmp_path):
    file = tmp_path / "ledger.jsonl"
    options = {
        "openai": {"models": {"m": {"tokens": {"limit": 100}}}},
        "latency": {"base_s": 0, "per_output_token_s": 0},
    }
    serving = Serving(options=Options.of(options), maildir=tmp_path / "Maildir", ledger_file=file)
    ask = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 60}
    async with running(serving) as where, httpx2.AsyncClient(base_url=where.http) as http:
        for _ in range(2):
            await http.post("/v1/chat/completions", json=ask, headers={"authorization": "Bearer sk-a"})
        deadline = time.monotonic() + 2
        while len(file.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        series = (await http.get("/_ledger/series", params={"provider": "openai", "step": "60"})).json()
        wrong = [
            (await http.get(path, params=params)).status_code
            for path, params in (
                ("/_ledger/series", {"step": "0"}),
                ("/_ledger/series", {"from": "then"}),
                ("/_ledger/window", {"outsiders": "maybe"}),
                ("/_ledger", {"since": "x"}),
            )
        ]
    done, refused = map(json.loads, file.read_text().splitlines())
    assert done["asked"] == refused["asked"] == {"requests": 1.0, "tokens": 60.0}
    assert (done["charged"]["tokens"], refused["charged"].get("tokens")) == (60.0, None)
    assert done["wall"] <= done["ended"] <= refused["ended"]
    assert not done["outsider"]
    assert series["bins"][0]["outcomes"] == {"ok": 1, "429": 1}
    assert wrong == [422] * 4


def test_the_garbage_collector_does_not_look_at_rows_again(ledger):
    # what a tuple holds is forgotten first
    for _ in range(3):
        gc.collect()
    assert not any(gc.is_tracked(one) for one in ledger._rows)
