"""Every scenario passes its oracles in its short form; every plant is caught; Ctrl-C leaves a report and no process."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fleet import settings as environment
from load import harness, scenario
from load.course import Course
from load.local import FIRST_BUILD, Plan, parse_pools
from load.plants import PLANTS
from load.report import markdown
from load.scenario import Stage
from load.view import View
from workers.bootstrap import limiter

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

FLEET = str(Path(sys.executable).parent / "fleet")
MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"
APART = {"redis_failover", "rolling_deploy", "rolling_restart", "incident"}
"""Scenarios whose stage is another, or that another trial runs (`test_seeing`)."""
MIX = "load-caller=3,load-mailer=1"
TOGETHER = [name for name in scenario.names() if name not in APART]
TIMED = {"burst", "noisy_tenant", "quota_squeeze"}
"""Judged by seconds."""


@asynccontextmanager
async def staged(folder, build="", pools="agents=1,llm=2,search=1,email=2"):
    """One fleet for all scenarios whose stage it can be: networks that can be cut, two workers where some die."""
    changes = scenario.find("mixed_day")
    stage = changes.stage(changes.ask(changes.short))
    plan = Plan(
        folder=folder,
        manifest=harness.prepared(MANIFEST, folder / "load.toml", stage),
        pools=parse_pools(pools),
        own_ledger=True,
        proxied=True,
        build=build,
    )
    async with harness.standing(plan, environment.Settings(), View(quiet=True), asyncio.Event()) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crew(tmp_path_factory):
    async with staged(tmp_path_factory.mktemp("scenarios")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def versioned(tmp_path):
    """Workers that belong to a version."""
    async with staged(tmp_path, FIRST_BUILD) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def doubled(tmp_path):
    """Two processes of the pools that every run needs."""
    async with staged(tmp_path, pools="agents=2,llm=2,search=1,email=1") as found:
        yield found


async def afresh(crew):
    """The limiter forgets what the scenario before has done to its pace."""
    redis = Redis.from_url(crew.fleet.endpoints.redis)
    await redis.flushall()
    await redis.aclose()


async def judged(crew, name, *, plants=(), **changed):
    await afresh(crew)
    found = scenario.find(name)
    asked = found.ask({**found.short, **changed})
    # a limiter of its own: the one of the scenario before remembers
    async with limiter(crew.fleet.settings(), crew.fleet.manifest) as shared:
        course = Course(replace(crew, shared=shared), found, asked, plants=plants)
        await course.prepare()
        return await course.run(asyncio.Event())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.alone) if name in TIMED else name for name in TOGETHER]
)
async def test_every_scenario_passes_in_its_short_form(crew, name):
    report = await judged(crew, name)
    # seconds are judged only where nothing else runs on the machine
    found = [f for f in report.oracles if name in TIMED or f.name != "waits"]
    assert [f"{f.name} {f.value:g}, bound {f.bound:g}: {f.says}" for f in found if not f.ok] == []
    assert report.agents["completed"] == report.agents["started"] > 0
    if name == "quota_squeeze":
        # two hundred agents, and what the planner said of them before they came
        assert report.duration_s == pytest.approx(report.forecast["finished_s"], rel=0.1)


@pytest.mark.parametrize(
    ("plants", "where", "mix", "caught"),
    [
        (("lost", "twice", "idle"), "quota_squeeze", MIX, {"nothing_lost", "nothing_twice", "utilisation"}),
        (("overrun",), "steady", MIX, {"overrun", "refusals_429"}),
        # those that live long enough to be held up
        (("starve",), "steady", "load-mailer", {"fairness_agents"}),
    ],
)
async def test_every_plant_is_caught(crew, plants, where, mix, caught):
    report = await judged(crew, where, plants=plants, mix=mix)
    assert caught <= {finding.name for finding in report.oracles if not finding.ok}


# versions follow each other under waiting runs in test_effects too
@pytest.mark.by_name("deployed_under_load")
async def test_a_new_version_is_deployed_under_load_and_a_run_that_was_moved_is_caught(versioned):
    report = await judged(versioned, "rolling_deploy")
    assert [f"{f.name} {f.value:g}, bound {f.bound:g}: {f.says}" for f in report.oracles if not f.ok] == []
    assert report.agents["completed"] == report.agents["started"] > 0
    # those that are there for a while
    mix = "load-caller,load-petitioner"
    report = await judged(versioned, "rolling_deploy", plants=("move",), mix=mix, agents=60, **{"for": 24})
    moved = {f.name: f for f in report.oracles}
    assert "plant_move" not in moved
    assert moved["version_kept"].value >= 1


@pytest.mark.alone
async def test_every_pool_is_restarted_under_load_and_one_whose_processes_stop_together_is_caught(doubled, request):
    before = doubled.fleet.pids()
    # work is queued before the first restart, and for long enough, however slowly a busy machine starts workers
    report = await judged(doubled, "rolling_restart", agents=120, pressure=8, at=5, **{"for": 10})
    assert [f"{f.name} {f.value:g}, bound {f.bound:g}: {f.says}" for f in report.oracles if not f.ok] == []
    assert report.agents["completed"] == report.agents["started"] > 0
    assert [mark.target for mark in report.marks] == ["agents", "llm", "search", "email"]
    after = doubled.fleet.pids()
    assert len(after) == len(before)
    assert set(after.values()).isdisjoint(before.values())
    told = {f.name: f.says for f in report.oracles}["dip"]
    assert re.match(r"agents \d+\.\d s, llm \d+\.\d s, search \d+\.\d s, email \d+\.\d s", told)
    assert told in markdown(report.stored())
    if "stop_together" not in request.config.getoption("keyword"):
        # the oracle's own tests have the evidence of it; here only if it is asked for by name: -k stop_together
        return
    # a pool that nobody serves for seconds
    report = await judged(doubled, "rolling_restart", plants=("together",), agents=60, pressure=6, at=2, **{"for": 6})
    found = {f.name: f for f in report.oracles}
    assert "plant_together" not in found
    assert not found["dip"].ok
    assert found["dip"].value > found["dip"].bound
    assert found["nothing_lost"].ok


async def test_every_plant_is_tried():
    (tried,) = [mark.args[1] for mark in test_every_plant_is_caught.pytestmark if mark.name == "parametrize"]
    assert {plant for plants, *_ in tried for plant in plants} | {"move", "together"} == set(PLANTS)


def fleet(tmp_path, *arguments, **more):
    return subprocess.Popen(
        [FLEET, "load", "run", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FLEET_STATE_DIR": str(tmp_path)}, **more,
    )  # fmt: skip


async def test_a_failover_of_redis_by_the_command_itself(tmp_path):
    process = fleet(tmp_path, "redis_failover", "--short", "--json", "--out", str(tmp_path / "out"))
    out, err = await asyncio.to_thread(process.communicate, timeout=200)
    assert process.returncode == 0, out + err
    told = json.loads(out)
    assert told["ok"]
    assert {"scenario", "seed", "duration_s", "agents", "oracles", "ok"} <= told.keys()
    assert all({"name", "value", "bound", "ok"} <= oracle.keys() for oracle in told["oracles"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "fleet.toml", "report.html", "report.json", "report.md", "reservations.jsonl",
    }  # fmt: skip


async def test_ctrl_c_leaves_a_report_and_no_process(tmp_path):
    process = fleet(
        tmp_path, "steady", "--for", "60s", "--agents", "100", "--out", str(tmp_path / "out"), "--probe", "0",
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    await asyncio.to_thread(_until, process.stderr, "fleet: load")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    out, _ = await asyncio.to_thread(process.communicate, timeout=100)
    assert process.returncode == 1, out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["interrupted"] is True
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert gone


def _until(stream, text):
    for line in stream:
        if line.startswith(text):
            return
    raise AssertionError(f"never said {text!r}")


async def test_the_stage_of_every_scenario_is_one_that_is_tried():
    for name in TOGETHER:
        found = scenario.find(name)
        stage = found.stage(found.ask(found.short))
        assert not stage.sentinel
        assert stage.manifest in ({}, Stage().manifest, scenario.find("mixed_day").stage(None).manifest)
