"""Misbehaviour that is put into a trial on purpose: each must be caught, or the verdict is worth nothing.

`fleet load run steady --plant lost` must end with exit code 1, and so must the others.
"""

import asyncio
import smtplib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from email.message import EmailMessage
from typing import Protocol

import httpx2

from fleet.client import FleetClient
from fleet.errors import FleetError
from fleet.rollout import Rollout
from fleet.tables import AGENTS_POOL, LLM_POOL
from load import restarting
from load.crowd import CALLER
from load.local import LocalFleet
from load.offering import Runs
from load.providers import SIM_KEY, Ledgers
from load.trial import Arrival
from ratelimit.limiter import Limiter

LOOK_S = 0.1
FLOOD_AT_ONCE = 32
FLOOD_CALLS = 400
IDLE_SHARE = 0.5
STARVED_SHARE = 0.2
STARVED_FOR_S = 15.0
ABSENT_S = 7.0
"""How long a pool has no process at all: they end, and others take so long to start."""


Took = Callable[[], None]
"""Called once the misbehaviour has taken effect: a plant that never did proves nothing."""


class Crew(Protocol):
    """What a plant works with."""

    @property
    def fleet(self) -> LocalFleet:
        """The servers."""

    @property
    def client(self) -> FleetClient:
        """Runs."""

    @property
    def ledgers(self) -> Ledgers:
        """The providers."""

    @property
    def shared(self) -> Limiter:
        """The limiter."""


async def lost(crew: Crew, runs: Runs, took: Took) -> None:
    """Terminates a run, as an operator's mistake would: `nothing_lost`."""
    tried: set[str] = set()
    while True:
        arrival = await _arrived(runs, lambda a: a.run_id in runs.ids and a.run_id not in {*runs.closed, *tried})
        tried.add(arrival.run_id)
        # it may have ended meanwhile: the next one
        with suppress(FleetError):
            await crew.client.terminate(runs.ids[arrival.run_id], "planted")
            took()
            return


async def twice(crew: Crew, runs: Runs, took: Took) -> None:
    """Mails an address a second time, as a worker without a ledger would: `nothing_twice`."""
    arrival = await _arrived(runs, lambda a: a.mails_to is not None)
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "planted@example.com", arrival.mails_to, "Planted"
    message.set_content("This is planted.")

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", crew.fleet.simulators["smtp_port"], timeout=10) as relay:
            relay.send_message(message)

    await asyncio.to_thread(send)
    took()


async def overrun(crew: Crew, runs: Runs, took: Took) -> None:
    """Calls the model past the limiter, as a worker with a private key ring would: `overrun`, `refusals_429`."""
    await _arrived(runs, lambda a: True)
    scope = _model(crew)
    async with httpx2.AsyncClient(base_url=crew.fleet.simulators["http"], timeout=60) as http:

        async def flood(number: int) -> None:
            for _ in range(FLOOD_CALLS // FLOOD_AT_ONCE):
                answer = await http.post(
                    "/v1/chat/completions",
                    json={"model": scope.partition("/")[2], "messages": [{"role": "user", "content": "planted"}]},
                    headers={"authorization": f"Bearer {SIM_KEY}", "x-client-request-id": f"planted-{number}/0/1"},
                )
                if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS:
                    took()

        await asyncio.gather(*(flood(number) for number in range(FLOOD_AT_ONCE)))


async def idle(crew: Crew, runs: Runs, took: Took) -> None:
    """Halves the limiter's quota, as a stale configuration would: `utilisation`, `waits`."""
    await _arrived(runs, lambda a: True)
    quota = await crew.shared.quota(_model(crew))
    assert quota is not None
    await crew.shared.configure(replace(quota, headroom=quota.headroom * IDLE_SHARE), by="plant", reason="idle")
    took()


async def starve(crew: Crew, runs: Runs, took: Took) -> None:
    """Pauses every fifth run for a while, as an unfair line would: `fairness_agents`."""
    await _arrived(runs, lambda a: True)
    held: set[str] = set()

    async def hold(run_id: str) -> None:
        # it may have ended meanwhile
        with suppress(FleetError):
            await crew.client.pause(run_id, "planted")
            took()
            await asyncio.sleep(STARVED_FOR_S)
            await crew.client.resume(run_id)

    async with asyncio.TaskGroup() as holding:
        while True:
            for number, arrival in enumerate(list(runs.arrived)):
                run_id = arrival.run_id
                chosen = number % round(1 / STARVED_SHARE) == 0 and run_id in runs.ids
                if chosen and run_id not in held and run_id not in runs.closed:
                    held.add(run_id)
                    holding.create_task(hold(run_id))
            await asyncio.sleep(LOOK_S)


async def move(crew: Crew, runs: Runs, took: Took) -> None:
    """Moves a run to the version that was just deployed, in the middle of its work: `version_kept`."""
    rollout = Rollout(crew.client.temporal, crew.fleet.manifest)
    # not the fleet's newest, which the deployment may have started already
    (began,) = await rollout.deployments([AGENTS_POOL])
    old = f"TemporalWorkerDeploymentVersion = '{began.name}:{began.current}' AND WaitingFor = 'approval'"
    while True:
        (agents,) = await rollout.deployments([AGENTS_POOL])
        if agents.current != began.current:
            for run_id in await crew.client.running(old):
                # it may have ended meanwhile: the next one
                with suppress(FleetError):
                    await rollout.move(run_id, agents.current)
                    took()
                    return
        await asyncio.sleep(LOOK_S)


async def together(crew: Crew, runs: Runs, took: Took) -> None:
    """Stops all processes of the model's pool together, and starts others slowly, as `Recreate` would: `dip`."""
    # when work is queued: half of the runs are there
    await _arrived(runs, lambda a: len(runs.arrived) * 2 >= len(runs.planned))
    await restarting.together(crew.fleet, LLM_POOL, apart_s=ABSENT_S)
    took()


PLANTS: dict[str, Callable[[Crew, Runs, Took], Awaitable[None]]] = {
    "lost": lost,
    "twice": twice,
    "overrun": overrun,
    "idle": idle,
    "starve": starve,
    "move": move,
    "together": together,
}


def _model(crew: Crew) -> str:
    """The scope that the harness's own agents press on."""
    return crew.fleet.manifest.agents[CALLER].model


async def _arrived(runs: Runs, wanted: Callable[[Arrival], bool]) -> Arrival:
    while True:
        for arrival in runs.arrived:
            if wanted(arrival):
                return arrival
        await asyncio.sleep(LOOK_S)
