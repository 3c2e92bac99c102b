"""What models and runs ask of memory, over the store."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from fleet.contracts.memories import Finding, Keep
from fleet.contracts.names import FailureType
from fleet.contracts.tools import TOOLS, ToolRequest
from tests.workers.attempting import Flaky
from workers.memory.store import MemoryStore
from workers.tools.memory import Keeping, MemoryTools


def asked(tool="recall", *, agent="scout", tenant="acme", **arguments):
    return ToolRequest(
        tool=tool, call_id="c", arguments=arguments, step="2.1", run_id="run-1", agent=agent, tenant=tenant
    )


def keep(*findings, agent="scout", max_bytes=100_000):
    return Keep(
        tenant="acme", agent=agent, run_id="run-1", step="4", findings=list(findings), expires_s=3600,
        max_bytes=max_bytes,
    )  # fmt: skip


@pytest.fixture
def store(database):
    return MemoryStore(database)


@pytest.fixture
def tools(store):
    return MemoryTools(store, {"scout": Keeping(expires_s=60, max_bytes=200)})


async def run(activity, request):
    return await ActivityEnvironment().run(activity, request)


async def recalled(tools, **arguments):
    return json.loads((await run(tools.recall, asked(**arguments))).content)["memories"]


async def test_what_was_remembered_is_recalled_with_what_a_model_needs(tools):
    told = await run(tools.remember, asked("remember", text="The relay is in Oslo.", subject="relay"))
    assert json.loads(told.content) == {"remembered": True, "new": True}
    (memory,) = await recalled(tools, query="where is the relay")
    assert memory == {
        "id": memory["id"], "kind": "note", "subject": "relay", "text": "The relay is in Oslo.",
        "when": f"{datetime.now(UTC):%Y-%m-%d}",
    }  # fmt: skip
    again = await run(tools.remember, asked("remember", text="the relay is in OSLO.", subject="Relay"))
    assert json.loads(again.content) == {"remembered": True, "new": False}
    gone = await run(tools.forget, asked("forget", id=memory["id"]))
    assert json.loads(gone.content) == {"forgotten": True}
    assert json.loads((await run(tools.forget, asked("forget", id=memory["id"]))).content) == {"forgotten": False}
    assert await recalled(tools, query="relay") == []


async def test_an_agent_recalls_and_forgets_only_its_own(tools):
    await run(tools.remember, asked("remember", text="The relay is in Oslo."))
    (memory,) = await recalled(tools, query="relay")
    for other in ({"agent": "writer"}, {"tenant": "umbrella"}):
        found = await run(tools.recall, asked(**other, query="relay"))
        assert json.loads(found.content) == {"memories": []}
        gone = await run(tools.forget, asked("forget", **other, id=memory["id"]))
        assert json.loads(gone.content) == {"forgotten": False}
    assert len(await recalled(tools, query="relay")) == 1


async def test_what_models_remember_expires_and_is_bounded_as_the_agent_says(tools, store):
    for word in ("one", "two", "three", "four"):
        await run(tools.remember, asked("remember", text=f"{word} " + "x" * 90))
    kept = await store.search(tenant="acme")
    assert {memory.text.split()[0] for memory in kept} == {"three", "four"}
    assert {round((memory.expires_at - memory.created_at).total_seconds()) for memory in kept} == {60}
    # an agent that the manifest gives no memory still has a bound
    await run(tools.remember, asked("remember", agent="other", text="x" * 90))
    (memory,) = await store.search(agent="other")
    assert memory.expires_at.year >= datetime.now(UTC).year


@pytest.mark.parametrize("text", ["", "  \n ", "x" * 300])
async def test_what_is_not_remembered_is_not_called_remembered(tools, store, text):
    with pytest.raises(ApplicationError) as raised:
        await run(tools.remember, asked("remember", text=text))
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.TOOL_FAILED, True)
    assert raised.value.message == "memory: not remembered: it must not be empty, nor larger than 200 bytes"
    assert await store.search() == []


async def test_a_model_is_never_handed_more_than_it_can_read(tools):
    findings = [Finding(text=f"relay {n} " + "y" * 2500, subject=str(n)) for n in range(4)]
    await run(tools.keep, keep(*findings))
    found = await recalled(tools, query="relay")
    assert [len(memory["text"]) for memory in found] == [2508, 2508, 984]
    assert len(await recalled(tools, query="relay", limit=1)) == 1


async def test_a_subject_narrows_and_a_query_of_no_words_finds_the_newest(tools):
    await run(tools.keep, keep(Finding(text="The relay is old.", subject="a"), Finding(text="A relay.", subject="b")))
    assert [memory["subject"] for memory in await recalled(tools, query="relay", subject=" B ")] == ["b"]
    assert [memory["subject"] for memory in await recalled(tools, query="?!")] == ["b", "a"]


async def test_a_run_keeps_each_finding_once(tools):
    findings = keep(Finding(text="one"), Finding(text="two"), Finding(text=""))
    kept = [await run(tools.keep, findings) for _ in range(2)]
    assert [(found.kept, found.known) for found in kept] == [(2, 0), (0, 2)]


async def test_a_database_that_is_away_is_a_wait(database, store):
    flaky = Flaky(database)
    tools = MemoryTools(MemoryStore(flaky), {})
    for activity, request in (
        (tools.remember, asked("remember", text="x")),
        (tools.forget, asked("forget", id="x")),
        (tools.keep, keep(Finding(text="x"))),
    ):
        flaky.away = 1
        with pytest.raises(ApplicationError) as raised:
            await run(activity, request)
        assert (raised.value.type, raised.value.category) == (
            FailureType.DATABASE_LOST, ApplicationErrorCategory.BENIGN,
        )  # fmt: skip
    await database.aclose()
    assert await store.search() == []


async def test_a_call_lives_while_the_database_takes_its_time(database):
    flaky = Flaky(database)
    tools = MemoryTools(MemoryStore(flaky), {})
    flaky.slow_s, flaky.slow = 0.05, 9
    for activity, request in (
        (tools.recall, asked(query="x")),
        (tools.remember, asked("remember", text="x")),
        (tools.forget, asked("forget", id="x")),
        (tools.keep, keep(Finding(text="x"))),
    ):
        lives, beats = ActivityEnvironment(), []
        lives.info = replace(lives.info, heartbeat_timeout=timedelta(seconds=0.06))
        lives.on_heartbeat = lambda *details, beats=beats: beats.append(details)
        await lives.run(activity, request)
        # what is read is not slowed
        assert len(beats) >= (1 if activity == tools.recall else 2)


def test_every_tool_has_its_activity(tools):
    for name in ("recall", "remember", "forget"):
        served = getattr(tools, name).__temporal_activity_definition.name
        assert TOOLS[name].stub.name == served
