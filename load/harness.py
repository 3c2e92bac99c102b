"""One trial from stage to verdict: servers and workers, then the course of the trial, then everything is gone."""

import asyncio
import shutil
import signal
import tempfile
import tomllib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from fleet import manifest as manifests
from fleet.client import FleetClient, connect
from fleet.errors import BadInput, FleetError
from fleet.settings import Settings
from load import crowd, merging, replay, sizing
from load.bench import engine
from load.course import Course, Crew, Given
from load.local import EXPORTER_EVERY_S, FIRST_BUILD, LocalFleet, Plan, parse_pools
from load.metrics import TrialMetrics
from load.modes import Mode, Setup, task_rates
from load.providers import Ledgers
from load.report import Report
from load.scenario import Parameters, Scenario, Stage, staged
from load.scraped import LOAD
from load.trial import Engine
from load.view import View
from workers import health
from workers.bootstrap import limiter

T = TypeVar("T")

GLOBAL = "global"
MODES = {
    GLOBAL: Mode.GLOBAL,
    "backoff": Mode.BACKOFF,
    "temporal": Mode.TEMPORAL,
    "process": Mode.PROCESS,
    "process-divided": Mode.PROCESS,
}
"""Who limits. `process`: every process for itself, each with the whole quota; `process-divided`: each with its part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command was asked."""

    scenario: Scenario
    asked: Parameters
    manifest: Path
    mode: str = GLOBAL
    """Who limits: one of `MODES`."""
    probe_s: float = 2.0
    """How long a bare workflow is measured. 0: not at all."""
    plants: tuple[str, ...] = ()
    """Misbehaviour that is put in on purpose (`load/plants.py`)."""
    keep: Path | None = None
    """Work in this folder and keep it. Default: a temporary one."""
    given: Given | None = None
    """What an earlier trial has measured."""
    out: Path | None = None
    """Folder of the report, the recorded calls, and the manifest with the quotas of the trial."""
    command: Sequence[str] = ()
    """That repeats it."""
    linger_s: float = 0.0
    """How long everything stays up after the verdict, for those who watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A trial that was run."""

    report: Report
    measured: Given


async def run(order: Order, settings: Settings, view: View) -> Done:
    """Run the trial.

    Raises:
        BadInput: the scenario, its parameters or the machine cannot do it.
        FleetError: a server or a worker did not start, or it was interrupted before the load began.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    folder = (order.keep or Path(tempfile.mkdtemp(prefix="fleet-load-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return await _staged(order, settings, view, folder, stopping)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if order.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


async def _staged(order: Order, settings: Settings, view: View, folder: Path, stopping: asyncio.Event) -> Done:
    stage = staged(order.scenario, order.asked)
    manifest = prepared(order.manifest, folder / "load.toml", stage, order.given if order.mode != GLOBAL else None)
    pools = parse_pools(order.asked.pools)
    plan = Plan(
        folder=folder,
        manifest=manifest,
        pools=pools,
        own_ledger=True,
        proxied=stage.proxied,
        sentinel=stage.sentinel,
        build=FIRST_BUILD if stage.versioned else "",
        setups=_setups(order, manifest, pools),
        exporter_every_s=EXPORTER_EVERY_S,
    )
    async with standing(plan, settings, view, stopping, probe_s=0.0 if order.given else order.probe_s) as crew:
        course = Course(
            replace(crew, engine=order.given.engine) if order.given else crew, order.scenario, order.asked,
            plants=order.plants, mode=order.mode, given=order.given, command=order.command,
        )  # fmt: skip
        await unless(stopping, course.prepare())
        report = await course.run(stopping)
        if order.out is not None:
            # before the stage is taken down: whatever becomes of that, this is told
            report.write(order.out)
            replay.write(order.out / replay.FILE, course.reservations)
            prepared(order.manifest, order.out / "fleet.toml", stage, course.measured)
        if order.linger_s:
            view.phase(f"the verdict is there: everything stays up for {order.linger_s:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), order.linger_s)
        return Done(report=report, measured=course.measured)


@asynccontextmanager
async def standing(
    plan: Plan, settings: Settings, view: View, stopping: asyncio.Event, *, probe_s: float = 0.0
) -> AsyncIterator[Crew]:
    """A fleet on which trials can be run, one after the other.

    Raises:
        BadInput: the plan cannot be carried out here.
        FleetError: something did not start, or `stopping` was set.
    """
    view.phase("starting Temporal, Redis, simulators and workers")
    async with LocalFleet(plan, settings) as fleet:
        await unless(stopping, fleet.workers_ready())
        temporal = await connect(fleet.settings(), address=fleet.endpoints.temporal)
        bare = Engine(activities_per_s=0.0)
        if probe_s:
            view.phase("measuring a bare workflow")
            bare = (await unless(stopping, engine.bare(temporal, seconds=probe_s))).engine()
        ledgers, told = Ledgers(fleet.simulators["http"]), TrialMetrics()
        try:
            async with (
                limiter(fleet.settings(), fleet.manifest) as shared,
                health.serve("127.0.0.1", 0, {}, told.registry) as port,
            ):
                fleet.scraped.add("load", LOAD, f"127.0.0.1:{port}")
                yield Crew(
                    fleet=fleet, client=FleetClient(temporal, fleet.manifest), ledgers=ledgers, shared=shared,
                    view=view, engine=bare, metrics=told,
                )  # fmt: skip
        finally:
            await ledgers.aclose()


def _setups(order: Order, manifest: Path, pools: Mapping[str, int]) -> dict[str, Setup]:
    """How the workers of each group limit, where it is not by Redis."""
    mode = MODES[order.mode]
    if mode is Mode.GLOBAL or order.given is None:
        return {}
    found = manifests.load(manifest)
    rates = task_rates(found, sizing.mean_call(order.given.costs.values(), found.agents[crowd.CALLER].model))
    setups = {}
    for all_of_it, processes in pools.items():
        # as the local fleet names it: pools that the manifest has
        group = "+".join(pool for pool in all_of_it.split("+") if pool in found.pools)
        mine = {pool: rates[pool] for pool in group.split("+") if pool in rates}
        setups[group] = Setup(
            mode=mode,
            share=1.0 / processes if order.mode == "process-divided" else 1.0,
            rates=mine if mode is Mode.TEMPORAL else {},
        )
    return setups


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do it, unless somebody presses Ctrl-C."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise FleetError("interrupted before the load began: there is nothing to report")
        return task.result()
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


def prepared(source: Path, target: Path, stage: Stage, given: Given | None = None) -> Path:
    """The manifest with the harness's own agents and what the stage changes; with the quotas of an earlier trial.

    Raises:
        BadInput: the changes do not fit the manifest.
    """
    found = manifests.load(source)
    raw = tomllib.loads(source.read_text(encoding="utf-8"))
    raw.setdefault("agents", {}).update(crowd.agents(found))
    for scope, limits in (given.quotas if given else {}).items():
        for name, one in limits.items():
            raw["quotas"][scope][name] = {"units": one.rate * 60, "per": "60s", "burst": one.burst}
    target.write_text(tomli_w.dumps(merging.merged(raw, stage.manifest)), encoding="utf-8")
    try:
        manifests.load(target)
    except BadInput as error:
        told = str(error).replace(f"{target}: ", "").replace("\n", "; ")
        raise BadInput(f"the scenario's changes do not fit {source}: {told}") from None
    return target
