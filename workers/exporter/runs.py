"""Runs that are under way, by agent and state, as Temporal's visibility counts them."""

import asyncio
from collections.abc import Sequence
from typing import Final

from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest
from temporalio.client import Client

from fleet.contracts import names
from fleet.contracts.metrics import OTHER, RUNS
from workers.exporter.looking import Sample

AT_ONCE: Final = 4
"""Counts that Temporal is asked for at the same time."""
_SLEEPING: Final = (names.WORKING_APPROVAL, names.PAUSED)


class Runs:
    """Counts runs: one count for each agent, three where somebody waits or is paused.

    Temporal groups a count by `ExecutionStatus` alone (server 1.32), not by our search attributes.
    """

    def __init__(self, client: Client, agents: Sequence[str]) -> None:
        """Args:
        client: of the namespace.
        agents: those of the manifest. Runs of others, as of an earlier manifest, are `other`.
        """
        self._client = client
        self._gate = asyncio.Semaphore(AT_ONCE)
        agent = names.AGENT_ATTRIBUTE
        mine = ", ".join(map(_quoted, agents))
        self._where = {name: f"{agent} = {_quoted(name)}" for name in agents}
        self._where[OTHER] = f"({agent} NOT IN ({mine}) OR {agent} IS NULL)" if agents else ""

    async def look(self) -> list[Sample]:
        """Raises:
        RPCError: Temporal does not answer, or does not know the search attributes.
        """
        totals = await asyncio.gather(*(self._count(_of_state(state)) for state in _SLEEPING))
        # most of the time nobody is paused: that is one count for all agents
        states = [state for state, total in zip(_SLEEPING, totals, strict=True) if total]
        rows = await asyncio.gather(*(self._of(agent, states) for agent in self._where))
        return [sample for row in rows for sample in row]

    async def _of(self, agent: str, states: Sequence[str]) -> list[Sample]:
        where = self._where[agent]
        every, *some = await asyncio.gather(
            self._count(where), *(self._count(where, _of_state(state)) for state in states)
        )
        counts = dict.fromkeys(_SLEEPING, 0) | dict(zip(states, some, strict=True))
        # no two counts are of the same moment
        counts[names.WORKING] = max(0, every - sum(some))
        return [Sample(RUNS, (agent, state), count) for state, count in counts.items()]

    async def _count(self, *where: str) -> int:
        asked = CountWorkflowExecutionsRequest(
            namespace=self._client.namespace, query=" AND ".join([names.RUNNING_RUNS, *filter(None, where)])
        )
        async with self._gate:
            # once: `count_workflows` would try for ten seconds
            found = await self._client.workflow_service.count_workflow_executions(asked)
        return int(found.count)


def _of_state(state: str) -> str:
    return f"{names.STATUS_ATTRIBUTE} = '{state}'"


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
