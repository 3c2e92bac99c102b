"""What Prometheus is told of a local fleet follows the logs of its processes."""

import asyncio
import json
import shutil
import subprocess

import pytest

from load import scraped
from load.scraped import EXPORTER, LOAD, WORKER, Scraped


@pytest.fixture
async def found(tmp_path):
    """Looks only when it is told to."""
    targets = Scraped(tmp_path / "prometheus", None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scraped, "LOOK_S", 3600)
        async with targets.kept():
            await asyncio.sleep(0)
            yield targets


def told(targets):
    return {
        one["labels"]["process"]: (one["labels"]["job"], one["labels"]["instance"], *one["targets"])
        for one in json.loads(targets.targets.read_text())
    }


def ready(log, port):
    with log.open("a") as more:
        more.write('{"event": "other", "health": "http://no:1"}\nnot JSON\n')
        more.write(json.dumps({"health": f"http://127.0.0.1:{port}", "event": "ready"}) + "\n")


def test_who_is_ready_is_scraped_and_again_where_it_is_after_a_restart(found, tmp_path):
    log = tmp_path / "llm-1.log"
    ready(log, 1)
    found.follow("llm-1", WORKER, log)
    found.look()
    assert told(found) == {}
    ready(log, 2)
    found.look()
    assert told(found) == {"llm-1": (WORKER, "llm-1", "127.0.0.1:2")}
    with log.open("a") as more:
        more.write('{"health": "http://127.0.0.1:3", "eve')
    found.look()
    assert told(found)["llm-1"][-1] == "127.0.0.1:2"
    with log.open("a") as more:
        more.write('nt": "ready"}\n')
    found.look()
    assert told(found)["llm-1"][-1] == "127.0.0.1:3"


def test_every_process_has_its_job(found, tmp_path):
    logs = {name: tmp_path / f"{name}.log" for name in ("agents-1@v2", "exporter")}
    found.follow("agents-1@v2", WORKER, logs["agents-1@v2"])
    found.follow("exporter", EXPORTER, logs["exporter"])
    found.add("trial", LOAD, "127.0.0.1:9")
    found.look()
    assert told(found) == {"trial": (LOAD, "trial", "127.0.0.1:9")}
    for port, log in enumerate(logs.values(), start=1):
        ready(log, port)
    found.look()
    assert told(found) == {
        "agents-1@v2": (WORKER, "agents-1@v2", "127.0.0.1:1"),
        "exporter": (EXPORTER, "exporter", "127.0.0.1:2"),
        "trial": (LOAD, "trial", "127.0.0.1:9"),
    }
    found.remove("agents-1@v2")
    found.remove("nobody")
    assert set(told(found)) == {"exporter", "trial"}


async def test_the_list_is_kept_right_until_the_fleet_ends_and_is_empty_then(tmp_path, monkeypatch):
    monkeypatch.setattr(scraped, "LOOK_S", 0.001)
    targets, log = Scraped(tmp_path / "prometheus", None), tmp_path / "llm-1.log"
    async with targets.kept():
        assert told(targets) == {}
        targets.follow("llm-1", WORKER, log)
        ready(log, 7)
        async with asyncio.timeout(10):
            while not told(targets):
                await asyncio.sleep(0.001)
    assert told(targets) == {}


@pytest.mark.parametrize("ruled", [True, False])
async def test_prometheus_takes_the_configuration(tmp_path, ruled):
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian: apt install prometheus)")
    rules = tmp_path / "my rules"
    rules.mkdir()
    (rules / "one.yml").write_text("groups: []\n")
    targets = Scraped(tmp_path / "prometheus", rules if ruled else None)
    async with targets.kept():
        targets.add("trial", LOAD, "127.0.0.1:9")
        command = ["promtool", "check", "config", str(targets.config)]
        checked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked
    assert ("1 rule files found" in checked.stdout) is ruled
    assert f"--config.file={targets.config}" in targets.command
