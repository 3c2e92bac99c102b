"""Temporal Schedules from the manifest and by hand, on a real server."""

import asyncio
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import perf_counter
from uuid import uuid4

import pytest
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import Client, ScheduleOverlapPolicy

from fleet import scheduled, schedules
from fleet.client import RUN_ID, FleetClient
from fleet.errors import BadInput
from fleet.instants import instants, words
from fleet.manifest import Manifest
from fleet.schedules import Kind, counted, execute, parts, plan
from fleet.tables_schedules import ScheduleEntry

OWNER = ""
"""Of each test its own: what is left of another is none of its business."""

BASE = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[pools.agents]
task_queue = "nobody-serves-this"
[pools.llm]
[agents.one]
model = "openai/m"
instructions = "work"
"""


async def eventually(look, what):
    """The first answer that is anything."""
    async with asyncio.timeout(20):
        while not (found := await look()):
            await asyncio.sleep(0.05)
    assert found, what
    return found


def manifest(text: str = "", **agent: object) -> Manifest:
    raw = tomllib.loads(BASE + text)
    raw["agents"]["one"] |= agent
    return Manifest.model_validate(raw)


@pytest.fixture
async def name(temporal: Client) -> AsyncIterator[str]:
    """Begins all names of a test; whatever is called so goes with it, its runs too."""
    global OWNER
    OWNER = prefix = f"t{uuid4().hex[:8]}"
    yield prefix
    for one in await scheduled.listed(temporal, running=False):
        if one.id.startswith(prefix):
            await schedules.delete(temporal, one.id)
    async for run in temporal.list_workflows("ExecutionStatus = 'Running' AND TemporalScheduledById IS NOT NULL"):
        if run.id.startswith(prefix):
            await temporal.get_workflow_handle(run.id).terminate()


async def applied(temporal: Client, wanted: Manifest, **more: bool) -> dict[Kind, int]:
    """Plan and do it; come back when listings know it."""
    steps = await plan(temporal, wanted, owner=OWNER, **more)
    done = await execute(temporal, wanted, steps, owner=OWNER)
    assert not done.failed
    made = {part.id for name, entry in wanted.schedules.items() for part in parts(name, entry)}

    async def known():
        return made <= {one.id for one in await scheduled.listed(temporal, running=False)}

    await eventually(known, "the listing knows them")
    return {kind: len(found) for kind, found in done.done.items()}


def table(name: str, **more: object) -> str:
    fields = {"agent": "one", "goal": "g", "every": "1h"} | more
    lines = [f"{key} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for key, v in fields.items() if v != ""]
    return "\n".join([f"[schedules.{name}]", *lines, ""])


async def test_applying_twice_changes_nothing_the_second_time(temporal, name):
    wanted = manifest(
        table(name, count=7, jitter="5m", catchup="10m", overlap="buffer_one")
        + table(f"{name}b", every="", cron="30 9 * * 1-5", timezone="Europe/Vienna", count=3, note="n", goal="g{n}")
        + table(f"{name}c", every="", goal="g {not a template}").replace("agent", "calendar = { hour = 9 }\nagent", 1)
    )
    assert await applied(temporal, wanted) == {Kind.CREATE: 11}
    assert await applied(temporal, wanted) == {}
    assert counted(await plan(temporal, wanted, owner=OWNER)) == {Kind.UNCHANGED: 11}
    shown = await scheduled.show(temporal, f"{name}b-002")
    assert (shown.goal, shown.agent, shown.note) == ("g2", "one", "n")
    assert shown.times == "cron 30 9 * * 1-5 +4h50m, Europe/Vienna"
    assert shown.owner == f"manifest {OWNER}"
    assert len(shown.next_at) == 10


async def test_a_change_of_the_agents_definition_is_an_update_that_says_so(temporal, name):
    await applied(temporal, manifest(table(name)))
    changed = manifest(table(name, goal="h", jitter="1m", tenant="acme"), instructions="work better")
    (step,) = await plan(temporal, changed, owner=OWNER)
    assert step.kind is Kind.UPDATE
    assert step.why == ["jitter 0s -> 1m", "agent one: instructions", "goal g -> h", "tenant default -> acme"]
    assert await applied(temporal, changed) == {Kind.UPDATE: 1}
    assert await applied(temporal, changed) == {}
    assert (await scheduled.show(temporal, name)).goal == "h"


async def test_every_field_that_changes_is_told(temporal, name):
    await applied(temporal, manifest(table(name)))
    changed = table(name, every="2h", offset="5m", overlap="allow_all", catchup="1m", start="2026-01-01T00:00:00Z")
    (step,) = await plan(temporal, manifest(changed), owner=OWNER)
    assert step.why == [
        "times every 1h -> every 2h at +5m, from 2026-01-01 00:00 UTC",
        "overlap skip -> allow_all",
        "catchup 1h -> 1m",
    ]


async def test_what_was_paused_by_hand_stays_paused(temporal, name):
    await applied(temporal, manifest(table(name)))
    await temporal.get_schedule_handle(name).pause(note="ana: provider is down")
    changed = manifest(table(name, jitter="1m"))
    (step,) = await plan(temporal, changed, owner=OWNER)
    assert (step.why, step.kept) == (["jitter 0s -> 1m"], "stays paused: ana: provider is down")
    await applied(temporal, changed)
    shown = await scheduled.show(temporal, name)
    assert shown.paused
    assert (shown.note, shown.times) == ("ana: provider is down", "every 1h, jitter 1m")


async def test_the_note_of_a_pause_by_hand_stays_while_it_is_paused(temporal, name):
    await applied(temporal, manifest(table(name)))
    await temporal.get_schedule_handle(name).pause(note="ana: provider is down")
    assert await applied(temporal, manifest(table(name, note="for the stand-up"))) == {Kind.UPDATE: 1}
    shown = await scheduled.show(temporal, name)
    assert (shown.paused, shown.note) == (True, "ana: provider is down")
    assert await applied(temporal, manifest(table(name, note="for the stand-up"))) == {}


async def test_the_manifest_pauses_and_resumes_when_it_changes_its_mind(temporal, name):
    async def paused():
        return (await scheduled.show(temporal, name)).paused

    await applied(temporal, manifest(table(name, paused=True, note="not yet")))
    assert await paused()
    await applied(temporal, manifest(table(name, note="go")))
    assert not await paused()
    await applied(temporal, manifest(table(name, paused=True)))
    assert await paused()
    await temporal.get_schedule_handle(name).unpause()
    (step,) = await plan(temporal, manifest(table(name, paused=True)), owner=OWNER)
    assert (step.kind, step.kept) == (Kind.UNCHANGED, "stays running; the manifest says paused")


async def test_only_what_this_manifest_has_made_is_pruned_or_changed(temporal, name):
    await applied(temporal, manifest(table(name, count=3)))
    mine, theirs = f"{name}-hand", f"{name}-other"
    entry = ScheduleEntry(agent="one", goal="g", every="1h")
    for id_, owner in ((mine, "by ana"), (theirs, "manifest other")):
        await schedules.create(temporal, manifest(), parts(id_, entry)[0], owner=owner)
    wanted = manifest(table(name, count=1, jitter="1m") + table(mine, jitter="1m") + table(theirs, jitter="1m"))
    steps = await plan(temporal, wanted, owner=OWNER)
    kinds = {step.id: step.kind for step in steps}
    assert kinds == {
        f"{name}-001": Kind.UPDATE,
        mine: Kind.FOREIGN,
        theirs: Kind.FOREIGN,
        f"{name}-002": Kind.ORPHAN,
        f"{name}-003": Kind.ORPHAN,
    }
    done = await execute(temporal, wanted, steps, owner=OWNER)
    assert done.failed == {
        mine: "is of by ana: rename it, or remove that one",
        theirs: "is of manifest other: rename it, or remove that one",
    }
    assert done.done == {Kind.UPDATE: [f"{name}-001"]}
    assert await applied(temporal, manifest(table(name, count=1, jitter="1m")), prune=True) == {Kind.DELETE: 2}

    async def left():
        there = {one.id for one in await scheduled.listed(temporal, running=False) if one.id.startswith(name)}
        return there == {f"{name}-001", mine, theirs}

    await eventually(left, "only its own are gone")


async def test_a_broken_off_apply_goes_on_where_it_was(temporal, name):
    wanted = manifest(table(name, count=20))
    steps = await plan(temporal, wanted, owner=OWNER)
    await execute(temporal, wanted, steps[:9], owner=OWNER)
    assert counted(await plan(temporal, wanted, owner=OWNER)) == {Kind.CREATE: 11, Kind.UNCHANGED: 9}
    # a plan from before is as good: what is there is compared
    done = await execute(temporal, wanted, steps, owner=OWNER)
    assert not done.failed
    assert counted(await plan(temporal, wanted, owner=OWNER)) == {Kind.UNCHANGED: 20}


async def test_two_that_apply_at_once_do_not_disturb_each_other(temporal, name):
    wanted = manifest(table(name, count=20))
    first, second = [await plan(temporal, wanted, owner=OWNER) for _ in range(2)]
    done = await asyncio.gather(*(execute(temporal, wanted, steps, owner=OWNER) for steps in (first, second)))
    assert [one.failed for one in done] == [{}, {}]


async def test_a_pause_that_comes_between_look_and_update_is_kept(temporal, name):
    await applied(temporal, manifest(table(name, count=10)))
    changed = manifest(table(name, count=10, jitter="1m"))
    steps = await plan(temporal, changed, owner=OWNER)
    there = [temporal.get_schedule_handle(step.id) for step in steps]
    done, *_ = await asyncio.gather(
        execute(temporal, changed, steps, owner=OWNER), *(one.pause(note="3 a.m.") for one in there)
    )
    assert not done.failed
    for one in there:
        found = (await one.describe()).schedule
        assert (found.state.paused, found.state.note, found.spec.jitter) == (True, "3 a.m.", timedelta(minutes=1))


SPECS = {
    "every": {"every": "17m", "offset": "90s"},
    "hourly": {"cron": "30 * * * *", "timezone": "Europe/Vienna"},
    "night": {"cron": "30 0-4 * * *", "timezone": "Europe/Vienna"},
    "twice": {"cron": "30 1 * * *", "timezone": "America/New_York"},
    "late": {"cron": "30 2 * * *", "timezone": "Europe/Vienna"},
    "london": {"cron": "30 1 * * *", "timezone": "Europe/London"},
    "often": {"cron": "*/15 0-4 * * *", "timezone": "Europe/Vienna"},
    "weekdays": {"cron": "*/40 9-17 * * 1-5", "timezone": "America/New_York"},
    "days": {"calendar": {"day_of_month": "28-31", "hour": [0, 23], "second": 5}, "timezone": "Asia/Kolkata"},
    "spread": {"cron": "0 9 * * *", "timezone": "Europe/Vienna", "count": 5},
    "bounded": {"every": "1h", "start": "2026-03-28T05:00:00Z", "end": "2026-03-28T09:00:00Z"},
}


@pytest.mark.parametrize("kind", SPECS)
async def test_instants_are_those_that_temporal_itself_names(temporal, name, kind):
    entry = ScheduleEntry(agent="one", goal="g", paused=True, **SPECS[kind])
    part = parts(name, entry)[-1]
    assert await schedules.make(
        temporal, part.id, schedules.built(manifest(), part, schedules.run_of(manifest(), part))
    )
    there = await temporal.get_schedule_handle(part.id).describe()
    assert words(there.schedule.spec) == words(schedules.times(part))
    # both changes of the clocks, and the end of a month
    for begin in (datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
        end = begin + timedelta(days=9)
        asked = ListScheduleMatchingTimesRequest(namespace=temporal.namespace, schedule_id=part.id)
        asked.start_time.FromDatetime(begin - timedelta(seconds=1))
        asked.end_time.FromDatetime(end - timedelta(seconds=1))
        answer = await temporal.workflow_service.list_schedule_matching_times(asked)
        assert list(instants(there.schedule.spec, begin, end)) == [at.ToDatetime(UTC) for at in answer.start_time]


async def test_a_name_stands_for_all_its_parts(temporal, name):
    await applied(temporal, manifest(table(name, count=4)))
    found = await scheduled.resolve(temporal, name)
    assert [one.id for one in found] == [f"{name}-{n:03d}" for n in range(1, 5)]
    assert [one.id for one in await scheduled.resolve(temporal, f"{name}-002")] == [f"{name}-002"]
    assert len(await scheduled.resolve(temporal, f"{name}-00*")) == 4
    done = await scheduled.act(temporal, found, lambda handle: handle.pause(note="n"))
    assert done.done == [one.id for one in found]

    async def paused():
        return all(one.paused for one in await scheduled.resolve(temporal, name))

    await eventually(paused, "the listing knows it")
    with pytest.raises(BadInput, match="no schedule 'nobody'"):
        await scheduled.resolve(temporal, "nobody")


async def test_a_run_that_was_triggered_is_found_by_its_id(temporal, name):
    wanted = manifest(table(name))
    await applied(temporal, wanted)
    found = await scheduled.resolve(temporal, name)
    await scheduled.act(temporal, found, lambda handle: handle.trigger())

    async def running():
        return (await scheduled.show(temporal, name)).running

    (run,) = await eventually(running, "the run is found")
    assert RUN_ID.fullmatch(run)
    assert run.startswith(f"{name}-20")
    info = await FleetClient(temporal, wanted).info(run)
    assert (info.agent, info.goal, info.state) == ("one", "g", "running")

    async def listed():
        (one,) = [one for one in await scheduled.listed(temporal) if one.id == name]
        return (one.running, one.last_run) == (1, run)

    await eventually(listed, "the listing knows it")


async def test_a_backfill_starts_what_has_not_run_and_only_that(temporal, name):
    wanted = manifest(table(name, every="10m", jitter="9m", overlap="allow_all"))
    await applied(temporal, wanted)
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=20)

    async def filled(begin, count):
        gap = await scheduled.missing(temporal, name, begin, end)
        started = await scheduled.backfill(temporal, gap, overlap=ScheduleOverlapPolicy.ALLOW_ALL)

        async def all_there():
            runs = (await scheduled.show(temporal, name)).running
            return runs if len(runs) >= count else None

        runs = await eventually(all_there, f"{count} runs are there")
        assert len(runs) == count
        return gap, started, runs

    _, first, _ = await filled(end - timedelta(minutes=30), 3)
    gap, second, runs = await filled(end - timedelta(minutes=60), 6)
    assert gap.had == first
    assert len(second) == 3
    assert set(runs) == {f"{name}-{at:%Y-%m-%dT%H:%M:%SZ}" for at in first + second}
    with pytest.raises(BadInput, match="must come after --from"):
        await scheduled.missing(temporal, name, end, end - timedelta(minutes=1))
    with pytest.raises(BadInput, match="more than 1000 instants"):
        await scheduled.missing(temporal, name, end - timedelta(days=10), end)


async def test_temporals_own_times_are_what_a_live_preview_sees(temporal, name):
    await applied(temporal, manifest(table(name, count=3, jitter="30m") + table(f"{name}off", paused=True)))
    begin = datetime.now(UTC) + timedelta(hours=1)
    found = await scheduled.times(temporal, begin, begin + timedelta(hours=5), names=[name, f"{name}off"])
    assert [one.id for one in found] == [f"{name}-001", f"{name}-002", f"{name}-003"]
    assert all(len(one.plain) == 5 for one in found)
    assert all(one.agent == "one" for one in found)
    late = [b - a for one in found for a, b in zip(one.plain, one.jittered, strict=False)]
    assert len({one.jittered[0].minute for one in found} | {at.seconds for at in late}) > 1


async def test_a_live_preview_has_the_instants_of_its_begin_and_more_than_a_thousand(temporal, name):
    await applied(temporal, manifest(table(name, every="1m") + table(f"{name}j", jitter="50m")))
    begin = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
    end = begin + timedelta(minutes=1500)
    # named twice, counted once
    one, late = await scheduled.times(temporal, begin, end, names=[name, f"{name}*"])
    expected = [begin + timedelta(minutes=n) for n in range(1500)]
    assert (one.id, one.plain, one.jittered) == (name, expected, expected)
    assert late.plain == expected[::60]
    # what is due before the begin may fire after it
    (longer,) = await scheduled.times(temporal, begin - timedelta(hours=2), end + timedelta(hours=1), names=[late.id])
    assert late.jittered == [at for at in longer.jittered if begin <= at < end]


@pytest.mark.parametrize("jitter", ["0s", "9m"])
async def test_a_backfill_of_the_night_on_which_clocks_go_back_has_temporals_instants(temporal, name, jitter):
    entry = ScheduleEntry(agent="one", goal="g", cron="30 1 * * *", timezone="America/New_York", jitter=jitter)
    await schedules.create(temporal, manifest(), parts(name, entry)[0], owner="by a test")
    begin = datetime(2025, 11, 1, 5, 30, tzinfo=UTC)
    gap = await scheduled.missing(temporal, name, begin, begin + timedelta(days=2))
    assert [f"{at:%d %H:%M}" for at in gap.due] == ["01 05:30", "02 05:30", "02 06:30"]
    started = await scheduled.backfill(temporal, gap, overlap=ScheduleOverlapPolicy.ALLOW_ALL)

    async def all_there():
        runs = (await scheduled.show(temporal, name)).running
        return runs if len(runs) == 3 else None

    runs = await eventually(all_there, "three runs are there")
    assert set(runs) == {f"{name}-{at:%Y-%m-%dT%H:%M:%SZ}" for at in started}


@pytest.mark.parametrize(
    "over", [{"every": "1h", "end": "2026-01-01T00:00:00Z"}, {"cron": "0 9 1 1 * 2025"}, {"calendar": {"year": 2024}}]
)
async def test_what_would_never_run_is_not_made(temporal, name, over):
    part = parts(name, ScheduleEntry(agent="one", goal="g", **over))[0]
    with pytest.raises(BadInput, match=r"would never run: no instant of .* is still to come"):
        await schedules.create(temporal, manifest(), part, owner="by ana")


async def test_orphans_are_told_in_the_order_of_their_ids(temporal, name):
    await applied(temporal, manifest(table(name, count=12)))
    steps = await plan(temporal, manifest(), owner=OWNER)
    assert [step.id for step in steps] == [f"{name}-{n:03d}" for n in range(1, 13)]


async def test_a_schedule_of_that_id_is_not_made_twice_by_hand(temporal, name):
    part = parts(name, ScheduleEntry(agent="one", goal="g", every="1h"))[0]
    await schedules.create(temporal, manifest(), part, owner="by ana")
    with pytest.raises(BadInput, match="exists already"):
        await schedules.create(temporal, manifest(), part, owner="by bo")
    unknown = parts(f"{name}x", ScheduleEntry(agent="nobody", goal="g", every="1h"))[0]
    with pytest.raises(BadInput, match="unknown agent 'nobody'"):
        await schedules.create(temporal, manifest(), unknown, owner="by bo")
    with pytest.raises(BadInput, match=r"no \[schedules.other\]"):
        await plan(temporal, manifest(), owner=OWNER, names=["other"])


@pytest.mark.trial
async def test_five_hundred_schedules_are_made_in_fifteen_seconds(temporal, name):
    wanted = manifest(table(name, count=500, jitter="5m"))
    began = perf_counter()
    assert await applied(temporal, wanted) == {Kind.CREATE: 500}
    took = perf_counter() - began
    began = perf_counter()
    assert await applied(temporal, wanted) == {}
    again = perf_counter() - began
    began = perf_counter()
    found = [one for one in await scheduled.listed(temporal) if one.id.startswith(name)]
    print(f"500 created in {took:.1f} s, compared in {again:.1f} s, listed in {perf_counter() - began:.2f} s")  # noqa: T201
    assert len({one.times for one in found}) == 500
    began = perf_counter()
    for number in range(20):
        await temporal.get_schedule_handle(f"{name}-{number + 1:03d}").describe()
    # on an idle machine a call takes some milliseconds; where others keep it busy, all takes longer
    idle = min(1.0, 0.02 / ((perf_counter() - began) / 20))
    assert took < 15 / idle
    await asyncio.gather(*(schedules.delete(temporal, one.id) for one in found))
