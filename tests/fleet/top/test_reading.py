"""What `fleet top` reads, from real servers."""

import asyncio
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory

import pytest

from fleet.contracts import names
from fleet.contracts.approvals import Approval, ApprovalEvent, Ask
from fleet.errors import Unreachable
from fleet.settings import Settings
from fleet.top import runs
from fleet.top.once import document, look
from fleet.top.reading import PAGE, Reading, Source
from ratelimit.places import Closed
from tests.fleet.top.conftest import in_line, paying, until
from tests.ratelimit.servers import running, valkey_binary
from tests.waiting import until_up
from workers.effects.book import Book


async def test_a_line_at_a_quota_is_seen_with_who_stands_in_it(house):
    await house.shared.acquire("openai/large", {"requests": 1, "tokens": 10}, max_wait=timedelta(minutes=1))
    await in_line(house)
    large, small, bank = await house.reading.quotas()
    assert [one.scope for one in (large, small, bank)] == house.manifest.scopes()
    assert small.in_line is not None
    assert small.in_line >= 100
    assert small.line_s > 60
    assert small.tightest is not None
    assert small.tightest.used == 1
    assert (large.line_s, large.closed, large.calls_per_s, bank.limits) == (0, "", None, ())
    detail = await house.reading.quota("openai/small")
    assert [one.key for one in detail.line] == ["run-0/1", "run-1/1", "run-2/1"]
    assert detail.line[0].wait_s < detail.line[2].wait_s
    assert "requests 60/m" in detail.changes[0].limits


async def test_rates_are_of_the_last_seconds_and_429s_of_the_last_minute(house):
    await house.reading.quotas()
    for _ in range(3):
        await house.shared.acquire("openai/large", {"requests": 1, "tokens": 10}, max_wait=timedelta(minutes=1))
    await house.shared.cool_down("openai/large", retry_after=timedelta(seconds=30))
    large, _, _ = await house.reading.quotas()
    assert large.calls_per_s is not None
    assert large.calls_per_s > 0
    assert (large.rejections, large.lately) == (1, 1)
    assert 20 < large.closed_s <= 30
    assert large.pace < 1
    await house.shared.close("openai/large", Closed.BILLING)
    assert (await house.reading.quotas())[0].closed == "billing"


async def test_runs_are_counted_by_query_and_the_page_says_what_they_wait_for(house):
    asked = await paying(house)
    house.fakes.held = lambda request: any("think long" in message.content for message in request.messages)
    slow = await house.start("researcher", "think long", tenant="acme")
    await until(lambda: house.client.running(f"WorkflowId = '{slow}'"))
    row = await until(lambda: _explained(house, slow))
    assert (row.info.tenant, row.waits) == ("acme", "llm.chat: under way")
    seen = await house.reading.runs()
    assert seen.note == ""
    assert seen.agents[house.agent("payer")] == 1
    assert seen.statuses["approval"] >= 1
    mine = next(row for row in seen.rows if row.info.agent == house.agent("payer"))
    assert mine.waits == "a human: an approval is open"
    assert asked.startswith(mine.info.id)
    house.fakes.held = lambda request: False


async def _explained(house, run_id: str):
    rows = (await house.reading.runs()).rows
    return next((row for row in rows if row.info.id == run_id and "under way" in row.waits), None)


async def test_a_run_says_why_it_waits_and_what_it_has_done(house):
    await paying(house, goal="pay the invoice")
    (run_id,) = await house.client.running(f"Agent = '{house.agent('payer')}'")
    found = await runs.run_detail(await house.reading.client(), run_id, house.path)
    assert found.status is not None
    assert found.status.phase.value == "approval"
    assert "to decide on transfer" in found.waits[0]
    assert [step.name for step in found.steps] == ["1"]
    assert found.steps[0].outcome == "completed"


async def test_the_oldest_of_many_runs_are_on_the_page(house, monkeypatch):
    monkeypatch.setattr(runs, "NEWEST", 2)
    monkeypatch.setattr(runs, "OLDEST", 2)
    ids = [await house.start("researcher", f"run {n}", run_id=f"{house.mark}-{n}") for n in range(8)]
    await until(lambda: _counted(house, 8))
    client = await house.reading.client()
    monkeypatch.setattr(names, "RUNNING_RUNS", f"{names.RUNNING_RUNS} AND Agent = '{house.agent('researcher')}'")
    found = await runs._oldest(client, 8, datetime.now(UTC))
    mine = [info.id for info in found if info.id in ids]
    assert len(found) == 2
    assert set(mine) <= set(ids)
    assert len(await _of_agent(house)) == 8


async def _counted(house, count: int) -> bool:
    return len(await _of_agent(house)) == count


async def _of_agent(house) -> list[str]:
    return await house.client.running(f"Agent = '{house.agent('researcher')}'")


@pytest.mark.parametrize("text", ["o'brien", 'a"b', "\\", "x' OR 'a' = 'a", "%", "payer"])
async def test_whatever_is_looked_for_is_a_text_to_temporal(house, text):
    client = await house.reading.client()
    found = [info async for info in client.runs(query=runs.query(text), limit=1)]
    assert found == [] or text == "payer"


async def test_runs_that_are_looked_for_are_found_among_all(house):
    run_id = await house.start("researcher", "find me", run_id=f"needle-{house.mark}")
    await until(lambda: house.client.running(f"WorkflowId = '{run_id}'"))
    seen = await house.reading.runs(f"needle-{house.mark[:4]}")
    assert run_id in [row.info.id for row in seen.rows]


async def test_pools_are_seen_with_their_workers_and_what_waits(house):
    await house.serve("agents")
    await house.start("researcher", "nobody thinks")
    pools = await until(lambda: _waiting(house))
    by_name = {pool.name: pool for pool in pools}
    assert by_name["agents"].live == 1
    assert by_name["llm"].live == 0
    assert by_name["llm"].activities.count == 1


async def _waiting(house):
    found = await house.reading.pools()
    return found if any(pool.activities.count for pool in found) else None


async def test_of_many_open_approvals_a_page_is_read(house):
    book, now = Book(house.database), datetime.now(UTC)
    for number in range(PAGE + 2):
        approval = Approval(
            id=f"r-{number}/1", run_id=f"r-{number}", agent="a", tenant="t", ask=Ask.ALLOW, tool="transfer",
            arguments={"note": "the key is hush-hush-key"}, digest="d", why="w", goal="g", opened_at=now,
            expires_at=now + timedelta(hours=number),
        )  # fmt: skip
        await book.record(ApprovalEvent(approval=approval, what="opened", at=now))
    seen = await house.reading.approvals()
    assert (len(seen.rows), seen.more) == (PAGE, True)
    assert seen.rows[0].id == "r-0/1"


async def test_a_dead_source_says_so_and_keeps_what_it_said_last(house):
    source = Source("Redis", house.reading.quotas)
    first = await source.look()
    assert (first.error, len(first.data)) == ("", 3)
    house.reading.settings = Settings(redis_url="redis://me:hush-hush@127.0.0.1:1/0")
    dead = Reading(house.reading.settings, house.manifest)
    source._read = dead.quotas
    second = await source.look()
    assert "127.0.0.1:1" in second.error
    assert "hush" not in second.error
    assert (second.data, second.at) == (first.data, first.at)
    source._read = house.reading.quotas
    assert (await source.look()).error == ""
    await dead.aclose()


async def test_a_source_that_hangs_is_given_up_and_asked_anew(house, monkeypatch):
    monkeypatch.setattr("fleet.top.reading.WITHIN_S", 0.2)

    async def hang():
        await asyncio.Event().wait()

    good, house.reading.limiter = house.reading.limiter, hang
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        await house.reading.quotas()
    house.reading.limiter = good
    assert len(await house.reading.quotas()) == 3


async def test_a_redis_that_comes_back_is_read_again(house):
    with TemporaryDirectory(prefix="top") as folder:
        url = f"unix://{folder}/s"
        command = [valkey_binary(), "--port", "0", "--unixsocket", f"{folder}/s", "--save", ""]
        reading = Reading(house.settings.model_copy(update={"redis_url": url}), house.manifest)
        source = Source("Redis", reading.quotas)
        with running(command, folder):
            until_up(url)
            assert (await source.look()).error == ""
        lost = await source.look()
        assert lost.error
        assert len(lost.data) == 3
        with running(command, folder):
            until_up(url)
            assert (await source.look()).error == ""
            await reading.aclose()


async def test_one_picture_is_a_document(house):
    await in_line(house)
    picture = await look(house.reading)
    told = document(picture, datetime.now(UTC))
    assert told["whole"] is True
    assert [one["scope"] for one in told["quotas"]["data"]] == house.manifest.scopes()
    assert told["quotas"]["data"][1]["tightest"] == "requests"
    assert told["pools"]["data"][0]["served"] is False
    assert told["approvals"] == {"source": "the database", "error": None, "data": [], "more": False}
