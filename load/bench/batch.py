"""`fleet bench batch`: what a batch costs beside bare activities, and that killed workers lose and repeat no item.

Two parts, on one embedded fleet of worker processes. First a batch and a bare workflow have as many activities that do
nothing, in turns, with the same window: the ratio of their rates is what the batch adds. Then a batch reads real
documents, parts of the running Python's own library, while every worker process is killed -9 again and again.
"""

import asyncio
import os
import signal
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from secrets import token_hex
from statistics import median
from time import perf_counter
from typing import Any

from temporalio.client import Client

from fleet import batches
from fleet import settings as environment
from fleet.batches import BatchClient
from fleet.client import connect
from fleet.contracts.batch import BatchInput, BatchStatus, Work, WorkKind
from fleet.contracts.runs import CallPolicy, ToolBinding
from fleet.contracts.tools import SEARCH_FETCH, TOOLS
from fleet.errors import FleetError
from load.bench import bare
from load.bench.report import Report
from load.local import LocalFleet, Plan
from workers.database.batches import Batches
from workers.database.engine import Database

LEAST = 0.85
"""Of a bare workflow's rate."""
WINDOW = 100
ROUNDS = 5
WARM_UP = 60
HEARTBEAT_S = 5.0
"""How long a killed worker's calls are waited for."""
CORPUS = "documents"
PART_CHARS = 3_000
LOOK_S = 0.2
LONGEST_S = 1800.0
MANIFEST = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"

[providers.search]
kind = "corpus"

[pools.agents]
slots = 100

[pools.search]
slots = 16

[pools.memory]

[pools.llm]

[agents.reader]
model = "openai/bench"
instructions = "Read."
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survived:
    """What a batch has come to whose workers were killed."""

    status: BatchStatus
    seconds: float
    results: int
    """Rows of results."""
    wrong: list[str]
    """Documents whose result is not their own."""
    begun: Counter[str]
    """How often each item's call was begun, over all executions of the batch."""
    killed_at: list[int]
    """Items that had ended at each kill."""

    @property
    def twice(self) -> int:
        """Items whose call was begun more than once."""
        return sum(count > 1 for count in self.begun.values())


def documents(count: int) -> Iterator[tuple[str, str]]:
    """Parts of the sources of the running Python's library: id and text, sorted, the same for the same Python."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts)
    return islice(_parts(root, files), count)


def _parts(root: Path, files: Iterator[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        name = str(path.relative_to(root).with_suffix("")).replace("/", ".")
        for part, begin in enumerate(range(0, len(text), PART_CHARS)):
            if text[begin : begin + PART_CHARS].strip():
                yield f"{name}.{part}", text[begin : begin + PART_CHARS]


async def run(
    *,
    compared: int = 600,
    read: int = 10_000,
    kills: int = 2,
    rounds: int = ROUNDS,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure both parts.

    Args:
        compared: items of each batch and activities of each bare workflow. 0: leave that part out.
        read: documents that are read under fire. 0: leave that part out.
        kills: how often every worker is killed, evenly over the first half of the documents.
        rounds: of the comparison.
        say: is told what is being done.

    Raises:
        FleetError: a part of the fleet did not start.
    """
    report = Report()
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        async with Stage.up(Path(folder), read, say) as stage:
            if compared:
                await stage.compare(report, compared, rounds)
            if read:
                survived = await stage.survive(read, kills)
                report.row("read under fire", "batch", **_figures(survived))
                report.check("documents lost", read - survived.status.counts.get("done", 0), most=0)
                report.check("documents begun twice", survived.twice, most=0)
                report.check("results of another document", len(survived.wrong), most=0)
    return report


def _figures(survived: Survived) -> dict[str, float]:
    return {
        "documents": survived.results,
        "seconds": survived.seconds,
        "per_s": survived.results / survived.seconds,
        "executions": survived.status.executions,
        **{f"kill_{i}_at": at for i, at in enumerate(survived.killed_at, start=1)},
    }


class Stage:
    """A fleet of worker processes, its database and the child with bare workflows."""

    def __init__(self, fleet: LocalFleet, client: Client, database: Database, say: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._client = client
        self._batches = BatchClient(client, fleet.manifest)
        self._store = Batches(database)
        self._say = say
        self._queue = f"bare-{token_hex(4)}"

    @classmethod
    def up(cls, folder: Path, read: int, say: Callable[[str], None]) -> "_Up":
        """Start it for the length of a block, with so many documents to be read."""
        return _Up(folder, read, say)

    async def compare(self, report: Report, count: int, rounds: int) -> None:
        """A batch and a bare workflow in turns; the median of the turns' ratios, each of two that ran side by side."""
        took: dict[str, list[float]] = {"bare": [], "batch": []}
        async with bare.serving(self._queue, self._fleet.environment()):
            await self._bare(WARM_UP)
            await self._echoes(WARM_UP)
            for turn in range(1, rounds + 1):
                for name, work in (("bare", self._bare), ("batch", self._echoes)):
                    seconds = await work(count)
                    took[name].append(seconds)
                    self._say(f"round {turn}: {name}: {count / seconds:.1f} activities/s")
        for name, turns in took.items():
            report.row("items that do nothing", name, per_s=count / median(turns), seconds=median(turns))
        ratio = median(alone / batch for alone, batch in zip(took["bare"], took["batch"], strict=True))
        report.check("rate of a batch over a bare workflow's", ratio, least=LEAST)

    async def survive(self, count: int, kills: int) -> Survived:
        """Read documents while every worker is killed, `kills` times."""
        ids = [name for name, _ in documents(count)]
        fetch = batches.tool_work(self._fleet.manifest, "fetch")
        found = replace(fetch, policy=CallPolicy(heartbeat_s=HEARTBEAT_S))
        inputs = [{"id": f"{CORPUS}/{name}.txt"} for name in ids]
        batch = await self._start(found, inputs)
        began, killed = perf_counter(), []
        ending = asyncio.create_task(self._batches.result(batch))
        for kill in range(1, kills + 1):
            killed.append(await self._until(batch, ending, count * kill // (2 * kills)))
            self._say(f"{killed[-1]} of {count} documents are read: every worker is killed")
            for pid in self._fleet.pids().values():
                os.kill(pid, signal.SIGKILL)
        status = await asyncio.wait_for(ending, LONGEST_S)
        seconds = perf_counter() - began
        rows = [row async for row in self._store.results(batch)]
        wrong = [row.input["id"] for row in rows if _id(row.result) != row.input["id"]]
        return Survived(
            status=status,
            seconds=seconds,
            results=len(rows),
            wrong=wrong,
            begun=await self.begun(batch),
            killed_at=killed,
        )

    async def begun(self, batch: str) -> Counter[str]:
        """How often each item's call was begun, as the histories of all executions say."""
        found: Counter[str] = Counter()
        async for execution in self._client.list_workflows(f"WorkflowId = '{batch}'"):
            handle = self._client.get_workflow_handle(batch, run_id=execution.run_id)
            async for event in handle.fetch_history_events():
                scheduled = event.activity_task_scheduled_event_attributes
                if scheduled.activity_type.name == SEARCH_FETCH.name:
                    found[scheduled.activity_id.partition("-")[0]] += 1
        return found

    async def _until(self, batch: str, ending: "asyncio.Task[Any]", wanted: int) -> int:
        async with asyncio.timeout(LONGEST_S):
            while not ending.done():
                _, counts = await self._store.count(batch)
                if sum(counts.values()) >= wanted:
                    return sum(counts.values())
                await asyncio.sleep(LOOK_S)
        raise FleetError(f"the batch has ended before {wanted} documents were read")

    async def _bare(self, count: int) -> float:
        began = perf_counter()
        done = await self._client.execute_workflow(
            bare.MANY, args=[count, WINDOW], id=f"{self._queue}-{token_hex(4)}", task_queue=self._queue
        )
        assert done == count
        return perf_counter() - began

    async def _echoes(self, count: int) -> float:
        tool = ToolBinding(spec=TOOLS["search"].spec, activity=bare.ECHO, task_queue=self._queue + bare.CALLS)
        inputs = [{"query": str(number)} for number in range(count)]
        batch = await self._stage(Work(kind=WorkKind.TOOL, tool=tool), inputs)
        began = perf_counter()
        await self._batches.start(batch)
        status = await self._batches.result(batch.batch)
        assert status.counts == {"done": count}
        return perf_counter() - began

    async def _start(self, work: Work, inputs: Sequence[dict[str, Any]]) -> str:
        batch = await self._stage(work, inputs)
        await self._batches.start(batch)
        return batch.batch

    async def _stage(self, work: Work, inputs: Sequence[dict[str, Any]]) -> BatchInput:
        name, token = f"bench-{token_hex(4)}", token_hex(8)
        made = batches.batch_input(self._fleet.manifest, name, work, token=token, window=WINDOW)
        await self._store.claim(name, token, tenant="default", work={})
        for first in range(0, len(inputs), 1000):
            await self._store.add(name, token, first, inputs[first : first + 1000])
        await self._store.seal(name, token, total=len(inputs), digest="", work=batches.stored(made))
        return made


class _Up:
    def __init__(self, folder: Path, read: int, say: Callable[[str], None]) -> None:
        self._folder, self._read, self._say = folder, read, say

    async def __aenter__(self) -> Stage:
        source, corpus = self._folder / "source.toml", self._folder / CORPUS
        source.write_text(MANIFEST, encoding="utf-8")
        corpus.mkdir()
        self._say(f"a fleet starts, with {self._read} documents")
        written = 0
        for name, text in documents(max(1, self._read)):
            (corpus / f"{name}.txt").write_text(text, encoding="utf-8")
            written += 1
        if written < self._read:
            raise FleetError(f"this Python's library has {written} parts of {PART_CHARS} characters, not {self._read}")
        plan = Plan(
            folder=self._folder / "fleet",
            manifest=source,
            pools={"agents": 1, "search": 1, "memory": 1},
            simulate=False,
            own_ledger=True,
            corpus=corpus,
        )
        self._fleet = LocalFleet(plan, environment.load())
        await self._fleet.__aenter__()
        try:
            await self._fleet.workers_ready()
            self._database = Database(self._fleet.settings().database())
            await self._database.open()
            client = await connect(self._fleet.settings(), address=self._fleet.endpoints.temporal)
        except BaseException:
            await self._fleet.__aexit__(None, None, None)
            raise
        return Stage(self._fleet, client, self._database, self._say)

    async def __aexit__(self, *_: object) -> None:
        await self._database.aclose()
        await self._fleet.__aexit__(None, None, None)


def _id(result: Any) -> Any:
    return result.get("id") if isinstance(result, dict) else None
