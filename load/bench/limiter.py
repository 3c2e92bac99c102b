"""`fleet bench limiter`: how fast and how fair, against redis-py's own floor and an independent provider."""

import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load.simulators.options import Options
from load.simulators.server import Serving, Where, running
from ratelimit.store import RedisStore
from workers.embedded import EmbeddedStack

RATE, BURST, LATENCY_S = 100.0, 60.0, 0.1
"""The provider of the saturation trials: permits a second, most at once, seconds an answer takes."""
SPEEDS = ((1, 1), (1, 100), (4, 64))
"""Processes and tasks of each."""
TARGETS = {(1, 1): 1.8, (1, 100): 20.0, (4, 64): 20.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure and what it must be."""

    name: str
    value: float
    target: str
    ok: bool


@dataclass(slots=True)
class Report:
    """Everything that was measured."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def check(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        """Note a figure and whether it is within its bound."""
        ok = (least is None or value >= least) and (most is None or value <= most)
        target = f">= {least:g}" if least is not None else f"<= {most:g}"
        self.checks.append(Check(name=name, value=round(value, 4), target=target, ok=ok))


async def run(*, quick: bool) -> Report:
    """Measure. With `quick` each figure from one short pair, in under three minutes."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        async with EmbeddedStack(Path(folder)) as stack:
            url = stack.endpoints.redis
            for processes, tasks in SPEEDS:
                await _speed(report, url, processes, tasks, seconds=1.0 if quick else 3.0, pairs=2 if quick else 5)
            options = {
                "openai": {"models": {"bench": {"requests": {"limit": RATE, "period_s": 1, "burst": BURST}}}},
                "latency": {"base_s": LATENCY_S, "per_output_token_s": 0, "jitter": 0.2},
            }
            for headroom in (1.0, 0.98):
                serving = Serving(options=Options.of(options), maildir=Path(folder) / "mail" / "Maildir")
                async with running(serving) as provider:
                    await _quality(report, url, provider, headroom, seconds=20 if quick else 60)
    return report


async def _children(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async def one(job: dict[str, Any]) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "load.bench.drive", json.dumps(job), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"a measuring process ended with {process.returncode}")
        found: dict[str, Any] = json.loads(said)
        return found

    return await asyncio.gather(*(one(job) for job in asked))


async def _speed(report: Report, url: str, processes: int, tasks: int, *, seconds: float, pairs: int) -> None:
    found: dict[str, list[dict[str, float]]] = {"raw": [], "ours": [], "ours, 4 limits": []}
    # tight pairs, back to back: what else the machine does hits both
    for _ in range(pairs):
        for name in found:
            job = {
                "what": "speed", "contender": name.partition(",")[0], "limits": 4 if "4" in name else 1, "url": url,
                "tasks": tasks, "seconds": seconds,
            }  # fmt: skip
            parts = await _children([job] * processes)
            found[name].append(
                {
                    "rate": sum(p["rate"] for p in parts),
                    "p50_us": statistics.median(p["p50_us"] for p in parts),
                    "cpu_us": statistics.fmean(p["cpu_us"] for p in parts),
                }
            )
    shape = f"{processes} x {tasks}"
    for name, runs in found.items():
        medians = {key: round(statistics.median(r[key] for r in runs), 1) for key in runs[0]}
        report.rows.append({"trial": f"speed {shape}", "limiter": name, **medians})

    def ratio(key: str, over: str = "raw", of: str = "ours") -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(found[of], found[over], strict=True))

    report.check(f"throughput {shape}, times raw", ratio("rate"), least=TARGETS[processes, tasks])
    report.check(f"throughput {shape}, four limits to one", ratio("rate", "ours", "ours, 4 limits"), least=0.7)
    if (processes, tasks) == (1, 1):
        report.check("latency p50 1 x 1, of raw", ratio("p50_us"), most=0.6)
    if processes > 1:
        report.check(f"client CPU per acquire {shape}, of raw", ratio("cpu_us"), most=0.1)


async def _quality(report: Report, url: str, provider: Where, headroom: float, *, seconds: float) -> None:
    processes, tasks, settling = 4, 100, 5.0
    begin = time.time() + 3.0
    job = {
        "what": "saturate", "url": url, "provider": provider.http, "tasks": tasks, "rate": RATE, "burst": BURST,
        "headroom": headroom, "burst_headroom": 1.0 if headroom == 1 else 0.9, "begin": begin,
        "end": begin + settling + seconds,
    }  # fmt: skip
    parts = await _children([job] * processes)
    agents = [calls for part in parts for calls in part["agents"]]
    calls_per_grant = await _calls_per_grant(url, parts[0]["scope"])
    steady = [[c for c in calls if c[0] >= begin + settling] for calls in agents]
    calls = [call for mine in steady for call in mine]
    good = [sum(status == 200 for _, _, status in mine) for mine in steady]
    refused = sum(status == 429 for _, _, status in calls)
    waits = sorted(waited for _, waited, _ in calls)
    p99 = waits[min(len(waits) - 1, int(0.99 * len(waits)))] if waits else math.inf
    used = sum(good) / (RATE * seconds)
    fairness = sum(good) ** 2 / (len(good) * sum(g * g for g in good)) if any(good) else 0.0
    ideal = len(agents) / (RATE * headroom) - LATENCY_S
    name = f"saturation {processes} x {tasks}, headroom {headroom:g}"
    report.rows.append(
        {
            "trial": name, "limiter": "ours", "utilisation": round(used, 4), "429": refused, "ok": sum(good),
            "p99_wait_s": round(p99, 3), "ideal_wait_s": round(ideal, 3), "jain": round(fairness, 4),
            "starved": sum(g == 0 for g in good), "script_calls_per_grant": round(calls_per_grant, 3),
        }
    )  # fmt: skip
    report.check(f"{name}: utilisation", used, least=0.99 if headroom == 1 else 0.975)
    report.check(f"{name}: 429 per success", refused / max(1, sum(good)), most=0.002 if headroom == 1 else 0.0)
    report.check(f"{name}: p99 wait, of the ideal", p99 / ideal, most=1.05)
    report.check(f"{name}: Jain over agents", fairness, least=0.99)
    report.check(f"{name}: script calls per grant", calls_per_grant, most=1.2)


async def _calls_per_grant(url: str, scope: str) -> float:
    store = RedisStore.from_url(url)
    counters = (await store.inspect(scope)).counters
    await store.aclose()
    return counters.calls / max(1, counters.grants)
