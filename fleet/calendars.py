"""Which instants a cron line or a table of calendar fields names, as Temporal reads them. Pure.

All fields must match together. Where clocks go forward, local times that do not exist are left out. Where they go back,
what becomes of the hour that comes twice depends on the zone and on the instant before it: `following` goes from one to
the next as Temporal Server 1.32 does (`compiledCalendar.next`, on Go's `time.Date`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

DAY_S = 86_400
MOST_PARTS = 40
"""Most values and ranges in one field."""
YEARS = 12
"""So far ahead a calendar is looked through: 29 February comes within eight."""
_LOOKED_AT = 400
FEW = 4
"""With more times a day than these nobody counts on one of them."""
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_PART = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")

BOUNDS: Mapping[str, tuple[int, int]] = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day_of_month": (1, 31),
    "month": (1, 12),
    "day_of_week": (0, 7),
    "year": (2000, 2100),
}
"""First and last value of each field, as Temporal has them. Sunday is 0, and 7."""
_ORDER = tuple(BOUNDS)
_CRON = ("minute", "hour", "day_of_month", "month", "day_of_week")
_ZERO = ("second", "minute", "hour")
"""Fields that are 0 where a calendar does not name them; the others match always."""

Values = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Sets of values, in order, one for each field."""

    second: Values = (0,)
    minute: Values = (0,)
    hour: Values = (0,)
    day_of_month: Values = tuple(range(1, 32))
    month: Values = tuple(range(1, 13))
    day_of_week: Values = tuple(range(7))
    """0 is Sunday."""
    year: Values = ()
    """Empty: all."""

    @property
    def every_day(self) -> bool:
        """Whether it matches every day."""
        return len(self.day_of_month) == 31 and len(self.month) == 12 and len(self.day_of_week) == 7 and not self.year

    @property
    def times(self) -> list[int]:
        """Its times of day, in seconds from midnight, in order."""
        return [h * 3600 + m * 60 + s for h in self.hour for m in self.minute for s in self.second]

    def on(self, day: date) -> bool:
        """Whether it matches some time of that day."""
        return (
            day.month in self.month
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
            and (not self.year or day.year in self.year)
        )


def cron(text: str) -> Calendar:
    """Read 5 fields (minute, hour, day of month, month, day of week), 6 (and year) or 7 (second first), or `@daily`.

    Raises:
        ValueError: it is none, or a value is out of bounds; or it names days both of the month and of the week, which
            crontab reads as either and Temporal as both.
    """
    line = text.strip()
    if line.startswith("@every"):
        raise ValueError(f'cron {text!r}: write it as every = "1h"')
    if "TZ=" in line:
        raise ValueError(f'cron {text!r}: name the time zone as timezone = "Europe/Vienna"')
    fields = _SHORT.get(line, line).split()
    names = {5: _CRON, 6: (*_CRON, "year"), 7: ("second", *_CRON, "year")}.get(len(fields))
    if names is None:
        raise ValueError(f"cron {text!r} has {len(fields)} fields: 5 are minute hour day-of-month month day-of-week")
    given = dict(zip(names, fields, strict=True))
    try:
        found = {name: _values(name, value) for name, value in given.items()}
    except ValueError as error:
        raise ValueError(f"cron {text!r}: {error}") from None
    read = Calendar(**found)
    if given["day_of_month"][0] != "*" and given["day_of_week"][0] != "*":
        raise ValueError(
            f"cron {text!r}: days of the month and of the week: crontab means either, Temporal both; write a calendar"
            " for both, two schedules for either"
        )
    return read


def calendar(table: Mapping[str, Any]) -> Calendar:
    """Read a table of fields: numbers, text as `9-17`, `*/5`, `mon-fri`, or lists of those.

    Raises:
        ValueError: an unknown field, or a value out of bounds.
    """
    for name in table:
        if name not in BOUNDS:
            raise ValueError(f"calendar.{name}: no such field; there are: {', '.join(_ORDER)}")
    if not table:
        raise ValueError(f"calendar: is empty; set one of {', '.join(_ORDER)}")
    found = {}
    for name, value in table.items():
        given = value if isinstance(value, list) else [value]
        if not given or any(isinstance(one, bool) or not isinstance(one, int | str) for one in given):
            raise ValueError(f"calendar.{name}: {value!r} is no number, text or list of them")
        try:
            found[name] = _values(name, ",".join(map(str, given)))
        except ValueError as error:
            raise ValueError(f"calendar.{error}") from None
    return Calendar(**found)


def _values(name: str, text: str) -> Values:
    parts = text.split(",")
    if len(parts) > MOST_PARTS:
        raise ValueError(f"{name}: {len(parts)} values and ranges; {MOST_PARTS} are the most")
    found: set[int] = set()
    for part in parts:
        found.update(_range(name, part.strip()))
    low, high = BOUNDS[name]
    if name == "year" and len(found) == high - low + 1:
        return ()
    # Sunday has two numbers
    return tuple(sorted({one % 7 for one in found} if name == "day_of_week" else found))


def _range(name: str, part: str) -> range:
    low, high = BOUNDS[name]
    read = _PART.fullmatch(part)
    if not read:
        raise ValueError(f"{name} {part!r} is not of the form 5, 1-5, */10, 0-30/10 or a list of those")
    first, last, step = read[1], read[2], int(read[3] or 1)
    if step < 1:
        raise ValueError(f"{name} {part!r}: the step must be at least 1")
    if first == "*":
        if last:
            raise ValueError(f"{name} {part!r}: * is a range by itself")
        return range(low, high + (name != "day_of_week"), step)
    begin = _number(name, first)
    # as in cron, 5/10 goes on to the end of the field
    end = _number(name, last) if last else (high if read[3] else begin)
    if end < begin:
        raise ValueError(f"{name} {part!r}: ends before it begins")
    return range(begin, end + 1, step)


def _number(name: str, text: str) -> int:
    low, high = BOUNDS[name]
    words = _MONTHS if name == "month" else _WEEKDAYS if name == "day_of_week" else ()
    for number, word in enumerate(words, start=low):
        if text.lower() in (word, word[:3]):
            return number
    if not text.isdigit() or not low <= int(text) <= high:
        raise ValueError(f"{name} {text!r} is not between {low} and {high}")
    return int(text)


def gap(calendar: Calendar) -> int | None:
    """The shortest time between two of its instants, in seconds, clock changes aside.

    Returns:
        None if there is only one in twelve years.

    Raises:
        ValueError: there is none: it never fires.
    """
    begin = datetime(min(calendar.year, default=2024), 1, 1, tzinfo=UTC)
    end = begin.replace(year=begin.year + YEARS)
    found = list(islice(occurrences([calendar], ZoneInfo("UTC"), begin, end), _LOOKED_AT))
    if not found:
        raise ValueError("never fires: there is no such day")
    return min((int((b - a).total_seconds()) for a, b in pairwise(found)), default=None)


def room(calendar: Calendar) -> int | None:
    """By how many seconds all its times can be moved. Those of certain days stay within their day.

    Returns:
        None: by any number, it matches every day.
    """
    return None if calendar.every_day else DAY_S - calendar.times[-1]


def moved(calendar: Calendar, seconds: int) -> list[Calendar]:
    """The same instants later by so many seconds, less than `room`. Several calendars, whose union it is."""
    if seconds == 0:
        return [calendar]
    # by second and by hour: what minutes
    found: dict[int, dict[int, set[int]]] = {}
    for at in calendar.times:
        minute, second = divmod((at + seconds) % DAY_S, 60)
        found.setdefault(second, {}).setdefault(minute // 60, set()).add(minute % 60)
    calendars = []
    for second, hours in sorted(found.items()):
        alike: dict[Values, list[int]] = {}
        for hour, minutes in sorted(hours.items()):
            alike.setdefault(tuple(sorted(minutes)), []).append(hour)
        calendars += [
            replace(calendar, second=(second,), minute=minutes, hour=tuple(at)) for minutes, at in alike.items()
        ]
    return calendars


def occurrences(calendars: Sequence[Calendar], zone: ZoneInfo, begin: datetime, end: datetime) -> Iterator[datetime]:
    """The instants from `begin` to before `end` at which one of them fires, in order, in UTC."""
    if not calendars:
        return
    times = [(calendar, calendar.times) for calendar in calendars]
    day = begin.astimezone(zone).date()
    while not _steady(day, zone):
        day -= _DAY
    last = end.astimezone(zone).date()
    while day <= last:
        first = _midnight(day, zone)
        day += _DAY
        if _steady(day - _DAY, zone):
            matching = {at for calendar, its in times if calendar.on(first.date()) for at in its}
            utc = first.astimezone(UTC)
            found: Iterator[datetime] = (utc + timedelta(seconds=at) for at in sorted(matching))
        else:
            while not _steady(day, zone):
                day += _DAY
            found = _stepped(calendars, zone, first.astimezone(UTC), _midnight(day, zone).astimezone(UTC))
        yield from (at for at in found if begin <= at < end)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone)


def _steady(day: date, zone: ZoneInfo) -> bool:
    """Whether clocks change neither on that day nor on those beside it."""
    return len({_midnight(day + number * _DAY, zone).utcoffset() for number in (-1, 0, 1, 2)}) == 1


def _stepped(calendars: Sequence[Calendar], zone: ZoneInfo, begin: datetime, end: datetime) -> Iterator[datetime]:
    after = begin - timedelta(seconds=1)
    while found := [at for one in calendars if (at := following(one, zone, after, end))]:
        after = min(found)
        yield after


def following(calendar: Calendar, zone: ZoneInfo, after: datetime, end: datetime) -> datetime | None:
    """The next instant, in UTC, as Temporal finds it from that one; None if it is not before `end`.

    Of an hour that comes twice Go takes the second east of Greenwich and the first west of it. Temporal adds an hour
    where it believes itself in the other one, and so fires there once, twice, or an hour late.
    """
    local = after.astimezone(zone)
    day, hour, inside = local.date(), local.hour, local.minute * 60 + local.second + 1
    added = _HOUR if (after - _HOUR).astimezone(zone).hour == hour else timedelta(0)
    last = end.astimezone(zone).date()
    times = [minute * 60 + second for minute in calendar.minute for second in calendar.second]
    while day <= last:
        if inside >= 3600:
            again = not added and _instant(day, hour + 1, 0, zone) - _instant(day, hour, 0, zone) > _HOUR
            added, hour, inside = _HOUR if again else timedelta(0), hour + (not again), 0
        if hour >= 24:
            day, hour = day + _DAY, 0
        if not calendar.on(day):
            day, hour, inside, added = day + _DAY, 0, 0, timedelta(0)
        elif hour not in calendar.hour:
            hour, inside, added = hour + 1, 0, timedelta(0)
        elif (second := next((at for at in times if at >= inside), None)) is None:
            inside = 3600
        elif (found := _instant(day, hour, second, zone)).astimezone(zone).hour != hour:
            # there is no such hour on that day
            hour, inside = hour + 1, 0
        else:
            return found + added if found + added < end else None
    return None


def _instant(day: date, hour: int, second: int, zone: ZoneInfo) -> datetime:
    """A local time as Go's `time.Date` has it: by the offset at its digits in UTC, then by the one found there."""
    digits = datetime.combine(day, time(), tzinfo=UTC) + timedelta(hours=hour, seconds=second)
    offset = digits.astimezone(zone).utcoffset() or timedelta(0)
    return digits - ((digits - offset).astimezone(zone).utcoffset() or timedelta(0)) if offset else digits


def matches(calendar: Calendar, zone: ZoneInfo, at: datetime) -> bool:
    """Whether that instant is one of its local times."""
    local = at.astimezone(zone)
    return (
        calendar.on(local.date())
        and local.hour in calendar.hour
        and local.minute in calendar.minute
        and local.second in calendar.second
    )


def doubtful(calendar: Calendar, zone: ZoneInfo, since: date) -> datetime | None:
    """The first of its local times, in a year from that day, that comes twice or not at all. Without a zone.

    Returns None of one with more than four times a day.
    """
    if len(calendar.times) > FEW:
        return None
    for number in range(366):
        day = since + number * _DAY
        if _midnight(day, zone).utcoffset() == _midnight(day + _DAY, zone).utcoffset() or not calendar.on(day):
            continue
        for at in calendar.times:
            local = datetime.combine(day, time()) + timedelta(seconds=at)
            if len({local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)}) > 1:
                return local
    return None
