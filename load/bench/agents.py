"""`fleet bench agents`: how many agents this machine carries, what each costs, and what bends as they become more.

For each size a fleet of its own: the quota is closed while the agents start, so that all of them are alive at once and
wait; then it is opened wide, and all of them work. Nothing but the engine and the processor is in their way.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx2
import psutil
from temporalio.api.enums.v1 import EventType

from fleet import settings as environment
from fleet.client import FleetClient, connect
from fleet.errors import FleetError
from fleet.settings import Settings
from fleet.tables import AGENTS_POOL
from load.bench.burden import SERVERS, WORKER, Machine
from load.bench.engine import bare
from load.local import LocalFleet, Plan
from load.providers import Ledgers
from ratelimit.limiter import Limiter
from workers.bootstrap import limiter

SIZES = (100, 500, 2000)
STARTS_PER_S = 50.0
"""Agents that begin a second, whatever the fleet does."""
WARM_UP = 20
"""Agents that run before anything is measured: what is imported once is nobody's cost."""
HOLD_S = 3.0
"""How long nothing happens, to see what waiting costs."""
LONGEST_S = 110.0
"""How long agents may work. What is not done then is left, and the figures are of what was."""
LOOK_S = 0.5
"""Between two looks at what is done."""
STILL_CORES = 0.3
STILL_WITHIN_S = 20.0
"""The agents have all come to their wait when workers and Temporal together use no more, or so long after."""
AT_ONCE = 64
"""Starts under way: more are behind their time."""
EARLY, SETTLED_S = 12, 1.0
"""Agents that bring the polls of the model's pool home: more than it has. They have once no more come back so long."""

ALL_CPU, REPLAYS = "CPU ms: all", f"CPU ms: {WORKER} agents"
MATTERS, LINEAR = 0.05, 1.15
"""Share of all processor time that a part must have to bend anything; a cost that grows no more is close to linear."""

AGENT, MODEL = "reader", "openai/bench"
QUESTION = "What does the heron eat?"
MANIFEST = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"

[providers.search]
kind = "corpus"

[quotas."openai/bench"]
requests = "600k/m"

[pools.agents]
slots = 200

[pools.llm]
slots = 64

[pools.search]
slots = 16

[agents.reader]
model = "openai/bench"
tools = ["search"]
max_output_tokens = 400
instructions = "You answer one question from the document collection, citing each source."
"""
DOCUMENTS = {
    "heron": "The heron stands in shallow water and waits. It eats fish and frogs. A heron nests in tall trees.",
    "otter": "The otter swims in rivers. It eats fish and crayfish. An otter sleeps in a holt.",
    "badger": "The badger digs at night. It eats worms and roots. A badger lives in a sett.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one size has shown."""

    agents: int
    """Alive at once, if `alive` says so too."""
    alive: int
    """As Temporal has counted them while all waited."""
    cached: int
    """Workflows that the agents' pool keeps in memory (`cached` in the manifest)."""
    done: float
    """Agents' worth of work that was done; less than `agents` if the time was up."""
    started_per_s: float
    agents_per_s: float
    """From begin to end, all being at work; in the middle of it, as are the next two."""
    activities_per_s: float
    tasks_per_s: float
    """Activities and workflow tasks."""
    of_bare: float
    """Activities a second by those of bare workflows on the same server, just before."""
    waiting_cores: float
    """What all of them add to the idle fleet's use of the processor while they wait."""
    cpu_s: Mapping[str, float]
    """Processor seconds of one agent from its start to its end, by part, without what the idle fleet uses."""
    mb: Mapping[str, float]
    """Resident memory that one waiting agent adds, by part."""
    working_mb: float
    """The same of all workers, at most while all are at work."""

    @property
    def per_core_s(self) -> float:
        """Agents that a second of one processor carries from start to end, servers and simulators included."""
        return 1 / sum(self.cpu_s.values())

    @property
    def mb_per_1000(self) -> float:
        """Resident memory that a thousand waiting agents add to the workers."""
        return max(0.0, sum(mb for part, mb in self.mb.items() if part.startswith(WORKER))) * 1e3

    def costs(self) -> dict[str, float]:
        """What one agent costs, by measure."""
        return {
            **{f"CPU ms: {part}": seconds * 1e3 for part, seconds in self.cpu_s.items()},
            ALL_CPU: sum(self.cpu_s.values()) * 1e3,
            "KB: workers, waiting": self.mb_per_1000,
            "KB: workers, at work": max(0.0, self.working_mb) * 1e3,
            "KB: servers, waiting": max(0.0, sum(mb for part, mb in self.mb.items() if part in SERVERS)) * 1e3,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What all sizes have shown."""

    rows: Sequence[Figures]
    """From the smallest."""

    def growth(self) -> dict[str, dict[int, float]]:
        """By measure and size: the cost of one agent over that of the smallest size. 1 everywhere is linear.

        Measures that the smallest size does not show are missing.
        """
        first = self.rows[0].costs()
        return {
            name: {row.agents: row.costs()[name] / cost for row in self.rows[1:]}
            for name, cost in first.items()
            if cost > 0
        }

    def bend(self) -> tuple[str, float]:
        """The measure whose cost of one agent grows most from the smallest to the largest size, and by how much.

        Parts that take next to nothing of the processor do not count.
        """
        largest = self.rows[-1]
        most = largest.costs()
        counted = {
            name: sizes[largest.agents]
            for name, sizes in self.growth().items()
            if sizes and (not name.startswith("CPU") or most[name] >= MATTERS * most[ALL_CPU])
        }
        return max(counted.items(), key=lambda one: one[1], default=("nothing", 1.0))

    def says(self) -> str:
        """The bend in one line."""
        if len(self.rows) < 2:
            return "one size says nothing of growth"
        name, times = self.bend()
        sizes = f"from {self.rows[0].agents} to {self.rows[-1].agents} agents"
        if times <= LINEAR:
            return f"close to linear: {sizes} no cost of one agent grows more than {times:.2f} times ({name})"
        before, after = (row.costs()[name] for row in (self.rows[0], self.rows[-1]))
        said = f"what bends: {name}: {before:.3g} to {after:.3g} an agent {sizes}, {times:.2f} times"
        cached = self.rows[-1].cached
        if name == REPLAYS and cached < self.rows[-1].agents:
            said += f"; the pool keeps {cached} workflows in memory (pools.agents.cached) and reads others' histories"
        return said

    def document(self) -> dict[str, Any]:
        """For programs."""
        bend, times = self.bend()
        return {
            "sizes": [
                {**asdict(row), "per_core_s": row.per_core_s, "mb_per_1000": row.mb_per_1000} for row in self.rows
            ],
            "costs": {name: {str(row.agents): row.costs()[name] for row in self.rows} for name in self.rows[0].costs()},
            "growth": {name: {str(size): ratio for size, ratio in of.items()} for name, of in self.growth().items()},
            "bends": {"measure": bend, "times": times, "says": self.says()},
        }

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, heads and lines of each table."""
        heads = [
            "AGENTS", "ALIVE", "DONE", "STARTS/S", "AGENTS/S", "TASKS/S", "OF BARE", "PER CORE S", "WAITING CORES",
            "MB PER 1000", "AT WORK",
        ]  # fmt: skip
        lines = [
            [
                str(row.agents), str(row.alive), f"{row.done:g}", f"{row.started_per_s:.1f}", f"{row.agents_per_s:.1f}",
                f"{row.tasks_per_s:.0f}", f"{row.of_bare:.2f}", f"{row.per_core_s:.1f}", f"{row.waiting_cores:.2f}",
                f"{row.mb_per_1000:.1f}", f"{row.working_mb * 1e3:.1f}",
            ]
            for row in self.rows
        ]  # fmt: skip
        growth = self.growth()
        costs = [
            [
                name,
                *(f"{row.costs()[name]:.3g}" for row in self.rows),
                *(f"x{growth[name][row.agents]:.2f}" if name in growth else "-" for row in self.rows[1:]),
            ]
            for name in self.rows[0].costs()
        ]
        of = [f"OF {row.agents}" for row in self.rows]
        return [
            (f"agents on {psutil.cpu_count()} cores", heads, lines),
            (
                "what one agent costs",
                ["COST", *of, *(f"{row.agents}/{self.rows[0].agents}" for row in self.rows[1:])],
                costs,
            ),
        ]


async def run(sizes: Sequence[int] = SIZES, say: Callable[[str], None] = lambda line: None) -> Found:
    """Measure each size on a fleet of its own.

    Args:
        sizes: agents that are alive at once; the costs of the first are what the others' are compared with.
        say: is told what is being done.

    Raises:
        FleetError: a part of a fleet did not start, or no agent got anywhere.
    """
    settings = environment.load()
    rows = []
    for size in sorted(set(sizes)):
        with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
            rows.append(await _measure(size, Path(folder), settings, say))
    return Found(rows=rows)


def laid_out(folder: Path) -> Plan:
    """A fleet of readers with a collection of documents, in a folder that is made."""
    source, documents = folder / "source.toml", folder / "documents"
    documents.mkdir(parents=True)
    source.write_text(MANIFEST, encoding="utf-8")
    for name, text in DOCUMENTS.items():
        (documents / f"{name}.md").write_text(f"# The {name}\n\n{text}\n", encoding="utf-8")
    return Plan(
        folder=folder / "fleet",
        manifest=source,
        pools={"agents": 1, "llm": 1, "search": 1},
        own_ledger=True,
        corpus=documents,
    )


async def _measure(size: int, folder: Path, settings: Settings, say: Callable[[str], None]) -> Figures:
    say(f"{size} agents: a fleet starts")
    async with LocalFleet(laid_out(folder), settings) as fleet, limiter(fleet.settings(), fleet.manifest) as shared:
        await fleet.workers_ready()
        client = FleetClient(await connect(fleet.settings(), address=fleet.endpoints.temporal), fleet.manifest)
        ledgers = Ledgers(fleet.simulators["http"])
        try:
            return await _Trial(size, fleet, client, shared, ledgers, say).run()
        finally:
            await ledgers.aclose()


class _Trial:
    """One size."""

    def __init__(
        self,
        size: int,
        fleet: LocalFleet,
        client: FleetClient,
        shared: Limiter,
        ledgers: Ledgers,
        say: Callable[[str], None],
    ) -> None:
        self._size = size
        self._client = client
        self._shared = shared
        self._ledgers = ledgers
        self._say = say
        self._cached = fleet.manifest.pools[AGENTS_POOL].cached
        self._machine = Machine.of(fleet)

    async def run(self) -> Figures:
        engine = await bare(self._client.temporal)
        warm = [f"warm-{number:04}" for number in range(min(WARM_UP, self._size))]
        await asyncio.gather(*map(self._start, warm))
        await asyncio.gather(*map(self._client.result, warm))
        calls, activities, tasks = await self._shape(warm[-1])
        fresh = self._machine.look()
        await asyncio.sleep(HOLD_S)
        before = self._machine.look()
        idle = before - fresh
        await self._close()
        called = await self._called()
        self._say(f"{self._size} agents: {STARTS_PER_S:g} a second begin")
        began = perf_counter()
        begun = await self._fill()
        alive = await self._alive() - EARLY
        filled = self._machine.look()
        self._say(f"{self._size} agents: {alive} are alive and wait")
        await asyncio.sleep(HOLD_S)
        held = self._machine.look()
        await self._shared.open(MODEL, by="bench", reason="all agents are to work")
        looks = [(called, held)]
        while looks[-1][0] < called + self._size * calls and looks[-1][1].at - held.at < LONGEST_S:
            await asyncio.sleep(LOOK_S)
            looks.append((await self._called(), self._machine.look()))
        done = (looks[-1][0] - called) / calls
        if done == 0:
            raise FleetError(f"none of {self._size} agents got anywhere in {LONGEST_S:g} s")
        self._say(f"{self._size} agents: {min(done, self._size):g} have done their work")
        per_s = _steady([(look.at, count) for count, look in looks]) / calls
        starting, working = filled - before, (looks[-1][1] - held).beyond(idle)
        return Figures(
            agents=self._size,
            alive=alive,
            cached=self._cached,
            done=round(min(done, self._size), 1),
            started_per_s=self._size / (begun - began),
            agents_per_s=per_s,
            activities_per_s=per_s * activities,
            tasks_per_s=per_s * (activities + tasks),
            of_bare=per_s * activities / engine.activities_per_s,
            waiting_cores=max(0.0, (held - filled).cores - idle.cores),
            cpu_s={
                part: used / (self._size + EARLY) + working[part] / done for part, used in starting.beyond(idle).items()
            },
            mb={part: mb / (self._size + EARLY) for part, mb in (held - before).mb.items()},
            working_mb=(max(look.workers_mb for _, look in looks) - before.workers_mb) / (self._size + EARLY),
        )

    async def _start(self, run_id: str) -> None:
        await self._client.start(AGENT, QUESTION, run_id=run_id)

    async def _close(self) -> None:
        """Close the quota, and let a few agents bring home the polls that are under way: each holds up one call."""
        await self._shared.close(MODEL, by="bench", reason="all agents are to be alive at once")
        early = [f"early-{number:02}" for number in range(EARLY)]
        await asyncio.gather(*map(self._start, early))
        back, began = 0, perf_counter()
        since = began
        while perf_counter() - since < SETTLED_S or (back == 0 and perf_counter() - began < STILL_WITHIN_S):
            await asyncio.sleep(0.1)
            told = await asyncio.gather(*(self._client.handle(run_id).describe() for run_id in early))
            now = sum(call.attempt > 1 for run in told for call in run.raw_description.pending_activities)
            back, since = (back, since) if now == back else (now, perf_counter())

    async def _fill(self) -> float:
        """Start them at their times, and wait until all have come to their first call; when the last was started."""
        began = perf_counter()
        free = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            await asyncio.sleep(max(0.0, began + number / STARTS_PER_S - perf_counter()))
            async with free:
                await self._start(f"agent-{number:05}")

        await asyncio.gather(*(one(number) for number in range(self._size)))
        begun, last = perf_counter(), self._machine.look()
        while perf_counter() < begun + STILL_WITHIN_S:
            await asyncio.sleep(LOOK_S)
            now = self._machine.look()
            if (now - last).cores < STILL_CORES:
                break
            last = now
        return begun

    async def _alive(self) -> int:
        found = await self._client.temporal.count_workflows("ExecutionStatus = 'Running'")
        return found.count

    async def _called(self) -> int:
        """Calls of the model that were answered."""
        for _ in range(3):
            # the simulators share the processor with everybody
            with suppress(httpx2.TimeoutException):
                summary = await self._ledgers.summary()
                told = summary["providers"].get("openai", {}).get("models", {}).get(MODEL.partition("/")[2], {})
                return int(told.get("outcomes", {}).get("ok", 0))
        raise FleetError("the simulators do not answer")

    async def _shape(self, run_id: str) -> tuple[int, int, int]:
        """What one agent does: calls of the model, activities, workflow tasks."""
        history = await self._client.handle(run_id).fetch_history()
        kinds = [event.event_type for event in history.events]
        chats = sum(
            event.activity_task_scheduled_event_attributes.activity_type.name == "llm.chat" for event in history.events
        )
        activities = kinds.count(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
        return chats, activities, kinds.count(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)


def _steady(looks: Sequence[tuple[float, int]]) -> float:
    """How fast a count grows between a tenth and nine tenths of its way; of few looks, over all of them."""
    first, last = looks[0][1], looks[-1][1]
    inner = [look for look in looks if first + 0.1 * (last - first) <= look[1] <= first + 0.9 * (last - first)]
    (began, low), (ended, high) = (inner[0], inner[-1]) if len(inner) > 2 else (looks[0], looks[-1])
    return (high - low) / (ended - began)
