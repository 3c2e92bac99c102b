"""`fleet bench instruments`: what counting and tracing cost, as throughput with both over throughput without.

Two fleets of the same kind stand side by side and work in turns. One counts, is scraped, has an exporter and sends
every span to a collector; the other does none of it. Nothing but the processor is in the way of either.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from statistics import median
from time import perf_counter

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fleet import settings as environment
from fleet.client import FleetClient, connect
from fleet.settings import Settings
from load.bench.agents import AGENT, QUESTION, WARM_UP, laid_out
from load.bench.report import Report
from load.local import EXPORTER_EVERY_S, LocalFleet
from load.scraped import SCRAPE_S
from workers.web import served

LEAST = 0.95
AGENTS, ROUNDS = 100, 7
OFF = {"FLEET_METRICS": "off", "OTEL_SDK_DISABLED": "true"}


@dataclass(slots=True)
class Collector:
    """Takes OTLP over HTTP, and counts what it takes."""

    endpoint: str = ""
    requests: int = 0
    megabytes: float = 0.0

    async def take(self, request: Request) -> Response:
        """One export."""
        self.requests += 1
        self.megabytes += len(await request.body()) / 1e6
        return Response(media_type="application/x-protobuf")


async def run(*, agents: int = AGENTS, rounds: int = ROUNDS, say: Callable[[str], None] = lambda line: None) -> Report:
    """Measure.

    Args:
        agents: that begin at once in each turn.
        rounds: turns of each fleet.
        say: is told what is being done.

    Raises:
        FleetError: a part of a fleet did not start.
    """
    report, settings = Report(), environment.load()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-bench-")))
        collector = await stack.enter_async_context(_collecting())
        on = {"FLEET_METRICS": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SDK_DISABLED": "false"}
        took: dict[str, list[float]] = {"off": [], "on": []}
        say("two fleets start")
        async with (
            _fleet(folder / "off", settings, OFF, scraped=False) as mute,
            _fleet(folder / "on", settings, on, scraped=True) as loud,
        ):
            fleets = {"off": mute, "on": loud}
            for client in fleets.values():
                await _turn(client, WARM_UP)
            for number in range(1, rounds + 1):
                # who comes first has what the other has left behind: turn about
                for name in sorted(fleets, reverse=bool(number % 2)):
                    seconds = await _turn(fleets[name], agents)
                    took[name].append(seconds)
                    say(f"round {number}: {name}: {agents / seconds:.1f} agents/s")
        # those who have ended have sent their last spans
        for name, turns in took.items():
            report.row("agents at work", name, agents_per_s=agents / median(turns), seconds=median(turns))
        report.row("the collector", "on", exports=collector.requests, megabytes=collector.megabytes)
        ratio = median(without / counted for without, counted in zip(took["off"], took["on"], strict=True))
        report.check("throughput with metrics and traces over throughput without", ratio, least=LEAST)
        report.check("exports that the collector has taken", collector.requests, least=1)
    return report


@asynccontextmanager
async def _collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])
    async with served(app, "127.0.0.1", 0, what="collector", remedy="another machine") as listening:
        collector.endpoint = listening.url
        yield collector


@asynccontextmanager
async def _fleet(
    folder: Path, settings: Settings, variables: Mapping[str, str], *, scraped: bool
) -> AsyncIterator[FleetClient]:
    plan = replace(laid_out(folder), variables=variables, exporter_every_s=EXPORTER_EVERY_S if scraped else 0.0)
    async with LocalFleet(plan, settings) as fleet:
        await fleet.workers_ready()
        scraping = asyncio.create_task(_scrape(fleet)) if scraped else None
        try:
            yield FleetClient(await connect(fleet.settings(), address=fleet.endpoints.temporal), fleet.manifest)
        finally:
            if scraping is not None:
                scraping.cancel()
                await asyncio.gather(scraping, return_exceptions=True)


async def _scrape(fleet: LocalFleet) -> None:
    """Ask every process for its metrics, as Prometheus does."""
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    async with httpx2.AsyncClient(timeout=SCRAPE_S, headers=accept) as http:
        while True:
            for entry in json.loads(fleet.scraped.targets.read_text(encoding="utf-8")):
                for target in entry["targets"]:
                    with suppress(httpx2.HTTPError):
                        await http.get(f"http://{target}/metrics")
            await asyncio.sleep(SCRAPE_S)


async def _turn(client: FleetClient, agents: int) -> float:
    """So many agents begin at once; the seconds until the last has ended."""
    prefix, began = token_hex(4), perf_counter()

    async def one(number: int) -> None:
        run_id = await client.start(AGENT, QUESTION, run_id=f"{prefix}-{number}")
        await client.result(run_id)

    await asyncio.gather(*map(one, range(agents)))
    return perf_counter() - began
