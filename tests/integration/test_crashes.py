"""Kill -9 in the middle of the work: every agent completes, nothing is sent twice, no completed call is repeated."""

import asyncio
import os
import signal

import pytest

from fleet.contracts.runs import Outcome

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

AGENTS = 10
ROOMY = (r'rate = "90k/m", burst = "15k"', 'rate = "240k/m", burst = "15k"')


async def start_runs(fleet, count=AGENTS):
    modules = ("heapq", "json", "ftplib", "ssl", "csv", "glob", "shutil", "bisect", "queue", "uuid", "zlib", "cmd")
    goals = [f"What does the module {m} do? E-mail the brief to {m}@example.com." for m in modules[:count]]
    return [await fleet.client.start("researcher", goal, run_id=f"run-{n}") for n, goal in enumerate(goals)]


async def results(fleet, runs):
    async with asyncio.timeout(200):
        return await asyncio.gather(*(fleet.client.result(run) for run in runs))


async def until_mails(fleet, count):
    async with asyncio.timeout(120):
        while (await fleet.ledgers.mail())["delivered"] < count:
            await asyncio.sleep(0.05)


async def completed_calls(fleet, runs):
    """(run, activity id) of every model call that the histories say has completed."""
    found = set()
    for run in runs:
        scheduled = {}
        history = await fleet.client.handle(run).fetch_history()
        for event in history.events:
            if event.HasField("activity_task_scheduled_event_attributes"):
                attributes = event.activity_task_scheduled_event_attributes
                if attributes.activity_type.name == "llm.chat":
                    scheduled[event.event_id] = attributes.activity_id
            if event.HasField("activity_task_completed_event_attributes"):
                begun = event.activity_task_completed_event_attributes.scheduled_event_id
                if begun in scheduled:
                    found.add((run, scheduled[begun]))
    return found


def call(row):
    """(run, activity id) of a row of the provider's ledger."""
    run, activity, _ = row["client_request_id"].rsplit("/", 2)
    return run, activity


# the scenarios worker_loss, frozen_worker and temporal_restart do it each time
@pytest.mark.by_name("every_pool")
async def test_workers_of_every_pool_are_killed_and_then_temporal(local_fleet):
    fleet = await local_fleet({"agents": 1, "llm": 2, "search": 1, "email": 1}, ROOMY)
    runs = await start_runs(fleet)
    ending = asyncio.create_task(results(fleet, runs))
    served, known = {}, {}

    async def note(victim, mails):
        await until_mails(fleet, mails)
        known[victim] = await completed_calls(fleet, runs)
        served[victim] = len(await fleet.ledgers.rows("openai"))

    workers = ("llm-1", "email-1", "agents-1", "search-1", "llm-2")
    for mails, worker in enumerate(workers, 1):
        await note(worker, mails)
        os.kill(fleet.supervisor.pids()[worker], signal.SIGKILL)
    await note("temporal", 6)
    await fleet.stack.kill_temporal()
    # on its file
    await fleet.stack.restart_temporal()

    assert [result.outcome for result in await ending] == [Outcome.COMPLETED] * AGENTS
    assert await fleet.ledgers.mail() == {"delivered": AGENTS, "unique": AGENTS, "duplicates": 0}
    assert {worker: fleet.supervisor.restarts(worker) for worker in workers} == dict.fromkeys(workers, 1)
    rows = await fleet.ledgers.rows("openai")
    assert known["temporal"]
    for victim, calls in known.items():
        again = {call(row) for row in rows[served[victim] :]} & calls
        assert again == set(), f"completed before {victim} was killed, and called again"
    assert [row["outcome"] for row in rows if row["outcome"] == "429"] == []
