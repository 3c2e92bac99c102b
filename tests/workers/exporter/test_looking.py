"""Each part is looked at on its own, and nobody is told what is too old to be true."""

import asyncio

import pytest
from structlog.testing import capture_logs

from fleet.contracts.metrics import EXPORTER_AT, EXPORTER_SECONDS, EXPORTER_UP, QUOTA_PACE, RUNS
from workers.exporter.looking import Part, Sample, Watch

PACE = Sample(QUOTA_PACE, ("openai/gpt-5",), 0.5)
WORKING = Sample(RUNS, ("payer", "working"), 3)
AT_MOST_S = 10.0


class Asked:
    """Answers as it is told, and says when it was asked."""

    def __init__(self, *samples):
        self.samples = samples
        self.problem = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.times = 0

    async def __call__(self):
        self.times += 1
        await self.answering.wait()
        if self.problem is not None:
            raise self.problem
        return list(self.samples)


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self):
        return self.now


def part(look, source="redis", name="quotas"):
    return Part(source=source, name=name, look=look)


def told(watch, metric):
    return {sample.labels: sample.value for sample in watch.samples() if sample.metric is metric}


async def until(what):
    async with asyncio.timeout(AT_MOST_S):
        while not what():
            await asyncio.sleep(0.001)


async def test_what_was_seen_is_told_with_who_said_it_and_when():
    async with Watch([part(Asked(PACE)), part(Asked(WORKING), "temporal", "runs")], 60) as watch:
        assert watch.unseen() == ["quotas", "runs"]
        assert list(watch.samples()) == []
        await until(lambda: not watch.unseen())
        assert {PACE, WORKING} < set(watch.samples())
        assert told(watch, EXPORTER_UP) == {("redis",): 1, ("temporal",): 1}
        assert set(told(watch, EXPORTER_SECONDS)) == set(told(watch, EXPORTER_AT)) == {("redis",), ("temporal",)}


async def test_a_part_that_never_answers_delays_no_other_and_no_scrape():
    slow, quick = Asked(PACE), Asked(WORKING)
    slow.answering.clear()
    async with Watch([part(slow), part(quick, "temporal", "runs")], 0.001, clock=Clock()) as watch:
        await until(lambda: quick.times > 5)
        assert told(watch, RUNS) == {WORKING.labels: 3}
        assert (slow.times, watch.unseen()) == (1, ["quotas"])
        assert told(watch, EXPORTER_UP) == {("temporal",): 1}


async def test_a_look_that_takes_too_long_has_failed_and_the_next_one_may_succeed():
    asked = Asked(PACE)
    asked.answering.clear()
    async with Watch([part(asked)], 0.001, clock=Clock(), timeout_s=0.01) as watch:
        await until(lambda: told(watch, EXPORTER_UP) == {("redis",): 0})
        assert told(watch, EXPORTER_AT) == {}
        asked.answering.set()
        await until(lambda: told(watch, EXPORTER_UP) == {("redis",): 1})
        assert PACE in watch.samples()


async def test_what_is_older_than_three_intervals_is_told_no_more():
    asked, clock = Asked(PACE), Clock()
    one = part(asked)
    watch = Watch([one], 5, clock=clock)
    await watch.look(one)
    (at,) = told(watch, EXPORTER_AT).values()
    asked.problem = OSError("away\nand more")
    await watch.look(one)
    clock.now += 15
    assert PACE in watch.samples()
    assert told(watch, EXPORTER_UP) == {("redis",): 0}
    clock.now += 0.1
    assert PACE not in watch.samples()
    # who asks when it was read last is told for as long as it takes
    assert told(watch, EXPORTER_AT) == {("redis",): at}
    asked.problem = None
    await watch.look(one)
    assert PACE in watch.samples()


async def test_a_source_whose_look_hangs_is_not_up_once_its_readings_are_too_old():
    asked, clock = Asked(PACE), Clock()
    one = part(asked)
    watch = Watch([one], 5, clock=clock)
    await watch.look(one)
    assert told(watch, EXPORTER_UP) == {("redis",): 1}
    clock.now += 16
    assert told(watch, EXPORTER_UP) == {("redis",): 0}


async def test_looks_that_take_longer_than_the_interval_are_not_too_old_for_that():
    asked, clock = Asked(PACE), Clock()
    one = part(asked)
    watch = Watch([one], 0.0, clock=clock)
    asked.answering.clear()
    looking = asyncio.create_task(watch.look(one))
    await until(lambda: asked.times)
    await asyncio.sleep(0)
    asked.answering.set()
    await looking
    (took,) = told(watch, EXPORTER_SECONDS).values()
    clock.now += 2 * took
    assert PACE in watch.samples()


async def test_a_source_is_up_when_all_its_parts_are():
    runs, queues = Asked(WORKING), Asked()
    first, second = part(runs, "temporal", "runs"), part(queues, "temporal", "queues")
    watch = Watch([first, second], 5)
    queues.problem = ValueError("no")
    await watch.look(first)
    assert told(watch, EXPORTER_UP) == {}
    await watch.look(second)
    assert told(watch, EXPORTER_UP) == {("temporal",): 0}
    assert WORKING in watch.samples()


async def test_a_failure_whose_text_begins_with_an_empty_line_is_one():
    asked = Asked(PACE)
    one = part(asked)
    watch = Watch([one], 5)
    asked.problem = OSError("\n \naway")
    with capture_logs() as said:
        await watch.look(one)
    assert told(watch, EXPORTER_UP) == {("redis",): 0}
    assert PACE not in watch.samples()
    assert [line["why"] for line in said] == ["away"]
    asked.problem = OSError("\n")
    other = part(asked, name="other")
    with capture_logs() as said:
        await Watch([other], 5).look(other)
    assert [line["why"] for line in said] == ["OSError"]


async def test_a_first_look_that_does_not_even_end_when_it_is_cancelled_is_told_and_awaited_no_longer():
    stuck, ends, quick, clock = asyncio.Event(), asyncio.Event(), Asked(WORKING), Clock()

    async def hang():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stuck.set()
            await ends.wait()
            raise

    parts = [part(hang, "temporal", "queues"), part(quick, "temporal", "runs"), part(Asked(PACE))]
    async with Watch(parts, 60, clock=clock, timeout_s=0.01) as watch:
        await stuck.wait()
        await until(lambda: watch.unseen() == ["queues"])
        assert told(watch, EXPORTER_UP) == {("redis",): 1}
        clock.now += 0.02
        assert told(watch, EXPORTER_UP) == {("redis",): 1, ("temporal",): 0}
        assert watch.unseen() == []
        assert WORKING in watch.samples()
        ends.set()
        await until(lambda: ("temporal",) in told(watch, EXPORTER_SECONDS))
        assert told(watch, EXPORTER_UP) == {("redis",): 1, ("temporal",): 0}


async def test_what_changes_is_logged_once():
    asked = Asked(PACE)
    one = part(asked)
    watch = Watch([one], 5)
    asked.problem = OSError("away\nand more")
    with capture_logs() as said:
        await watch.look(one)
        await watch.look(one)
        asked.problem = None
        await watch.look(one)
        await watch.look(one)
    assert [(line["event"], line["source"], line.get("why")) for line in said] == [
        ("cannot be read", "redis", "away"),
        ("read again", "redis", None),
    ]


@pytest.mark.parametrize("end", ["answering", "waiting"])
async def test_it_ends_at_once_whatever_it_is_about(end):
    asked = Asked(PACE)
    if end == "answering":
        asked.answering.clear()
    async with asyncio.timeout(AT_MOST_S), Watch([part(asked)], 3600):
        await until(lambda: asked.times)
