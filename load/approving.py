"""Humans who decide approvals as a scenario says."""

import asyncio
import random
from contextlib import suppress
from time import time

from temporalio.service import RPCError

from fleet.client import FleetClient
from fleet.contracts.approvals import Approval, Decision, Verdict
from fleet.errors import FleetError
from load.crowd import APPROVER
from load.scenario import Humans

LOOK_S = 0.5
AT_ONCE = 16


class Approvers:
    """Decide what is open, until cancelled."""

    def __init__(self, client: FleetClient, humans: Humans, seed: int) -> None:
        self._client = client
        self._humans = humans
        self._seed = seed
        self.decided: dict[str, Decision] = {}
        """By run id."""
        self.open = 0
        """At the last look."""

    async def work(self, began: float) -> None:
        """Look for approvals twice a second; `began` is the wall-clock begin of the load."""
        while True:
            with suppress(FleetError, RPCError, RuntimeError):
                await self._look(began)
            await asyncio.sleep(LOOK_S)

    async def _look(self, began: float) -> None:
        runs = await self._client.running('WaitingFor = "approval"')
        self.open = len(runs)
        if self._humans.at_s is not None and time() < began + self._humans.at_s:
            return
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(run_id: str) -> None:
            async with gate:
                # a worker may die while it takes a verdict: asking again tells that it was taken
                with suppress(FleetError):
                    for approval in await self._client.approvals(run_id):
                        await self._decide(approval)

        await asyncio.gather(*(one(run_id) for run_id in runs))

    async def _decide(self, approval: Approval) -> None:
        if time() - approval.opened_at.timestamp() < self._humans.after_s:
            return
        # drawn by the run, so that the order of looks decides nothing
        drawn = random.Random(f"{self._seed}/{approval.run_id}").random()
        decision = Decision.REJECT if drawn < self._humans.rejected else Decision.APPROVE
        by = approval.approvers[0] if approval.approvers else APPROVER
        self.decided[approval.run_id] = decision
        await self._client.decide(
            Verdict(approval_id=approval.id, decision=decision, by=by, digest=approval.digest, channel="api")
        )
