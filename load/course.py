"""The course of a trial on a stage that stands: rehearse, plan, offer load, strike, gather, judge."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, TypeVar

import httpx2
from temporalio.service import RPCError

from fleet.client import FleetClient
from fleet.contracts.approvals import Decision
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from load import crowd, faults, gathering, offering, plants, sizing
from load.approving import Approvers
from load.crowd import Cost
from load.faults import Faults
from load.figures import quantile
from load.local import LocalFleet
from load.looking import Looker
from load.metrics import TrialMetrics
from load.offering import Runs
from load.oracles import Oracle
from load.planner import predict
from load.providers import Ledgers, granting
from load.replay import Reservation
from load.report import Report, summed
from load.scenario import Ground, Humans, Parameters, Scenario, Trial, planned, staged
from load.trial import Arrival, Engine, Evidence, Finding, Mark, Rated
from load.view import View
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from workers.bootstrap import quotas
from workers.corpus.index import CorpusError
from workers.corpus.questions import questions

T = TypeVar("T")

WIDE = Rated(rate=1e6, burst=1e6)
"""Quota of a rehearsal: nobody waits."""
REHEARSAL_TIMEOUT_S = 60.0
LEAD_S, SCHEDULED_LEAD_S = 0.5, 5.0
"""Between the last preparation and the begin of the load."""
LONGEST_S = 86_400.0
"""A load that its quotas would need longer for is a mistake."""
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
    metrics: TrialMetrics = field(default_factory=TrialMetrics)
    """What Prometheus is told of the trial."""


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
    mails: Counter[str] = field(default_factory=Counter)
    """By address, before the load."""
    transfers: Counter[str] = field(default_factory=Counter)
    """By payee, before the load."""
    costs: dict[str, Cost] = field(default_factory=dict)
    began: float = 0.0
    finished: float = 0.0
    runs: Runs = field(default_factory=lambda: Runs(()))
    planted: set[str] = field(default_factory=set)
    """Plants that have taken effect."""
    failed: str = ""
    """What has ended the load before its time."""


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
        self._forecast: dict[str, float] | None = None
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
        trial = planned(self._scenario, asked, replace(ground, costs=so.costs))
        # a rehearsal has opened them all
        own = {scope: sizing.rates(self._manifest, scope) for scope in self._scopes()}
        self._trial = replace(trial, quotas={**own, **trial.quotas})
        if (implied_s := self._implied_s()) > LONGEST_S:
            told = f"the quotas need {implied_s / 3600:,.0f} h for this load, {LONGEST_S / 3600:g} h is the most"
            raise BadInput(f"{told}: give fewer agents, less pressure or a larger scale")
        crew.view.phase("setting quotas")
        await self._grant(self._trial.quotas)
        faults.check(self._trial.faults, crew.fleet, self._trial.load_s)
        self._faults = Faults(crew.fleet, self._trial.faults, seed=asked.seed, on_mark=crew.view.mark)
        self._forecast = await asyncio.to_thread(self._predicted)
        so.runs = Runs(self._trial.arrivals)
        crew.metrics.begin(so.runs, self._faults.marks)
        so.seq = (await crew.ledgers.summary())["rows"]
        so.mails = await gathering.mails(crew.ledgers)
        so.transfers = await gathering.transfers(crew.ledgers)

    async def run(self, stopping: asyncio.Event) -> Report:
        """Offer load until everybody has ended, the time is up or `stopping` is set; then judge."""
        crew, trial, so = self._crew, self._trial, self._so
        lead = SCHEDULED_LEAD_S + len(trial.arrivals) / SCHEDULES_PER_S if trial.scheduled else LEAD_S
        so.began = time() + lead
        crew.view.phase("load")
        if trial.providers:
            await crew.ledgers.control(dict(trial.providers))
        looker = Looker(
            self._manifest, crew.fleet, crew.ledgers, crew.shared, so.runs,
            began=so.began, load_s=trial.load_s, quotas=trial.quotas, view=crew.view, metrics=crew.metrics,
        )  # fmt: skip
        approvers = Approvers(crew.client, trial.humans, self._asked.seed) if trial.humans else None
        aside: list[Coroutine[Any, Any, Any]] = [looker.follow(), crew.fleet.watch(), self._faults.strike(so.began)]
        aside += [self._plant(name) for name in self._plants]
        if approvers:
            aside.append(approvers.work(so.began))
        since = datetime.fromtimestamp(so.began, UTC) - timedelta(seconds=1)
        aside.append(offering.follow(so.runs, crew.client, since, lambda run_id: None))
        try:
            stopped = await self._until_done(self._offer(), aside, stopping)
        except Exception as error:  # noqa: BLE001 - what has run is told all the same
            stopped = False
            so.failed = _line(error)
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
            quota = self._granted(known[scope], limits)
            await self._crew.shared.configure(quota, by="load", reason=self._scenario.name)
        await self._crew.ledgers.control(granting(self._manifest, granted))

    def _granted(self, quota: Quota, limits: Mapping[str, Rated]) -> Quota:
        changed = {
            name: Limit(capacity=one.rate * 60, period=timedelta(minutes=1), burst=one.burst)
            for name, one in limits.items()
        }
        return replace(quota, limits={**quota.limits, **changed})

    async def _rehearsed(self, question: str) -> dict[str, Cost]:
        self._crew.view.phase("rehearsing: one run of each agent")
        await self._grant({scope: dict.fromkeys(sizing.rates(self._manifest, scope), WIDE) for scope in self._scopes()})
        cast = staged(self._scenario, self._asked).cast or crowd.parse_mix(self._asked.mix)
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

    def _predicted(self) -> dict[str, float] | None:
        """What the planner says of the load before it is offered. None where faults, humans or others make it void."""
        trial, costs = self._trial, self._so.costs
        if trial.faults or trial.humans or trial.scheduled or self._plants or self._mode != "global":
            return None
        if not all(costs[agent].profile for agent in {a.agent for a in trial.arrivals}):
            return None
        known = quotas(self._manifest)
        found = predict(
            trial.arrivals,
            {agent: cost.profile for agent, cost in costs.items()},
            {scope: self._granted(known[scope], limits) for scope, limits in trial.quotas.items()},
            weights={a.tenant: self._manifest.weight(a.tenant) for a in trial.arrivals},
        )
        took = sorted(found.ended_s[a.run_id] - a.at_s for a in trial.arrivals)
        return {
            "finished_s": round(found.finished_s, 1),
            "took_p50_s": round(quantile(took, 0.5), 1),
            "took_p99_s": round(quantile(took, 0.99), 1),
        }

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
                while not (self._so.runs.done and offering_.done() and not self._faults.deploying) and not stop.done():
                    watched = {task for task in (offering_, stop, *others) if not task.done()}
                    done, _ = await asyncio.wait(watched, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
        except TimeoutError:
            if offering_.done() and not offering_.cancelled():
                offering_.result()
        finally:
            for task in (offering_, stop, *others):
                task.cancel()
            await asyncio.gather(offering_, stop, *others, return_exceptions=True)
        return stopping.is_set()

    async def _plant(self, name: str) -> None:
        await plants.PLANTS[name](self._crew, self._so.runs, lambda: self._so.planted.add(name))

    def _deadline_s(self) -> float:
        trial = self._trial
        struck = max((fault.at_s + fault.for_s for fault in trial.faults), default=0.0)
        decided = (trial.humans.at_s or 0.0) + trial.humans.after_s if trial.humans else 0.0
        return max(trial.load_s, struck, decided) + self._implied_s() + trial.settle_s + (self._so.began - time())

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
        await _patiently(lambda: gathering.late(crew.client, so.runs))
        ended = await _patiently(lambda: gathering.ends(crew.client, so.runs))
        rejected = {run for run, said in (approvers.decided if approvers else {}).items() if said is Decision.REJECT}
        done = sum(so.costs[a.agent].activities for a in so.runs.arrived if a.run_id in so.runs.closed)
        offered = done / max(1.0, so.finished - so.began)
        return Evidence(
            began=so.began,
            load_s=trial.load_s,
            finished=so.finished,
            arrivals=[self._as_it_was(a, a.run_id in rejected) for a in so.runs.arrived],
            ended=ended,
            calls=await _patiently(lambda: gathering.calls(crew.ledgers, self._manifest, so.seq)),
            limits=trial.quotas,
            mails=(await _patiently(lambda: gathering.mails(crew.ledgers))) - so.mails,
            transfers=(await _patiently(lambda: gathering.transfers(crew.ledgers))) - so.transfers,
            weights={a.tenant: self._manifest.weight(a.tenant) for a in trial.arrivals},
            looks=looker.looks,
            marks=[self._scoped(mark) for mark in self._faults.marks],
            deploys=self._faults.deploys,
            builds=await _patiently(lambda: gathering.builds(crew.client, so.runs)) if self._faults.deploys else {},
            started=so.runs.started,
            engine=replace(crew.engine, offered_per_s=offered),
            alone_s={agent: cost.took_s for agent, cost in so.costs.items()},
            interrupted=interrupted,
        )

    def _as_it_was(self, arrival: Arrival, rejected: bool) -> Arrival:
        if rejected:
            arrival = replace(arrival, pays=None, mails_to=None)
        how, started = self._trial.scheduled, self._so.runs.started.get(arrival.run_id)
        if how is not None and how.jitter_s and started is not None:
            # jitter is not waiting; what Temporal is late beyond it is
            at_s = min(arrival.at_s + how.jitter_s, max(arrival.at_s, started - self._so.began))
            arrival = replace(arrival, at_s=at_s)
        return arrival

    def _scoped(self, mark: Mark) -> Mark:
        """A fault of what the simulators call a provider, by the name that the manifest has for it."""
        named = [name for name, one in self._manifest.providers.items() if one.kind == mark.scope]
        return replace(mark, scope=named[0]) if named else mark

    def _trouble(self) -> list[Finding]:
        """What ended the load before its time, and plants that did not take effect, as findings."""
        found = [
            Finding(name=f"plant_{name}", value=0, bound=1, ok=False, least=True, says="never took effect")
            for name in self._plants
            if name not in self._so.planted
        ]
        if self._so.failed:
            found.append(Finding(name="trial", value=1, bound=0, ok=False, says=self._so.failed))
        return found

    async def _report(self, evidence: Evidence) -> Report:
        trial, crew = self._trial, self._crew
        told = await gathering.stories(crew.client, self._so.runs)
        booked = gathering.reservations(told)
        waits: dict[str, list[float]] = {}
        for one in booked:
            waits.setdefault(one.scope, []).append(one.waited_s)
        self.reservations = booked
        findings = [*self._trouble(), *(_judged(oracle, evidence) for oracle in trial.oracles)]
        crew.metrics.judged(findings)
        return summed(
            evidence,
            findings,
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
            forecast=self._forecast,
            interrupted=evidence.interrupted,
        )


def _judged(oracle: Oracle, evidence: Evidence) -> Finding:
    try:
        return oracle.judge(evidence)
    except Exception as error:  # noqa: BLE001 - a user's own oracle
        return Finding(name=oracle.name, value=0, bound=oracle.bound, ok=False, says=f"cannot judge: {_line(error)}")


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again for a while: a server that was just struck may still be starting.

    Raises:
        FleetError: it does not answer at all.
    """
    until = time() + PATIENCE_S
    while True:
        try:
            return await ask()
        except (FleetError, RPCError, httpx2.HTTPError, RuntimeError, OSError) as error:
            if time() > until:
                raise FleetError(f"the evidence cannot be gathered: {_line(error)}") from None
            await asyncio.sleep(0.5)


def _line(error: BaseException) -> str:
    """What happened, in one line; of a group its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = (str(error).strip().splitlines() or [""])[0][:300]
    return said if isinstance(error, FleetError) and said else f"{type(error).__name__}: {said}"
