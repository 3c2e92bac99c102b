"""Queues, workers and versions of a real Temporal."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig

from fleet import manifest as manifests
from fleet.builds import Builds
from fleet.contracts import metrics
from fleet.rollout import Rollout
from fleet.versions import Deployment, State, Version, adopt
from tests.fleet.parked import Parked
from workers.exporter.queues import Queues
from workers.exporter.versions import Versions
from workers.pool import Pool, worker

MANIFEST = Path(__file__).parents[3] / "deploy" / "fleet.toml"
AT_MOST_S = 30.0


@activity.defn(name="nothing")
async def nothing() -> None:
    """Does what it says."""


@pytest.fixture
def manifest(tmp_path):
    """The shipped one, with queues that no other test has."""
    text, mark = MANIFEST.read_text(), uuid4().hex[:8]
    for pool in manifests.load(MANIFEST).pools:
        text = text.replace(f"[pools.{pool}]", f'[pools.{pool}]\ntask_queue = "{pool}.{mark}"')
    target = tmp_path / "fleet.toml"
    target.write_text(text)
    return manifests.load(target)


@pytest.fixture
async def client(temporal_address):
    """Tells every second that its workers live."""
    runtime = Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1))
    return await Client.connect(temporal_address, runtime=runtime)


@asynccontextmanager
async def serving(client, manifest, build):
    """A worker of the pool `agents`."""
    pool = Pool(
        name="agents", task_queue=manifest.task_queue("agents"), slots=5, drain=timedelta(seconds=1),
        workflows=[Parked], activities=[nothing], build=build,
    )  # fmt: skip
    one = worker(client, pool, on_fatal=print)
    running = asyncio.create_task(one.run())
    try:
        yield pool
    finally:
        await one.shutdown()
        await running


async def until(source, **wanted):
    """What the source tells of the pool `agents`, once the metrics have these values."""
    found = {}
    try:
        async with asyncio.timeout(AT_MOST_S):
            while not wanted.items() <= found.items():
                found = {
                    f"{sample.metric.name.removeprefix('fleet_')}_{'_'.join(sample.labels[1:])}": sample.value
                    for sample in await source.look()
                    if sample.labels[0] == "agents"
                }
    except TimeoutError:
        assert wanted.items() <= found.items(), found
    return found


async def test_a_queue_that_nobody_serves_is_told_with_its_age(client, manifest):
    queue = manifest.task_queue("agents")
    handles = [await client.start_workflow(Parked.run, id=uuid4().hex, task_queue=queue) for _ in range(2)]
    found = await until(Queues(client, manifest), queue_backlog_workflow=2)
    assert found["queue_oldest_seconds_workflow"] >= 0
    assert {name: value for name, value in found.items() if "queue" not in name} == {
        "pool_served_": 0,
        "pool_workers__running": 0,
        "pool_workers__stopping": 0,
        "pool_workers__silent": 0,
        "pool_slots_used": 0,
        "pool_slots_free": 0,
    }
    told = {sample.labels[0] for sample in await Queues(client, manifest).look()}
    assert told == set(manifest.pools)
    await asyncio.gather(*(handle.terminate() for handle in handles))


async def test_workers_and_runs_are_told_by_build_while_one_version_follows_another(client, manifest):
    queues, versions, rollout = Queues(client, manifest), Versions(client, manifest), Rollout(client, manifest)
    assert [sample for sample in await versions.look() if sample.labels[0] == "agents"] == []
    async with serving(client, manifest, "v1") as pool:
        await adopt(client, pool.task_queue, "v1")
        found = await until(queues, pool_workers_v1_running=1, pool_slots_free=5, pool_served_=1)
        assert (found["pool_slots_used"], found["pool_workers_v1_silent"]) == (0, 0)
        handle = await client.start_workflow(Parked.run, id=uuid4().hex, task_queue=pool.task_queue)
        await until(versions, version_runs_v1_current=1)
        async with serving(client, manifest, "v2"):
            await until(queues, pool_workers_v1_running=1, pool_workers_v2_running=1)
            await until(versions, version_runs_v2_inactive=0)
            async for _ in rollout.apply([one for one in await rollout.promotion("v2") if one.pool == "agents"]):
                pass
            found = await until(versions, version_runs_v1_draining=1, version_runs_v2_current=0)
            assert 0 <= found["version_draining_seconds_v1"] < AT_MOST_S
            assert "version_draining_seconds_v2" not in found
            await until(queues, pool_served_=1)
        # the new version's workers are gone; those of the old one, which drains, take no new work
        await until(queues, pool_workers_v1_running=1, pool_workers_v2_running=0, pool_served_=0)
        await handle.signal(Parked.end)
        assert await handle.result() == "v1"


async def test_only_versions_that_runs_may_be_on_are_counted(client, manifest, monkeypatch):
    states = {"v5": State.UNUSED, "v4": State.RAMPING, "v3": State.CURRENT, "v2": State.DRAINING, "v1": State.DRAINED}
    kept = [
        Version(build=build, state=state, created_at=None, since=None, current_at=None, left_at=None)
        for build, state in states.items()
    ]
    found = [
        Deployment(
            pool="agents", name="agents", task_queue="agents", token=b"", current="v3", ramping="v4", percentage=5.0,
            versions=tuple(kept), current_changed_at=None, ramp_changed_at=None,
        )
    ]  # fmt: skip
    asked = []

    async def deployments(_self, _names=()):
        return found

    async def runs(_self, _one, version):
        asked.append(version.build)
        return 7

    monkeypatch.setattr(Builds, "deployments", deployments)
    monkeypatch.setattr(Builds, "runs", runs)
    told = {sample.labels[1:]: sample.value for sample in await Versions(client, manifest).look()}
    assert sorted(asked) == ["v2", "v3", "v4"]
    assert told == {
        ("v5", "inactive"): 0,
        ("v4", "ramping"): 7,
        ("v3", "current"): 7,
        ("v2", "draining"): 7,
        ("v1", "drained"): 0,
    }


def test_every_status_of_a_version_is_in_the_papers():
    from workers.exporter.versions import _STATUS

    assert all(f"`{status}`" in metrics.VERSION_RUNS.says for status in _STATUS.values())
