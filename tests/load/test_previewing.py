"""The load that schedules will offer: the herd, and what jitter makes of it."""

import tomllib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import BadInput
from fleet.manifest import Manifest
from load import cli_schedule, previewing
from load.cli_schedule import COLUMNS, HEIGHT, _jittered, drawing
from load.previewed import Series, columns
from load.previewing import due, jittered, preview
from load.workload import Call, Run

BEGIN = datetime(2026, 8, 1, tzinfo=UTC)
DAY = 86_400.0
ROOT = Path(__file__).parents[2]
SERIES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


def manifest(**schedules):
    raw = tomllib.loads((ROOT / "deploy" / "fleet.toml").read_text())
    raw["schedules"] = {name: {"agent": "mailer", "goal": "g"} | one for name, one in schedules.items()}
    return Manifest.model_validate(raw)


def seen(fleet, for_s=DAY, **more):
    return preview(fleet, due(fleet, BEGIN, for_s), BEGIN, for_s, **more)


def test_five_hundred_at_one_instant_are_a_herd_without_jitter_and_none_with_it():
    fleet = manifest(herd={"every": "1h", "count": 500, "spread": "1s", "jitter": "59m"})
    found = seen(fleet, waits=False)
    assert len(found.due) == 500
    assert {(one.scope, one.limit) for one in found.offered} >= {
        ("openai/sim-large", "tokens"),
        ("openai/sim-large", "requests"),
        ("email/relay", "messages"),
    }
    for one in found.offered:
        assert one.plain.smooth == pytest.approx(12, rel=0.01)
        # each of these quotas counts minutes: there the herd is worse, and jitter leaves more
        assert (one.plain.window, one.jittered.window) == (1, 1)
        assert one.plain.ratio > 29
        assert one.jittered.smooth < 2 <= one.jittered.ratio < 3
        assert one.jittered.peak == one.jittered.worst
        # the first hour's jitter reaches back into the hour before, the last one's out of the day
        assert one.jittered.mean == pytest.approx(one.plain.mean, rel=0.02)
    tokens = next(one for one in found.offered if one.limit == "tokens")
    assert (tokens.plain.above, tokens.jittered.above) == (24, 0)
    short = seen(fleet, 3600)
    waits = {name: told["first_call_s"]["p95"] for name, told in short.waits.items()}
    assert waits["without_jitter"] > 60
    assert waits["with_jitter"] < 1


def test_five_hundred_that_are_spread_need_no_jitter():
    found = seen(manifest(many={"every": "1h", "count": 500}), waits=False)
    assert all(one.plain.ratio < 1.2 for one in found.offered)
    assert found.offered[0].plain.minutes[:3] == [9.0, 8.0, 8.0]


def test_what_is_paused_or_not_asked_for_offers_nothing():
    fleet = manifest(a={"every": "1h"}, b={"every": "1h", "paused": True}, c={"cron": "0 9 * * *"})
    assert [one.id for one in due(fleet, BEGIN, DAY)] == ["a", "c"]
    assert [one.id for one in due(fleet, BEGIN, DAY, names=["c"])] == ["c"]
    with pytest.raises(BadInput, match="no schedule has a run in these 1 h"):
        preview(fleet, due(fleet, BEGIN, 3600, names=["c"]), BEGIN, 3600)
    with pytest.raises(BadInput, match="60 days at most"):
        preview(fleet, due(fleet, BEGIN, DAY), BEGIN, 61 * DAY)


def test_more_runs_than_anybody_waits_for_are_refused():
    with pytest.raises(BadInput, match="more than 100,000 runs in 24 h"):
        due(manifest(many={"every": "1m", "count": 100}), BEGIN, DAY)


def test_limits_of_a_day_are_told_beside_what_they_grant():
    raw = tomllib.loads((ROOT / "deploy" / "fleet.toml").read_text())
    raw["quotas"]["email/relay"]["messages_per_day"] = "100/day"
    raw["schedules"] = {"a": {"agent": "mailer", "goal": "g", "every": "5m"}}
    found = seen(Manifest.model_validate(raw), waits=False)
    (window,) = found.windows
    assert (window["limit"], window["offered"], window["planned"], window["days"]) == ("messages_per_day", 288, 98, 1)


def test_a_peak_is_taken_over_the_window_of_its_own_limit():
    raw = tomllib.loads((ROOT / "deploy" / "fleet.toml").read_text())
    raw["quotas"]["email/relay"]["messages"] = "100/h"
    raw["schedules"] = {"a": {"agent": "mailer", "goal": "g", "every": "1h"}}
    found = {(one.scope, one.limit): one.plain for one in seen(Manifest.model_validate(raw), waits=False).offered}
    mail, runs = found["email/relay", "messages"], found["schedules", "runs"]
    assert (mail.window, mail.ratio, mail.worst) == (60, pytest.approx(1, rel=0.01), 1)
    assert (runs.window, runs.ratio) == (1, 60)


def test_waits_that_are_too_many_to_simulate_are_said_to_be_missing():
    fleet = manifest(many={"every": "1m", "count": 15})
    found = seen(fleet)
    assert (found.waits, found.left_out) == ({}, "21,600 runs are more than 20,000")
    assert found.document()["waits_left_out"] == found.left_out
    assert seen(fleet, waits=False).left_out == ""


def test_a_jitter_to_try_is_held_against_the_named_tables_only(tmp_path):
    fleet = manifest(slow={"every": "1h"}, quick={"every": "1m"})
    changed = _jittered(fleet, "30m", ["slow"]).schedules
    assert [changed[name].jitter for name in ("slow", "quick")] == [timedelta(minutes=30), timedelta(0)]
    with pytest.raises(BadInput, match=r"^--jitter 30m: is not below the time between two runs of quick, 1m$"):
        _jittered(fleet, "30m", fleet.schedules)
    file = tmp_path / "fleet.toml"
    file.write_text((ROOT / "deploy" / "fleet.toml").read_text())
    with pytest.raises(BadInput, match=r"^--jitter belongs to the manifest's schedules, not to --live"):
        cli_schedule.preview(live=True, jitter="30m", manifest=file)


def test_calls_are_counted_when_they_are_made():
    fleet = manifest(a={"every": "1h"})
    call = Call(latency_s=120, pool="llm", scope="openai/sim-large", estimate={"requests": 1, "tokens": 500})
    recorded = [Run(at_s=0, calls=[call, call, call], agent="mailer")]
    found = seen(fleet, 3600, recorded=recorded, waits=False)
    tokens = next(one for one in found.offered if one.limit == "tokens")
    assert [number for number, units in enumerate(tokens.plain.minutes) if units] == [0, 2, 4]
    assert sum(tokens.plain.minutes) == 1500


def test_one_round_of_each_name_alone_fits_its_period_or_not():
    fleet = manifest(
        many={"every": "1m", "count": 200, "spread": "1s", "agent": "researcher"}, few={"every": "1h", "count": 2}
    )
    told = {one["name"]: one for one in previewing.alone(fleet, due(fleet, BEGIN, 600), most=5)}
    assert (told["many"]["fits"], told["few"]["fits"]) == (False, True)
    assert [one["name"] for one in previewing.alone(fleet, due(fleet, BEGIN, 600), most=1)] == ["many"]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    st.floats(0.1, 4000),
    st.text("ab-01", min_size=1, max_size=8),
)
def test_jitter_is_the_same_each_time_and_never_passes_the_next_instant(gaps, jitter_s, id_):
    at = [float(sum(gaps[: n + 1])) for n in range(len(gaps))]
    late = jittered(id_, at, jitter_s, 1)
    assert late == jittered(id_, at, jitter_s, 1)
    assert all(a <= b < a + jitter_s for a, b in zip(at, late, strict=True))
    assert all(b <= following for b, following in zip(late, at[1:], strict=False))
    assert all(a <= b for a, b in pairwise(late))


@settings(deadline=None)
@given(SERIES, st.integers(1, 60), st.none() | st.floats(1, 1e6))
def test_peaks_means_and_minutes_above_agree(minutes, step, limit):
    found = Series(minutes=minutes, step=step, limit=limit)
    assert found.mean <= found.worst * (1 + 1e-9)
    assert found.peak <= found.worst * (1 + 1e-9)
    assert found.peak >= found.mean * (1 - 1e-9)
    assert found.above == (0 if limit is None else sum(one > limit * (1 + 1e-9) for one in minutes))
    assert sum(found.document()["steps"]) >= 0


@settings(deadline=None)
@given(SERIES, st.none() | st.floats(0.1, 1e6))
def test_a_drawing_has_its_size_and_shows_whatever_is_there(minutes, limit):
    top = max([*minutes, limit or 0.0]) or 1.0
    lines = drawing(Series(minutes=minutes, step=1, limit=limit), top, limit)
    assert [len(line.plain) for line in lines] == [COLUMNS] * HEIGHT
    for value, block in zip(columns(minutes, COLUMNS), lines[-1].plain, strict=False):
        assert (block not in " ┄") == (value > 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.sampled_from(["5m", "1h", "4h"]), st.integers(1, 6))
def test_every_due_run_is_counted_once(count, every, hours):
    fleet = manifest(a={"every": every, "count": count, "jitter": "4m"})
    for_s = hours * 3600.0
    scheduled = due(fleet, BEGIN, for_s)
    if not any(one.plain for one in scheduled):
        return
    found = preview(fleet, scheduled, BEGIN, for_s, waits=False)
    runs = found.offered[0]
    assert sum(runs.plain.minutes) == sum(len(one.plain) for one in scheduled)
    assert sum(runs.jittered.minutes) == sum(len(one.jittered) for one in scheduled)
    assert sum(runs.plain.minutes) == pytest.approx(
        count * for_s / fleet.schedules["a"].period.total_seconds(), abs=count
    )
