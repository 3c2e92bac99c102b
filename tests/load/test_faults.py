"""Faults strike when and where they should, say so, and leave nothing broken, however they end."""

import asyncio
import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx2
import psutil
import pytest

from fleet.errors import BadInput, FleetError
from load.faults import Faults, Simulators, check, rss_mb
from load.local import Plan
from load.trial import Deploy, Fault
from workers.supervisor import ProcessSpec, Supervisor

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
POOLS = {"llm": 2, "search": 1, "email+payments": 1}


class Network:
    """Notes its orders."""

    def __init__(self, orders, name):
        self.orders, self.name = orders, name

    async def cut(self, *, silent=False):
        self.orders.append(f"{self.name}: cut{' silently' if silent else ''}")

    async def delay(self, seconds):
        self.orders.append(f"{self.name}: {seconds:g} s later")

    async def heal(self):
        self.orders.append(f"{self.name}: heal")


class Ground:
    """Real processes; servers and networks that note what they are told."""

    def __init__(self, supervisor, **plan):
        self.supervisor = supervisor
        self.plan = Plan(folder=Path(), manifest=Path(), pools=POOLS, **{"proxied": True, **plan})
        self.orders = []
        self.networks = {name: Network(self.orders, name) for name in ("redis", "temporal")}
        self.simulators = {}
        self.broken = ""

    def groups(self):
        return dict(self.plan.pools)

    def pids(self, pool=""):
        return {n: p for n, p in self.supervisor.pids().items() if not pool or pool in n.rpartition("-")[0].split("+")}

    async def kill_server(self, name):
        self.orders.append(f"{name}: kill")

    async def start_server(self, name):
        if name == self.broken:
            raise FleetError(f"{name} did not start")
        self.orders.append(f"{name}: start")

    async def kill_primary(self):
        self.orders.append("kill primary")
        return "3 has taken over from 1"

    async def rejoin(self):
        self.orders.append("rejoin")

    async def deploy(self, told):
        self.orders.append("deploy")
        deploy = Deploy(before="v1", after="v2", promoting_at=time.time(), promoted_at=time.time())
        told(deploy)
        await asyncio.sleep(0.2)
        told(replace(deploy, drained_at=time.time()))

    async def play(self, steps):
        self.orders += [json.dumps(step) for step in steps]

    async def stop(self):
        self.orders.append("stop")


@pytest.fixture
async def ground(tmp_path):
    async with Supervisor() as supervisor:
        specs = [
            ProcessSpec(name=f"{group}-{number}", argv=SLEEP, log=tmp_path / f"{group}-{number}.log")
            for group, count in POOLS.items()
            for number in range(1, count + 1)
        ]
        await asyncio.gather(*map(supervisor.start, specs))
        yield Ground(supervisor)


@pytest.fixture
def bare():
    """No processes."""
    return Ground(Supervisor())


async def until(what):
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


async def cancelled(task):
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def stopped(pid):
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


# ---- processes


async def test_a_process_of_the_pool_is_killed_and_the_supervisor_starts_it_again(ground):
    before, seen = ground.pids("llm"), []
    faults = Faults(ground, [Fault(at_s=0, kind="kill", target="llm")], seed=1, on_mark=seen.append)
    began = time.time()
    await faults.strike(began)
    (mark,) = faults.marks
    name, pid = re.fullmatch(r"kill -9 of (llm-\d) \(pid (\d+)\)", mark.what).groups()
    assert before[name] == int(pid)
    assert began <= mark.at == mark.until <= time.time()
    assert seen == [mark]
    await until(lambda: ground.supervisor.restarts(name) == 1)
    others = set(ground.supervisor.pids()) - {name}
    assert all(ground.supervisor.restarts(other) == 0 for other in others)


async def test_a_pool_that_shares_a_process_is_hit_there(ground):
    faults = Faults(ground, [Fault(at_s=0, kind="kill", target="payments")])
    await faults.strike(time.time())
    assert "kill -9 of email+payments-1 (pid" in faults.marks[0].what


async def test_the_seed_draws_the_pool_and_the_process(ground):
    async def drawn(seed):
        faults = Faults(ground, [Fault(at_s=0, kind="freeze", for_s=0.001) for _ in range(4)], seed=seed)
        await faults.strike(0)
        return sorted(re.sub(r" \(pid.*", "", mark.what) for mark in faults.marks)

    draws = [await drawn(seed) for seed in range(6)]
    assert [await drawn(seed) for seed in range(6)] == draws
    assert len({what for draw in draws for what in draw}) == 4


async def test_a_frozen_process_stands_still_until_the_fault_is_over(ground):
    pid = ground.pids("search")["search-1"]
    faults = Faults(ground, [Fault(at_s=0, kind="freeze", target="search", for_s=0.2)])
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: stopped(pid))
    assert faults.marks[0].until == pytest.approx(faults.marks[0].at + 0.2)
    await striking
    assert not stopped(pid)
    assert faults.marks[0].until - faults.marks[0].at >= 0.2


async def test_a_frozen_process_goes_on_when_the_trial_is_interrupted(ground):
    pid = ground.pids("search")["search-1"]
    faults = Faults(ground, [Fault(at_s=0, kind="freeze", target="search", for_s=60)])
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: stopped(pid))
    await cancelled(striking)
    assert not stopped(pid)
    assert faults.marks[0].until - faults.marks[0].at < 30


async def test_a_frozen_process_may_be_killed_meanwhile(ground):
    process = psutil.Process(ground.pids("search")["search-1"])
    faults = Faults(ground, [Fault(at_s=0, kind="freeze", target="search", for_s=0.3)])
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: stopped(process.pid))
    process.kill()
    await striking
    assert faults.marks[0].what == f"SIGSTOP of search-1 (pid {process.pid}); it ended meanwhile"


async def test_a_frozen_process_is_not_frozen_twice(ground):
    faults = Faults(ground, [Fault(at_s=0, kind="freeze", target="llm", for_s=0.1) for _ in range(3)])
    await faults.strike(time.time())
    what = sorted(mark.what.partition(" (")[0] for mark in faults.marks)
    assert what == ["SIGSTOP of llm-1", "SIGSTOP of llm-2", "no process of llm runs"]


async def test_where_nobody_runs_nobody_is_hit_and_the_mark_says_so(bare):
    faults = Faults(bare, [Fault(at_s=0, kind="kill"), Fault(at_s=0, kind="freeze", for_s=60)])
    await asyncio.wait_for(faults.strike(time.time()), 5)
    assert [mark.what for mark in faults.marks] == ["no process of any pool runs"] * 2
    assert all(mark.at == mark.until for mark in faults.marks)


async def test_the_memory_of_workers_is_told_by_name_and_pid(ground):
    found = rss_mb(ground)
    assert set(found) == {f"{name}/{pid}" for name, pid in ground.pids().items()}
    assert all(1 < size < 200 for size in found.values())


# ---- servers, networks, providers


@pytest.mark.parametrize(
    ("fault", "orders", "what"),
    [
        ({"kind": "redis_down"}, ["redis: kill", "redis: start"], "kill -9 of Redis"),
        ({"kind": "temporal_down", "for_s": 0.05}, ["temporal: kill", "temporal: start"], "kill -9 of Temporal"),
        ({"kind": "redis_cut"}, ["redis: cut", "redis: heal"], "network to Redis cut"),
        (
            {"kind": "temporal_cut", "for_s": 0.05, "more": {"silent": True}},
            ["temporal: cut silently", "temporal: heal"],
            "network to Temporal swallows everything",
        ),
        (
            {"kind": "redis_delay", "for_s": 0.05, "more": {"delay_s": 0.25}},
            ["redis: 0.25 s later", "redis: heal"],
            "network to Redis slower by 0.25 s each way",
        ),
        (
            {"kind": "redis_failover"},
            ["kill primary", "rejoin"],
            "kill -9 of Redis's primary: 3 has taken over from 1",
        ),
        (
            {"kind": "provider", "for_s": 0.05, "target": "openai", "more": {"fault": {"status": 529}}},
            ['{"at_s": 0, "for_s": 0.05, "provider": "openai", "fault": {"status": 529}}'],
            'openai: {"fault": {"status": 529}}',
        ),
    ],
)
async def test_what_is_struck_is_undone_when_it_is_over(bare, fault, orders, what):
    faults = Faults(bare, [Fault(at_s=0, **fault)], script=bare)
    await faults.strike(time.time())
    assert bare.orders == orders
    (mark,) = faults.marks
    assert (mark.kind, mark.what) == (fault["kind"], what)
    assert mark.until - mark.at >= fault.get("for_s", 0)


@pytest.mark.parametrize(
    ("fault", "undone"),
    [
        ({"kind": "redis_down"}, "redis: start"),
        ({"kind": "temporal_cut"}, "temporal: heal"),
        ({"kind": "redis_delay", "more": {"delay_s": 1}}, "redis: heal"),
        ({"kind": "provider", "target": "bank", "more": {"fault": {"drop": True}}}, "stop"),
    ],
)
async def test_what_is_struck_is_undone_when_the_trial_is_interrupted(bare, fault, undone):
    faults = Faults(bare, [Fault(at_s=0, for_s=600, **fault)], script=bare)
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: bare.orders)
    await cancelled(striking)
    assert bare.orders[-1] == undone
    assert faults.marks[0].until <= time.time()


async def test_a_second_interruption_does_not_stop_the_undoing(bare):
    started = asyncio.Event()

    async def slowly(name):
        started.set()
        await asyncio.sleep(0.05)
        bare.orders.append(f"{name}: start")

    bare.start_server = slowly
    faults = Faults(bare, [Fault(at_s=0, kind="redis_down", for_s=600)])
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: bare.orders)
    striking.cancel()
    await started.wait()
    await cancelled(striking)
    assert bare.orders == ["redis: kill", "redis: start"]


async def test_one_that_cannot_be_undone_ends_the_others_and_is_one_line(ground):
    ground.broken = "redis"
    pid = ground.pids("search")["search-1"]
    timeline = [
        Fault(at_s=0, kind="freeze", target="search", for_s=600),
        Fault(at_s=0, kind="temporal_cut", for_s=600),
        Fault(at_s=0, kind="redis_down", for_s=0.1),
        Fault(at_s=500, kind="kill"),
    ]
    faults = Faults(ground, timeline)
    with pytest.raises(FleetError, match=r"^redis did not start$"):
        await asyncio.wait_for(faults.strike(time.time()), 10)
    assert not stopped(pid)
    assert ground.orders[-1] == "temporal: heal"
    assert len(faults.marks) == 3


async def test_faults_strike_by_the_begin_of_the_load(bare):
    began = time.time() + 0.2
    timeline = [
        Fault(at_s=0.2, kind="temporal_down"),
        Fault(at_s=0.1, kind="redis_cut", for_s=0.2),
        Fault(at_s=0, kind="redis_down"),
    ]
    faults = Faults(bare, timeline)
    await faults.strike(began)
    assert [mark.kind for mark in faults.marks] == ["redis_down", "redis_cut", "temporal_down"]
    late = [mark.at - began - at for mark, at in zip(faults.marks, (0, 0.1, 0.2), strict=True)]
    assert all(-0.01 < one < 0.2 for one in late), late
    assert faults.marks[1].until > faults.marks[2].at


async def test_a_server_that_is_still_being_started_is_not_killed_again(bare):
    async def slowly(name):
        await asyncio.sleep(0.1)
        bare.orders.append(f"{name}: start")

    bare.start_server = slowly
    timeline = [Fault(at_s=0, kind="redis_down", for_s=0.01), Fault(at_s=0.01, kind="redis_down", for_s=0.01)]
    await Faults(bare, timeline).strike(time.time())
    assert bare.orders == ["redis: kill", "redis: start"] * 2


async def test_a_provider_fails_by_the_simulators_own_script(bare, simulators):
    where = await simulators()
    bare.simulators = {"http": where.http}

    async def called(http):
        return (await http.get("/search", params={"q": "x", "format": "json"})).status_code

    async with httpx2.AsyncClient(base_url=where.http) as http:
        timeline = [Fault(at_s=0, kind="provider", target="search", for_s=60, more={"fault": {"status": 503}})]
        faults = Faults(bare, timeline)
        striking = asyncio.create_task(faults.strike(time.time()))
        async with asyncio.timeout(5):
            while await called(http) != 503:
                await asyncio.sleep(0.01)
        await cancelled(striking)
        assert await called(http) == 200
        with pytest.raises(FleetError, match=r"the simulators refuse the script \(422\): .*provider"):
            await Simulators(where.http).play([{"at_s": 0, "for_s": 1, "provider": "nobody"}])
    with pytest.raises(FleetError, match="do not answer"):
        await Simulators("http://127.0.0.1:1").stop()


# ---- what is refused before the load begins


@pytest.mark.parametrize(
    ("fault", "plan", "said"),
    [
        ({"kind": "explode"}, {}, "explode at 1 s: there is no such fault: kill, freeze, "),
        ({"kind": "kill", "at_s": 61}, {}, "kill at 61 s: the load lasts 60 s: let it strike earlier"),
        ({"kind": "kill", "at_s": -1}, {}, "must not be negative"),
        ({"kind": "kill", "at_s": float("nan")}, {}, "must not be negative"),
        ({"kind": "redis_down", "for_s": -2}, {}, "at_s=1 and for_s=-2 must not be negative"),
        ({"kind": "kill", "for_s": 2}, {}, "for_s=2: it is an instant, leave for_s out"),
        ({"kind": "freeze"}, {}, "for_s=0: say how many seconds it lasts"),
        ({"kind": "kill", "target": "lm"}, {}, "unknown pool 'lm'; there are: email, llm, payments, search"),
        ({"kind": "kill"}, {"pools": {}}, "there are no workers"),
        ({"kind": "redis_down", "target": "llm"}, {}, "target='llm' means nothing here: leave it out"),
        ({"kind": "redis_cut"}, {"proxied": False}, "there is no network to break: the plan needs proxied=True"),
        ({"kind": "redis_cut", "more": {"silent": 1}}, {}, "silent=1: must be true or false"),
        ({"kind": "redis_cut", "more": {"quiet": True}}, {}, "unknown option: quiet"),
        ({"kind": "redis_delay", "for_s": 1}, {}, "delay_s=None: must be seconds above 0, at most 60"),
        ({"kind": "redis_delay", "for_s": 1, "more": {"delay_s": 90}}, {}, "delay_s=90: must be"),
        ({"kind": "redis_failover"}, {}, "there are no Sentinels: the plan needs sentinel=True"),
        ({"kind": "redis_down"}, {"sentinel": True}, "under Sentinels, .*: use redis_failover"),
        ({"kind": "provider", "for_s": 1, "more": {"fault": {"drop": True}}}, {}, "a fault needs a provider"),
        (
            {"kind": "provider", "for_s": 1, "target": "x", "more": {"fault": {"drop": True}}},
            {},
            "^provider at 1 s: pro",
        ),
        ({"kind": "provider", "for_s": 1, "target": "bank"}, {}, "give fault or options, one of the two"),
        ({"kind": "provider", "for_s": 1, "more": {"options": {"latency": {"bse_s": 1}}}}, {}, "latency.bse_s: Extra"),
        ({"kind": "provider", "for_s": 1, "target": "bank"}, {"simulate": False}, "the providers are not simulated"),
    ],
)
def test_faults_that_cannot_strike_are_refused(fault, plan, said):
    ground = Ground(None, **{key: value for key, value in plan.items() if key != "pools"})
    ground.groups = lambda: plan.get("pools", POOLS)
    with pytest.raises(BadInput, match=said) as refused:
        check([Fault(**{"at_s": 1.0, **fault})], ground, 60)
    assert "\n" not in str(refused.value)


def test_a_server_or_a_network_has_one_state_at_a_time():
    timeline = [
        Fault(at_s=20, kind="redis_delay", for_s=5, more={"delay_s": 1}),
        Fault(at_s=10, kind="redis_cut", for_s=10.5),
    ]
    with pytest.raises(BadInput, match=r"redis_delay at 20 s: redis_cut at 10 s lasts until 20.5 s: let it begin then"):
        check(timeline, Ground(None), 60)


def test_what_can_strike_is_accepted():
    timeline = [
        Fault(at_s=60, kind="kill"),
        Fault(at_s=1, kind="kill", target="payments"),
        Fault(at_s=1, kind="freeze", for_s=100),
        Fault(at_s=1, kind="freeze", for_s=100, target="llm"),
        Fault(at_s=1, kind="redis_down"),
        Fault(at_s=1, kind="redis_cut", for_s=9, more={"silent": True}),
        Fault(at_s=10, kind="redis_delay", for_s=2, more={"delay_s": 0.1}),
        Fault(at_s=1, kind="temporal_cut", for_s=9),
        Fault(at_s=1, kind="temporal_down", for_s=3),
        Fault(at_s=1, kind="provider", for_s=3, more={"options": {"latency": {"base_s": 2}}}),
        Fault(at_s=1, kind="provider", for_s=3, target="openai", more={"model": "m", "fault": {"status": 529}}),
    ]
    check(timeline, Ground(None), 60)
    check([Fault(at_s=1, kind="redis_failover"), Fault(at_s=1, kind="temporal_cut")], Ground(None, sentinel=True), 60)


async def test_a_deployment_lasts_until_the_old_version_is_free():
    ground = Ground(Supervisor(), build="v1")
    deployment = [Fault(at_s=0, kind="deploy")]
    check(deployment, ground, 10)
    faults = Faults(ground, deployment, script=ground)
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: faults.deploying)
    assert faults.deploys[0].drained_at is None
    await striking
    assert not faults.deploying
    (mark,), (deploy,) = faults.marks, faults.deploys
    assert mark.what == "workers of another version take over: v2 instead of v1"
    assert mark.at < deploy.drained_at <= mark.until


def test_without_a_version_there_is_none_that_could_follow(bare):
    with pytest.raises(BadInput, match="deploy at 0 s: the workers have no version that another could follow"):
        check([Fault(at_s=0, kind="deploy")], bare, 10)
