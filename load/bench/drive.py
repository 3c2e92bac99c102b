"""One process of a benchmark: `python -m load.bench.drive '{"what": …}'` prints what it measured as one JSON line."""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2

from load.bench import provider
from load.bench.wanted import Acquire, Wanted

WARM_UP_S = 0.3
GRACE_S = 0.2

Contend = Callable[[str, Wanted], AbstractAsyncContextManager[Acquire]]


def contender(name: str) -> Contend:
    """Where each is found; nothing of the others is imported."""
    if name in ("ours", "raw", "none"):
        from load.bench.contenders import CONTENDERS

        return CONTENDERS[name]
    from load.bench.peers import PEERS

    return PEERS[name]


async def speed(asked: dict[str, Any]) -> dict[str, Any]:
    """Acquires per second while permits are plentiful."""
    async with contender(asked["contender"])(asked["url"], Wanted(**asked["wanted"])) as acquire:
        warm, _, _ = await _loop(acquire, asked["tasks"], WARM_UP_S)
        cpu = time.process_time()
        done, took, waits = await _loop(acquire, asked["tasks"], asked["seconds"])
        cpu = time.process_time() - cpu
    return {
        "rate": done / took,
        "p50_us": statistics.median(waits) * 1e6,
        "cpu_us": cpu / done * 1e6,
        "acquires": warm + done,
    }


async def _loop(acquire: Acquire, tasks: int, seconds: float) -> tuple[int, float, list[float]]:
    clock, waits = time.perf_counter, []
    begin = clock()
    end = begin + seconds
    done = 0

    async def one(sample: bool) -> None:
        nonlocal done
        while (at := clock()) < end:
            await acquire()
            done += 1
            if sample:
                waits.append(clock() - at)

    await asyncio.gather(*(one(number == 0) for number in range(tasks)))
    return done, clock() - begin, waits


async def saturate(asked: dict[str, Any]) -> dict[str, Any]:
    """Agents that call a provider as fast as the limiter lets them: each call's end, wait and status."""
    agents: list[list[tuple[float, float, int]]] = [[] for _ in range(asked["tasks"])]
    async with (
        provider.client(asked) as http,
        contender(asked["contender"])(asked["url"], Wanted(**asked["wanted"])) as acquire,
    ):
        await asyncio.sleep(max(0.0, asked["begin"] - time.time()))

        async def one(calls: list[tuple[float, float, int]]) -> None:
            refused = 0
            while time.time() < asked["end"]:
                at = time.time()
                try:
                    await acquire()
                except asyncio.CancelledError:
                    # in vain: it counts as having waited so long
                    calls.append((asked["end"], time.time() - at, 0))
                    raise
                waited = time.time() - at
                answer = await http.post(provider.PATH, json=provider.BODY)
                calls.append((time.time(), waited, answer.status_code))
                # as the SDKs do: half a second, doubled up to eight
                refused = refused + 1 if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS else 0
                if refused:
                    await asyncio.sleep(min(8.0, 0.25 * 2**refused))

        await _until_the_end(asked, [one(calls) for calls in agents])
    return {"agents": agents}


async def mixed(asked: dict[str, Any]) -> dict[str, Any]:
    """Calls of very different cost, estimated, then settled: when each began and what it has cost.

    The provider is a pause: what it would have said is reckoned afterwards, from all calls of all processes.
    """
    import random

    from load.bench.contenders import LONGEST_WAIT, limiter, quota

    known = quota(Wanted(**asked["wanted"]))
    dice = random.Random(asked["seed"])
    calls: list[tuple[float, float]] = []
    (name,) = known.limits
    async with limiter(asked["url"], known) as found:
        await asyncio.sleep(max(0.0, asked["begin"] - time.time()))

        async def one() -> None:
            while time.time() < asked["end"]:
                actual = min(20_000.0, max(100.0, dice.lognormvariate(7.0, 1.0)))
                estimate = actual * 2 ** dice.uniform(-1, 1)
                permit = await found.acquire(known.scope, {name: estimate}, max_wait=LONGEST_WAIT)
                calls.append((time.time(), actual))
                await asyncio.sleep(dice.uniform(0.05, 0.5))
                await found.settle(permit, {name: actual})

        await _until_the_end(asked, [one() for _ in range(asked["tasks"])])
    return {"calls": calls}


async def cooled(asked: dict[str, Any]) -> dict[str, Any]:
    """As `saturate`, with a cooldown in the middle."""
    from load.bench.contenders import limiter, quota

    known = quota(Wanted(**asked["wanted"]))

    async def close() -> None:
        from datetime import timedelta

        async with limiter(asked["url"], known) as found:
            await asyncio.sleep(max(0.0, asked["cooldown_at"] - time.time()))
            await found.cool_down(known.scope, retry_after=timedelta(seconds=asked["cooldown_s"]), cut=False)

    closing = asyncio.create_task(close()) if asked["first"] else None
    answer = await saturate(asked)
    if closing is not None:
        await closing
    return answer


async def _until_the_end(asked: dict[str, Any], work: list[Any]) -> None:
    tasks = [asyncio.create_task(one) for one in work]
    done, waiting = await asyncio.wait(tasks, timeout=max(0.0, asked["end"] - time.time()) + GRACE_S)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()


async def by_temporal(asked: dict[str, Any]) -> dict[str, Any]:
    """As `saturate`, held back by Temporal's own limit of a task queue."""
    from load.bench import temporal_rps

    return await temporal_rps.saturate(asked)


WHATS = {"speed": speed, "saturate": saturate, "mixed": mixed, "cooled": cooled, "temporal": by_temporal}


def main() -> None:
    """Measure what the first argument asks for."""
    asked = json.loads(sys.argv[1])
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if asked.get("loop") == "uvloop":
        from uvloop import new_event_loop

        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(WHATS[asked["what"]](asked))), flush=True)  # noqa: T201 - the program's answer
    # a Temporal client alive at interpreter exit aborts one process in ten
    os._exit(0)


if __name__ == "__main__":
    main()
