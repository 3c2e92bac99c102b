"""A small fleet on real servers: Temporal, Valkey, SQLite."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client

from fleet import manifest as manifests
from fleet.client import FleetClient, connect
from fleet.contracts.approvals import ApprovalEvent
from fleet.contracts.tools import APPROVAL_RECORD
from fleet.errors import FleetError
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.top.app import TopApp
from fleet.top.reading import Reading
from ratelimit.limiter import Limiter
from ratelimit.store import RedisStore
from tests.fleet.fakes import Fakes, calls, says, serving
from workers.bootstrap import quotas
from workers.database import Database, upgrade
from workers.effects.book import Book

ANA = "ana@example.com"
PAY = {"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "[bold red]INVOICE[/] 7"}
WITHIN_S = 30
MANIFEST = """
[providers.openai]
kind = "openai"
api_key = "env:TOP_KEY"
[providers.search]
kind = "corpus"
[providers.bank]
kind = "bank"
base_url = "http://127.0.0.1:1/bank"
api_key = "env:TOP_KEY"
[providers.email]
kind = "smtp"
host = "127.0.0.1"
port = 2525
tls = "none"
sender = "fleet@example.com"
[endpoints.mail]
kind = "email"
provider = "email"
[quotas."openai/large"]
requests = {{ rate = "600/m", burst = 60 }}
tokens = "90k/m"
[quotas."openai/small"]
requests = "60/m"
[quotas."bank/transfers"]
requests = "2/s"
[pools.agents]
task_queue = "agents-{mark}"
[pools.llm]
task_queue = "llm-{mark}"
slots = 8
[pools.search]
task_queue = "search-{mark}"
[pools.payments]
task_queue = "payments-{mark}"
provider = "bank"
[pools.approvals]
task_queue = "approvals-{mark}"
[agents.researcher-{mark}]
model = "openai/large"
tools = ["search"]
instructions = "Find out."
[agents.payer-{mark}]
model = "openai/small"
tools = ["transfer"]
instructions = "Pay."
[[agents.payer-{mark}.approvals]]
tool = "transfer"
approvers = ["ana@example.com", "bo@example.com"]
"""


@dataclass
class Recording(Fakes):
    """Approvals are written into the database."""

    book: Book | None = None

    @activity.defn(name=APPROVAL_RECORD.name)
    async def record(self, event: ApprovalEvent) -> None:
        assert self.book is not None
        await self.book.record(event)
        self.asked.set()


@dataclass
class House:
    """The fleet, and what reads it."""

    mark: str
    path: Path
    settings: Settings
    manifest: Manifest
    database: Database
    client: FleetClient
    shared: Limiter
    fakes: Recording
    reading: Reading
    stack: AsyncExitStack = field(repr=False, default_factory=AsyncExitStack)

    @property
    def temporal(self) -> Client:
        return self.client.temporal

    def agent(self, name: str) -> str:
        return f"{name}-{self.mark}"

    async def serve(self, *pools: str) -> None:
        """Workers of these pools, until the test ends."""
        for pool in pools:
            worker = serving(self.temporal, self.fakes, self.manifest.task_queue(pool))
            await self.stack.enter_async_context(worker)

    async def start(self, agent: str, goal: str, **more: Any) -> str:
        return await self.client.start(self.agent(agent), goal, **more)

    def app(self, **more: Any) -> TopApp:
        return TopApp(self.reading, **{"by": ANA, "where": "default at test", "every": 60.0} | more)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory):
    file = tmp_path_factory.mktemp("database") / "template.db"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{file}"))
    return file


@asynccontextmanager
async def living(
    tmp_path: Path, migrated: Path, address: str, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    """A fleet of its own on the servers that the tests share."""
    mark = uuid4().hex[:8]
    path = tmp_path / "fleet.toml"
    path.write_text(MANIFEST.format(mark=mark))
    file = tmp_path / "fleet.db"
    shutil.copy(migrated, file)
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    monkeypatch.setenv("TOP_KEY", "hush-hush-key")
    settings = Settings(redis_url=valkey, database_url=f"sqlite+aiosqlite:///{file}", manifest=path)
    manifest = manifests.load(path)
    database, store = Database(settings.database()), RedisStore.from_url(valkey)
    await database.open()
    await store.execute("FLUSHALL")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.aclose)
        stack.push_async_callback(store.aclose)
        shared = await stack.enter_async_context(Limiter(store, quotas(manifest)))
        client = FleetClient(await connect(settings), manifest)
        reading = Reading(settings, manifest, path)
        stack.push_async_callback(reading.aclose)
        fakes = Recording(book=Book(database))
        house = House(
            mark=mark,
            path=path,
            settings=settings,
            manifest=manifest,
            database=database,
            client=client,
            shared=shared,
            fakes=fakes,
            reading=reading,
            stack=stack,
        )
        yield house
        for agent in manifest.agents:
            for run in await client.running(f"Agent = '{agent}'"):
                # one may have ended meanwhile
                with suppress(FleetError):
                    await client.terminate(run, "the test has ended")


@pytest.fixture
async def house(tmp_path, _migrated, temporal_address, valkey, monkeypatch):
    """A fleet whose quotas are in force, and that nobody serves yet."""
    async with living(tmp_path, _migrated, temporal_address, valkey, monkeypatch) as found:
        yield found


async def until(question: Callable[[], Any], what: str = "it") -> Any:
    """What a question answers once it is true."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = question()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)


async def in_line(house: House, scope: str = "openai/small", count: int = 3) -> None:
    """A line at a quota, minutes long."""
    for number in range(count):
        cost = {"requests": 50.0}
        await house.shared.reserve(scope, cost, max_wait=timedelta(0), key=f"run-{number}/1", hold=True)


async def paying(house: House, goal: str = "pay the invoice") -> str:
    """A run that waits for a human; its approval's id."""
    house.fakes.answer = lambda number, request: calls("transfer", **PAY)
    await house.serve("agents", "llm", "approvals", "payments")
    run_id = await house.start("payer", goal)
    book = Book(house.database)
    (asked,) = await until(lambda: book.approvals(run_id=run_id))
    await until(lambda: _listed(house, run_id, "approval"))
    return asked.id


async def _listed(house: House, run_id: str, status: str) -> bool:
    """Visibility is told a little later."""
    return (await house.client.info(run_id)).status == status and run_id in await house.client.running(
        f"RunStatus = '{status}'"
    )


__all__ = ["ANA", "House", "in_line", "living", "paying", "says", "until"]
