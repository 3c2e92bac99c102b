"""A local fleet's processes see their own servers, whatever the user's environment says."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import httpx2
import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from temporalio.client import Client

from fleet import settings
from fleet.errors import BadInput, FleetError
from load.faults import Faults
from load.local import LocalFleet, Plan, parse_pools
from load.trial import Fault
from ratelimit.limiter import Limiter
from workers.embedded import Endpoints

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"


def local(tmp_path, **plan):
    found = LocalFleet(Plan(folder=tmp_path, manifest=MANIFEST, pools={"llm": 1}, **plan), settings.load())
    found.stack._endpoints = Endpoints(temporal="127.0.0.1:1", ui="u", redis="redis://127.0.0.1:2/0", folder="f")
    return found


def test_another_temporal_and_another_ledger_stay_out_of_it(tmp_path, monkeypatch):
    for name, value in {
        "TEMPORAL_NAMESPACE": "prod",
        "TEMPORAL_API_KEY": "secret",
        "TEMPORAL_TLS": "true",
        "FLEET_DATABASE_URL": "postgresql+asyncpg://prod/ledger",
        "FLEET_LOG_LEVEL": "error",
    }.items():
        monkeypatch.setenv(name, value)
    seen = local(tmp_path, own_ledger=True).environment()
    assert {name: value for name, value in seen.items() if name.startswith("TEMPORAL_")} == {
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "TEMPORAL_CONFIG_FILE": "/dev/null",
    }
    assert "FLEET_DATABASE_URL" not in seen
    assert seen["FLEET_LOG_LEVEL"] == "info"
    assert local(tmp_path).environment()["FLEET_DATABASE_URL"].startswith("postgresql")


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"cannot be used: .*FLEET_STATE_DIR must be a folder that can be written to"):
        local(tmp_path / "file" / "state")


def test_a_worker_is_ready_when_this_life_of_it_has_said_so(tmp_path):
    found = local(tmp_path)
    log = tmp_path / "logs" / "llm-1.log"
    log.parent.mkdir()
    log.write_text('{"event": "ready"}\n')
    found._log_began["llm-1"] = log.stat().st_size
    assert found._said("llm-1") == ""
    with log.open("a") as more:
        more.write("new")
    assert found._said("llm-1") == "new"


@pytest.mark.parametrize(
    ("text", "pools"),
    [
        ("llm=2", {"agents": 1, "llm": 2, "search": 1, "email+payments+approvals+memory+webhook": 1}),
        (
            "email=2,payments=1,webhook=3",
            {"agents": 1, "llm": 1, "search": 1, "email+approvals+memory": 2, "payments": 1, "webhook": 3},
        ),
    ],
)
def test_pools_with_little_to_do_share_a_process(text, pools):
    assert parse_pools(text) == pools


@pytest.mark.parametrize("text", ["lm=1", "llm=0", "llm=65", "llm=x", "approvals+memory=1", ""])
def test_what_is_no_number_of_processes_is_refused(text):
    with pytest.raises(BadInput, match="--pools: "):
        parse_pools(text)


def test_pools_that_the_manifest_lacks_are_not_started(tmp_path):
    manifest = tmp_path / "fleet.toml"
    text = MANIFEST.read_text().replace("[pools.memory]\n", "").replace(', "recall", "remember"', "")
    manifest.write_text(re.sub(r"\nmemory = .*", "", text))
    plan = Plan(folder=tmp_path, manifest=manifest, pools={"llm": 2, "memory": 1, "approvals+memory+webhook": 1})
    assert LocalFleet(plan, settings.load()).groups() == {"llm": 2, "approvals+webhook": 1}


def test_the_processes_of_a_pool_are_found_by_their_names(tmp_path, monkeypatch):
    found = local(tmp_path)
    running = {"llm-1": 1, "llm-2": 2, "email+payments-1": 3, "simulators": 4, "redis-proxy": 5, "console": 6}
    monkeypatch.setattr(found.supervisor, "pids", lambda: running)
    assert found.pids() == {"llm-1": 1, "llm-2": 2, "email+payments-1": 3}
    assert found.pids("llm") == {"llm-1": 1, "llm-2": 2}
    assert found.pids("payments") == {"email+payments-1": 3}
    assert found.pids("search") == {}


async def test_workers_reach_the_servers_through_networks_and_the_harness_directly(tmp_path):
    plan = Plan(folder=tmp_path, manifest=MANIFEST, pools={}, simulate=False, own_ledger=True, proxied=True)
    async with LocalFleet(plan, settings.load()) as fleet:
        theirs, direct = fleet.environment(), fleet.endpoints
        assert theirs["FLEET_REDIS_URL"] == f"redis://127.0.0.1:{fleet.networks['redis'].port}/0" != direct.redis
        assert theirs["TEMPORAL_ADDRESS"] == f"127.0.0.1:{fleet.networks['temporal'].port}" != direct.temporal
        assert fleet.settings().redis() == direct.redis
        await (await Client.connect(theirs["TEMPORAL_ADDRESS"])).count_workflows()
        async with Redis.from_url(theirs["FLEET_REDIS_URL"]) as through, Redis.from_url(direct.redis) as past:
            assert await through.ping()
            await fleet.networks["redis"].cut()
            with pytest.raises(RedisConnectionError):
                await through.ping()
            assert await past.ping()
            await fleet.networks["redis"].heal()
            assert await through.ping()
            # the server comes back behind the same network
            await fleet.kill_server("redis")
            with pytest.raises(RedisConnectionError):
                await through.ping()
            await fleet.start_server("redis")
            assert await through.ping()
        watching = asyncio.create_task(fleet.watch())
        os.kill(fleet.supervisor.pids()["redis-proxy"], signal.SIGKILL)
        with pytest.raises(FleetError, match=r"redis-proxy died \(exit code 137\): see .*redis-proxy\.log"):
            await asyncio.wait_for(watching, 10)


@pytest.mark.trial
async def test_with_sentinels_the_quotas_are_theirs_and_survive_the_primary(tmp_path):
    children = set(psutil.Process().children(recursive=True))
    plan = Plan(
        folder=tmp_path, manifest=MANIFEST, pools={}, simulate=False, own_ledger=True, sentinel=True, proxied=True
    )
    async with LocalFleet(plan, settings.load()) as fleet:
        url = fleet.environment()["FLEET_REDIS_URL"]
        assert url.startswith("redis+sentinel://127.0.0.1:")
        assert url == fleet.settings().redis() == fleet.endpoints.redis
        assert set(fleet.networks) == {"temporal"}
        fleet.announce()
        told = json.loads((tmp_path / "dev.json").read_text())
        assert (told["redis"], told["owner"]) == (url, MANIFEST.stem)
        scope = next(iter(fleet.manifest.scopes()))
        faults = Faults(fleet, [Fault(at_s=0, kind="redis_failover"), Fault(at_s=0.1, kind="redis_failover")])
        for _ in range(2):
            async with Limiter.from_url(url, {}) as shared:
                assert await shared.quota(scope) is not None
            if not faults.marks:
                await faults.strike(0)
    assert [mark.kind for mark in faults.marks] == ["redis_failover"] * 2
    assert all(0.5 < mark.until - mark.at < 30 for mark in faults.marks)
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - children, timeout=10)
    assert alive == []


async def test_prometheus_is_told_where_the_processes_are_also_after_one_was_killed(tmp_path):
    def told():
        listed = json.loads((tmp_path / "prometheus" / "targets.json").read_text())
        return {one["labels"]["process"]: (one["labels"]["job"], *one["targets"]) for one in listed}

    async def until(what):
        async with asyncio.timeout(60):
            while not what(told()):
                await asyncio.sleep(0.05)
        return told()

    plan = Plan(
        folder=tmp_path, manifest=MANIFEST, pools={"webhook": 1}, simulate=False, own_ledger=True, exporter_every_s=1
    )
    async with LocalFleet(plan, settings.load()) as fleet:
        found = await until(lambda found: len(found) == 2)
        assert {name: job for name, (job, _) in found.items()} == {
            "webhook-1": "fleet-worker",
            "exporter": "fleet-exporter",
        }
        assert fleet.pids() == {"webhook-1": fleet.supervisor.pids()["webhook-1"]}
        configuration = (tmp_path / "prometheus" / "prometheus.yml").read_text()
        assert str(tmp_path / "prometheus" / "targets.json") in configuration
        assert str(MANIFEST.parent / "prometheus" / "rules" / "*.yml") in configuration
        async with httpx2.AsyncClient() as http:
            for _, address in found.values():
                assert "fleet_" in (await http.get(f"http://{address}/metrics")).text
        os.kill(fleet.supervisor.pids()["webhook-1"], signal.SIGKILL)
        after = await until(lambda now: now["webhook-1"] != found["webhook-1"])
        assert after["exporter"] == found["exporter"]
    assert told() == {}
