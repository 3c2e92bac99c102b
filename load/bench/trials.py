"""The trials of `fleet bench limiter`: how each contender is driven, and what is read from it."""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from load.bench.environment import ROOT
from load.bench.report import Report, jain
from load.bench.wanted import Wanted
from load.simulators.bucket import ContinuousBucket
from load.simulators.options import LimitOptions
from ratelimit.store import RedisStore

RATE, BURST, LATENCY_S = 100.0, 60.0, 0.1
"""The provider of the saturation trials: permits a second, most at once, seconds an answer takes."""
PLENTY = 1e9
TOKEN_RATE, TOKEN_BURST = 20_000.0, 60_000.0
BEGIN_IN_S = 2.5
"""Processes start meanwhile."""
SETTLING_S = 4.0
COOLDOWN_S = 10.0
WINDOW = 256
BLOCK = 1000


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is."""

    redis: str
    provider: str
    temporal: str
    peers: str | None
    """The interpreter that has them; None: they are not installed."""


class Crashed(Exception):
    """A measuring process has ended before its time."""

    def __init__(self, contender: str, code: int) -> None:
        super().__init__(f"{contender}: a measuring process ended with {code}")


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table."""

    label: str
    name: str
    limits: int = 1
    window: int = 0
    loop: str = "asyncio"


OURS = Contender("ours", "ours")
OURS_FOUR = Contender("ours, 4 limits", "ours", limits=4)
OURS_UVLOOP = Contender("ours, uvloop", "ours", loop="uvloop")
OURS_BLOCK = Contender("ours, blocks", "ours", window=BLOCK)
OURS_WINDOW = Contender("ours, credit window", "ours", window=WINDOW)
RAW = Contender("raw", "raw")
NONE = Contender("none", "none")
TEMPORAL = Contender("Temporal's rps", "temporal")
HOME = ("ours", "raw", "none", "temporal")


async def _children(bench: Bench, contender: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    python = sys.executable if contender in HOME else bench.peers
    assert python is not None

    async def one(job: dict[str, Any]) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            python,
            *("-m", "load.bench.drive", json.dumps(job)),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise Crashed(contender, process.returncode)
        # the last line: an SDK may have warned before
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found

    return await asyncio.gather(*(one({**job, "contender": contender, "url": bench.redis}) for job in jobs))


async def speed(
    bench: Bench, contender: Contender, processes: int, tasks: int, seconds: float, number: int
) -> dict[str, float]:
    """Acquires a second, microseconds each, and of processor time each: of the client and of the server."""
    wanted = Wanted(
        name=f"speed-{contender.label}-{number}".replace(" ", "").replace(",", "-"),
        rate=PLENTY, burst=PLENTY, limits=contender.limits, window=contender.window, waiters=tasks,
    )  # fmt: skip
    before = await _server_cpu_s(bench)
    job = {"what": "speed", "tasks": tasks, "seconds": seconds, "wanted": asdict(wanted), "loop": contender.loop}
    parts = await _children(bench, contender.name, [job] * processes)
    spent = await _server_cpu_s(bench) - before
    return {
        "per_second": sum(part["rate"] for part in parts),
        "p50_us": statistics.median(part["p50_us"] for part in parts),
        "client_cpu_us": statistics.fmean(part["cpu_us"] for part in parts),
        "server_cpu_us": spent / sum(part["acquires"] for part in parts) * 1e6,
    }


async def saturation(
    bench: Bench, report: Report, contender: Contender, agents: tuple[int, ...], headroom: float, seconds: float
) -> dict[str, float]:
    """So many agents of each process call as fast as they may."""
    trial = f"saturation {_shape(agents)}, headroom {headroom:g}"
    wanted = _saturated(contender, trial, headroom, max(agents))
    begin = time.time() + BEGIN_IN_S
    end = begin + SETTLING_S + seconds
    driven = _children(
        bench,
        contender.name,
        [
            {
                "what": "temporal" if contender is TEMPORAL else "saturate", "provider": bench.provider, "begin": begin,
                "end": end, "tasks": tasks, "wanted": asdict(wanted), "temporal": bench.temporal, "process": process,
            }
            for process, tasks in enumerate(agents)
        ],
    )  # fmt: skip
    parts, asked = await asyncio.gather(driven, _script_calls(bench, begin + SETTLING_S, end))
    processes = [[_steady(calls, begin, end) for calls in part["agents"]] for part in parts]
    every = [call for process in processes for calls in process for call in calls]
    good = [_good(calls) for process in processes for calls in process]
    waits = sorted(waited for _, waited, _ in every)
    ideal = sum(agents) / (RATE * headroom) - LATENCY_S
    figures = {
        "utilisation": sum(good) / (RATE * seconds),
        "429_per_ok": sum(status == 429 for _, _, status in every) / max(1, sum(good)),
        "p99_wait_s": waits[min(len(waits) - 1, int(0.99 * len(waits)))] if waits else seconds,
        "ideal_wait_s": ideal,
        "jain_agents": jain([float(one) for one in good]),
        "jain_processes": jain([sum(map(_good, process)) / len(process) for process in processes]),
        "starved": float(sum(one == 0 for one in good)),
        "calls_per_grant": asked / max(1, sum(status != 0 for _, _, status in every)),
        "429s_ever": float(sum(call[2] == 429 for part in parts for calls in part["agents"] for call in calls)),
    }
    report.row(trial, contender.label, **figures)
    return figures


async def cooldown(bench: Bench, report: Report, seconds: float) -> None:
    """All wait for the end of a cooldown that one process has reported."""
    wanted = _saturated(OURS, "cooldown", 1.0, 100)
    begin = time.time() + BEGIN_IN_S
    closed = begin + SETTLING_S
    opened = closed + COOLDOWN_S
    job = {
        "what": "cooled", "provider": bench.provider, "begin": begin, "end": opened + 2 + seconds, "tasks": 100,
        "wanted": asdict(wanted), "cooldown_at": closed, "cooldown_s": COOLDOWN_S,
    }  # fmt: skip
    parts = await _children(bench, "ours", [{**job, "first": number == 0} for number in range(4)])
    calls = [call for part in parts for mine in part["agents"] for call in mine]
    figures = {
        "calls_meanwhile": float(sum(closed + 1 < at < opened for at, _, _ in calls)),
        "429_in_the_first_second": float(sum(status == 429 and opened <= at < opened + 1.2 for at, _, status in calls)),
        "utilisation_2_s_later": _good(_steady(calls, opened + 2 - SETTLING_S, opened + 2 + seconds))
        / (RATE * seconds),
    }
    report.row("cooldown of 10 s, 4 x 100 waiters", "ours", **figures)
    report.check("cooldown: calls before its end", figures["calls_meanwhile"], most=0)
    report.check("cooldown: 429s in the first second after it", figures["429_in_the_first_second"], most=0)
    report.check("cooldown: utilisation from 2 s after it", figures["utilisation_2_s_later"], least=0.95)


async def mixed(bench: Bench, report: Report, seconds: float) -> None:
    """Log-normal token costs, 100 to 20,000, estimates off by half to twice, settled after the call."""
    wanted = Wanted(name="mixed", rate=TOKEN_RATE, burst=TOKEN_BURST)
    begin = time.time() + BEGIN_IN_S
    end = begin + SETTLING_S + seconds
    job = {"what": "mixed", "begin": begin, "end": end, "tasks": 25, "wanted": asdict(wanted)}
    parts = await _children(bench, "ours", [{**job, "seed": number} for number in range(4)])
    calls = sorted((at, units) for part in parts for at, units in part["calls"])
    used = sum(units for at, units in calls if begin + SETTLING_S <= at < end) / (TOKEN_RATE * seconds)
    # an independent count of what was really spent, by the instants at which the calls began
    ledger = ContinuousBucket(LimitOptions(limit=TOKEN_RATE, period_s=1, burst=TOKEN_BURST), TOKEN_BURST, begin)
    deepest = 0.0
    for at, units in calls:
        ledger.spend(units, at)
        deepest = min(deepest, ledger.available(at))
    figures = {"utilisation": used, "overrun_in_bursts": -deepest / TOKEN_BURST, "calls": float(len(calls))}
    report.row("mixed token costs, 4 x 25", "ours", **figures)
    report.check("mixed token costs: token quota used", used, least=0.95)
    report.check("mixed token costs: overrun, in bursts", figures["overrun_in_bursts"], most=1.0)


def _saturated(contender: Contender, trial: str, headroom: float, waiters: int) -> Wanted:
    return Wanted(
        name=f"{trial}-{contender.label}".replace(" ", "").replace(",", "-").replace("'", ""),
        rate=RATE,
        burst=BURST,
        headroom=headroom,
        burst_headroom=1.0 if headroom == 1 else 0.9,
        window=contender.window,
        waiters=waiters,
    )


def _shape(agents: tuple[int, ...]) -> str:
    return f"{len(agents)} x {agents[0]}" if len(set(agents)) == 1 else "/".join(map(str, agents))


def _steady(calls: list[list[float]], begin: float, end: float) -> list[list[float]]:
    return [call for call in calls if begin + SETTLING_S <= call[0] <= end]


def _good(calls: list[list[float]]) -> int:
    return sum(status == 200 for _, _, status in calls)


async def _server_cpu_s(bench: Bench) -> float:
    said = await _info(bench, "cpu")
    return float(said["used_cpu_sys"]) + float(said["used_cpu_user"])


async def _script_calls(bench: Bench, begin: float, end: float) -> float:
    """Scripts called between two instants."""
    await asyncio.sleep(begin - time.time())
    before = await _scripts_called(bench)
    await asyncio.sleep(end - time.time())
    return await _scripts_called(bench) - before


async def _scripts_called(bench: Bench) -> float:
    said = await _info(bench, "commandstats")
    stats = (said.get(f"cmdstat_{name}", "") for name in ("evalsha", "eval"))
    return sum(float(one.partition("calls=")[2].partition(",")[0] or 0) for one in stats)


async def _info(bench: Bench, section: str) -> dict[str, str]:
    store = RedisStore.from_url(bench.redis)
    said: bytes = await store.execute("INFO", section)
    await store.aclose()
    return dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
