"""Batches in the database: inputs staged once, a result written once, what has none read in order."""

import pytest

from fleet.contracts.batch import ItemOutcome, ItemResult
from workers.database import batches as module
from workers.database.batches import Batches, StagedElsewhere

WORK = {"kind": "tool"}


@pytest.fixture
def store(database):
    return Batches(database)


async def staged(store, count, batch="b", token="t"):
    await store.claim(batch, token, tenant="acme", work={})
    await store.add(batch, token, 0, [{"n": n, "deep": {"ß": "☃ \x00 \ud800"}} for n in range(count)])
    await store.seal(batch, token, total=count, digest="d", work=WORK)


def done(number, **how):
    return ItemResult(**{"number": number, "outcome": ItemOutcome.DONE, "result": {"n": number}, **how})


def failed(number, **how):
    return done(number, outcome=ItemOutcome.FAILED, result=None, error="no \x00 luck", **how)


async def numbers(store, **how):
    return [item.number for item in await store.read("b", **{"after": -1, "limit": 100, **how})]


async def test_what_has_no_result_is_read_in_order(store):
    await staged(store, 10)
    await store.write("b", [done(0), done(3)])
    assert await numbers(store) == [1, 2, 4, 5, 6, 7, 8, 9]
    assert await numbers(store, after=4, limit=2) == [5, 6]
    assert await numbers(store, only=[3, 7]) == [7]
    (item,) = await store.read("b", after=8, limit=5)
    assert item.input == {"n": 9, "deep": {"ß": "☃ \x00 \ud800"}}
    assert await store.read("other", after=-1, limit=5) == []


async def test_a_result_is_written_once_whoever_writes_it_how_often(store):
    await staged(store, 3)
    assert await store.write("b", [done(0), failed(1, attempts=3)]) == 2
    assert await store.write("b", [failed(0), done(1), done(2)]) == 1
    assert await store.count("b") == (3, {"done": 2, "failed": 1})
    rows = [row async for row in store.results("b")]
    assert [(row.number, row.outcome.value, row.result) for row in rows] == [
        (0, "done", {"n": 0}), (1, "failed", None), (2, "done", {"n": 2}),
    ]  # fmt: skip
    assert (rows[1].error, rows[1].attempts, rows[1].input["n"]) == ("no   luck", 3, 1)
    assert [row.number async for row in store.results("b", failed=True)] == [1]


async def test_more_results_than_one_page_come_in_order(store, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 3)
    await staged(store, 10)
    await store.write("b", [done(n) for n in reversed(range(10))])
    assert [row.number async for row in store.results("b")] == list(range(10))


async def test_items_that_are_not_done_are_to_do_again_and_count_their_attempts(store):
    await staged(store, 4)
    await store.write("b", [done(0), failed(1, attempts=2), done(2, outcome=ItemOutcome.STOPPED)])
    assert await store.again("b") == 2
    assert [(item.number, item.tried) for item in await store.read("b", after=-1, limit=9)] == [(1, 2), (2, 1), (3, 0)]
    assert await store.count("b") == (4, {"done": 1})
    assert await store.again("b") == 0


async def test_a_large_input_comes_alone(store, monkeypatch):
    monkeypatch.setattr(module, "PAGE_BYTES", 1000)
    await store.claim("b", "t", tenant="acme", work={})
    await store.add("b", "t", 0, [{"text": "x" * size} for size in (10, 10, 5000, 10)])
    assert await numbers(store) == [0, 1]
    assert await numbers(store, after=1) == [2]
    assert await numbers(store, after=2) == [3]


async def test_a_staged_batch_is_found_and_left_as_it_is(store):
    await staged(store, 3)
    found = await store.claim("b", "other", tenant="acme", work={})
    assert (found.token, found.total, found.digest, found.work) == ("t", 3, "d", WORK)
    with pytest.raises(StagedElsewhere):
        await store.add("b", "other", 3, [{}])
    with pytest.raises(StagedElsewhere):
        await store.add("b", "t", 3, [{}])
    await store.discard("b", "t")
    assert await numbers(store) == [0, 1, 2]


async def test_a_batch_that_was_left_half_staged_begins_anew(store):
    await store.claim("b", "first", tenant="acme", work={})
    await store.add("b", "first", 0, [{}, {}, {}])
    assert (await store.claim("b", "second", tenant="acme", work={})).token == "second"
    await store.add("b", "second", 0, [{}])
    with pytest.raises(StagedElsewhere, match="is being staged by another process"):
        await store.seal("b", "first", total=3, digest="", work=WORK)
    await store.seal("b", "second", total=1, digest="d", work=WORK)
    assert await numbers(store) == [0]


async def test_what_is_discarded_leaves_nothing(store):
    await store.claim("b", "t", tenant="acme", work={})
    await store.add("b", "t", 0, [{}])
    await store.discard("b", "t")
    assert await store.get("b") is None
    assert await numbers(store) == []


async def test_batches_are_listed_newest_first(store):
    for name in ("a", "b", "c"):
        await store.claim(name, "t", tenant="acme", work={})
    assert [batch.id for batch in await store.all(limit=2)] == ["c", "b"]
