"""Offering load: arrivals come at their times, however the system does. Open loop."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import time

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from fleet import schedules, starting
from fleet.client import FleetClient
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from load.scenario import Schedules
from load.trial import Arrival

RETRY_S = 0.5
"""A start that Temporal did not take is tried again so often: arrivals do not go away."""
AT_ONCE = 32
"""Starts under way at the same time: more would only wait inside Temporal."""
POLL_S = 0.5
_OVERLAP = timedelta(seconds=3)
"""Temporal's visibility may learn of an end a little late."""
_INSTANT = re.compile(r"-\d{4}-\d\d-\d\dT[\d:.]+Z$")
"""What a Temporal Schedule appends to the id of what it starts."""

log = structlog.get_logger("fleet.load")


@dataclass(slots=True)
class Runs:
    """What is known of the runs of a trial."""

    planned: Sequence[Arrival]
    arrived: list[Arrival] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    """Temporal's id of each arrival's run, once it is known."""
    started: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds at which Temporal has started each, by the arrival's run id; of those that have ended."""
    closed: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds at which each ended, by the arrival's run id."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """How, by the arrival's run id."""

    @property
    def active(self) -> int:
        """Runs that have arrived and not ended."""
        return len(self.arrived) - len(self.closed)

    @property
    def done(self) -> bool:
        """Everybody has arrived and ended."""
        return len(self.arrived) == len(self.planned) and self.active <= 0


def arrival_of(run_id: str) -> str:
    """The arrival's run id, of the id of a run that a Temporal Schedule may have started."""
    return _INSTANT.sub("", run_id)


async def offer(runs: Runs, client: FleetClient, began: float) -> None:
    """Start every run at its time, counted from `began` (wall clock)."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(arrival: Arrival) -> None:
        async with gate:
            await _start(client, arrival)
        runs.ids[arrival.run_id] = arrival.run_id

    async with asyncio.TaskGroup() as starts:
        for arrival in runs.planned:
            await asyncio.sleep(max(0.0, began + arrival.at_s - time()))
            runs.arrived.append(arrival)
            starts.create_task(one(arrival))


async def _start(client: FleetClient, arrival: Arrival) -> None:
    while True:
        try:
            await client.start(
                arrival.agent, arrival.goal, run_id=arrival.run_id, tenant=arrival.tenant, priority=arrival.priority
            )
        except BadInput as error:
            # an answer was lost: the run is there
            if "exists already" not in str(error):
                raise
        except (FleetError, RPCError, RuntimeError) as error:
            log.debug("start failed", run=arrival.run_id, why=str(error))
            await asyncio.sleep(RETRY_S)
            continue
        return


async def schedule(
    temporal: Client, manifest: Manifest, arrivals: Sequence[Arrival], how: Schedules, fires_at: datetime
) -> None:
    """Make one Temporal Schedule for each arrival; all fire once, at that instant and within the jitter after it.

    Raises:
        BadInput: there is no time to make them before they fire.
    """

    async def one(arrival: Arrival) -> None:
        run = starting.run_input(
            manifest, arrival.agent, arrival.goal, tenant=arrival.tenant, priority=arrival.priority
        )
        action = starting.action(manifest, run, arrival.run_id)
        once = schedules.once(action, fires_at, timedelta(seconds=how.jitter_s))
        await schedules.make(temporal, f"schedule-{arrival.run_id}", once)

    failed = await schedules.each(arrivals, one, key=lambda arrival: arrival.run_id, at_once=AT_ONCE)
    for why in failed.values():
        raise why
    if (late := (datetime.now(UTC) - fires_at).total_seconds()) > 0:
        raise BadInput(f"{len(arrivals)} schedules took {late:.1f} s longer to make than there was: give fewer agents")


async def fire(runs: Runs, began: float) -> None:
    """Note the arrivals of scheduled runs at the instants at which they were to come."""
    for arrival in runs.planned:
        await asyncio.sleep(max(0.0, began + arrival.at_s - time()))
        runs.arrived.append(arrival)


async def follow(runs: Runs, client: FleetClient, since: datetime, ended: Callable[[str], None]) -> None:
    """Note the ends of runs until cancelled. A Temporal that is away is asked again."""
    known = {arrival.run_id for arrival in runs.planned}
    newest = since
    while True:
        with suppress(FleetError, RPCError, RuntimeError):
            after = f"{newest - _OVERLAP:%Y-%m-%dT%H:%M:%S.%fZ}"
            async for run in client.runs(query=f"CloseTime >= '{after}'", limit=100_000):
                arrival = arrival_of(run.id)
                if arrival in known and run.closed_at is not None and arrival not in runs.closed:
                    runs.ids[arrival] = run.id
                    runs.started[arrival] = run.started_at.timestamp()
                    runs.closed[arrival] = run.closed_at.timestamp()
                    runs.outcomes[arrival] = run.status or run.state
                    newest = max(newest, run.closed_at)
                    ended(arrival)
        await asyncio.sleep(POLL_S)
