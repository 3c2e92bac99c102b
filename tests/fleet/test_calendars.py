"""Calendars: what is read, what is refused, and how they are spread."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import calendars, instants
from fleet.calendars import DAY_S, Calendar, cron, gap, moved, occurrences, room
from fleet.tables_schedules import ScheduleEntry, ids

ZONE = ZoneInfo("UTC")
MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


def some(values, most):
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(lambda v: tuple(sorted(v)))


CALENDARS = st.builds(
    Calendar,
    second=some(range(60), 3),
    minute=some(range(60), 4),
    hour=some(range(24), 4),
    day_of_week=st.just(tuple(range(7))) | some(range(7), 4),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 9 * * 1-5", Calendar(minute=(30,), hour=(9,), day_of_week=(1, 2, 3, 4, 5))),
        ("*/20 0 1 jan *", Calendar(minute=(0, 20, 40), hour=(0,), day_of_month=(1,), month=(1,))),
        ("0 0 * * sun,7", Calendar(day_of_week=(0,))),
        ("5/25 8-10/2 * * * 2030", Calendar(minute=(5, 30, 55), hour=(8, 10), year=(2030,))),
        ("15 0 12 * * * *", Calendar(second=(15,), hour=(12,))),
        ("0 0 1 March,dec *", Calendar(day_of_month=(1,), month=(3, 12))),
        ("@weekly", Calendar(day_of_week=(0,))),
    ],
)
def test_cron_lines_are_read_as_crontab_has_them(text, expected):
    assert cron(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("60 * * * *", "minute '60' is not between 0 and 59"),
        ("* 24 * * *", "hour '24' is not between 0 and 23"),
        ("* * 0 * *", "day_of_month '0' is not between 1 and 31"),
        ("* * * 13 *", "month '13' is not between 1 and 12"),
        ("* * * * 8", "day_of_week '8' is not between 0 and 7"),
        ("* * * * fre", "day_of_week 'fre' is not between"),
        ("0 9 * marble *", "month 'marble' is not between"),
        ("0 9 * * mond", "day_of_week 'mond' is not between"),
        ("*/0 * * * *", "the step must be at least 1"),
        ("9-5 * * * *", "ends before it begins"),
        ("* * *", "has 3 fields"),
        ("a b c d e", "minute 'a' is not between"),
        ("1,,2 * * * *", "minute '' is not of the form"),
        ("0 9 1 * mon", "crontab means either, Temporal both"),
        ("@every 1h", 'write it as every = "1h"'),
        ("CRON_TZ=Europe/Vienna 0 9 * * *", "name the time zone as"),
    ],
)
def test_a_cron_line_that_cannot_be_is_refused_by_its_field(text, says):
    with pytest.raises(ValueError, match="cron") as refused:
        cron(text)
    assert says in str(refused.value)


def test_a_calendar_takes_numbers_ranges_names_and_lists():
    read = calendars.calendar({"hour": [9, "13-15"], "minute": "*/30", "day_of_week": "mon-fri"})
    assert (read.hour, read.minute, read.day_of_week) == ((9, 13, 14, 15), (0, 30), (1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"calendar\.hours: no such field"):
        calendars.calendar({"hours": 9})
    with pytest.raises(ValueError, match=r"calendar\.hour '24' is not between 0 and 23"):
        calendars.calendar({"hour": [24]})


def test_a_day_that_never_comes_is_found():
    with pytest.raises(ValueError, match="never fires"):
        gap(cron("0 0 31 2 *"))
    assert gap(cron("0 0 29 2 *")) == 4 * 365.25 * DAY_S
    assert gap(cron("*/7 * * * *")) == 240


@pytest.mark.parametrize(
    ("zone", "line", "day", "expected"),
    [
        # as ListScheduleMatchingTimes of Temporal Server 1.32 answers
        ("Europe/Vienna", "30 2 * * *", (2026, 10, 25), ["01:30"]),
        ("Europe/London", "30 1 * * *", (2026, 10, 25), ["01:30"]),
        ("America/New_York", "30 1 * * *", (2026, 11, 1), ["05:30", "06:30"]),
        ("Europe/Vienna", "*/15 2 * * *", (2026, 10, 25), ["01:00", "02:15"]),
        ("Europe/Vienna", "30 2 * * *", (2026, 3, 29), []),
    ],
)
def test_the_night_on_which_clocks_change_has_temporals_instants(zone, line, day, expected):
    begin = datetime(*day, tzinfo=UTC)
    found = occurrences([cron(line)], ZoneInfo(zone), begin, begin + timedelta(hours=12))
    assert [f"{at:%H:%M}" for at in found] == expected


def test_what_is_asked_for_from_the_middle_of_that_night_is_the_same():
    zone, every = ZoneInfo("Europe/Vienna"), [cron("*/15 0-4 * * *")]
    begin = datetime(2026, 10, 24, tzinfo=UTC)
    end = begin + timedelta(days=3)
    whole = list(occurrences(every, zone, begin, end))
    for minutes in range(20 * 60, 30 * 60, 25):
        since = begin + timedelta(minutes=minutes)
        assert list(occurrences(every, zone, since, end)) == [at for at in whole if at >= since]


@pytest.mark.parametrize(
    ("zone", "line", "expected"),
    [
        ("Europe/Vienna", "30 2 * * *", "2026-10-25 02:30"),
        ("Europe/Vienna", "30 3 * * *", "None"),
        ("America/New_York", "0 2 * * 0", "2027-03-14 02:00"),
        ("Europe/London", "30 0,1 * * *", "2026-10-25 01:30"),
        ("Europe/Vienna", "*/15 2 * * *", "2026-10-25 02:00"),
        ("Europe/Vienna", "*/10 2 * * *", "None"),
        ("Asia/Kolkata", "30 2 * * *", "None"),
        ("UTC", "30 2 * * *", "None"),
    ],
)
def test_a_local_time_that_a_clock_skips_or_repeats_is_found(zone, line, expected):
    found = calendars.doubtful(cron(line), ZoneInfo(zone), date(2026, 6, 1))
    assert (f"{found:%Y-%m-%d %H:%M}" if found else "None") == expected


@settings(deadline=None)
@given(CALENDARS, st.data())
def test_what_is_moved_fires_by_just_so_much_later(calendar, data):
    most = room(calendar)
    seconds = data.draw(st.integers(0, (most or DAY_S) - 1))
    end = MONDAY + timedelta(days=9)
    before = list(occurrences([calendar], ZONE, MONDAY + timedelta(days=1), end - timedelta(days=1)))
    after = set(occurrences(moved(calendar, seconds), ZONE, MONDAY, end))
    assert {at + timedelta(seconds=seconds) for at in before} <= after
    if most is not None:
        # those of certain days stay within them
        assert {at.isoweekday() % 7 for at in after} <= set(calendar.day_of_week)
    assert sum(len(one.times) for one in moved(calendar, seconds)) == len(calendar.times)


@settings(deadline=None)
@given(CALENDARS)
def test_temporals_ranges_are_read_back_as_they_were(calendar):
    spec = instants.calendar_spec(calendar)
    assert instants.calendar_of(spec) == calendar
    assert sum(len(ranges) for ranges in (spec.second, spec.minute, spec.hour)) <= 11


@settings(deadline=None)
@given(st.integers(1, 40), st.sampled_from(["10m", "1h", "1d", "7d"]), st.integers(1, 2000))
def test_many_are_spread_evenly_over_the_period(hours, every, count):
    entry = ScheduleEntry(agent="a", goal="g", every=every, count=count)
    period = entry.period.total_seconds()
    shifts = [entry.shift(number).total_seconds() for number in range(1, count + 1)]
    gaps = [b - a for a, b in zip(shifts, [*shifts[1:], period], strict=True)]
    assert shifts[0] == 0
    assert all(0 <= shift < period for shift in shifts)
    assert max(gaps) - min(gaps) <= 1
    assert len(set(ids("x", count))) == count


@settings(deadline=None)
@given(CALENDARS, st.integers(2, 50))
def test_parts_of_a_calendar_fill_the_time_between_two_of_its_instants(calendar, count):
    text = {name: list(getattr(calendar, name)) for name in ("second", "minute", "hour", "day_of_week")}
    entry = ScheduleEntry(agent="a", goal="g", calendar=text, count=count)
    last = entry.shift(count)
    assert last < entry.widest <= entry.period
    if not calendar.every_day:
        assert calendar.times[-1] + last.total_seconds() < DAY_S
