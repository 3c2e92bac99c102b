"""`fleet bench footprint`: what one run leaves behind, what one row takes, and what one process holds open.

Runs search, answer and e-mail on a fleet of their own, one effect each. Then rows are written into the ledger by the
classes that write them in production: of few rows the database's pages would say more than the rows do.
"""

import asyncio
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from secrets import token_hex
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
from temporalio.api.enums.v1 import EventType

from fleet import settings as environment
from fleet.client import FleetClient, connect
from fleet.contracts.effects import EffectState
from fleet.contracts.memories import Finding, Keep
from fleet.errors import BadInput, FleetError
from fleet.settings import Settings
from load.bench.agents import laid_out
from load.bench.report import Report
from load.local import LocalFleet
from workers.database.engine import Database, DatabaseLost
from workers.database.schema import upgrade
from workers.database.sizes import names, sizes
from workers.effects.book import Book
from workers.effects.ledger import Ledger
from workers.effects.spend import Spend
from workers.embedded import valkey_says
from workers.memory.store import MemoryStore

AGENTS, ROWS = 40, 2000
WARM_UP = 4
POSTGRES_PORT = 5432
AT_ONCE = 8
"""Writers of rows."""
AGENT = "clerk"
GOAL = "What does the heron eat? E-mail the brief to reader@example.com."
MANIFEST = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"

[providers.search]
kind = "corpus"

[providers.email]
kind = "smtp"
host = "127.0.0.1"
port = 2525
tls = "none"
sender = "fleet@example.com"

[quotas."openai/bench"]
requests = "600k/m"
tokens = "6000k/m"

[quotas."email/relay"]
messages = "60k/m"

[pools.agents]
slots = 200

[pools.llm]
slots = 64

[pools.search]
slots = 16

[pools.email]
slots = 16

[pools.approvals]

[agents.clerk]
model = "openai/bench"
tools = ["search", "send_email"]
max_output_tokens = 400
instructions = "You answer one question from the document collection, citing each source, and e-mail the answer."
"""
EFFECT = {
    "to": ["reader@example.com"],
    "subject": "What the heron eats",
    "body": "The heron eats fish and frogs. " * 20,
}
EVIDENCE = {"message_id": "<0190a1b2c3d4e5f60718@fleet.example.com>", "answer": "250 2.0.0 Ok: queued"}
DATA = "effects", "audit", "memories", "spend_calls"


async def run(
    *, agents: int, rows: int, database: str | None = None, say: Callable[[str], None] = lambda line: None
) -> Report:
    """Measure.

    Args:
        agents: that run, eight at a time.
        rows: of each table.
        database: SQLAlchemy URL of an empty database. None: SQLite files that are thrown away.
        say: is told what is being done.

    Raises:
        BadInput: the database is not empty, or is no database.
        FleetError: a part of the fleet did not start, or a run did not end well.
    """
    report, settings = Report(), environment.load()
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as name:
        folder = Path(name)
        url = database or f"sqlite+aiosqlite:///{folder / 'rows.db'}"
        await _empty(url)
        await _runs(report, settings, folder, agents, database, say)
        await _rows(report, url, rows, say)
    return report


async def _empty(url: str) -> None:
    try:
        database = Database(url)
        try:
            found = await names(database)
        finally:
            await database.aclose()
    except DatabaseLost as lost:
        raise BadInput(f"--database: {lost}") from None
    if found:
        raise BadInput(f"--database: has tables already ({', '.join(found[:3])}, …): name an empty database")


async def _runs(
    report: Report, settings: Settings, folder: Path, agents: int, database: str | None, say: Callable[[str], None]
) -> None:
    plan = laid_out(folder)
    plan.manifest.write_text(MANIFEST, encoding="utf-8")
    # memory and the like share a process with `email`, as in any small fleet
    plan = replace(plan, pools={"agents": 1, "llm": 1, "search": 1, "email+approvals": 1}, exporter_every_s=60.0)
    if database is not None:
        await upgrade(database)
        plan = replace(plan, variables={"FLEET_DATABASE_URL": database})
    say("a fleet starts")
    async with LocalFleet(plan, settings) as fleet:
        await fleet.workers_ready()
        client = FleetClient(await connect(fleet.settings(), address=fleet.endpoints.temporal), fleet.manifest)
        await _turn(client, WARM_UP)
        say(f"{agents} runs")
        before, worked = await _looked(fleet, folder), _worked(fleet)
        began = perf_counter()
        ids = await _turn(client, agents)
        took = perf_counter() - began
        # what is under way at the end of a run is written too
        await asyncio.sleep(1)
        after = await _looked(fleet, folder)
        shape = await _shape(client, ids[-1])
        left = {name: (after[name] - before[name]) / agents for name in after}
        report.row("one run", AGENT, runs_per_s=agents / took, **shape, **left)
        report.row(
            "one call of a model",
            AGENT,
            scripts=left["scripts"] / shape["model_calls"],
            redis_bytes=left["redis_bytes"] / shape["model_calls"],
        )
        ms = {name: (seconds - worked[name]) / agents * 1e3 for name, seconds in _worked(fleet).items()}
        for name, figures in sorted((await _processes(fleet, database)).items()):
            report.row("one process", name, cpu_ms_per_run=ms[name], **figures)


async def _turn(client: FleetClient, runs: int) -> list[str]:
    prefix = token_hex(4)
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> str:
        async with free:
            run_id = await client.start(AGENT, GOAL, run_id=f"{prefix}-{number:04}")
            result = await client.result(run_id)
        if result.outcome != "completed":
            raise FleetError(f"run {run_id} of the benchmark ended as {result.outcome}: {result.reason or 'no reason'}")
        return run_id

    return await asyncio.gather(*map(one, range(runs)))


async def _shape(client: FleetClient, run_id: str) -> dict[str, float]:
    """What one run does, its effects included, and what its histories weigh."""
    found: Counter[str] = Counter()
    wanted = f'WorkflowId = "{run_id}" OR WorkflowId STARTS_WITH "{run_id}/"'
    async for execution in client.temporal.list_workflows(wanted):
        handle = client.temporal.get_workflow_handle(execution.id, run_id=execution.run_id)
        described = (await handle.describe()).raw_description.workflow_execution_info
        history = await handle.fetch_history()
        kinds = Counter(event.event_type for event in history.events)
        found["workflows"] += 1
        found["events"] += described.history_length
        found["history_bytes"] += described.history_size_bytes
        found["activities"] += kinds[EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED]
        found["workflow_tasks"] += kinds[EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
        found["timers"] += kinds[EventType.EVENT_TYPE_TIMER_STARTED]
        found["upserts"] += kinds[EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES]
        found["model_calls"] += sum(
            event.activity_task_scheduled_event_attributes.activity_type.name == "llm.chat" for event in history.events
        )
    return {name: float(count) for name, count in found.items()}


async def _looked(fleet: LocalFleet, folder: Path) -> dict[str, float]:
    """Counts that only grow while runs end."""
    port = int(re.findall(r":(\d+)", fleet.endpoints.redis)[-1])
    told = await valkey_says(port, "INFO", "everything")
    if told is None:
        raise FleetError("the embedded Valkey does not answer")
    temporal = await asyncio.to_thread(lambda: sum(file.stat().st_size for file in folder.rglob("temporal.db*")))
    return {
        "scripts": float(told.get("cmdstat_evalsha", {}).get("calls", 0)),
        "redis_bytes": float(told["used_memory"]),
        "temporal_db_bytes": float(temporal),
    }


def _worked(fleet: LocalFleet) -> dict[str, float]:
    """Processor seconds of each process so far."""
    return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in fleet.supervisor.pids().items()}


async def _processes(fleet: LocalFleet, database: str | None) -> dict[str, dict[str, float]]:
    """Memory, connections by server and time series of every process of the fleet's own."""
    ports = {"redis": fleet.endpoints.redis, "temporal": fleet.endpoints.temporal}
    by_port = {int(re.findall(r":(\d+)", where)[-1]): name for name, where in ports.items()}
    if database is not None:
        by_port[urlsplit(database).port or POSTGRES_PORT] = "database"
    scraped = {
        target["labels"]["process"]: target["targets"][0]
        for target in json.loads(fleet.scraped.targets.read_text(encoding="utf-8"))
    }
    found = {}
    async with httpx2.AsyncClient(timeout=10) as http:
        for name, pid in fleet.supervisor.pids().items():
            if name not in scraped:
                continue
            process = psutil.Process(pid)
            held = Counter(
                by_port.get(one.raddr.port, "")
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_ESTABLISHED
            )
            series = 0
            with suppress(httpx2.HTTPError):
                told = (await http.get(f"http://{scraped[name]}/metrics")).text
                series = sum(bool(line) and not line.startswith("#") for line in told.splitlines())
            found[name] = {
                "mb": process.memory_info().rss / 1e6,
                **{f"{where}_connections": float(held[where]) for where in ("temporal", "redis", "database")},
                "series": float(series),
            }
    return found


async def _rows(report: Report, url: str, rows: int, say: Callable[[str], None]) -> None:
    say(f"{rows} rows of each table")
    await upgrade(url)
    database = Database(url)
    try:
        await database.open()
        before = await sizes(database)
        rates = {}
        for table, write in _writers(database).items():
            rates[table] = await _written(write, rows)
        after = await sizes(database)
        for table in DATA:
            report.row(
                "one row",
                table,
                bytes=(after.get(table, 0) - before.get(table, 0)) / rows,
                written_per_s=rates[table],
            )
        spend = Spend(database)
        one, many = [await _written(_spender(spend, tenants, f"{tenants}"), rows) for tenants in (1, AT_ONCE)]
        report.row("a tenant's daily budget", f"{AT_ONCE} callers of 1 tenant", calls_per_s=one)
        report.row("a tenant's daily budget", f"{AT_ONCE} callers of {AT_ONCE} tenants", calls_per_s=many)
    finally:
        await database.aclose()


Write = Callable[[int], Any]


def _writers(database: Database) -> Mapping[str, Write]:
    """Each writes the row of a number, as a worker does."""
    ledger, book, memory, spend = Ledger(database), Book(database), MemoryStore(database), Spend(database)

    async def effect(number: int) -> None:
        key = f"researcher-5f0c1d2e{number:06}/4"
        digest = "sha256:" + "0" * 64
        call = {"digest": digest, "run_id": key.rpartition("/")[0], "agent": "researcher", "tenant": "acme"}
        await ledger.intend(key, tool="send_email", arguments=EFFECT, **call)
        claim = await ledger.claim(key)
        await ledger.begin(key, claim.fence)
        await ledger.record(key, claim.fence, EffectState.DONE, result='{"sent": true}', evidence=EVIDENCE)

    async def act(number: int) -> None:
        subject = f"researcher-5f0c1d2e{number:06}/4"
        detail = {"digest": "0" * 64, "arguments": EFFECT}
        await book.note(
            what="approved", subject=subject, run_id=subject.rpartition("/")[0], tenant="acme",
            actor="ana@example.com", channel="link", comment="checked with the invoice", detail=detail,
        )  # fmt: skip

    async def finding(number: int) -> None:
        found = Finding(
            text=f"Finding {number}: the heron eats fish and frogs, and waits for them.", subject="The heron"
        )
        keep = Keep(
            tenant=f"tenant-{number % 50}", agent="analyst", run_id=f"analyst-{number:06}", step="3", findings=[found],
            expires_s=2_592_000, max_bytes=1_000_000_000,
        )  # fmt: skip
        await memory.keep(keep, now=datetime.now(UTC))

    return {"effects": effect, "audit": act, "memories": finding, "spend_calls": _spender(spend, 50, "rows")}


def _spender(spend: Spend, tenants: int, name: str) -> Write:
    async def spent(number: int) -> None:
        await spend.add(
            tenant=f"{name}-{number % tenants}", day=date(2026, 1, 1), call=f"{name}-5f0c1d2e/0190a1b2-c3d4/{number}",
            steps=1, tokens=900, money=Decimal("0.0123"), seconds=1.5,
        )  # fmt: skip

    return spent


async def _written(write: Write, rows: int) -> float:
    """Rows a second, by `AT_ONCE` writers."""
    numbers = iter(range(rows))

    async def writer() -> None:
        for number in numbers:
            await write(number)

    began = perf_counter()
    await asyncio.gather(*(writer() for _ in range(AT_ONCE)))
    return rows / (perf_counter() - began)
