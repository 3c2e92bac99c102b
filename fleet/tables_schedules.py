"""The table `[schedules.NAME]`: which agent runs when, how often, spread over what."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cached_property
from string import Formatter
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, Field, field_validator, model_validator

from fleet import calendars
from fleet.calendars import Calendar
from fleet.contracts.runs import LAST_PRIORITY
from fleet.rates import NAME, Duration, Table, Wait
from fleet.tables import WEBHOOK_POOL

SCHEDULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a schedule may be called: its runs' ids begin with it."""
MOST = 10_000
"""Schedules of one name."""
LEAST_CATCHUP = timedelta(seconds=10)
"""Temporal takes a shorter catch-up window for this (`SchedulePolicies.catchup_window`)."""
YEARS = calendars.BOUNDS["year"]
"""First and last year of `start` and `end`: those of Temporal's calendars."""
_SECOND = timedelta(seconds=1)
_TEMPLATE = ("n", "count")
_WHEN = ("cron", "every", "calendar")


class ScheduleEntry(Table):
    """Runs of an agent that Temporal starts by the clock: one schedule, or `count` of them."""

    agent: str
    goal: str = Field(min_length=1)
    """With `count` a template: `{n}` is the schedule's number from 1, `{count}` how many there are."""
    tenant: str = "default"
    priority: int = Field(default=3, ge=1, le=LAST_PRIORITY)
    tell: list[str] = Field(default_factory=list)
    """Webhook endpoints that are told how each run has ended."""
    cron: str | None = None
    calendar: dict[str, Any] | None = None
    """Temporal's calendar fields: second, minute, hour (0 if not named), day_of_month, month, day_of_week, year."""
    every: Duration | None = None
    """Counted from 1970-01-01 00:00 UTC, in whole seconds."""
    offset: Wait = timedelta(0)
    """Of `every`: by how much each time is later."""
    timezone: str = "UTC"
    """Of `cron` and `calendar`: a name of the IANA time zone database."""
    jitter: Wait = timedelta(0)
    """Each time is later by something up to this, which Temporal derives from the schedule and the time."""
    overlap: Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"] = "skip"
    """What happens when a run is due while one of the same schedule is still running."""
    catchup: Duration = timedelta(hours=1)
    """Times that Temporal slept through are made up for if they are no older than this (Temporal's default: a year)."""
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    count: int | None = Field(default=None, ge=1, le=MOST)
    """So many schedules, NAME-001 and so on, spread evenly."""
    spread: Duration | None = None
    """Of `count`: over what. Default: the time between two of its instants; of certain days, until midnight at most."""
    paused: bool = False
    note: str = ""
    """For people, beside the schedule."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{name!r} is no time zone of the IANA database, as Europe/Vienna") from None
        return name

    @field_validator("start", "end")
    @classmethod
    def _thinkable(cls, at: datetime | None) -> datetime | None:
        if at is not None and not YEARS[0] <= at.year <= YEARS[1]:
            raise ValueError(f"the year {at.year} is not between {YEARS[0]} and {YEARS[1]}")
        return at

    @field_validator("tenant")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} must be letters, digits, _ . : -, at most 64")
        return name

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in _WHEN if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"has {' and '.join(given) or 'no time'}: set exactly one of {', '.join(_WHEN)}")
        if self.every is None and self.offset:
            raise ValueError(f"offset: has no effect with {given[0]}: it belongs to every")
        if self.every is not None and "timezone" in self.model_fields_set:
            raise ValueError("timezone: has no effect with every, which counts from 1970 in UTC")
        for name in ("every", "offset", "spread"):
            value = getattr(self, name)
            if value is not None and value % _SECOND:
                raise ValueError(
                    f"{name}: {value.total_seconds():g} s is not in whole seconds, which is how Temporal counts"
                )
        if self.every is not None and self.offset >= self.every:
            raise ValueError(f"offset: {_said(self.offset)} is not below every, {_said(self.every)}")
        period = self.period
        if self.jitter >= period:
            raise ValueError(f"jitter: {_said(self.jitter)} is not below the time between two runs, {_said(period)}")
        if self.catchup < LEAST_CATCHUP:
            raise ValueError(f"catchup: {_said(self.catchup)} is below {_said(LEAST_CATCHUP)}, the least of Temporal")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"end: {self.end:%Y-%m-%dT%H:%M:%SZ} is not after start")
        self._check_count()
        return self

    def _check_count(self) -> None:
        if self.count is None:
            if self.spread is not None:
                raise ValueError("spread: has no effect without count")
            return
        widest = self.widest
        if self.spread is not None and self.spread > widest:
            why = (
                "the time between two runs" if widest == self.period else "what is left of the day after its last time"
            )
            raise ValueError(f"spread: {_said(self.spread)} is more than {_said(widest)}, {why}")
        try:
            fields = [(field, form) for _, field, form, _ in Formatter().parse(self.goal) if field is not None]
            for field, form in fields:
                if field not in _TEMPLATE or "{" in (form or ""):
                    raise ValueError(
                        f"goal: unknown field {{{field}}}; with count there are {{n}} and {{count}}; a brace is {{{{"
                    )
            self.goal_of(1)
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(
                str(error) if str(error).startswith("goal: ") else f"goal: {error}; a brace is {{{{"
            ) from None

    @cached_property
    def times(self) -> Calendar | None:
        """The calendar; None of an interval."""
        if self.cron is not None:
            return calendars.cron(self.cron)
        return None if self.calendar is None else calendars.calendar(self.calendar)

    @cached_property
    def period(self) -> timedelta:
        """The shortest time between two of its instants. A day, if there is only one."""
        if self.every is not None:
            return self.every
        assert self.times is not None
        try:
            found = calendars.gap(self.times)
        except ValueError as error:
            raise ValueError(f"{'cron' if self.cron else 'calendar'} {self.cron or self.calendar!r} {error}") from None
        return timedelta(seconds=found or calendars.DAY_S)

    @cached_property
    def widest(self) -> timedelta:
        """Over what `count` schedules can be spread at most."""
        room = None if self.times is None else calendars.room(self.times)
        return self.period if room is None else min(self.period, timedelta(seconds=room))

    def shift(self, number: int) -> timedelta:
        """By how much the schedule of that number, from 1, is later than the first: whole seconds."""
        over = self.spread or self.widest
        return timedelta(seconds=int(over.total_seconds()) * (number - 1) // (self.count or 1))

    def goal_of(self, number: int) -> str:
        """What the runs of the schedule of that number are to do."""
        return self.goal if self.count is None else self.goal.format(n=number, count=self.count)


def ids(name: str, count: int | None) -> list[str]:
    """What its schedules are called: NAME, or NAME-001 and so on."""
    if count is None:
        return [name]
    width = max(3, len(str(count)))
    return [f"{name}-{number:0{width}}" for number in range(1, count + 1)]


def schedule_references(raw: dict[str, Any]) -> Iterator[str]:
    """What schedules name that is not there, on the raw manifest."""
    table = raw.get("schedules")
    taken: dict[str, str] = {}
    for name, entry in table.items() if isinstance(table, dict) else ():
        where = f"schedules.{name}" if re.fullmatch(r"[\w-]+", name) else f'schedules."{name}"'
        if not SCHEDULE.fullmatch(name):
            yield f"{where}: a schedule's name has letters, digits, _ . -, at most 100"
        if not isinstance(entry, dict):
            continue
        agents = _names(raw, "agents")
        if "agent" in entry and entry["agent"] not in agents:
            yield f"{where}.agent: there is no [agents.{entry['agent']}]; there are: {', '.join(agents) or 'none'}"
        yield from _told(where, entry, raw)
        count = entry.get("count")
        if count is None or (isinstance(count, int) and 1 <= count <= MOST):
            for one in ids(name, count):
                if one in taken:
                    yield f"{where}: its schedule {one} is one of schedules.{taken[one]} as well: rename one"
                    break
                taken[one] = name


def _told(where: str, entry: dict[str, Any], raw: dict[str, Any]) -> Iterator[str]:
    told, endpoints = entry.get("tell"), raw.get("endpoints")
    for endpoint in told if isinstance(told, list) else ():
        spec = endpoints.get(endpoint) if isinstance(endpoints, dict) and isinstance(endpoint, str) else None
        if not isinstance(spec, dict) or spec.get("kind") != "webhook":
            yield f"{where}.tell: there is no [endpoints.{endpoint}] of kind 'webhook'"
        elif WEBHOOK_POOL not in _names(raw, "pools"):
            yield f"{where}.tell: needs [pools.{WEBHOOK_POOL}]"


def _names(raw: dict[str, Any], table: str) -> list[str]:
    found = raw.get(table)
    return sorted(found) if isinstance(found, dict) else []


def _said(value: timedelta) -> str:
    """As the manifest writes durations."""
    seconds = value.total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
