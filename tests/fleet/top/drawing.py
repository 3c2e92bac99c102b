"""Draws `docs/top.svg` (`python -m tests.fleet.top.drawing FILE`): a small fleet on real servers, in some trouble."""

import asyncio
import os
import re
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.testing import WorkflowEnvironment

from fleet import attributes
from fleet import manifest as manifests
from fleet.client import FleetClient
from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.names import FailureType
from fleet.pools import HEARTBEAT_EVERY
from fleet.settings import Settings
from fleet.top.app import TopApp
from fleet.top.layout import Panel
from fleet.top.reading import Reading
from ratelimit.limiter import Limiter
from ratelimit.store import RedisStore
from tests.conftest import TUNING, binary
from tests.fleet.fakes import calls, says, serving
from tests.fleet.top.conftest import Recording, until
from tests.ratelimit.servers import on_socket, valkey_binary
from workers import failures
from workers.bootstrap import quotas
from workers.database import Database, upgrade
from workers.effects.book import Book

ROOT = Path(__file__).parents[3]
QUESTIONS = (
    "Compare the three suppliers' delivery terms",
    "What changed in the customs tariff in March?",
    "Summarise the complaints of last week",
    "Which contracts end before June?",
    "Find the source of the price index",
    "Draft the brief on cold storage",
)
PAYEES = (
    ("DE89370400440532013000", "1240.00", "R-7731"),
    ("FR1420041010050500013", "880.50", "R-7702"),
    ("NL91ABNA0417164300", "5600.00", "R-7698"),
)


def _manifest(folder: Path) -> Path:
    text = (ROOT / "deploy" / "fleet.toml").read_text()
    text = text.replace("sim-large", "gpt-large")
    text += """
[quotas."openai/gpt-small"]
requests = "3k/m"
tokens = "900k/m"
[quotas."anthropic/claude"]
requests = "50/m"
[quotas."bank/transfers"]
requests = { rate = "2/s", burst = 2 }
[quotas."search/brave"]
requests = { rate = "20/s", burst = 20 }
"""
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def _answer(_: int, request: ChatRequest) -> ChatResult | Exception:
    goal = " ".join(message.content for message in request.messages)
    if "R-" in goal:
        payee, amount, reference = next(pay for pay in PAYEES if pay[2] in goal)
        return calls("transfer", payee=payee, amount=amount, currency="EUR", reference=reference)
    if "done" in goal:
        return says("done")
    seconds = 12 + sum(map(ord, goal)) % 90
    text = f"waits for openai/gpt-large tokens: its place comes in {seconds}.0 s"
    return failures.wait(FailureType.QUOTA_WAIT, text, timedelta(seconds=seconds))


async def draw() -> str:
    """Make the trouble, draw it."""
    with tempfile.TemporaryDirectory() as name, on_socket(valkey_binary()) as valkey:
        async with AsyncExitStack() as stack:
            folder = Path(name)
            environment = await stack.enter_async_context(
                await WorkflowEnvironment.start_local(
                    dev_server_existing_path=binary("temporal"),
                    dev_server_extra_args=TUNING,
                    dev_server_log_level="error",
                    search_attributes=attributes.KEYS,
                )
            )
            address = environment.client.service_client.config.target_host
            os.environ["TEMPORAL_ADDRESS"] = address
            path = _manifest(folder)
            settings = Settings(
                redis_url=valkey, database_url=f"sqlite+aiosqlite:///{folder / 'fleet.db'}", manifest=path
            )
            manifest = manifests.load(path)
            await upgrade(settings.database())
            database, store = Database(settings.database()), RedisStore.from_url(valkey)
            await database.open()
            stack.push_async_callback(database.aclose)
            stack.push_async_callback(store.aclose)
            shared = await stack.enter_async_context(Limiter(store, quotas(manifest)))
            runtime = Runtime(telemetry=TelemetryConfig(logging=None), worker_heartbeat_interval=HEARTBEAT_EVERY)
            fakes = Recording(book=Book(database), answer=_answer)
            pids = iter((2214, 2215, 1987, 1988, 3051, 3052, 2216, 2217))
            for pool, machines in {
                "agents": "ab",
                "llm": "abc",
                "email": "b",
                "payments": "c",
                "approvals": "a",
            }.items():
                for machine in machines:
                    # a client has one worker of each queue
                    beating = await Client.connect(address, runtime=runtime)
                    worker = serving(beating, fakes, pool, identity=f"{next(pids, 4000)}@vm-{machine}")
                    await stack.enter_async_context(worker)
            reading = Reading(settings, manifest, path)
            stack.push_async_callback(reading.aclose)
            await _trouble(FleetClient(environment.client, manifest), shared)
            app = TopApp(reading, every=2, where="default at temporal.example:7233", by="ana@example.com")
            async with app.run_test(size=(132, 43)) as pilot:
                # rates are of a few seconds
                await until(lambda: _told(app))
                await asyncio.sleep(5)
                for key in ("q", "s", "S"):
                    await pilot.press(key)
                await pilot.pause()
                # a picture fetches nothing
                return re.sub(r"\s*@font-face \{.*?\}", "", app.export_screenshot(title="fleet top"), flags=re.DOTALL)


def _told(app: TopApp) -> bool:
    runs = app.sources[Panel.RUNS].seen.data
    pools = app.sources[Panel.POOLS].seen.data
    return bool(
        runs
        and runs.statuses.get("approval") == len(PAYEES)
        and runs.ended
        and pools
        and pools[0].workers[0].started_at
    )


async def _trouble(client: FleetClient, shared: Limiter) -> None:
    for number in range(4):
        await client.start("researcher", f"Is it done? {number}", run_id=f"brief-10{number}", tenant="acme")
    for payee, amount, reference in PAYEES:
        await client.start("payer", f"Pay {amount} EUR to {payee}, invoice {reference}", run_id=f"invoice-{reference}")
    for number in range(14):
        tenant = ("acme", "globex", "initech")[number % 3]
        goal = QUESTIONS[number % len(QUESTIONS)]
        await client.start("researcher", goal, run_id=f"brief-{2041 + number}", tenant=tenant)
    for number in (3, 7):
        await client.pause(f"brief-{2041 + number}", "wait for the new price list")
    await client.terminate("brief-2041", "asked for by the wrong team")
    large, minute = "openai/gpt-large", timedelta(minutes=10)
    for number in range(9):
        cost = {"requests": 1.0, "tokens": 14_000.0}
        await shared.reserve(large, cost, max_wait=timedelta(0), key=f"brief-{2042 + number}/1", hold=True)
    permit = await shared.acquire("anthropic/claude", {"requests": 1}, max_wait=minute)
    for _ in range(3):
        await shared.cool_down("anthropic/claude", retry_after=timedelta(seconds=45), permit=permit)
    await shared.acquire("openai/gpt-small", {"requests": 40, "tokens": 210_000}, max_wait=minute)
    await shared.acquire("search/brave", {"requests": 3}, max_wait=minute)
    await shared.acquire("email/relay", {"messages": 1}, max_wait=minute)
    await shared.acquire("bank/transfers", {"requests": 1}, max_wait=minute)
    await shared.close("bank/transfers", by="bo@example.com", reason="the bank asked us to stop")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(asyncio.run(draw()))
    sys.stdout.flush()
    os._exit(0)
