"""Other code takes over while runs wait: they end on the code that they began on, new ones on the new."""

import asyncio
import re
import shutil
import time
from collections import Counter
from pathlib import Path

from fleet.client import FleetClient
from fleet.contracts.approvals import ApprovalState, Decision, Verdict
from fleet.contracts.names import AGENT_WORKFLOW
from fleet.contracts.runs import Outcome
from fleet.errors import BadInput, Unreachable
from fleet.rollout import Rollout
from fleet.versions import State
from load import deploying
from load.gathering import USED_VERSIONS

ROOT = Path(__file__).parents[2]
GOAL = "Transfer 7.00 EUR to DE7777 for invoice 7"
"""Of all runs that are alike: the same arguments have the same digest."""
NEW = 20
DECIDED = 40
"""So many old runs go on with a verdict and complete; the others are stopped, which takes a call of a model less."""
AT_ONCE = 24
DRAIN_WITHIN_S = 30.0


def other_code(folder: Path) -> Path:
    """A copy of the packages whose agents wait for a timer before their first step: no history of ours fits it."""
    for room in ("fleet", "ratelimit", "workers", "load"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    agent = folder / "fleet" / "workflows" / "agent.py"
    text, count = re.subn(
        r"(    async def run\(self, run: RunInput\) -> RunResult:\n        \"\"\".*?\"\"\"\n)",
        r"\1        await workflow.sleep(0.001)\n",
        agent.read_text(),
        flags=re.DOTALL,
    )
    assert count == 1
    agent.write_text(text)
    return folder


async def each(names, work):
    """Do it for all, some at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name):
        async with gate:
            return await work(name)

    return await asyncio.gather(*(one(name) for name in names))


async def start_alike(client: FleetClient, names) -> None:
    """Start runs that will ask for the same approval."""
    await each(names, lambda name: client.start("payer", GOAL, run_id=name))


async def parked(client: FleetClient, count: int) -> None:
    """Wait until so many runs wait for an approval."""
    async with asyncio.timeout(600):
        while len(await client.running('WaitingFor = "approval"')) < count:
            await asyncio.sleep(0.5)


async def take_over(fleet, old: list[str], folder: Path, say) -> None:
    """Let v2, of other code, follow v1 while these runs of v1 wait, all that there are; then end them all."""
    client = fleet.client
    rollout = Rollout(client.temporal, fleet.manifest)

    await fleet.start_build("v2", other_code(folder))
    promoting = time.monotonic()
    await deploying.promote(rollout, "v2")
    say(f"v2 promoted in {time.monotonic() - promoting:.2f} s")
    new = [f"new-{n}" for n in range(NEW)]
    await start_alike(client, new)
    await parked(client, len(old) + NEW)

    (row,) = [r for r in await rollout.status(["agents"]) if r.version.build == "v1"]
    assert (row.version.state, row.runs) == (State.DRAINING, len(old))
    assert row.blocks[0] == f"{len(old)} running"

    (first,) = await client.approvals(new[0])

    async def reject(name):
        approval_id = f"{name}/{first.id.partition('/')[2]}"
        verdict = Verdict(approval_id=approval_id, decision=Decision.REJECT, by="ana@example.com", digest=first.digest)
        while True:
            try:
                await client.decide(verdict)
            except Unreachable:
                continue  # one worker, and hundreds at once
            except BadInput:
                # taken, though nobody has answered in time
                (asked,) = await client.approvals(name)
                assert asked.state is ApprovalState.REJECTED
            return

    deciding = time.monotonic()
    decided, others = [*new, *old[:DECIDED]], old[DECIDED:]
    await each(decided, reject)
    await each(others, lambda name: client.stop(name, "enough"))
    results = await each([*decided, *others], client.result)
    say(f"all {len(old) + NEW} ended {time.monotonic() - deciding:.1f} s after the first verdict")
    ends = Counter(result.outcome for result in results)
    assert ends == {Outcome.COMPLETED: len(decided)} | ({Outcome.STOPPED: len(others)} if others else {})
    builds = await used(client)
    assert {name: builds[name] for name in old} == {name: {"v1"} for name in old}
    assert {name: builds[name] for name in new} == {name: {"v2"} for name in new}
    # the code is another: its first command is
    assert [await begins_with_a_timer(client, name) for name in (old[0], new[0])] == [False, True]

    draining = time.monotonic()
    assert await deploying.drained(rollout, "v1", DRAIN_WITHIN_S) == ""
    say(f"v1 was said to be free {time.monotonic() - draining:.1f} s later")
    await fleet.stop_build("v1")
    await start_alike(client, ["last"])
    await parked(client, 1)
    await reject("last")
    assert (await client.result("last")).outcome is Outcome.COMPLETED


async def used(client: FleetClient) -> dict[str, set[str]]:
    """The builds that each run's decisions were made by."""
    found: dict[str, set[str]] = {}
    async for execution in client.temporal.list_workflows(f"WorkflowType = '{AGENT_WORKFLOW}'"):
        versions = execution.typed_search_attributes.get(USED_VERSIONS, [])
        found.setdefault(execution.id, set()).update(v.partition(":")[2] for v in versions)
    return found


async def begins_with_a_timer(client: FleetClient, run_id: str) -> bool:
    """Whether the run's first command was a timer."""
    history = await client.handle(run_id).fetch_history()
    for event in history.events:
        if event.HasField("timer_started_event_attributes"):
            return True
        if event.HasField("activity_task_scheduled_event_attributes"):
            return False
    raise AssertionError(f"{run_id} has done nothing")
