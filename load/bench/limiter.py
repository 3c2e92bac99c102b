"""`fleet bench limiter`: how fast and how fair, against redis-py's own floor, what one can install, and a provider."""

import asyncio
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from load.bench import environment, trials
from load.bench.report import Report
from load.bench.trials import Bench, Contender
from load.simulators.options import Options
from load.simulators.server import Serving, running
from workers.embedded import EmbeddedStack

SHAPES = ((1, 1), (1, 100), (4, 64))
"""Processes and tasks of each."""
TARGETS = {(1, 1): 1.8, (1, 100): 20.0, (4, 64): 20.0}
EQUAL, UNEQUAL = (100, 100, 100, 100), (10, 10, 10, 370)
PEERS = (
    "limits, moving window",
    "limits, sliding counter",
    "limits, fixed minute",
    "pyrate-limiter, log",
    "throttled-py, token bucket",
    "throttled-py, GCRA",
    "self-limiters",
    "LiteLLM's script",
)
PROVIDER = {
    "openai": {"models": {"bench": {"requests": {"limit": trials.RATE, "period_s": 1, "burst": trials.BURST}}}},
    "latency": {"base_s": trials.LATENCY_S, "per_output_token_s": 0, "jitter": 0.2},
}


async def run(*, quick: bool, peers: bool, picture: Path | None = None, say: Callable[[str], None]) -> Report:
    """Measure.

    Args:
        quick: from short trials, in under three minutes; of the peers only the latency.
        peers: install and measure them too.
        picture: the absolute path of a file to draw the figures into.
        say: is told what is being done.
    """
    report = Report()
    python = None
    if peers:
        try:
            say("peers: in an environment of their own, installed with the first run")
            python = await environment.interpreter()
        except environment.NotInstalled as error:
            say(f"peers: not measured: {error}")
            report.check("peers that could not be measured", len(PEERS), most=0)
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        async with EmbeddedStack(Path(folder)) as stack:
            bench = Bench(stack.endpoints.redis, "", stack.endpoints.temporal, python)
            for processes, tasks in SHAPES:
                say(f"speed {processes} x {tasks}")
                await _speed(report, bench, processes, tasks, quick=quick, say=say)
            await _qualities(report, bench, Path(folder), quick=quick, say=say)
    if picture is not None and python is not None:
        await _draw(report, python, picture)
        say(f"drawn: {picture}")
    return report


async def _draw(report: Report, python: str, picture: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        python,
        *("-m", "load.bench.picture", str(picture)),
        stdin=asyncio.subprocess.PIPE,
        cwd=environment.ROOT,
    )
    await process.communicate(json.dumps({"rows": report.rows}).encode())
    if process.returncode:
        raise RuntimeError(f"drawing {picture} ended with {process.returncode}")


async def _speed(
    report: Report, bench: Bench, processes: int, tasks: int, *, quick: bool, say: Callable[[str], None]
) -> None:
    ours = [trials.RAW, trials.OURS, trials.OURS_FOUR, trials.OURS_BLOCK]
    if not quick and importlib.util.find_spec("uvloop") is not None:
        ours.append(trials.OURS_UVLOOP)
    found: dict[str, list[dict[str, float]]] = {contender.label: [] for contender in ours}
    shape, seconds = f"{processes} x {tasks}", 0.4 if quick else 2.0
    # tight pairs, back to back: what else the machine does hits both
    for number in range(2 if quick else 5):
        for contender in ours:
            found[contender.label].append(await trials.speed(bench, contender, processes, tasks, seconds, number))
    if bench.peers is not None and (not quick or tasks == 1):
        for peer in PEERS:
            try:
                found[peer] = [await trials.speed(bench, Contender(peer, peer), processes, tasks, seconds, 0)]
            except trials.Crashed as crashed:
                say(f"not measured: {crashed}")
    for label, runs in found.items():
        figures = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        raw = found["raw"][: len(runs)]
        times = statistics.median(a["per_second"] / b["per_second"] for a, b in zip(runs, raw, strict=True))
        report.row(f"speed {shape}", label, times_raw=times, **figures)

    def ratio(key: str, of: str, over: str) -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(found[of], found[over], strict=True))

    target = TARGETS[processes, tasks]
    # a scope above a thousand permits a second is what blocks are for
    report.check(f"throughput {shape} in blocks, times raw", ratio("per_second", "ours, blocks", "raw"), least=target)
    report.check(f"throughput {shape}, four limits to one", ratio("per_second", "ours, 4 limits", "ours"), least=0.7)
    if (processes, tasks) == (1, 1):
        report.check("latency p50 1 x 1 in blocks, of raw", ratio("p50_us", "ours, blocks", "raw"), most=0.6)
        others = [found[peer][0]["p50_us"] for peer in PEERS if peer in found]
        if others:
            mine = statistics.median(one["p50_us"] for one in found["ours, blocks"])
            report.check("latency p50 1 x 1 in blocks, of the best peer's", mine / min(others), most=1.0)
    if processes > 1:
        report.check(f"client CPU {shape} in blocks, of raw", ratio("client_cpu_us", "ours, blocks", "raw"), most=0.1)


async def _qualities(report: Report, bench: Bench, folder: Path, *, quick: bool, say: Callable[[str], None]) -> None:
    # as many whole turns of all agents as there are in the time: whoever is cut off counts as treated unfairly
    seconds = 16.0 if quick else 60.0

    async def saturated(contender: Contender, agents: tuple[int, ...], headroom: float) -> dict[str, float]:
        say(f"saturation: {contender.label}, agents {'/'.join(map(str, agents))}, headroom {headroom:g}")
        # a provider that nobody has used yet, for each
        async with running(Serving(options=Options.of(PROVIDER), maildir=folder / "mail" / "Maildir")) as provider:
            there = Bench(bench.redis, provider.http, bench.temporal, bench.peers)
            return await trials.saturation(there, report, contender, agents, headroom, seconds)

    full = await saturated(trials.OURS, EQUAL, 1.0)
    name = "saturation 4 x 100"
    report.check(f"{name}: utilisation", full["utilisation"], least=0.99)
    report.check(f"{name}: 429 per success", full["429_per_ok"], most=0.002)
    report.check(f"{name}: p99 wait, of the ideal", full["p99_wait_s"] / full["ideal_wait_s"], most=1.05)
    report.check(f"{name}: Jain over agents", full["jain_agents"], least=0.99)
    report.check(f"{name}: script calls per grant", full["calls_per_grant"], most=1.2)
    spared = await saturated(trials.OURS, EQUAL, 0.98)
    report.check(f"{name}, headroom 0.98: utilisation", spared["utilisation"], least=0.975)
    report.check(f"{name}, headroom 0.98: 429 per success", spared["429_per_ok"], most=0.0)
    uneven = await saturated(trials.OURS, UNEQUAL, 1.0)
    report.check("saturation 10/10/10/370: Jain over agents", uneven["jain_agents"], least=0.985)
    report.check("saturation 10/10/10/370: starved agents", uneven["starved"], most=0)
    ahead = await saturated(trials.OURS_WINDOW, EQUAL, 1.0)
    report.check(f"{name}, credit window: script calls per grant", ahead["calls_per_grant"], most=0.15)
    report.check(f"{name}, credit window: utilisation", ahead["utilisation"], least=0.99)
    say("cooldown, and beside it mixed token costs")
    async with running(Serving(options=Options.of(PROVIDER), maildir=folder / "mail" / "Maildir")) as provider:
        there = Bench(bench.redis, provider.http, bench.temporal, None)
        await asyncio.gather(
            trials.cooldown(there, report, 5.0 if quick else 10.0), trials.mixed(there, report, seconds)
        )
    if not quick:
        others: Sequence[str] = PEERS if bench.peers is not None else ()
        for contender in (trials.NONE, trials.TEMPORAL, *(Contender(peer, peer) for peer in others)):
            try:
                await saturated(contender, EQUAL, 1.0)
            except trials.Crashed as crashed:
                say(f"not measured: {crashed}")
