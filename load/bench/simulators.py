"""`fleet bench simulators`: how many calls one process of provider simulators answers: it must never be the bottleneck.

Generators are processes of their own, with one call at a time on each kept-alive connection. They share the machine's
cores with the server. So calls a second stand beside calls for each second of the server's processor time.
"""

import asyncio
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil

from load.bench.environment import ROOT
from load.bench.report import Report

LEAST_PER_SECOND = 3000.0
"""Of the server's processor time."""
GENERATORS, CONNECTIONS = 2, 16
WARM_UP_S = 0.5
START_S = 30.0
PLENTY = {"limit": 60_000_000.0, "enforced_s": 1.0}
SCARCE = {"limit": 600.0, "enforced_s": 1.0}
_ASKED = "What does json.loads do, and what does it not do? "


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured."""

    label: str
    path: str
    options: dict[str, Any]
    ledger_file: bool = False
    expected: int = 200
    """Status of nearly all answers."""


def _model(name: str, **limits: Any) -> dict[str, Any]:
    return {name: {"models": {"bench": limits}}}


CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
CASES = (
    Case(label="chat completions", path=CHAT, options=_model("openai", requests=PLENTY, tokens=PLENTY)),
    Case(
        label="chat completions, ledger file",
        path=CHAT,
        options=_model("openai", requests=PLENTY, tokens=PLENTY),
        ledger_file=True,
    ),
    Case(
        label="messages, ledger file",
        path=MESSAGES,
        options=_model("anthropic", requests=PLENTY, input_tokens=PLENTY, output_tokens=PLENTY),
        ledger_file=True,
    ),
    Case(
        label="refused chat completions, ledger file",
        path=CHAT,
        options=_model("openai", requests=SCARCE, tokens=PLENTY),
        ledger_file=True,
        expected=429,
    ),
)


async def run(*, seconds: float, say: Callable[[str], None]) -> Report:
    """Measure.

    Args:
        seconds: of each case.
        say: is told what is being done.
    """
    report = Report()
    for case in CASES:
        say(f"{case.label}: {GENERATORS} generators with {CONNECTIONS} connections each, {seconds:g} s")
        figures = await measure(case, seconds)
        missing = figures.pop("not_in_the_ledger")
        report.row("simulators", case.label, **figures)
        # not the wall clock's second: on a busy machine that would measure the others
        report.check(f"{case.label}: per CPU second", figures["per_server_cpu_s"], least=LEAST_PER_SECOND)
        report.check(f"{case.label}: answers not in the ledger", missing, most=0)
    return report


async def measure(case: Case, seconds: float) -> dict[str, float]:
    """Answers a second, and for each second of the server's processor time; how long they took."""
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        process, where = await _served(case, Path(folder))
        try:
            job = {"base": where["http"], "path": case.path, "seconds": seconds, "connections": CONNECTIONS}
            found = await _driven(job, psutil.Process(where["pid"]), seconds)
            async with httpx2.AsyncClient(base_url=where["http"], timeout=30) as http:
                noted = json.loads((await http.get("/_ledger/summary")).text)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
    statuses = found.pop("statuses")
    if statuses.get(str(case.expected), 0) <= 0.9 * sum(statuses.values()):
        raise RuntimeError(f"{case.label}: expected {case.expected}, got {statuses}")
    # calls that were on their way at the end are noted too
    unnoted = max(0, sum(statuses.values()) - int(noted["rows"]))
    figures: dict[str, float] = {**found, "not_in_the_ledger": float(unnoted)}
    return figures


async def _served(case: Case, folder: Path) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    options, ready = folder / "options.json", folder / "ready.json"
    quick = {"latency": {"base_s": 0, "per_output_token_s": 0}}
    options.write_text(json.dumps(case.options | quick), encoding="utf-8")
    more = ("--ledger-file", str(folder / "ledger.jsonl")) if case.ledger_file else ()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "load.simulators", "--options", str(options), "--maildir", str(folder / "Maildir")),
        *("--ready-file", str(ready), *more),
        cwd=ROOT,
    )
    deadline = monotonic() + START_S
    while not ready.exists():
        if process.returncode is not None or monotonic() > deadline:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise RuntimeError(f"the simulators did not start within {START_S:g} s")
        await asyncio.sleep(0.02)
    where: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
    return process, where


async def _driven(job: dict[str, Any], server: psutil.Process, seconds: float) -> dict[str, Any]:
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "load.bench.simulators", json.dumps({**job, "number": number})),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        for number in range(GENERATORS)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            # it has connected and warmed up
            await child.stdout.readline()
        before, began = _cpu_s(server), perf_counter()
        said = [asyncio.create_task(child.communicate(b"go\n")) for child in children]
        await asyncio.sleep(seconds)
        spent, took = _cpu_s(server) - before, perf_counter() - began
        parts = [json.loads((await one)[0].splitlines()[-1]) for one in said]
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
    calls = sum(part["calls"] for part in parts)
    statuses: dict[str, int] = {}
    for part in parts:
        for status, count in part["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "per_second": calls / seconds,
        "per_server_cpu_s": calls / seconds / max(spent / took, 1e-3),
        "server_cpu": spent / took,
        "p50_ms": statistics.median(part["p50_ms"] for part in parts),
        "p99_ms": max(part["p99_ms"] for part in parts),
        "client_cpu_us": sum(part["cpu_s"] for part in parts) / max(1, calls) * 1e6,
        "statuses": statuses,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(slots=True)
class _Heard:
    calls: int = 0
    counting: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)


class _Caller(asyncio.Protocol):
    """One connection: the next call when the last is answered."""

    def __init__(self, number: int, job: dict[str, Any], heard: _Heard) -> None:
        self._number = number * 1_000_000
        self._heard = heard
        self._buffer = b""
        self._sent = 0.0
        self._transport: Any = None
        body = _body(job["path"], "{:012d}")
        length = len(_body(job["path"], "0" * 12))
        host = urlsplit(job["base"]).netloc
        # as wide as what the SDKs send
        self._request = (
            f"POST {job['path']} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer sk-bench-0001\r\n"
            "accept: application/json\r\nuser-agent: AsyncOpenAI/Python 3.50.0\r\nx-stainless-lang: python\r\n"
            "x-stainless-async: async:asyncio\r\nanthropic-version: 2023-06-01\r\n"
            "x-client-request-id: run/%d/1\r\ncontent-type: application/json\r\n"
            f"content-length: {length}\r\n\r\n{body.replace('{:012d}', '%012d')}"
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.call()

    def call(self) -> None:
        self._number += 1
        self._sent = perf_counter()
        self._transport.write((self._request % (self._number, self._number)).encode())

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        at = buffer.find(b"content-length: ") + 16
        if len(buffer) < end + 4 + int(buffer[at : buffer.find(b"\r", at)]):
            return
        self._buffer = b""
        heard, status = self._heard, buffer[9:12].decode()
        heard.statuses[status] = heard.statuses.get(status, 0) + 1
        if heard.counting:
            heard.calls += 1
            heard.times.append(perf_counter() - self._sent)
        self.call()

    def close(self) -> None:
        self._transport.abort()


def _body(path: str, number: str) -> str:
    limit = "max_tokens" if path == MESSAGES else "max_completion_tokens"
    said = [{"role": "user", "content": f"{_ASKED}{number}"}]
    return json.dumps({"model": "bench", limit: 64, "messages": said})


async def _generate(job: dict[str, Any]) -> dict[str, Any]:
    heard, loop = _Heard(), asyncio.get_running_loop()
    where = urlsplit(job["base"])
    callers = []
    for number in range(job["connections"]):
        made = partial(_Caller, job["number"] * job["connections"] + number, job, heard)
        _, caller = await loop.create_connection(made, where.hostname, where.port)
        callers.append(caller)
    await asyncio.sleep(WARM_UP_S)
    sys.stdout.write("warm\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.readline)
    # not by psutil, which counts in hundredths of a second: on a busy machine a short measurement gets none
    before = process_time()
    heard.counting = True
    await asyncio.sleep(job["seconds"])
    heard.counting = False
    cpu_s = process_time() - before
    for caller in callers:
        caller.close()
    times = sorted(heard.times) or [0.0]
    return {
        "calls": heard.calls,
        "statuses": heard.statuses,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
        "cpu_s": cpu_s,
    }


def main() -> None:
    """One generator: tells on a line of its own what it has heard."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if importlib.util.find_spec("uvloop") is not None:
        from uvloop import new_event_loop

        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(_generate(json.loads(sys.argv[1])))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
