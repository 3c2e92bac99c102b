"""`fleet bench stores`: how many calls of a model a master of the limiter's store carries, alone and in a Cluster.

A call is what the pool `llm` asks of the store for each call of a model: a place booked under a key, the settling of
what it has cost, the learning from it. Callers are processes of their own that do nothing else. They share the
machine's cores with the servers, so calls a second stand beside the servers' processor time for each: what a core
carries is its inverse.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fleet.errors import FleetError
from load.bench.environment import ROOT
from load.bench.masters import Masters, spread
from load.bench.report import Report
from ratelimit.estimates import Estimate, Used
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota

MASTERS = 3
PROCESSES = 4
TOGETHER = 32
"""Calls under way in each process, where they can travel together."""
BEGIN_IN_S = 0.2
"""After all processes have said that they are ready."""
READY_S = 60.0
WARM_UP_S = 0.5
LONGEST_WAIT = timedelta(seconds=30)
PLENTY = 1e9
PERMITS = {"requests": Limit(capacity=PLENTY), "tokens": Limit(capacity=PLENTY)}
COST, ACTUAL = {"requests": 1.0, "tokens": 1500.0}, {"tokens": 900.0}
ROLE = "bench"
ESTIMATE = Estimate(input_tokens=1000, output_tokens=500)
USED = Used(input_tokens=600, output_tokens=300, cached_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured."""

    label: str
    masters: int = 1
    providers: int = 1
    nested: bool = False
    """A tenant's share within a model within an organisation, all three charged with each call."""
    tasks: int = TOGETHER
    """Calls under way in each process."""


ALONE = Case(label="1 server, 1 provider, a call at a time", tasks=1)
ONE = Case(label="1 server, 1 provider")
NESTED = Case(label="1 server, 1 provider, 3 nested quotas", nested=True)
THREE = Case(label="1 server, 3 providers", providers=MASTERS)
CLUSTER = Case(label="Cluster of 3, 3 providers", masters=MASTERS, providers=MASTERS)
CROWDED = Case(label="Cluster of 3, 1 provider", masters=MASTERS)
CASES = (ALONE, ONE, NESTED, THREE, CLUSTER, CROWDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the servers of a store have used so far; or, as a difference, what they have used between two looks."""

    at: float
    cpu_s: Sequence[float]
    """Of each server, as the next two."""
    scripts: Sequence[int]
    bytes: Sequence[int]

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            at=self.at - other.at,
            cpu_s=[new - old for new, old in zip(self.cpu_s, other.cpu_s, strict=True)],
            scripts=[new - old for new, old in zip(self.scripts, other.scripts, strict=True)],
            bytes=[new - old for new, old in zip(self.bytes, other.bytes, strict=True)],
        )

    def figures(self, calls: int, *, p50_ms: float, client_cpu_s: float) -> dict[str, float]:
        """Of a difference in which so many calls were made: what each has cost, and what a server could carry."""
        server_us = sum(self.cpu_s) / calls * 1e6
        return {
            "calls_per_s": calls / self.at,
            "p50_ms": p50_ms,
            "scripts_per_call": sum(self.scripts) / calls,
            "server_us": server_us,
            "client_us": client_cpu_s / calls * 1e6,
            "core_carries_per_s": 1e6 / server_us,
            "busiest_cores": max(self.cpu_s) / self.at,
            "busiest_share": max(self.scripts) / max(1, sum(self.scripts)),
            "bytes_per_call": sum(self.bytes) / calls,
        }


async def run(
    *,
    seconds: float,
    rounds: int,
    share: float | None = None,
    say: Callable[[str], None],
    cases: Sequence[Case] = CASES,
) -> Report:
    """Measure.

    Args:
        seconds: of each measurement.
        rounds: every case once in each, in turns; the medians count.
        share: of a processor that each server gets at most, so that servers are the bound, and not this machine's
            processors. None: as much as there is.
        say: is told what is being done.
        cases: what is measured.

    Raises:
        BadInput: servers cannot be held to a share here.
        EmbeddedError: a server does not start, or died.
        FleetError: a calling process has ended before its time.
    """
    found: dict[str, list[dict[str, float]]] = {case.label: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        for number in range(rounds):
            for case in cases:
                say(f"round {number + 1}: {case.label}: {PROCESSES} x {case.tasks}, {seconds:g} s")
                # servers of their own for each: nobody inherits another's memory
                home = Path(folder) / f"{number}-{cases.index(case)}"
                async with Masters(home, case.masters, share=share) as masters:
                    found[case.label].append(await measure(case, masters, seconds))
    report = Report()
    for label, figures in found.items():
        report.row("calls of a model", label, **{name: _median(figures, name) for name in figures[0]})
    if {THREE.label, CLUSTER.label} <= set(found):
        ratio = _ratio(found[CLUSTER.label], found[THREE.label], "server_us")
        report.check("server CPU of a call, Cluster of 3 over 1 server", ratio, most=1.5)
        busiest = _median(found[CLUSTER.label], "busiest_share")
        report.check("busiest master's share, 3 providers on 3 masters", busiest, most=0.4)
        if share is not None:
            # where callers get too little of the machine, they are the bound: the next figure means nothing then
            full = _median(found[CLUSTER.label], "busiest_cores") / share
            report.check("of its processor's share the busiest master of 3 has used", full, least=0.9)
            times = _ratio(found[CLUSTER.label], found[THREE.label], "calls_per_s")
            report.check("calls a second, Cluster of 3 over 1 server", times, least=1.8)
    if CROWDED.label in found:
        # one provider is one slot
        busiest = _median(found[CROWDED.label], "busiest_share")
        report.check("busiest master's share, 1 provider on 3 masters", busiest, least=0.99)
    return report


async def measure(case: Case, masters: Masters, seconds: float) -> dict[str, float]:
    """Calls a second, and what each costs the servers and the callers.

    Raises:
        FleetError: a calling process has ended before its time.
    """
    async with AsyncExitStack() as stack:
        jobs = [{"url": masters.url, "case": asdict(case), "process": number} for number in range(PROCESSES)]
        callers = await asyncio.gather(*(stack.enter_async_context(_caller(job)) for job in jobs))
        begin = time.time() + BEGIN_IN_S
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write(json.dumps([begin, begin + WARM_UP_S, begin + WARM_UP_S + seconds]).encode() + b"\n")
        difference = await _used(masters, begin + WARM_UP_S, seconds)
        parts = [json.loads(line) for line in await asyncio.gather(*map(_said, callers))]
    return difference.figures(
        sum(part["calls"] for part in parts),
        p50_ms=statistics.median(part["p50_ms"] for part in parts),
        client_cpu_s=sum(part["cpu_s"] for part in parts),
    )


def quotas(case: Case) -> dict[str, Quota]:
    """Those that all calls are granted by at once."""
    found = []
    for provider in spread(case.providers):
        outer = f"{provider}/org" if case.nested else None
        if outer:
            found.append(Quota(scope=outer, limits=PERMITS))
            found.append(Quota(scope=f"{provider}/model/*", limits=PERMITS))
        found.append(Quota(scope=f"{provider}/model", limits=PERMITS, within=outer))
    return {quota.scope: quota for quota in found}


def scopes(case: Case) -> list[str]:
    """Those that calls are charged to, one for each provider."""
    models = [scope for scope in quotas(case) if scope.endswith("/model")]
    return [f"{scope}/acme" for scope in models] if case.nested else models


async def _used(masters: Masters, begin: float, seconds: float) -> Usage:
    await asyncio.sleep(max(0.0, begin - time.time()))
    before = await _look(masters)
    await asyncio.sleep(max(0.0, begin + seconds - time.time()))
    return await _look(masters) - before


async def _look(masters: Masters) -> Usage:
    told = await masters.info("everything")
    return Usage(
        at=time.time(),
        cpu_s=[float(one["used_cpu_sys"]) + float(one["used_cpu_user"]) for one in told],
        scripts=[int(one.get("cmdstat_evalsha", {}).get("calls", 0)) for one in told],
        bytes=[int(one["used_memory"]) for one in told],
    )


@asynccontextmanager
async def _caller(job: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ready to call."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.bench.stores", json.dumps(job)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(READY_S):
            await _said(process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _said(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise FleetError(f"a calling process of the benchmark ended with {await process.wait()}")
    return line


async def call(job: dict[str, Any], begin: float, counts_from: float, end: float) -> dict[str, float]:
    """Call from `begin` to `end`; what came after the warm-up counts."""
    case = Case(**job["case"])
    known, charged = quotas(case), scopes(case)
    took: list[float] = []
    calls = 0
    async with Limiter.from_url(job["url"], known) as limiter:
        for quota in known.values():
            await limiter.seed(quota)

        async def one(task: int) -> None:
            nonlocal calls
            number = 0
            while (at := time.time()) < end:
                scope, number = charged[(task + number) % len(charged)], number + 1
                # as an activity: under a key of its own, by an attempt
                key = f"run-{job['process']}-{task}/0190a1b2-c3d4/{number}"
                permit = await limiter.acquire(scope, COST, max_wait=LONGEST_WAIT, key=key, asker="1")
                await limiter.settle(permit, ACTUAL)
                await limiter.learn(limiter.counted(scope), ROLE, characters=4000, estimate=ESTIMATE, used=USED)
                if at >= counts_from:
                    calls += 1
                    if task == 0:
                        took.append(time.time() - at)

        await asyncio.sleep(max(0.0, begin - time.time()))
        running = asyncio.gather(*(one(task) for task in range(case.tasks)))
        await asyncio.sleep(max(0.0, counts_from - time.time()))
        cpu = time.process_time()
        await running
        cpu = time.process_time() - cpu
    return {"calls": calls, "p50_ms": statistics.median(took) * 1e3 if took else 0.0, "cpu_s": cpu}


def _median(runs: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in runs)


def _ratio(of: Sequence[dict[str, float]], over: Sequence[dict[str, float]], name: str) -> float:
    # pairs of one round: what else the machine does hits both
    return statistics.median(a[name] / b[name] for a, b in zip(of, over, strict=True))


def main() -> None:
    """Say that one is ready, read from when to when, call, and say what it was."""
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    when = json.loads(sys.stdin.readline() or "[0, 0, 0]")
    print(json.dumps(asyncio.run(call(json.loads(sys.argv[1]), *when))))  # noqa: T201 - the program's answer


if __name__ == "__main__":
    main()
