"""Limits as people write them: `500/m`, `10k/day`, `20`."""

import re
from datetime import timedelta

from ratelimit.errors import BadQuota
from ratelimit.places import Kind
from ratelimit.quota import Limit, counts_flight

LEASE = timedelta(minutes=1)
"""How long a call holds what is in flight if nobody says that it still runs."""

_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kM]?)")
_RATE = re.compile(r"(\d+(?:\.\d+)?[kM]?)/(?:(\d+)?(s|m|h|d)|(minute|hour|day|month))")
_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_WINDOWS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6}


def parse_count(text: str) -> float:
    """Read `500`, `90k`, `1.5M`.

    Raises:
        BadQuota: anything else.
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise BadQuota(f"count {text!r}: must look like 500, 90k or 1.5M")
    return float(match[1]) * _FACTORS[match[2]]


def parse_rate(text: str) -> Limit:
    """Read `500/m`, `200k/m`, `5/s`, `100/10s`, `10k/d`, `1.5M/h`; `10k/day`, `2k/month`.

    What is written with a letter returns bit by bit, what is written with a word all at once with the next day or
    calendar month of UTC.

    Raises:
        BadQuota: anything else.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise BadQuota(f"rate {text!r}: must look like 500/m, 200k/m, 5/s, 10k/d, 10k/day or 2k/month")
    capacity = parse_count(match[1])
    if match[4] == "month":
        return Limit(capacity=capacity, kind=Kind.MONTHS)
    if match[4]:
        return Limit(capacity=capacity, period=_WINDOWS[match[4]], kind=Kind.FIXED)
    return Limit(capacity=capacity, period=int(match[2] or 1) * _PERIODS[match[3]])


def parse_limit(name: str, text: str) -> Limit:
    """Read a limit by its name: a rate, or a count of what is in flight.

    Raises:
        BadQuota: anything else.
    """
    if not counts_flight(name):
        return parse_rate(text)
    return Limit(capacity=parse_count(text), period=LEASE, kind=Kind.IN_FLIGHT)


def written(limit: Limit) -> str:
    """The reverse of `parse_limit`."""
    count = _count(limit.capacity)
    seconds = limit.period.total_seconds()
    match limit.kind:
        case Kind.IN_FLIGHT:
            text = count
        case Kind.MONTHS:
            text = f"{count}/month"
        case Kind.FIXED:
            text = f"{count}/{next((w for w, p in _WINDOWS.items() if p == limit.period), f'{seconds:g}s window')}"
        case _:
            text = f"{count}/{next((u for u, p in _PERIODS.items() if p == limit.period), f'{seconds:g}s')}"
    return f"{text} (shadow)" if limit.shadow else text


def _count(units: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if units >= size * 10 and units % (size / 10) == 0:
            return f"{units / size:g}{letter}"
    return f"{units:g}"
