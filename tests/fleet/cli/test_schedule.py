"""`fleet schedule …` over a real server."""

import json
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.fleet.cli.conftest import ROOT, Cli


@pytest.fixture
def name():
    return f"c{uuid4().hex[:8]}"


@pytest.fixture
def scheduling(operator, tmp_path, name):
    """`fleet schedule` with a manifest of tables that are given."""
    file = tmp_path / f"{name}.toml"

    def write(text):
        file.write_text((ROOT / "deploy" / "fleet.toml").read_text() + text)

    operator.settings["FLEET_MANIFEST"] = str(file)
    write("")
    operator.write = write
    yield operator
    operator("schedule", "rm", f"{name}*")
    for run in json.loads(operator("ps", "--state", "running", "--json").stdout or "[]"):
        if run["id"].startswith(name):
            operator("terminate", run["id"])


def table(name, **more):
    fields = {"agent": "mailer", "goal": "say {n}", "every": "1h", "count": 3} | more
    return "\n".join([f"\n[schedules.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in fields.items() if v), ""])


def listed(fleet, name, count):
    """Once the listing knows so many."""
    for _ in range(200):
        found = [one for one in fleet.document("schedule", "ls") if one["id"].startswith(name)]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_apply_plans_does_it_and_has_nothing_more_to_do(scheduling, name):
    scheduling.write(table(name))
    planned = scheduling.said("schedule", "apply", "--dry-run")
    assert planned == f"+ {name}-001 … {name}-003 (3)\nplan: 3 to create\n"
    assert scheduling.said("schedule", "apply").endswith("created 3\n")
    assert scheduling.said("schedule", "apply") == "plan: 3 unchanged\nnothing to do\n"
    found = listed(scheduling, name, 3)
    assert {one["owner"] for one in found} == {f"manifest {name}"}
    assert [one["times"] for one in found] == ["every 1h", "every 1h at +20m", "every 1h at +40m"]

    scheduling.write(table(name, count=2, jitter="5m"))
    said = scheduling.said("schedule", "apply", "--dry-run")
    assert f"~ {name}-001: jitter 0s -> 5m\n" in said
    # two are spread otherwise than three
    assert f"~ {name}-002: times every 1h at +20m -> every 1h at +30m; jitter 0s -> 5m\n" in said
    assert f"? {name}-003: not in the manifest any more: --prune deletes it\n" in said
    done = scheduling.document("schedule", "apply", "--prune")
    assert {kind: sorted(ids) for kind, ids in done["done"].items()} == {
        "update": [f"{name}-001", f"{name}-002"],
        "delete": [f"{name}-003"],
    }
    rows = scheduling.document("audit", "--subject", name)
    assert rows[0]["what"] == "schedules.applied"


def test_a_pause_says_who_and_why_and_survives_apply(scheduling, name):
    scheduling.write(table(name))
    scheduling.said("schedule", "apply")
    listed(scheduling, name, 3)
    said = scheduling.said("schedule", "pause", name, "--reason", "provider is down", "--by", "ana")
    assert said == "paused 3 of 3\n"
    shown = scheduling.said("schedule", "show", f"{name}-002")
    assert "state    paused: paused by ana: provider is down\n" in shown
    assert "goal     say 2\n" in shown
    scheduling.write(table(name, jitter="1m"))
    said = scheduling.said("schedule", "apply")
    assert "jitter 0s -> 1m; stays paused: paused by ana: provider is down" in said
    assert scheduling.document("schedule", "show", f"{name}-001")["paused"]
    assert scheduling.said("schedule", "resume", f"{name}-001") == f"{name}-001: resumed\n"
    assert not scheduling.document("schedule", "show", f"{name}-001")["paused"]


def test_one_made_by_hand_is_triggered_backfilled_and_removed(scheduling, name):
    made = ("--agent", "mailer", "--goal", "say hi", "--every", "10m", "--overlap", "allow_all")
    assert scheduling.said("schedule", "create", name, *made, "--by", "bo") == f"{name}: created\n"
    line = scheduling.refused("schedule", "create", name, *made)
    assert line == f"fleet: schedule '{name}' exists already: choose another name, or `fleet schedule rm` it"
    assert scheduling.said("schedule", "apply") == "plan: no schedules\nnothing to do\n"
    assert scheduling.said("schedule", "trigger", name) == f"{name}: triggered\n"
    now = datetime.now(UTC) - timedelta(minutes=20)
    since, until = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (now - timedelta(minutes=30), now))
    period = ("--from", since, "--to", until, "--overlap", "allow_all")
    said = scheduling.said("schedule", "backfill", name, *period, "--dry-run")
    assert said.startswith(f"3 runs of {name} would be started\n")
    document = scheduling.document("schedule", "backfill", name, *period)
    assert len(document["started"][name]) == 3
    for _ in range(200):
        shown = scheduling.document("schedule", "show", name)
        if len(shown["running"]) == 4:
            break
        time.sleep(0.05)
    assert shown["started"] == 4
    assert len(shown["recent"]) == 4
    assert scheduling.said("schedule", "backfill", name, *period) == (
        f"0 runs of {name} are started\n3 had their run before: left out\n"
    )
    assert scheduling.said("schedule", "rm", name) == f"{name}: removed\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nobody"), "no schedule 'nobody': `fleet schedule ls` lists them"),
        (("pause", "nobody"), "no schedule 'nobody'"),
        (("rm",), "name one schedule, or all that the manifest has made with --owned: one of both"),
        (("trigger", "x", "--overlap", "maybe"), "--overlap 'maybe' is not one of skip, buffer_one"),
        (("backfill", "x", "--from", "today", "--to", "now"), "--from 'today' is no moment"),
        (("backfill", "x", "--from", "2026-01-01T00:00:00", "--to", "2026-01-01"), "has no time zone"),
        (("apply", "nobody"), "the manifest has no [schedules.nobody]; it has: none"),
        (("create", "x", "--agent", "mailer", "--goal", "g"), "has no time: set exactly one of cron, every, calendar"),
        (("create", "x", "--agent", "mailer", "--goal", "g", "--cron", "61 * * * *"), "minute '61' is not between"),
        (("create", "x", "--agent", "nobody", "--goal", "g", "--every", "1h"), "unknown agent 'nobody'"),
        (("create", "x y", "--agent", "mailer", "--goal", "g", "--every", "1h"), "must be letters, digits"),
        (("create", "x", "--agent", "mailer", "--goal", "g", "--calendar", "hour"), "does not look like FIELD=VALUE"),
        (
            ("create", "x", "--agent", "mailer", "--goal", "g", "--calendar", "hour=9", "--calendar", "hour=17"),
            "--calendar hour is given twice: write hour=9,17",
        ),
        (
            ("create", "x", "--agent", "mailer", "--goal", "g", "--every", "1h", "--end", "2026-01-01T00:00:00Z"),
            "schedule 'x' would never run",
        ),
        (
            (
                "create",
                "x",
                "--agent",
                "mailer",
                "--goal",
                "g",
                "--every",
                "1h",
                "--start",
                "0001-01-01T00:00:00+14:00",
            ),
            "--start '0001-01-01T00:00:00+14:00': the year 1 is not between 2000 and 2100",
        ),
        (("backfill", "x", "--from", "0001-01-01T00:00:00+14:00", "--to", "2026-01-01"), "is not between 2000 and"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(scheduling, arguments, says):
    assert says in scheduling.refused("schedule", *arguments)


def test_removing_all_that_is_owned_leaves_the_others(scheduling, name):
    scheduling.write(table(name))
    scheduling.said("schedule", "apply")
    scheduling.said("schedule", "create", f"{name}h", "--agent", "mailer", "--goal", "g", "--every", "1h")
    listed(scheduling, name, 4)
    assert scheduling.said("schedule", "rm", "--owned", "--dry-run").endswith("3 would be removed\n")
    assert scheduling.said("schedule", "rm", "--owned") == "removed 3 of 3\n"
    assert [one["id"] for one in listed(scheduling, name, 1)] == [f"{name}h"]
    assert f"{name}h" in scheduling.said("schedule", "ls")


def test_the_preview_shows_the_herd_and_what_jitter_makes_of_it(scheduling, name):
    # a command of another package: only a process has it
    process = Cli(scheduling.folder, scheduling.settings)
    line = process.refused("schedule", "preview")
    assert line.startswith("fleet: there are no schedules to preview")
    scheduling.write(table(name, count=500, spread="1s", jitter="59m"))
    drawn = process.said("schedule", "preview", "--from", "2026-08-01T00:00:00Z", "--for", "1h")
    assert "500 schedules, " in drawn
    assert "PEAK/M is the most of one WINDOW, the quota's own" in drawn
    assert "openai/sim-large tokens, granted 88,200 a minute" in drawn
    assert "without jitter  a run waits for its first call p50 2m" in drawn
    document = process.document("schedule", "preview", "--from", "2026-08-01T00:00:00Z", "--for", "12h", "--no-waits")
    for quota in document["quotas"]:
        assert quota["without_jitter"]["peak_of_steps_over_mean"] > 11
        assert quota["with_jitter"]["peak_of_steps_over_mean"] < 2
    assert document["waits"] == {}


def test_a_dry_run_with_somebody_elses_schedule_says_so_by_its_exit_code(scheduling, name):
    made = ("--agent", "mailer", "--goal", "g", "--every", "1h")
    scheduling.said("schedule", "create", name, *made)
    scheduling.write(table(name, count=None, goal="g"))
    found = scheduling("schedule", "apply", "--dry-run")
    assert (found.returncode, found.stdout.splitlines()[-1]) == (1, "plan: 1 of somebody else")


def test_parts_that_are_spread_otherwise_share_a_line(scheduling, name):
    scheduling.write(table(name, goal="g"))
    scheduling.said("schedule", "apply")
    scheduling.write(table(name, count=4, goal="part {n} of {count}"))
    said = scheduling.said("schedule", "apply", "--dry-run").splitlines()
    assert said == [
        f"~ {name}-001: goal g -> part 1 of 4",
        f"~ {name}-002 … {name}-003 (2): times every 1h at +20m -> every 1h at +15m …; goal g -> part 2 of 4 …",
        f"+ {name}-004",
        "plan: 1 to create, 3 to update",
    ]


def test_a_local_time_that_comes_twice_or_not_at_all_is_noted(scheduling, name):
    line = {"every": None, "count": None, "goal": "g", "cron": "30 2 * * *"}
    scheduling.write(table(name, timezone="Europe/Vienna", **line) + table(f"{name}u", **line))
    said = scheduling.said("schedule", "apply", "--dry-run").splitlines()
    assert len(said) == 4
    assert said[-1].startswith(f"note: {name}: 02:30 in Europe/Vienna comes twice or not at all on 20")


def test_the_manifest_that_fleet_dev_has_copied_keeps_its_name(scheduling, name):
    scheduling.write(table(name))
    scheduling.said("schedule", "apply")
    copy = scheduling.folder / ".fleet" / "fleet.toml"
    copy.parent.mkdir(exist_ok=True)
    copy.write_text((scheduling.folder / f"{name}.toml").read_text())
    (copy.parent / "dev.json").write_text(json.dumps({"manifest": str(copy), "owner": name}))
    environment = {"FLEET_STATE_DIR": str(copy.parent)}
    said = scheduling.said("schedule", "apply", "--manifest", str(copy), **environment)
    assert said == "plan: 3 unchanged\nnothing to do\n"
    other = scheduling.folder / "other.toml"
    other.write_text(copy.read_text())
    found = scheduling("schedule", "apply", "--dry-run", "--manifest", str(other), **environment)
    assert (found.returncode, found.stdout.splitlines()[-1]) == (1, "plan: 3 of somebody else")


def test_who_triggers_and_who_removes_stands_in_the_audit(scheduling, name):
    made = ("--agent", "mailer", "--goal", "g", "--every", "1h")
    scheduling.said("schedule", "create", name, *made)
    scheduling.said("schedule", "trigger", name, "--by", "ana")
    scheduling.said("schedule", "rm", name, "--by", "bo")
    rows = scheduling.document("audit", "--subject", name)
    assert {"schedule.triggered": "ana", "schedule.removed": "bo"}.items() <= {
        one["what"]: one["actor"] for one in rows
    }.items()


def test_the_preview_of_what_is_there_asks_temporal(scheduling, name):
    process = Cli(scheduling.folder, scheduling.settings)
    scheduling.write(table(name, jitter="30m"))
    scheduling.said("schedule", "apply")
    listed(scheduling, name, 3)
    document = process.document("schedule", "preview", name, "--live", "--for", "2h", "--no-waits")
    runs = document["quotas"][0]
    assert document["schedules"] == 3
    assert runs["without_jitter"]["mean"] * 120 == pytest.approx(6, abs=0.1)
    assert runs["without_jitter"]["steps"] != runs["with_jitter"]["steps"]
