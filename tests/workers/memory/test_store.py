"""What agents remember: once, found by its words, gone in time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from fleet.contracts.memories import Finding, Keep, Kept
from workers.memory.store import MemoryStore

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def later(seconds=0.0):
    return NOON + timedelta(seconds=seconds)


def keep(*findings, tenant="acme", agent="scout", expires_s=1000.0, max_bytes=100_000):
    found = [Finding(text=f) if isinstance(f, str) else Finding(subject=f[0], text=f[1]) for f in findings]
    return Keep(
        tenant=tenant, agent=agent, run_id="run", step="4", findings=found, expires_s=expires_s, max_bytes=max_bytes
    )


@pytest.fixture
def store(database):
    return MemoryStore(database)


async def recalled(store, query, *, now=0.0, **options):
    return [memory.text for memory in await store.recall("acme", "scout", query, now=later(now), **options)]


async def test_what_is_kept_comes_back_whole(store):
    request = Keep(
        tenant="acme", agent="scout", run_id="run", step="4", expires_s=60, max_bytes=1000,
        findings=[Finding(text=" The cat\nsat. ", subject=" A  cat ", kind="note")],
    )  # fmt: skip
    assert await store.keep(request, now=NOON) == Kept(kept=1, known=0)
    (memory,) = await store.recall("acme", "scout", "cats", now=NOON)
    assert (memory.tenant, memory.agent, memory.kind) == ("acme", "scout", "note")
    assert (memory.subject, memory.text) == ("A cat", "The cat\nsat.")
    assert (memory.source_run, memory.source_step) == ("run", "4")
    assert (memory.created_at, memory.expires_at) == (NOON, later(60))
    assert memory.score > 0
    assert 0 < len(memory.id) <= 64
    got = await store.get(memory.id)
    assert (got.id, got.text, got.score) == (memory.id, memory.text, 0.0)
    assert await store.get("absent") is None


async def test_what_is_known_is_seen_again_not_stored_twice(store):
    await store.keep(keep(("Cats", "The cat sat.")), now=NOON)
    (before,) = await store.search()
    assert await store.keep(keep(("cats", " the CAT  sat. "), "New."), now=later(10)) == Kept(kept=1, known=1)
    after = await store.get(before.id)
    assert (after.text, after.created_at, after.expires_at) == ("The cat sat.", NOON, later(1010))
    assert len(await store.search()) == 2


async def test_the_same_text_on_another_subject_is_another_memory(store):
    assert (await store.keep(keep(("a", "x y"), ("b", "x y"), "x y", "x y"), now=NOON)) == Kept(kept=3, known=1)


async def test_another_agent_remembers_for_itself(store):
    for tenant, agent in (("acme", "scout"), ("acme", "other"), ("umbrella", "scout")):
        assert (await store.keep(keep("secret cat", tenant=tenant, agent=agent), now=NOON)).kept == 1
    assert len(await store.recall("acme", "scout", "cat", now=NOON)) == 1
    assert len({memory.id for memory in await store.search()}) == 3


async def test_nothing_is_not_remembered(store):
    assert await store.keep(keep("", "  \n", ("subject", "")), now=NOON) == Kept(kept=0, known=0)


async def test_what_expired_is_neither_recalled_nor_known(store):
    await store.keep(keep("cat", expires_s=10), now=NOON)
    assert await recalled(store, "cat", now=9.9) == ["cat"]
    assert await recalled(store, "cat", now=10) == await recalled(store, "", now=10) == []
    assert [memory.text for memory in await store.search()] == ["cat"]
    assert await store.keep(keep("cat"), now=later(10)) == Kept(kept=1, known=0)
    assert len(await store.search()) == 1


async def test_sweeping_drops_what_expired_of_everybody(store):
    await store.keep(keep("cat", expires_s=10), now=NOON)
    await store.keep(keep("cat", tenant="umbrella", expires_s=10), now=NOON)
    await store.keep(keep("dog", tenant="umbrella", expires_s=20), now=NOON)
    assert await store.sweep(later(10)) == 2
    assert [memory.text for memory in await store.search()] == ["dog"]


async def test_beyond_its_room_the_oldest_seen_goes(store):
    for number, word in enumerate(["aaaa", "bbbb", "cccc"]):
        await store.keep(keep(word, max_bytes=12), now=later(number))
    await store.keep(keep("aaaa", max_bytes=12), now=later(5))
    await store.keep(keep("dddd", max_bytes=12), now=later(6))
    assert await recalled(store, "", now=7) == ["dddd", "aaaa", "cccc"]
    await store.keep(keep("x", tenant="umbrella", max_bytes=1), now=later(7))
    assert len(await store.search(tenant="acme")) == 3


async def test_bytes_are_counted_not_characters(store):
    await store.keep(keep("☃☃", max_bytes=8), now=NOON)
    await store.keep(keep(("s", "x"), max_bytes=8), now=later(1))
    assert await recalled(store, "", now=2) == ["x", "☃☃"]
    await store.keep(keep("y", max_bytes=8), now=later(2))
    assert await recalled(store, "", now=2) == ["y", "x"]


async def test_what_is_larger_than_all_room_drives_out_nobody(store):
    await store.keep(keep("small", max_bytes=10), now=NOON)
    assert await store.keep(keep("far too large", max_bytes=10), now=NOON) == Kept(kept=0, known=0)
    assert await recalled(store, "") == ["small"]


async def test_many_that_keep_at_once_stay_within_the_room(store):
    asked = [keep("same", *(f"{n:02}-{m:07}" for m in range(5)), max_bytes=100) for n in range(8)]
    kept = await asyncio.gather(*(store.keep(request, now=NOON) for request in asked))
    assert sum(answer.kept for answer in kept) >= 41
    assert sum(len(memory.text) for memory in await store.search()) <= 100


async def test_any_word_is_enough_and_more_is_better(store):
    await store.keep(keep("dogs bark at night", "cats and dogs", "the moon"), now=NOON)
    assert await recalled(store, "Is a cat with a dog?") == ["cats and dogs", "dogs bark at night"]
    assert await recalled(store, "cat dog", limit=1) == ["cats and dogs"]


async def test_the_subject_weighs_more_than_the_text(store):
    await store.keep(keep(("weather", "refund once"), ("refund", "weather once"), ("else", "x")), now=NOON)
    assert await recalled(store, "refund") == ["weather once", "refund once"]
    assert await recalled(store, "weather") == ["refund once", "weather once"]


async def test_words_are_found_in_other_forms_and_inside_compounds(store):
    await store.keep(keep("see docs.example.com/billing_rules-2026 for PAYMENTS"), now=NOON)
    for query in ("billing", "rule", "2026", "example", "payment", "paying payments"):
        assert len(await recalled(store, query)) == 1, query


async def test_a_question_of_no_words_gets_the_newest(store):
    for number in range(7):
        await store.keep(keep(f"number {number}"), now=later(number))
    for query in ("", "   ", "?!", "\x00", "\ud800", "the and of", '"" AND ()'):
        assert await recalled(store, query, now=9) == [f"number {n}" for n in (6, 5, 4, 3, 2)], query


async def test_a_subject_narrows(store):
    await store.keep(keep(("Refund Policy", "cat one"), ("refund", "cat two"), "cat three"), now=NOON)
    assert await recalled(store, "cat", subject=" refund  policy") == ["cat one"]
    assert await recalled(store, "", subject="refund") == ["cat two"]
    assert await recalled(store, "cat", subject="\x00") == []


HARD = [
    "\"", "'", "a'b", "cat OR", "NEAR(cat", "cat*", "^cat", "-cat", "text: cat", "{text}: cat",
    "cat & | ! dog", "cat:*",
    "cat <-> dog", "\\", "cat\\'", "%", "☃ cat", "²cat", "ﬁ cat", "日本語", "a" * 5000, "x " * 5000, "':x", ":1 $1 ?",
    "\x00cat", "\ud800cat", "cat\u2028dog", "--", ";", "just now",
]  # fmt: skip


async def test_no_question_is_malformed(store):
    await store.keep(keep(("cat", "cat dog")), now=NOON)
    for query in HARD:
        assert await recalled(store, query) in ([], ["cat dog"]), query
        assert len(await store.search(query=query)) <= 1, query


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=60))
async def test_no_question_at_all_is_malformed(store, query):
    assert await recalled(store, query) == []


async def test_a_found_text_may_hold_anything(store):
    hard = [*HARD, "n\x00l", "half \ud800", "a" * 200_000, "word " * 40_000]
    await store.keep(keep(*hard, max_bytes=10**7), now=NOON)
    assert "half ?" in [memory.text for memory in await store.search(limit=1000)]


async def test_one_memory_is_forgotten_by_its_own_agent_only(store):
    await store.keep(keep("cat", "dog"), now=NOON)
    (cat,) = await store.search(query="cat")
    assert not await store.forget("acme", "other", cat.id)
    assert not await store.forget("umbrella", "scout", cat.id)
    assert not await store.forget("acme", "scout", "\x00' OR 1=1")
    assert await store.forget("acme", "scout", cat.id)
    assert not await store.forget("acme", "scout", cat.id)
    assert await recalled(store, "cat dog") == ["dog"]


async def test_what_is_forgotten_is_gone_from_the_index_too(store, database):
    for number in range(3):
        await store.keep(keep("cat", f"dog {number}"), now=later(number))
        assert await store.forget_where("acme") == 2
        assert await recalled(store, "cat dog") == []
    if database.sqlite:
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO memories_words (memories_words) VALUES ('integrity-check')"))


async def test_forgetting_by_tenant_agent_and_subject(store):
    async def count(**which):
        return len(await store.search(**which))

    for tenant in ("acme", "umbrella"):
        for agent in ("scout", "writer"):
            await store.keep(keep(("S", "one"), ("t", "two"), tenant=tenant, agent=agent), now=NOON)
    assert await store.forget_where("acme", subject="s") == 2
    assert await store.forget_where("acme", "scout") == 1
    assert (await count(tenant="acme"), await count(tenant="umbrella"), await count(agent="scout")) == (1, 4, 2)
    assert await store.forget_where("umbrella", "writer", "T") == 1
    assert await store.forget_where("absent") == 0


async def test_operators_search_everybody(store):
    await store.keep(keep("cat one"), now=NOON)
    await store.keep(keep("cat two", agent="other"), now=later(1))
    await store.keep(keep("cat three", tenant="umbrella"), now=later(2))
    assert len(await store.search(query="cats")) == 3
    assert [memory.text for memory in await store.search(limit=2)] == ["cat three", "cat two"]
    assert [memory.text for memory in await store.search(tenant="acme", agent="scout", query="cat")] == ["cat one"]
