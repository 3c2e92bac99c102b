"""Times of a Temporal Schedule: the instants that its spec names, and how people say them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from zoneinfo import ZoneInfo

from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import Client, ScheduleCalendarSpec, ScheduleRange, ScheduleSpec

from fleet import calendars
from fleet.calendars import BOUNDS, Calendar, Values, matches, occurrences

_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_FULL = 1000
"""So many instants Temporal answers at most."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = tuple(field.name for field in fields(Calendar))


def calendar_spec(calendar: Calendar, comment: str = "") -> ScheduleCalendarSpec:
    """What Temporal is told of a calendar."""
    return ScheduleCalendarSpec(
        second=_ranges(calendar.second),
        minute=_ranges(calendar.minute),
        hour=_ranges(calendar.hour),
        day_of_month=_ranges(calendar.day_of_month),
        month=_ranges(calendar.month),
        year=_ranges(calendar.year),
        day_of_week=_ranges(calendar.day_of_week),
        comment=comment or None,
    )


def _ranges(values: Values) -> list[ScheduleRange]:
    """As few ranges as are found from left to right."""
    found: list[ScheduleRange] = []
    left = list(values)
    while left:
        step = left[1] - left[0] if len(left) > 1 else 1
        length = 1
        while length < len(left) and left[length] - left[length - 1] == step:
            length += 1
        # two values far apart are no range
        if length == 2 and step > 1:
            length = 1
        found.append(ScheduleRange(left[0], left[length - 1], step if length > 1 else 1))
        left = left[length:]
    return found


def calendar_of(spec: ScheduleCalendarSpec) -> Calendar:
    """The calendar that Temporal was told of."""
    return Calendar(**{name: _values(getattr(spec, name)) for name in _FIELDS})


def _values(ranges: Sequence[ScheduleRange]) -> Values:
    return tuple(sorted({value for one in ranges for value in range(one.start, one.end + 1, one.step)}))


def instants(spec: ScheduleSpec, begin: datetime, end: datetime) -> Iterator[datetime]:
    """The instants from `begin` to before `end` that a spec names, in order, in UTC, without its jitter.

    Cron expressions are not read: Temporal answers, and this fleet sends, calendars.
    """
    zone = ZoneInfo(spec.time_zone_name or "UTC")
    begin = max(begin, spec.start_at) if spec.start_at else begin
    # Temporal's end is the last instant that may fire
    end = min(end, spec.end_at + timedelta(microseconds=1)) if spec.end_at else end
    skipped = [calendar_of(one) for one in spec.skip]
    streams = [
        occurrences([calendar_of(one) for one in spec.calendars], zone, begin, end),
        *(_turns(one.every, one.offset or timedelta(0), begin, end) for one in spec.intervals),
    ]
    last = None
    for at in merge(*streams):
        if at != last and not any(matches(one, zone, at) for one in skipped):
            yield at
        last = at


def first(spec: ScheduleSpec, since: datetime) -> datetime | None:
    """Its first instant from then on; None: it never fires again."""
    since = max(since, spec.start_at) if spec.start_at else since
    years = [max(one.year, default=since.year + calendars.YEARS) for one in map(calendar_of, spec.calendars)]
    until = datetime(max(years, default=since.year + calendars.YEARS) + 1, 1, 2, tzinfo=UTC)
    return next(instants(spec, since, until), None)


async def matching(
    client: Client, id_: str, spec: ScheduleSpec, begin: datetime, end: datetime, *, most: int
) -> list[tuple[datetime, datetime]]:
    """The instants of a schedule as Temporal itself names them, each without and with its jitter, in UTC.

    Args:
        client: to Temporal.
        id_: of the schedule.
        spec: its times.
        begin: the first instant may be there, without its jitter.
        end: none is later than this, with its jitter.
        most: not many more than these are asked for.

    Raises:
        temporalio.service.RPCError: Temporal does not answer, or has no such schedule.
    """
    found: list[tuple[datetime, datetime]] = []
    # Temporal takes the begin for an instant that has been, and counts in whole seconds
    after = begin - _MILLISECOND if begin.microsecond else begin - _SECOND
    while len(found) <= most:
        asked = ListScheduleMatchingTimesRequest(namespace=client.namespace, schedule_id=id_)
        asked.start_time.FromDatetime(after)
        asked.end_time.FromDatetime(end)
        answer = (await client.workflow_service.list_schedule_matching_times(asked)).start_time
        for at in (one.ToDatetime(UTC) for one in answer):
            # each is found from the one before, its jitter included
            found.append(((spec.jitter and _next(spec, after, at + _MILLISECOND)) or at, at))
            after = at
        if len(answer) < _FULL:
            break
    return found


def _next(spec: ScheduleSpec, after: datetime, end: datetime) -> datetime | None:
    """The first instant after that one and before `end`, without jitter."""
    zone = ZoneInfo(spec.time_zone_name or "UTC")
    if spec.start_at and after < spec.start_at:
        after = spec.start_at - _SECOND
    skipped = [calendar_of(one) for one in spec.skip]
    while True:
        turns = (_turns(one.every, one.offset or timedelta(0), after + _MILLISECOND, end) for one in spec.intervals)
        found = [at for turn in turns for at in islice(turn, 1)]
        dates = (calendars.following(calendar_of(one), zone, after, end) for one in spec.calendars)
        found += [at for at in dates if at]
        if not found:
            return None
        after = min(found)
        if not any(matches(one, zone, after) for one in skipped):
            return after


def _turns(every: timedelta, offset: timedelta, begin: datetime, end: datetime) -> Iterator[datetime]:
    period, phase = int(every.total_seconds()), int(offset.total_seconds())
    first = math.ceil(((begin - _EPOCH).total_seconds() - phase) / period)
    at = _EPOCH + timedelta(seconds=first * period + phase)
    while at < end:
        yield at
        at += every


def same_times(one: ScheduleSpec, other: ScheduleSpec) -> bool:
    """Whether two specs name the same instants by the same calendars and intervals."""
    return _normal(one) == _normal(other)


def _normal(spec: ScheduleSpec) -> object:
    zone = (spec.time_zone_name or "UTC") if spec.calendars else "UTC"
    return (
        {calendar_of(one) for one in spec.calendars},
        {(one.every, one.offset or timedelta(0)) for one in spec.intervals},
        {calendar_of(one) for one in spec.skip},
        list(spec.cron_expressions),
        zone,
        spec.start_at,
        spec.end_at,
    )


def words(spec: ScheduleSpec) -> str:
    """The times of a spec for people, on one line."""
    said = [f"every {span(one.every)}" + (f" at +{span(one.offset)}" if one.offset else "") for one in spec.intervals]
    said += dict.fromkeys(one.comment or _calendar_words(calendar_of(one)) for one in spec.calendars)
    said += [f"cron {one}" for one in spec.cron_expressions]
    text = " or ".join(said) or "never"
    if spec.calendars and spec.time_zone_name:
        text += f", {spec.time_zone_name}"
    if spec.skip:
        text += f", not {' or '.join(_calendar_words(calendar_of(one)) for one in spec.skip)}"
    if spec.jitter:
        text += f", jitter {span(spec.jitter)}"
    if spec.start_at:
        text += f", from {spec.start_at:%Y-%m-%d %H:%M} UTC"
    if spec.end_at:
        text += f", until {spec.end_at:%Y-%m-%d %H:%M} UTC"
    return text


def _calendar_words(calendar: Calendar) -> str:
    usual = Calendar()
    said = []
    for name in BOUNDS:
        values = getattr(calendar, name)
        if values != getattr(usual, name) or name in ("hour", "minute"):
            said.append(f"{name} {','.join(map(_range_words, _ranges(values)))}")
    return " ".join(said)


def _range_words(one: ScheduleRange) -> str:
    if one.end == one.start:
        return str(one.start)
    return f"{one.start}-{one.end}" + (f"/{one.step}" if one.step > 1 else "")


def span(value: timedelta) -> str:
    """A duration as the manifest has them, in as many units as it takes."""
    left = value.total_seconds()
    said = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        count, left = divmod(left, length)
        said += [f"{count:.0f}{unit}"] if count else []
    return "".join([*said, f"{left:g}s"] if left or not said else said)
