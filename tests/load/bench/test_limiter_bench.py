"""The benchmark measures what it says; its figures are no test."""

import asyncio
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version

import pytest
from typer import Typer
from typer.testing import CliRunner

from load.bench import environment
from load.bench.limiter import PEERS
from load.bench.report import Report, jain
from load.bench.trials import HOME
from load.bench.wanted import Wanted
from load.cli import bench_limiter

WANTED = Wanted(name="t", rate=50, burst=5)


def drive(what, wanted=WANTED, **asked):
    found = subprocess.run(
        [sys.executable, "-m", "load.bench.drive", json.dumps({"what": what, "wanted": asdict(wanted), **asked})],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("contender", "window", "loop"),
    [("ours", 0, "asyncio"), ("ours", 0, "uvloop"), ("ours", 100, "asyncio"), ("raw", 0, "asyncio")],
)
def test_speed_counts_acquires(valkey, contender, window, loop):
    plenty = Wanted(name=f"{contender}-{window}", rate=1e9, burst=1e9, limits=2, window=window)
    found = drive("speed", plenty, contender=contender, url=valkey, tasks=3, seconds=0.2, loop=loop)
    assert found["rate"] > 0
    assert found["p50_us"] > 0
    assert found["cpu_us"] > 0
    assert found["acquires"] > found["rate"] * 0.1


@pytest.fixture
async def provider(simulators):
    where = await simulators(openai={"models": {"bench": {"requests": {"limit": 60, "period_s": 1, "burst": 40}}}})
    return where.http


@pytest.mark.parametrize("contender", ["ours", "none"])
async def test_saturation_tells_every_call_of_every_agent(valkey, simulators, contender):
    # what twenty agents ask for within a second on the slowest machine is more than ten
    granted = {"limit": 60, "period_s": 1, "burst": 40} if contender == "ours" else {"limit": 1, "burst": 10}
    provider = (await simulators(openai={"models": {"bench": {"requests": granted}}})).http
    begin = time.time() + 3
    # on a busy machine it begins seconds late
    found = await asyncio.to_thread(
        drive, "saturate", contender=contender, url=valkey, provider=provider, tasks=20, begin=begin, end=begin + 4
    )
    assert len(found["agents"]) == 20
    calls = [call for mine in found["agents"] for call in mine]
    assert all(at >= begin and waited >= 0 for at, waited, _ in calls)
    # without a limiter the provider says what it does not want
    # 0: still waited at the end
    assert {status for _, _, status in calls} - {0} == ({200} if contender == "ours" else {200, 429})


async def test_nobody_calls_during_a_cooldown(valkey, provider):
    begin = time.time() + 2
    found = await asyncio.to_thread(
        drive, "cooled", contender="ours", url=valkey, provider=provider, tasks=4, begin=begin, end=begin + 2.5,
        cooldown_at=begin + 0.5, cooldown_s=1.0, first=True,
    )  # fmt: skip
    ends = [at - begin for mine in found["agents"] for at, _, _ in mine]
    assert any(at < 0.5 for at in ends)
    assert any(at > 1.5 for at in ends)
    assert not any(0.9 < at < 1.5 for at in ends)


def test_mixed_calls_tell_what_they_have_cost(valkey):
    wanted = Wanted(name="mixed-t", rate=100_000, burst=60_000)
    begin = time.time() + 1
    found = drive("mixed", wanted, url=valkey, tasks=4, begin=begin, end=begin + 1, seed=1)
    assert found["calls"]
    assert all(at >= begin and 100 <= units <= 20_000 for at, units in found["calls"])


async def test_temporals_own_limit_holds_calls_back(temporal_address, provider):
    begin = time.time() + 3
    found = await asyncio.to_thread(
        drive, "temporal", Wanted(name=f"t{begin}", rate=20, burst=5), temporal=temporal_address, provider=provider,
        tasks=10, begin=begin, end=begin + 3, process=0,
    )  # fmt: skip
    calls = [call for mine in found["agents"] for call in mine]
    assert 0 < len(calls) < 40 * 3
    assert {status for _, _, status in calls} == {200}


def test_a_figure_beyond_its_bound_is_missed():
    report = Report()
    report.check("fast enough", 1.9, least=1.8)
    report.check("too slow", 1.7, least=1.8)
    report.check("few enough", 1.0, most=1.2)
    report.check("too many", 1.3, most=1.2)
    assert [check.ok for check in report.checks] == [True, False, True, False]
    assert report.checks[1].target == ">= 1.8"


def test_a_table_has_a_line_for_each_contender():
    report = Report()
    report.row("speed 1 x 1", "ours", per_second=123456.7, p50_us=1.23456)
    report.row("speed 1 x 1", "raw", per_second=5.0)
    report.row("other", "ours", used=1.0)
    assert report.tables() == [
        ("speed 1 x 1", ["LIMITER", "PER_SECOND", "P50_US"], [["ours", "123457", "1.2346"], ["raw", "5", ""]]),
        ("other", ["LIMITER", "USED"], [["ours", "1"]]),
    ]


def test_fairness_is_jains():
    assert jain([3, 3, 3]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) == 0


def test_the_peers_are_pinned_and_not_part_of_the_project():
    listed = dict(re.findall(r"^([\w-]+)==([\w.]+)$", environment.WANTED.read_text(), re.MULTILINE))
    assert {"limits", "pyrate-limiter", "throttled-py", "self-limiters", "redis"} <= set(listed)
    # what is measured is what the project itself uses
    assert listed["httpx2"] == version("httpx2")
    assert not set(PEERS) & set(HOME)


async def test_peers_that_cannot_be_installed_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.sys, "prefix", str(tmp_path))
    listed = tmp_path / "peers.txt"
    listed.write_text("there-is-no-such-package-as-this==1.0\n")
    monkeypatch.setattr(environment, "WANTED", listed)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(environment.NotInstalled, match="there-is-no-such-package"):
        await environment.interpreter()


bench = Typer()
bench.command()(bench_limiter)


@pytest.mark.parametrize(
    "more", [["--picture", "x.gif"], ["--picture", "nowhere/x.svg"], ["--no-peers", "--picture", "x.svg"]]
)
def test_a_picture_that_cannot_be_drawn_is_refused(more):
    found = CliRunner().invoke(bench, more)
    assert found.exit_code == 2
    assert "--picture" in found.output
