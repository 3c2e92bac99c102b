"""Values as the scripts take and give them. Numbers travel as text one way and as packed doubles the other."""

import struct
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from ratelimit.keys import place_key, scope_key
from ratelimit.model import wait_for
from ratelimit.places import (
    Ask,
    Booking,
    Bookings,
    ClockReading,
    Counters,
    Dial,
    LimitSnapshot,
    Origin,
    Outcome,
    Snapshot,
)


class Entry(NamedTuple):
    """Reservations that travel as one: a place under a key, or equal ones without."""

    ask: Ask
    times: int


def text(number: float) -> str:
    """17 digits bring every double back unchanged."""
    return format(number, ".17g")


def asked(scope: str, asks: Sequence[Ask]) -> tuple[list[str], list[str], list[Entry]]:
    """The keys and arguments of `reserve`, and how to read its answer."""
    keys, args, entries = [scope_key(scope)], [], []
    place = 0
    while place < len(asks):
        ask, count = asks[place], 1
        if ask.key is None:
            while place + count < len(asks) and _alike(ask, asks[place + count]):
                count += 1
        else:
            keys.append(place_key(scope, ask.key))
        flags = ("" if ask.key is None else "k") + ("h" if ask.hold else "")
        args += [text(ask.max_wait), flags, ask.asker, str(count), str(len(ask.cost))]
        for name, units in ask.cost.items():
            args += [name, text(units)]
        entries.append(Entry(ask, count))
        place += count
    return keys, args, entries


def _alike(one: Ask, other: Ask) -> bool:
    return other.key is None and one.max_wait == other.max_wait and (one.cost is other.cost or one.cost == other.cost)


def reading(reply: Sequence[bytes]) -> ClockReading:
    """A scope's clock."""
    names, numbers = _names(reply[0]), _numbers(reply[1])
    now, closed_for, pace, epoch, born, recovery = numbers[:6]
    dials = {
        name: Dial(numbers[place], numbers[place + 1], numbers[place + 2])
        for name, place in zip(names, range(6, len(numbers), 3), strict=True)
    }
    return ClockReading(now, closed_for, pace, int(epoch), born, recovery, dials)


def bookings(reply: Sequence[Any], entries: Sequence[Entry]) -> Bookings:
    """The answers of a batch, in the order of its asks."""
    clock = reading(reply[0])
    found: list[Booking] = []
    for entry, answer in zip(entries, reply[1:], strict=True):
        if answer[0] == b"alike":
            _spread(entry, answer, clock, found)
        else:
            found += [_booking(answer)] * entry.times
    return Bookings(clock, found)


def _booking(answer: Sequence[bytes]) -> Booking:
    outcome, origin, limit = (value.decode() for value in answer[:3])
    numbers = _numbers(answer[4])
    if len(numbers) == 1:
        return Booking(Outcome(outcome), Origin(origin), numbers[0], limit)
    names = _names(answer[3])
    wait, generation, epoch, booked_at, first_at = numbers[:5]
    return Booking(
        Outcome(outcome),
        Origin(origin),
        wait,
        limit,
        int(generation),
        int(epoch),
        booked_at,
        first_at,
        dict(zip(names, numbers[5::2], strict=True)),
        dict(zip(names, numbers[6::2], strict=True)),
    )


def _spread(entry: Entry, answer: Sequence[bytes], clock: ClockReading, found: list[Booking]) -> None:
    """The places of equal reservations, by the script's own arithmetic."""
    taken, denied_wait, *before = _numbers(answer[4])
    cost = {name: units for name in clock.dials if (units := entry.ask.cost.get(name, 0.0)) > 0}
    levels = {name: level for name, level in zip(clock.dials, before, strict=True) if name in cost}
    clocks = {name: clock.dials[name].clock for name in cost}
    for _ in range(int(taken)):
        owed: dict[str, float] | None = None
        for name, units in cost.items():
            if units > levels[name]:
                owed = owed or {}
                owed[name] = units - levels[name]
            levels[name] -= units
        if owed is None:
            wait, limit, due = clock.closed_for, "cooldown", clocks
        else:
            wait, limit = wait_for(clock.dials, owed, clock.closed_for, clock.pace, clock.recovery)
            due = {name: at + owed.get(name, 0.0) for name, at in clocks.items()}
        found.append(
            Booking(Outcome.TAKEN, Origin.BOOKED, wait, limit, 1, clock.epoch, clock.now, clock.now, cost, due)
        )
    denied = entry.times - int(taken)
    if denied:
        found += [Booking(Outcome.DENIED, Origin.NONE, denied_wait, answer[2].decode())] * denied


def snapshot(scope: str, reply: Sequence[bytes]) -> Snapshot:
    """A scope, as it stands."""
    names, numbers = _names(reply[0]), _numbers(reply[1])
    pace, closed_for, epoch, strikes = numbers[:4]
    calls, grants, denials, rebooked, rejections = (int(count) for count in numbers[4:9])
    limits: Mapping[str, LimitSnapshot] = {
        name: LimitSnapshot(
            level=numbers[place],
            burst=numbers[place + 1],
            rate=numbers[place + 2],
            clock=numbers[place + 3],
            tail=numbers[place + 4],
        )
        for name, place in zip(names, range(9, len(numbers), 5), strict=True)
    }
    return Snapshot(
        scope=scope,
        configured=True,
        limits=limits,
        pace=pace,
        closed_for=timedelta(seconds=closed_for),
        epoch=int(epoch),
        strikes=int(strikes),
        counters=Counters(calls=calls, grants=grants, denials=denials, rebooked=rebooked, rejections=rejections),
    )


@cache
def _names(joined: bytes) -> tuple[str, ...]:
    return tuple(joined.decode().split())


def _numbers(packed: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(packed) // 8}d", packed)
