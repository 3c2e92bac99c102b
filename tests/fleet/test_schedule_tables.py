"""`[schedules.NAME]`: what the manifest accepts, and how it refuses, a line each."""

from datetime import timedelta
from pathlib import Path

import pytest

from fleet import manifest
from fleet.schedules import parts, times

BASE = (Path(__file__).parents[2] / "deploy" / "fleet.toml").read_text()


def problems(folder, text):
    file = folder / "fleet.toml"
    file.write_text(BASE + text)
    return manifest.examine(file)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "has no time: set exactly one of cron, every, calendar"),
        ('every = "1h"\ncron = "0 9 * * *"', "has cron and every: set exactly one of cron, every, calendar"),
        ('cron = "0 9 * * 8"', "cron '0 9 * * 8': day_of_week '8' is not between 0 and 7"),
        ("calendar = { hour = 25 }", "calendar.hour '25' is not between 0 and 23"),
        ("calendar = { hours = 2 }", "calendar.hours: no such field; there are: second, minute"),
        ('cron = "0 0 31 2 *"', "cron '0 0 31 2 *' never fires: there is no such day"),
        ('cron = "@daily"\ntimezone = "Mars/Base"', ".timezone: 'Mars/Base' is no time zone of the IANA database"),
        ('every = "1h"\ntimezone = "UTC"', "timezone: has no effect with every"),
        ('every = "90500ms"', "every: 90.5 s is not in whole seconds"),
        ('every = "1h"\noffset = "1h"', "offset: 1h is not below every, 1h"),
        ('cron = "@daily"\noffset = "1h"', "offset: has no effect with cron"),
        ('every = "1h"\njitter = "60m"', "jitter: 1h is not below the time between two runs, 1h"),
        ('cron = "*/10 * * * *"\njitter = "15m"', "jitter: 15m is not below the time between two runs, 10m"),
        ('every = "1h"\ncatchup = "5s"', "catchup: 5s is below 10s, the least of Temporal"),
        ('every = "1h"\ncount = 0', ".count: input should be greater than or equal to 1, got 0"),
        ('every = "1h"\ncount = 10001', ".count: input should be less than or equal to 10000, got 10001"),
        ('every = "1h"\nspread = "10m"', "spread: has no effect without count"),
        ('every = "1h"\ncount = 2\nspread = "2h"', "spread: 2h is more than 1h, the time between two runs"),
        (
            'cron = "0 9 * * 1-5"\ncount = 2\nspread = "20h"',
            "spread: 20h is more than 15h, what is left of the day after its last time",
        ),
        ('every = "1h"\ncount = 2\ngoal = "part {m}"', "goal: unknown field {m}; with count there are {n} and {count}"),
        ('every = "1h"\ncount = 2\ngoal = "part {"', "goal: Single '{' encountered"),
        ('every = "1h"\ncount = 2\ngoal = "{n:q}"', "goal: Unknown format code 'q'"),
        ('every = "1h"\npriority = 5', ".priority: input should be less than or equal to 4, got 5"),
        ('every = "1h"\ntenant = "a b"', ".tenant: 'a b' must be letters, digits"),
        ('every = "1h"\noverlap = "queue"', ".overlap: 'queue' is not one of 'skip', 'buffer_one'"),
        ('every = "1h"\nstart = 2026-01-02T00:00:00Z\nend = 2026-01-01T00:00:00Z', "is not after start"),
        ('every = "1h"\nstart = 2026-01-02T00:00:00', ".start: input should have timezone info"),
        ('every = "1h"\nstart = "0001-01-01T00:00:00+14:00"', ".start: the year 1 is not between 2000 and 2100"),
        ('every = "1h"\nend = 9999-12-31T00:00:00Z', ".end: the year 9999 is not between 2000 and 2100"),
        ('every = "1h"\ntell = ["approvers"]', ".tell: there is no [endpoints.approvers] of kind 'webhook'"),
        ('every = "1h"\nagent = "nobody"', ".agent: there is no [agents.nobody]; there are: analyst, mailer"),
        ('every = "1h"\njiter = "1m"', ".jiter: unknown key"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(tmp_path, lines, says):
    given = {"agent": '"mailer"', "goal": '"g"'}
    rest = "\n".join(f"{key} = {value}" for key, value in given.items() if f"{key} = " not in lines)
    found, said = problems(tmp_path, f"\n[schedules.one]\n{rest}\n{lines}\n")
    assert found is None
    assert len(said) == 1
    assert said[0].startswith("schedules.one")
    assert says in said[0]


def test_names_that_cannot_be_and_names_that_meet_are_told_together(tmp_path):
    one = 'agent = "mailer"\ngoal = "g"\nevery = "1h"\n'
    text = f'\n[schedules."a b"]\n{one}[schedules.x]\n{one}count = 2\n[schedules.x-002]\n{one}'
    _, said = problems(tmp_path, text)
    assert said == [
        'schedules."a b": a schedule\'s name has letters, digits, _ . -, at most 100',
        "schedules.x-002: its schedule x-002 is one of schedules.x as well: rename one",
    ]


def test_a_goal_is_a_template_only_where_there_are_several(tmp_path):
    text = '\n[schedules.{0}]\nagent = "mailer"\ngoal = "say {{n}} of {{count}}"\nevery = "1h"\n'
    found, _ = problems(tmp_path, text.format("one") + text.format("many") + "count = 2\n")
    assert found is not None
    assert found.schedules["one"].goal_of(1) == "say {n} of {count}"
    assert [found.schedules["many"].goal_of(n) for n in (1, 2)] == ["say 1 of 2", "say 2 of 2"]


def test_five_hundred_are_spread_over_the_period_or_stand_at_one_instant(tmp_path):
    text = '\n[schedules.{0}]\nagent = "mailer"\ngoal = "g"\ncount = 500\n'
    every = 'every = "1h"\n'
    found, _ = problems(
        tmp_path,
        text.format("spread") + every + text.format("herd") + every + 'spread = "1s"\n' + text.format("days")
        + 'cron = "0 9 * * 1-5"\ntimezone = "Europe/Vienna"\n',
    )  # fmt: skip
    assert found is not None
    entries = found.schedules
    offsets = [times(part).intervals[0].offset for part in parts("spread", entries["spread"])]
    assert offsets[0] is None
    assert (offsets[1], offsets[-1]) == (timedelta(seconds=7), timedelta(seconds=3592))
    assert {times(part).intervals[0].offset for part in parts("herd", entries["herd"])} == {None}
    # weekdays stay weekdays: from nine to midnight
    assert entries["days"].widest == timedelta(hours=15)
    last = times(parts("days", entries["days"])[-1]).calendars[0]
    assert (last.hour[0].start, last.minute[0].start, last.day_of_week[0].start, last.comment) == (
        23, 58, 1, "cron 0 9 * * 1-5 +14h58m12s",
    )  # fmt: skip
