"""The course of a trial on a stage that stands: rehearse, plan, offer load, strike, gather, judge."""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

from fleet.client import FleetClient
from fleet.contracts.approvals import Decision
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from load import crowd, faults, gathering, offering, plants, sizing
from load.approving import Approvers
from load.crowd import Cost
from load.faults import Faults
from load.local import LocalFleet
from load.looking import Looker
from load.offering import Runs
from load.providers import Ledgers, granting
from load.replay import Reservation
from load.report import Report, summed
from load.scenario import Ground, Humans, Parameters, Scenario, Trial, planned
from load.trial import Arrival, Engine, Evidence, Mark, Rated
from load.view import View
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit
from workers.bootstrap import quotas
from workers.corpus.index import CorpusError
from workers.corpus.questions import questions

WIDE = Rated(rate=1e6, burst=1e6)
"""Quota of a rehearsal: nobody waits."""
REHEARSAL_TIMEOUT_S = 60.0
LEAD_S = 0.5
"""Between the last preparation and the begin of the load."""
SCHEDULES_PER_S = 40.0
"""So many Temporal Schedules are made a second."""
PATIENCE_S = 20.0
"""How long servers that were just struck are asked for evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What a trial works with."""

    fleet: LocalFleet
    client: FleetClient
    ledgers: Ledgers
    shared: Limiter
    view: View
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an earlier trial of the same scenario has measured: the modes of one comparison share it."""

    costs: Mapping[str, Cost]
    engine: Engine
    quotas: Mapping[str, Mapping[str, Rated]]


@dataclass(slots=True)
class _So:
    """What has happened so far: enough for a report at any moment."""

    name: str = field(default_factory=lambda: f"load-{secrets.token_hex(3)}")
    seq: int = 0
    """Rows of the ledger before the load."""
    costs: dict[str, Cost] = field(default_factory=dict)
    began: float = 0.0
    finished: float = 0.0
    runs: Runs = field(default_factory=lambda: Runs(()))


class Course:
    """One trial. `prepare`, then `run`."""

    def __init__(
        self,
        crew: Crew,
        scenario: Scenario,
        asked: Parameters,
        *,
        plants: Sequence[str] = (),
        mode: str = "global",
        given: Given | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """Args:
        crew: what to work with.
        scenario: what to do.
        asked: its parameters.
        plants: misbehaviour to put in (`load/plants.py`).
        mode: who limits, for the report.
        given: costs that need no rehearsal.
        command: that repeats it.
        """
        self._crew = crew
        self._scenario = scenario
        self._asked = asked
        self._plants = plants
        self._mode = mode
        self._given = given
        self._command = command
        self._so = _So()
        self._trial: Trial
        self._faults: Faults
        self.reservations: list[Reservation] = []
        """What was asked of the limiter, once the trial has run."""

    @property
    def _manifest(self) -> Manifest:
        return self._crew.fleet.manifest

    async def prepare(self) -> None:
        """Rehearse and plan.

        Raises:
            BadInput: the scenario cannot be done here.
            FleetError: an agent does not complete even alone.
        """
        crew, asked, so = self._crew, self._asked, self._so
        try:
            texts = await asyncio.to_thread(questions, crew.fleet.corpus, min(asked.agents, 500), asked.seed)
        except CorpusError as error:
            raise BadInput(str(error)) from None
        asks = [question.text for question in texts]
        ground = Ground(manifest=self._manifest, costs={}, engine=crew.engine, questions=asks, name=so.name)
        so.costs = dict(self._given.costs) if self._given else await self._rehearsed(asks[0])
        self._trial = planned(self._scenario, asked, replace(ground, costs=so.costs))
        crew.view.phase("setting quotas")
        await self._grant(self._trial.quotas)
        faults.check(self._trial.faults, crew.fleet, self._trial.load_s)
        self._faults = Faults(crew.fleet, self._trial.faults, seed=asked.seed, on_mark=crew.view.mark)
        so.runs = Runs(self._trial.arrivals)
        so.seq = (await crew.ledgers.summary())["rows"]

    async def run(self, stopping: asyncio.Event) -> Report:
        """Offer load until everybody has ended, the time is up or `stopping` is set; then judge."""
        crew, trial, so = self._crew, self._trial, self._so
        lead = LEAD_S + (len(trial.arrivals) / SCHEDULES_PER_S if trial.scheduled else 0.0)
        so.began = time() + lead
        crew.view.phase("load")
        if trial.providers:
            await crew.ledgers.control(dict(trial.providers))
        looker = Looker(
            self._manifest, crew.fleet, crew.ledgers, crew.shared, so.runs,
            began=so.began, load_s=trial.load_s, quotas=trial.quotas, view=crew.view,
        )  # fmt: skip
        approvers = Approvers(crew.client, trial.humans, self._asked.seed) if trial.humans else None
        aside: list[Coroutine[Any, Any, Any]] = [looker.follow(), crew.fleet.watch(), self._faults.strike(so.began)]
        aside += [_planted(name, crew, so.runs) for name in self._plants]
        if approvers:
            aside.append(approvers.work(so.began))
        since = datetime.fromtimestamp(so.began, UTC) - timedelta(seconds=1)
        aside.append(offering.follow(so.runs, crew.client, since, lambda run_id: None))
        stopped = await self._until_done(self._offer(), aside, stopping)
        so.finished = max([*so.runs.closed.values(), time() if not so.runs.done else 0.0])
        crew.view.phase("gathering evidence")
        evidence = await self._gather(looker, approvers, interrupted=stopped)
        return await self._report(evidence)

    @property
    def measured(self) -> Given:
        """For other trials of the same scenario, once this one is prepared."""
        return Given(costs=self._so.costs, engine=self._crew.engine, quotas=self._trial.quotas)

    # ---- preparation

    def _scopes(self) -> list[str]:
        return [scope for scope in self._manifest.scopes() if sizing.rates(self._manifest, scope)]

    async def _grant(self, granted: Mapping[str, Mapping[str, Rated]]) -> None:
        """The same quotas for the limiter and for the providers."""
        known = quotas(self._manifest)
        for scope, limits in granted.items():
            quota = known[scope]
            changed = {
                name: Limit(capacity=one.rate * 60, period=timedelta(minutes=1), burst=one.burst)
                for name, one in limits.items()
            }
            await self._crew.shared.configure(
                replace(quota, limits={**quota.limits, **changed}), by="load", reason=self._scenario.name
            )
        await self._crew.ledgers.control(granting(self._manifest, granted))

    async def _rehearsed(self, question: str) -> dict[str, Cost]:
        self._crew.view.phase("rehearsing: one run of each agent")
        await self._grant({scope: dict.fromkeys(sizing.rates(self._manifest, scope), WIDE) for scope in self._scopes()})
        cast = self._scenario.stage(self._asked).cast or crowd.parse_mix(self._asked.mix)
        return {agent: await self._rehearse(agent, question) for agent in cast}

    async def _rehearse(self, agent: str, question: str) -> Cost:
        crew = self._crew
        if agent not in self._manifest.agents:
            raise BadInput(f"mix: no agent {agent!r} here; there are: {', '.join(sorted(self._manifest.agents))}")
        one = crowd.arrival(self._manifest, agent, f"{self._so.name}-rehearsal-{agent}", question)
        since = (await crew.ledgers.summary())["rows"]
        await crew.client.start(agent, one.goal, run_id=one.run_id)
        working = asyncio.create_task(crew.client.result(one.run_id))
        humans = asyncio.create_task(Approvers(crew.client, Humans(), 0).work(0.0))
        try:
            result = await asyncio.wait_for(working, REHEARSAL_TIMEOUT_S)
        except TimeoutError:
            raise FleetError(
                f"agent {agent} did not end within {REHEARSAL_TIMEOUT_S:g} s with nobody else there"
            ) from None
        finally:
            humans.cancel()
            await asyncio.gather(humans, return_exceptions=True)
        if result.outcome.value != "completed":
            raise FleetError(f"agent {agent} does not complete even alone: {result.outcome.value}: {result.reason}")
        rows = await gathering.calls(crew.ledgers, self._manifest, since)
        told = await gathering.story_of(crew.client, one.run_id)
        return gathering.cost(rows, told)

    # ---- the load

    async def _offer(self) -> None:
        crew, trial, so = self._crew, self._trial, self._so
        if trial.scheduled is None:
            await offering.offer(so.runs, crew.client, so.began)
            return
        at = datetime.fromtimestamp(so.began + trial.scheduled.at_s, UTC)
        await offering.schedule(crew.client.temporal, self._manifest, trial.arrivals, trial.scheduled, at)
        await offering.fire(so.runs, so.began)

    async def _until_done(
        self, offer: Coroutine[Any, Any, None], aside: list[Coroutine[Any, Any, Any]], stopping: asyncio.Event
    ) -> bool:
        """Whether somebody has stopped it. Faults are undone before this returns."""
        offering_, stop = asyncio.create_task(offer), asyncio.create_task(stopping.wait())
        others = [asyncio.create_task(one) for one in aside]
        try:
            async with asyncio.timeout(self._deadline_s()):
                while not (self._so.runs.done and offering_.done()) and not stop.done():
                    watched = {task for task in (offering_, stop, *others) if not task.done()}
                    done, _ = await asyncio.wait(watched, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
        except TimeoutError:
            pass
        finally:
            for task in (offering_, stop, *others):
                task.cancel()
            await asyncio.gather(offering_, stop, *others, return_exceptions=True)
        return stopping.is_set()

    def _deadline_s(self) -> float:
        trial = self._trial
        return trial.load_s + self._implied_s() + trial.settle_s + (self._so.began - time())

    def _implied_s(self) -> float:
        """How long the quotas need for everything that is offered."""
        asked = sizing.demand(self._so.costs, (a.agent for a in self._trial.arrivals))
        return max(
            (
                units / self._trial.quotas[scope][limit].rate
                for scope, one in asked.items()
                for limit, units in one.items()
                if limit in self._trial.quotas.get(scope, {})
            ),
            default=0.0,
        )

    # ---- the verdict

    async def _gather(self, looker: Looker, approvers: Approvers | None, *, interrupted: bool) -> Evidence:
        crew, trial, so = self._crew, self._trial, self._so
        ended = await gathering.ends(crew.client, so.runs)
        rejected = {run for run, said in (approvers.decided if approvers else {}).items() if said is Decision.REJECT}
        offered = sum(so.costs[a.agent].activities for a in so.runs.arrived) / max(1.0, trial.load_s)
        return Evidence(
            began=so.began,
            load_s=trial.load_s,
            finished=so.finished,
            arrivals=[self._as_it_was(a, a.run_id in rejected) for a in so.runs.arrived],
            ended=ended,
            calls=await gathering.calls(crew.ledgers, self._manifest, so.seq),
            limits=trial.quotas,
            mails=_of(await gathering.mails(crew.ledgers), so.name),
            transfers=_of(await gathering.transfers(crew.ledgers), so.name.replace("-", "").upper()),
            weights={a.tenant: self._manifest.weight(a.tenant) for a in trial.arrivals},
            looks=looker.looks,
            marks=[self._scoped(mark) for mark in self._faults.marks],
            engine=replace(crew.engine, offered_per_s=offered),
            alone_s={agent: cost.took_s for agent, cost in so.costs.items()},
            interrupted=interrupted,
        )

    def _as_it_was(self, arrival: Arrival, rejected: bool) -> Arrival:
        if rejected:
            arrival = replace(arrival, pays=None)
        if self._trial.scheduled and (started := self._so.runs.started.get(arrival.run_id)):
            # jitter is not waiting
            arrival = replace(arrival, at_s=max(arrival.at_s, started - self._so.began))
        return arrival

    def _scoped(self, mark: Mark) -> Mark:
        """A provider's fault is of the scope that the harness's own agents press on."""
        return replace(mark, scope=self._manifest.agents[crowd.CALLER].model) if mark.kind == "provider" else mark

    async def _report(self, evidence: Evidence) -> Report:
        trial, crew = self._trial, self._crew
        told = await gathering.stories(crew.client, self._so.runs)
        booked = gathering.reservations(told)
        waits: dict[str, list[float]] = {}
        for one in booked:
            waits.setdefault(one.scope, []).append(one.waited_s)
        self.reservations = booked
        return summed(
            evidence,
            [oracle.judge(evidence) for oracle in trial.oracles],
            scenario=self._scenario.name,
            seed=self._asked.seed,
            parameters={
                **self._asked.model_dump(mode="json", by_alias=True),
                "mode": self._mode,
                "plants": self._plants,
            },
            command=self._command,
            meanings={oracle.name: oracle.says for oracle in trial.oracles},
            waits=waits,
            interrupted=evidence.interrupted,
        )


async def _planted(name: str, crew: Crew, runs: Runs) -> None:
    await plants.PLANTS[name](crew, runs)


def _of(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Those of the trial, rehearsals aside."""
    return {to: count for to, count in counts.items() if prefix in to and "rehearsal" not in to.lower()}
