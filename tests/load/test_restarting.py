"""Processes of a pool follow each other, and none is left half restarted."""

import asyncio
import time
from contextlib import suppress

import pytest

from fleet.errors import BadInput, FleetError
from load.faults import Faults, check
from load.local import Plan
from load.restarting import rolling, successor, together
from load.trial import Fault


class Ground:
    """Processes that are names; starting and draining wait until they may."""

    def __init__(self, *names):
        self.running = dict.fromkeys(names, 4711)
        self.log = []
        self.restarting = asyncio.Lock()
        self.may_start, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_start.set()
        self.may_end.set()
        self.broken = ""
        self.plan = Plan(folder=None, manifest=None, pools={})

    def groups(self):
        return {"llm": 2, "email+payments": 1}

    def pids(self, pool=""):
        return {n: p for n, p in self.running.items() if not pool or pool in n.rpartition("-")[0].split("+")}

    async def start_worker(self, name):
        self.log.append(f"start {name}")
        await self.may_start.wait()
        if name == self.broken:
            raise FleetError(f"worker {name} is not ready")
        assert name not in self.running
        self.running[name] = 4711
        self.log.append(f"ready {name}")

    async def stop_worker(self, name):
        del self.running[name]
        self.log.append(f"stop {name}")
        await self.may_end.wait()
        self.log.append(f"ended {name}")


async def until(what):
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.001)


async def test_a_replacement_is_ready_before_its_process_is_told_to_end():
    ground = Ground("llm-1", "llm-2", "search-1")
    await rolling(ground, "llm")
    assert set(ground.running) == {"llm-3", "llm-4", "search-1"}
    order = {step: n for n, step in enumerate(ground.log)}
    assert order["ready llm-3"] < order["stop llm-1"]
    assert order["ready llm-4"] < order["stop llm-2"]
    assert order["ready llm-3"] < order["start llm-4"]


async def test_the_next_one_does_not_wait_for_the_drain_but_the_whole_does():
    ground = Ground("llm-1", "llm-2")
    ground.may_end.clear()
    restart = asyncio.create_task(rolling(ground, "llm"))
    await until(lambda: {"stop llm-1", "stop llm-2"} <= set(ground.log))
    assert not restart.done()
    ground.may_end.set()
    await restart
    assert {"ended llm-1", "ended llm-2"} <= set(ground.log)


async def test_without_a_surge_each_ends_first_and_keeps_its_name():
    ground = Ground("llm-2", "llm-1")
    await rolling(ground, "llm", surge=False)
    assert ground.log == [f"{step} llm-{n}" for n in (1, 2) for step in ("stop", "ended", "start", "ready")]


@pytest.mark.parametrize("surge", [True, False])
async def test_whoever_cancels_leaves_as_many_as_there_were(surge):
    ground = Ground("llm-1", "llm-2")
    ground.may_start.clear()
    restart = asyncio.create_task(rolling(ground, "llm", surge=surge))
    await until(lambda: any(step.startswith("start ") for step in ground.log))
    restart.cancel()
    await asyncio.sleep(0)
    ground.may_start.set()
    with suppress(asyncio.CancelledError):
        await restart
    assert restart.cancelled()
    assert len(ground.running) >= 2
    assert {"start llm-2", "start llm-4"}.isdisjoint(ground.log)


async def test_all_at_once_leaves_nobody_meanwhile():
    ground = Ground("llm-1", "llm-2", "search-1")
    outage = asyncio.create_task(together(ground, "llm", apart_s=60))
    await until(lambda: {"ended llm-1", "ended llm-2"} <= set(ground.log))
    assert ground.pids("llm") == {}
    # the trial is over before they would have come back
    outage.cancel()
    with suppress(asyncio.CancelledError):
        await outage
    assert set(ground.running) == {"llm-1", "llm-2", "search-1"}


def test_a_successor_bears_the_next_number_and_the_same_version():
    assert successor("llm-1", ["llm-1", "llm-2", "search-7"]) == "llm-3"
    assert successor("llm-1", ["llm-2", "llm-9"]) == "llm-10"
    assert successor("agents-1@v2", ["agents-1", "agents-1@v2", "agents-2@v2"]) == "agents-3@v2"
    assert successor("email+payments-1", ["email+payments-1"]) == "email+payments-2"


# ---- as a fault


async def test_a_restart_lasts_until_the_last_old_process_has_ended():
    ground = Ground("llm-1", "llm-2", "email+payments-1")
    timeline = [Fault(at_s=0, kind="restart", target="llm"), Fault(at_s=0, kind="restart", target="payments")]
    check(timeline, ground, 10)
    ground.may_end.clear()
    faults = Faults(ground, timeline)
    striking = asyncio.create_task(faults.strike(time.time()))
    await until(lambda: "stop llm-2" in ground.log)
    # one pool after the other
    assert [mark.target for mark in faults.marks] == ["llm"]
    ground.may_end.set()
    await striking
    first, second = faults.marks
    assert first.what == "llm-1, llm-2 restarted one after the other, each with its replacement ready first"
    assert first.at < first.until <= second.at < second.until
    assert set(ground.running) == {"llm-3", "llm-4", "email+payments-2"}


async def test_a_worker_that_does_not_start_is_said_and_the_old_one_goes_on():
    ground = Ground("llm-1")
    ground.broken = "llm-2"
    with pytest.raises(FleetError, match=r"^worker llm-2 is not ready$"):
        await Faults(ground, [Fault(at_s=0, kind="restart", target="llm")]).strike(time.time())
    assert set(ground.running) == {"llm-1"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"target": ""}, "restart at 1 s: target='': say whose processes are restarted: email, llm, payments"),
        ({"target": "lm"}, "unknown pool 'lm'; there are: email, llm, payments"),
        ({"target": "llm", "for_s": 3}, "it is an instant, leave for_s out"),
        ({"target": "llm", "more": {"surge": 1}}, "surge=1: must be true or false"),
        ({"target": "llm", "more": {"serge": True}}, "unknown option: serge"),
    ],
)
async def test_restarts_that_cannot_be_done_are_refused(fault, said):
    with pytest.raises(BadInput, match=said):
        check([Fault(**{"at_s": 1.0, "kind": "restart", **fault})], Ground(), 60)
