"""Collecting the evidence: the providers' ledgers, the mailbox, the bank, Temporal's word of each run."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError

from fleet.client import FleetClient
from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.names import AGENT_WORKFLOW, EFFECT_WORKFLOW
from fleet.errors import FleetError
from fleet.history import Step, Story, fetch, of_chain
from fleet.manifest import Manifest
from load.crowd import Cost
from load.offering import Runs, arrival_of
from load.providers import Ledgers
from load.replay import Reservation, Tokens, runs_of
from load.trial import Call, Ended

AT_ONCE = 16
MOST_STORIES = 2_000
"""Histories that are read for recorded reservations: each takes about ten milliseconds."""

USED_VERSIONS = SearchAttributeKey.for_keyword_list("TemporalUsedWorkerDeploymentVersions")
"""Temporal's own: every `deployment:build` that a workflow's decisions were made by."""

log = structlog.get_logger("fleet.load")


async def calls(ledgers: Ledgers, manifest: Manifest, since: int) -> dict[str, list[Call]]:
    """Every request after row `since`, by scope, in the order of arrival."""
    kinds = {manifest.providers[scope.partition("/")[0]].kind for scope in manifest.scopes()}
    rows = {kind: await ledgers.rows(_LEDGER.get(kind, kind), since) for kind in kinds if kind in _KNOWN}
    found = {}
    for scope in manifest.scopes():
        provider, _, model = scope.partition("/")
        kind = manifest.providers[provider].kind
        mine = [r for r in rows.get(kind, ()) if kind not in _MODELS or r["model"] == model]
        found[scope] = sorted((_call(row) for row in mine), key=lambda call: call.at)
    return found


_MODELS = ("openai", "anthropic")
_LEDGER = {"resend": "mail_api"}
_KNOWN = frozenset({*_MODELS, "smtp", "resend", "bank", "searxng"})


def _call(row: Mapping[str, Any]) -> Call:
    return Call(
        at=row["wall"],
        ended=row["ended"],
        outcome=row["outcome"],
        asked=row["asked"] or row["charged"],
        charged=row["charged"],
        run_id=arrival_of((row["client_request_id"] or "").partition("/")[0]),
        outsider=row["outsider"],
    )


async def mails(ledgers: Ledgers) -> Counter[str]:
    """E-mails delivered, by address."""
    return Counter(address for mail in await ledgers.mails() for address in mail["recipients"])


async def transfers(ledgers: Ledgers) -> Counter[str]:
    """Transfers booked, by payee."""
    return Counter(row["payee"] for row in await ledgers.transfers())


async def ends(client: FleetClient, runs: Runs) -> dict[str, Ended]:
    """How the runs ended that have ended."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(arrival: str) -> tuple[str, Ended]:
        async with gate:
            result = await client.result(runs.ids[arrival])
        return arrival, Ended(outcome=result.outcome.value, at=runs.closed[arrival], reason=result.reason)

    return dict(await asyncio.gather(*(one(arrival) for arrival in runs.closed)))


async def builds(client: FleetClient, runs: Runs) -> dict[str, frozenset[str]]:
    """The versions of the workers that each run's decisions were made by, by arrival.

    An effect begins on its own pool's current version, whatever its run is on; one that was made by several is told.
    """
    mine = {run_id: arrival for arrival, run_id in runs.ids.items()}
    found: defaultdict[str, set[str]] = defaultdict(set)
    since = f"{datetime.fromtimestamp(min(runs.started.values(), default=0.0) - 1, UTC):%Y-%m-%dT%H:%M:%SZ}"
    query = f"WorkflowType IN ('{AGENT_WORKFLOW}', '{EFFECT_WORKFLOW}') AND StartTime >= '{since}'"
    async for execution in client.temporal.list_workflows(query):
        # an effect is called RUN/STEP
        arrival = mine.get(execution.id) or mine.get(execution.id.rpartition("/")[0])
        if arrival is not None:
            used = {v.partition(":")[2] for v in execution.typed_search_attributes.get(USED_VERSIONS, [])}
            if execution.id in mine or len(used) > 1:
                found[arrival] |= used
    return {arrival: frozenset(versions) for arrival, versions in found.items()}


async def late(client: FleetClient, runs: Runs) -> None:
    """Note the ends that Temporal's visibility has not told yet."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(arrival: str, run_id: str) -> None:
        async with gate:
            info = await client.info(run_id)
        if info.closed_at is not None:
            runs.started.setdefault(arrival, info.started_at.timestamp())
            runs.closed.setdefault(arrival, info.closed_at.timestamp())

    known = dict(runs.ids)
    await asyncio.gather(*(one(arrival, run_id) for arrival, run_id in known.items() if arrival not in runs.closed))


async def story_of(client: FleetClient, run_id: str) -> Story:
    """One run's story, over all its executions."""
    chain = await fetch(client.temporal, run_id, children=False)
    return await of_chain(chain, client.temporal.data_converter)


async def stories(client: FleetClient, runs: Runs) -> list[Story]:
    """The stories of the first runs that ended; a history that cannot be read is left out."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(run_id: str) -> Story | None:
        async with gate:
            try:
                return await story_of(client, run_id)
            except (FleetError, RPCError) as error:
                log.debug("no history", run=run_id, why=str(error))
                return None

    wanted = [runs.ids[arrival] for arrival in list(runs.closed)[:MOST_STORIES]]
    found = await asyncio.gather(*(one(run_id) for run_id in wanted))
    return [told for told in found if told is not None]


def reservations(told: Sequence[Story]) -> list[Reservation]:
    """What was asked of the limiter, call by call, in the order of asking."""
    found = []
    for one in told:
        first = True
        for step in one.steps:
            use = step.result.quota if step.result else None
            if use is None or not use.cost:
                continue
            took = _took_s(step)
            found.append(
                Reservation(
                    at=step.scheduled_at.timestamp(),
                    scope=use.scope,
                    run_id=one.run_id,
                    tenant=one.run.tenant if one.run else "default",
                    priority=one.run.priority if one.run else 3,
                    first=first,
                    # what the provider has counted; the estimate before it is not kept
                    estimate=dict(use.cost),
                    actual=dict(use.cost),
                    # the wait before the first booking too: behind a gate it is Temporal who holds the line
                    waited_s=max(0.0, (step.duration_s or took) - took),
                    took_s=took,
                    seq=step.number,
                    agent=one.run.agent.name if one.run else "",
                    tokens=_tokens(step),
                )
            )
            first = False
    return sorted(found, key=lambda reservation: reservation.at)


def _took_s(step: Step) -> float:
    """Seconds of the call itself, waits left out."""
    if isinstance(step.result, ChatResult):
        return step.result.duration_s
    return max(0.0, (step.duration_s or 0.0) - step.quota_wait_s)


def _tokens(step: Step) -> Tokens | None:
    """What a call of a model was told and has used."""
    asked, said = step.request, step.result
    if not isinstance(asked, ChatRequest) or not isinstance(said, ChatResult):
        return None
    characters = sum(len(m.content) + sum(len(str(c.arguments)) for c in m.tool_calls) for m in asked.messages)
    characters += sum(len(t.name) + len(t.description) + len(str(t.parameters)) for t in asked.tools)
    used = said.usage
    return Tokens(
        characters=characters,
        max_output=asked.max_output_tokens,
        input=used.input_tokens,
        output=used.output_tokens,
        cached=used.cached_tokens,
    )


def cost(rows: Mapping[str, Sequence[Call]], told: Story) -> Cost:
    """What one run has cost."""
    units: dict[str, dict[str, float]] = {}
    largest: dict[str, dict[str, float]] = {}
    for scope, mine in rows.items():
        for call in mine:
            if call.outcome != "ok":
                continue
            for limit, count in call.charged.items():
                units.setdefault(scope, {})[limit] = units.get(scope, {}).get(limit, 0.0) + count
                largest.setdefault(scope, {})[limit] = max(count, largest.get(scope, {}).get(limit, 0.0))
    effects = sum(step.request is not None and not isinstance(step.result, ChatResult) for step in told.steps)
    took = (told.ended_at - told.started_at).total_seconds() if told.ended_at and told.started_at else 0.0
    return Cost(
        units=units,
        largest=largest,
        calls={scope: sum(call.outcome == "ok" for call in mine) for scope, mine in rows.items() if mine},
        # an effect is a child workflow with activities of its own
        activities=len(told.steps) + 2 * effects,
        took_s=took,
        profile=tuple(call for run in runs_of(reservations([told])) for call in run.calls) if units else (),
    )
