"""Versions of workers, on a real server: adopted, promoted, ramped, rolled back, drained, deleted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import CustomSlotSupplier, SlotPermit

from fleet import manifest as manifests
from fleet import pools
from fleet.errors import BadInput, Unreachable
from fleet.rollout import Rollout
from fleet.versions import Deployment, State, Version, adopt
from tests import temporals
from tests.conftest import TUNING, binary
from tests.fleet.parked import Parked
from workers import bootstrap
from workers.pool import Pool, worker

QUICK = {
    "matching.wv.VersionDrainageStatusVisibilityGracePeriod": '"1s"',
    "matching.wv.VersionDrainageStatusRefreshInterval": '"1s"',
    # a worker that has stopped is forgotten at once
    "matching.PollerHistoryTTL": '"1s"',
}
PATIENCE_S = 30.0


@activity.defn(name="nothing")
async def nothing() -> None:
    """Does what it says."""


@pytest.fixture(scope="module")
def quick_temporal():
    """A server on which versions drain within seconds."""
    starting = partial(
        WorkflowEnvironment.start_local,
        dev_server_existing_path=binary("temporal"),
        dev_server_extra_args=[*TUNING, *(f"--dynamic-config-value={k}={v}" for k, v in QUICK.items())],
        dev_server_log_level="never",
    )
    with temporals.served(starting) as address:
        yield address


@pytest.fixture
async def client(quick_temporal, monkeypatch):
    """Says every second that its workers live."""
    monkeypatch.setattr(pools, "LIVE_WITHIN", timedelta(seconds=2.5))
    runtime = Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1))
    return await Client.connect(quick_temporal, runtime=runtime)


def unshared(folder: Path) -> Path:
    """The shipped manifest with queues that no other test has."""
    source = (Path(__file__).parents[2] / "deploy" / "fleet.toml").read_text()
    mark = uuid4().hex[:8]
    for pool in ("agents", "llm", "search", "email", "payments", "approvals", "memory", "webhook"):
        source = source.replace(f"[pools.{pool}]\n", f'[pools.{pool}]\ntask_queue = "{pool}.{mark}"\n')
    target = folder / "fleet.toml"
    target.write_text(source)
    return target


@pytest.fixture
def manifest(tmp_path):
    """Of this test alone."""
    return manifests.load(unshared(tmp_path))


@asynccontextmanager
async def serving(
    client: Client, manifest: manifests.Manifest, build: str | None, *names: str, adopting: bool = True
) -> AsyncIterator[None]:
    """Workers of a build, as `fleet worker` runs them."""
    made = [
        Pool(
            name=name,
            task_queue=manifest.task_queue(name),
            slots=5,
            drain=timedelta(seconds=1),
            workflows=[Parked],
            activities=[nothing],
            build=build,
        )
        for name in names or ("agents", "email")
    ]
    running = [worker(client, pool, on_fatal=print) for pool in made]
    tasks = [asyncio.create_task(one.run()) for one in running]
    try:
        if build and adopting:
            await asyncio.gather(*(adopt(client, pool.task_queue, build) for pool in made))
            await known(client, manifest, build, [pool.name for pool in made])
        yield
    finally:
        await asyncio.gather(*(one.shutdown() for one in running))
        await asyncio.gather(*tasks)


async def known(client, manifest, build, names):
    """Wait until Temporal has heard of the workers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await pools.survey(client, manifest)
            if all(any(w.live and w.build == build for w in p.workers) for p in found if p.name in names):
                return
            await asyncio.sleep(0.05)


async def start(client, manifest, pool="agents"):
    return await client.start_workflow(Parked.run, id=f"parked-{uuid4().hex}", task_queue=manifest.task_queue(pool))


async def ended(handle):
    await handle.signal(Parked.end)
    return await asyncio.wait_for(handle.result(), PATIENCE_S)


async def carry_out(found, changes):
    return [str(change) async for change in found.apply(changes)]


async def until(found, build, state, pool="agents"):
    """The version's row once it has come so far."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            rows = {(row.pool, row.version.build): row for row in await found.status()}
            row = rows.get((pool, build))
            if row is not None and row.version.state is state:
                return row
            await asyncio.sleep(0.1)


async def test_old_runs_finish_where_they_began_and_new_ones_begin_on_what_was_promoted(client, manifest):
    found = Rollout(client, manifest)
    async with serving(client, manifest, "v1"):
        old = [await start(client, manifest) for _ in range(3)]
        async with serving(client, manifest, "v2"):
            assert {d.pool: d.current for d in await found.deployments(["agents", "email"])} == {
                "agents": "v1",
                "email": "v1",
            }
            before = await start(client, manifest)
            plan = await found.promotion("v2")
            assert [str(change) for change in plan] == ["email: v1 -> v2", "agents: v1 -> v2"]
            await carry_out(found, plan)
            new = [await start(client, manifest) for _ in range(3)]
            row = await until(found, "v1", State.DRAINING)
            assert (row.runs, row.workers) == (4, 1)
            assert row.blocks == ("4 running", "1 live worker")
            assert [await ended(run) for run in [*old, before]] == ["v1"] * 4
            assert [await ended(run) for run in new] == ["v2"] * 3
            assert (await until(found, "v1", State.DRAINED)).runs == 0
            assert await found.promotion("v2") == []


async def test_the_first_version_is_current_by_itself_and_no_other_is(client, manifest):
    queue = manifest.task_queue("agents")
    async with serving(client, manifest, "v1", "agents"), serving(client, manifest, "v2", "agents"):
        assert await adopt(client, queue, "v2") == "v1"
        assert await ended(await start(client, manifest)) == "v1"
    with pytest.raises(Unreachable, match="has not noticed"):
        await adopt(client, queue, "v9", within=timedelta(seconds=0.3))


@pytest.mark.trial
async def test_of_five_first_versions_one_is_current_and_all_agree(client, manifest):
    builds = [f"b{n}" for n in range(5)]
    async with AsyncExitStack() as stack:
        for build in builds:
            await stack.enter_async_context(serving(client, manifest, build, "agents", adopting=False))
        queue = manifest.task_queue("agents")
        said = await asyncio.gather(*(adopt(client, queue, build) for build in builds))
    assert len(set(said)) == 1


async def test_runs_of_unversioned_workers_go_on_on_the_first_version(client, manifest):
    found = Rollout(client, manifest)
    async with serving(client, manifest, None, "agents"):
        run = await start(client, manifest)
        async with asyncio.timeout(PATIENCE_S):
            while not (await run.describe()).history_length > 3:
                await asyncio.sleep(0.05)
        assert await found.status() == []
        async with serving(client, manifest, "v1", "agents"):
            loose = [row for row in await found.status() if row.version.state is State.UNVERSIONED]
            assert [(row.runs, row.workers) for row in loose] == [(1, 1)]
            assert loose[0].blocks == (
                "1 not begun, or begun without a version",
                "1 live worker without FLEET_BUILD_ID",
            )
            assert await ended(run) == "v1"


@pytest.mark.trial
async def test_a_ramp_takes_its_share_and_rolling_back_ends_it(client, manifest):
    found = Rollout(client, manifest)
    async with serving(client, manifest, "v1", "agents"), serving(client, manifest, "v2", "agents"):
        assert await carry_out(found, await found.ramp(50)) == ["agents: 50 % of new runs begin on v2"]
        runs = await asyncio.gather(*(start(client, manifest) for _ in range(40)))
        said = await asyncio.gather(*map(ended, runs))
        assert 5 < said.count("v2") < 35
        assert (await until(found, "v2", State.RAMPING)).percentage == 50
        assert await carry_out(found, await found.rollback()) == ["agents: the ramp of v2 ends"]
        assert await found.rollback() == []
        assert {await ended(await start(client, manifest)) for _ in range(5)} == {"v1"}
        assert (await until(found, "v2", State.DRAINED)).blocks == ("1 live worker",)


async def test_rolling_back_leads_to_the_version_before_while_it_lives_and_never_forth_again(client, manifest):
    found = Rollout(client, manifest)
    with pytest.raises(BadInput, match="nothing to roll back to"):
        await found.rollback()
    async with AsyncExitStack() as stack:
        async with serving(client, manifest, "v1"):
            await stack.enter_async_context(serving(client, manifest, "v2"))
            await carry_out(found, await found.promotion("v2"))
            assert await carry_out(found, await found.rollback()) == ["agents: v2 -> v1", "email: v2 -> v1"]
            assert await ended(await start(client, manifest)) == "v1"
            assert await found.rollback() == []
            assert await found.rollback(build="v1") == []
            with pytest.raises(BadInput, match="v2 is newer than agents's v1: `fleet rollout promote v2`"):
                await found.rollback(build="v2", source="v1")
            await carry_out(found, await found.promotion("v2"))
        with pytest.raises(BadInput, match=r"no live worker of agents v1, email v1.*--pool; --force"):
            await found.rollback()


async def test_a_rollback_leaves_pools_alone_that_are_not_on_the_bad_build_and_does_the_rest_when_asked_again(
    client, manifest
):
    found = Rollout(client, manifest)
    async with (
        serving(client, manifest, "v0", "email", "search"),
        serving(client, manifest, "v1", "agents", "email", "search"),
        serving(client, manifest, "v2", "agents", "email"),
    ):
        await carry_out(found, await found.promotion("v1"))
        await carry_out(found, await found.promotion("v2"))
        plan = await found.rollback()
        assert [str(change) for change in plan] == ["agents: v2 -> v1", "email: v2 -> v1"]
        assert await found.staying(plan) == {"search": "v1"}
        # as if the second step had failed
        await carry_out(found, plan[:1])
        assert [str(change) for change in await found.rollback()] == ["email: v2 -> v1"]
        await carry_out(found, await found.rollback())
        assert await found.rollback() == []
        back = [str(change) for change in await found.rollback(source="v1")]
        assert back == ["search: v1 -> v0", "email: v1 -> v0"]
        assert [str(change) for change in await found.rollback(["search", "search"])] == ["search: v1 -> v0"]
        assert [str(change) for change in await found.rollback(["search"], build="v0")] == ["search: v1 -> v0"]


def at(minute):
    return datetime(2026, 11, 21, 12, minute, tzinfo=UTC)


def version(build, created, current=None, left=None):
    return Version(
        build=build,
        state=State.DRAINED,
        created_at=at(created),
        since=None,
        current_at=current and at(current),
        left_at=left and at(left),
    )


def placed(current, *versions, changed, ramp_changed=None):
    return Deployment(
        pool="agents",
        name="agents",
        task_queue="agents",
        token=b"",
        current=current,
        ramping="",
        percentage=0,
        versions=tuple(sorted(versions, key=lambda v: v.created_at, reverse=True)),
        current_changed_at=at(changed),
        ramp_changed_at=ramp_changed and at(ramp_changed),
    )


def test_the_end_of_a_ramp_is_no_time_as_current_and_is_not_rolled_back_twice():
    v1, v2, v3 = version("v1", 1, current=1, left=20), version("v2", 2, current=2, left=5), version("v3", 3, current=5)
    ended_ramp = placed("v3", v1, v2, v3, changed=5, ramp_changed=20)
    assert ended_ramp.before == v2
    assert ended_ramp.undone == "v1"
    assert placed("v3", v1, v2, v3, changed=5).undone == ""
    # promoting what ramps ends its ramp in the same instant
    assert placed("v3", v1, v2, v3, changed=5, ramp_changed=5).undone == ""
    back = placed("v2", v1, version("v2", 2, current=9, left=5), version("v3", 3, current=5, left=9), changed=9)
    assert (back.before, back.undone) == (v1, "v3")


async def test_promoting_ends_the_ramps_of_other_builds(client, manifest):
    found = Rollout(client, manifest)
    async with (
        serving(client, manifest, "v1", "agents"),
        serving(client, manifest, "v2", "agents"),
        serving(client, manifest, "v3", "agents"),
    ):
        await carry_out(found, await found.ramp(20, "v3"))
        done = await carry_out(found, await found.promotion("v2"))
        assert done == ["agents: the ramp of v3 ends", "agents: v1 -> v2"]
        await carry_out(found, await found.ramp(20, "v3"))
        assert await carry_out(found, await found.promotion("v2")) == ["agents: the ramp of v3 ends"]
        assert await found.promotion("v2") == []


class Shut(CustomSlotSupplier):
    """The gate of a pool whose quota is used up: a worker behind it never polls."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def reserve_slot(self, ctx):
        await self.open.wait()
        return SlotPermit()

    def try_reserve_slot(self, ctx):
        return None

    def mark_slot_used(self, ctx):
        pass

    def release_slot(self, ctx):
        pass


@asynccontextmanager
async def shut(client, manifest, build, pool="email"):
    """A worker of activities that does not poll."""
    gate = Shut()
    made = Pool(
        name=pool,
        task_queue=manifest.task_queue(pool),
        slots=5,
        drain=timedelta(seconds=1),
        activities=[nothing],
        gate=gate,
        build=build,
    )
    async with worker(client, made, on_fatal=print):
        await known(client, manifest, build, [pool])
        yield made, gate
        gate.open.set()


async def test_a_pool_whose_workers_have_never_polled_is_not_left_behind_silently(client, manifest):
    found = Rollout(client, manifest)
    async with (
        serving(client, manifest, "v1", "agents", "email"),
        serving(client, manifest, "v2", "agents"),
        shut(client, manifest, "v2"),
    ):
        with pytest.raises(BadInput, match=r"^email: live workers of v2 have never polled.*--pool.*--force$"):
            await found.promotion("v2")
        plan = await found.promotion("v2", ["agents"])
        assert await found.staying(plan, "v2") == {"email": "v1"}
        forced = await found.promotion("v2", force=True)
        assert [str(change) async for change in found.apply(forced, force=True)] == [
            "email: v1 -> v2",
            "agents: v1 -> v2",
        ]


async def test_a_first_version_that_has_never_polled_is_current_as_soon_as_it_polls(client, manifest, monkeypatch):
    monkeypatch.setattr(bootstrap, "_ADOPTED_WITHIN", timedelta(seconds=0.2))
    monkeypatch.setattr(bootstrap, "_LONGEST_PAUSE_S", 0.2)
    found = Rollout(client, manifest)
    async with shut(client, manifest, "v1") as (pool, gate):
        adopting = asyncio.create_task(bootstrap._adopted(client, manifest, pool, "v1"))
        await asyncio.sleep(0.6)
        assert not adopting.done()
        (one,) = await found.deployments(["email", "email"])
        assert one.current == ""
        shown = {one.name: one for one in await pools.survey(client, manifest)}
        assert shown["email"].unpromoted == ("v1",)
        gate.open.set()
        await asyncio.wait_for(adopting, PATIENCE_S)
        (one,) = await found.deployments(["email"])
        assert one.current == "v1"


async def test_workers_whose_clocks_are_another_than_ours_are_alive_while_they_are_heard_of(
    client, manifest, monkeypatch
):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=20)

    async with serving(client, manifest, "v1", "agents"):
        async with asyncio.timeout(PATIENCE_S):
            while not any(one.workflows for one in await pools.workers(client, manifest)):
                await asyncio.sleep(0.05)
        monkeypatch.setattr(pools, "datetime", Later)
        assert {one.state for one in await pools.workers(client, manifest)} == {"running"}


async def test_what_no_worker_has_polled_for_cannot_be_promoted(client, manifest):
    found = Rollout(client, manifest)
    with pytest.raises(BadInput, match=r"no worker of any pool .* 'v7': start one with FLEET_BUILD_ID=v7; known: none"):
        await found.promotion("v7")
    async with serving(client, manifest, "v1", "agents"):
        with pytest.raises(BadInput, match="pool email has ever polled with build 'v1'"):
            await found.promotion("v1", ["agents", "email"])
    with pytest.raises(BadInput, match="no live worker of agents v1"):
        await found.promotion("v1", ["agents"])
    with pytest.raises(BadInput, match="unknown pool 'cook'"):
        await found.deployments(["cook"])
    with pytest.raises(BadInput, match="from 0% to 100%"):
        await found.ramp(101, "v1")


async def test_a_plan_that_somebody_was_quicker_with_is_refused(client, manifest):
    found = Rollout(client, manifest)
    async with serving(client, manifest, "v1", "agents"), serving(client, manifest, "v2", "agents"):
        plan = await found.promotion("v2")
        await carry_out(found, await found.ramp(10, "v2"))
        with pytest.raises(BadInput, match="agents: somebody has changed its versions meanwhile"):
            await carry_out(found, plan)


@pytest.mark.trial
async def test_versions_that_nobody_needs_and_nobody_polls_for_are_deleted(client, manifest):
    found = Rollout(client, manifest)

    async def builds():
        (one,) = await found.deployments(["agents"])
        return {version.build for version in one.versions}

    async with serving(client, manifest, "new", "agents"):
        async with serving(client, manifest, "b0", "agents"), serving(client, manifest, "b1", "agents"):
            await carry_out(found, await found.promotion("b1", ["agents"]))
            await carry_out(found, await found.promotion("new", ["agents"]))
            row = await until(found, "b1", State.DRAINED)
            assert row.blocks == ("1 live worker",)
            assert await found.delete([row]) == []
            assert await found.prune(kept=2) == []
        async with asyncio.timeout(PATIENCE_S):
            # the oldest goes; the one before the current one is what a rollback needs
            while not (gone := await found.prune(kept=2)):
                await asyncio.sleep(0.2)
            assert [row.version.build for row in gone] == ["b0"]
            assert await builds() == {"new", "b1"}
            while not (gone := await found.delete(await found.status(["agents"]))):
                await asyncio.sleep(0.2)
            # a second operator has been quicker
            assert await found.delete(gone) == gone
        assert await builds() == {"new"}


@pytest.mark.trial
async def test_a_pool_says_who_serves_it_and_what_waits(client, manifest):
    async with serving(client, manifest, "v1", "agents"):
        run = await start(client, manifest)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                by_name = {p.name: p for p in await pools.survey(client, manifest)}
                agents, email = by_name["agents"], by_name["email"]
                (one,) = agents.workers
                # known by its polls before its first heartbeat
                if one.workflows is not None:
                    break
                await asyncio.sleep(0.05)
        assert (agents.current, one.build, one.state, agents.served) == ("v1", "v1", "running", True)
        assert one.workflows.used + one.workflows.free == 5
        assert one.host
        assert one.pid
        assert (email.live, email.served, email.current) == (0, False, "")
    await run.signal(Parked.end)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            by_name = {p.name: p for p in await pools.survey(client, manifest)}
            waiting = by_name["agents"].workflows
            if waiting and waiting.count == 1 and waiting.oldest_s > 0:
                break
            await asyncio.sleep(0.2)
    assert not by_name["agents"].served
