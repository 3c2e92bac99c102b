"""Values as the scripts take and give them: a scope's state as packed doubles, asks and answers around it."""

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from ratelimit.arithmetic import wait_for
from ratelimit.keys import place_key, scope_key
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
from ratelimit.quota import Change, Quota

HEAD, WIDTH = 13, 5
"""Numbers of a scope before its first limit, and of each limit; `lua/_scope.lua` says which."""


class Entry(NamedTuple):
    """Reservations that travel as one: a place under a key, or equal ones without."""

    ask: Ask
    times: int


def text(number: float) -> str:
    """17 digits bring every double back unchanged."""
    return format(number, ".17g")


def asked(scope: str, asks: Sequence[Ask], known: tuple[str, ...]) -> tuple[list[str], list[str | bytes], list[Entry]]:
    """The keys and arguments of `reserve`, and how to read its answer.

    Args:
        scope: whose places they are.
        asks: in order.
        known: the scope's limits by the last answer: a cost that names all of them, in their order, is read fastest.
    """
    keys = [scope_key(scope)]
    args: list[str | bytes] = []
    entries = []
    place, end = 0, len(asks)
    while place < end:
        ask, count = asks[place], 1
        if ask.key is None:
            flags = ""
            while place + count < end and _alike(ask, asks[place + count]):
                count += 1
        else:
            flags = "kh" if ask.hold else "k"
            keys.append(place_key(scope, ask.key))
        whole = len(ask.cost) == len(known) and all(name in known for name in ask.cost)
        names = known if whole else tuple(ask.cost)
        costs = [ask.cost[name] for name in names]
        args += (flags, ask.asker, " ".join(names), _struct(2 + len(costs)).pack(ask.max_wait, count, *costs))
        entries.append(Entry(ask, count))
        place += count
    return keys, args, entries


def _alike(one: Ask, other: Ask) -> bool:
    if one is other:
        return True
    return other.key is None and one.max_wait == other.max_wait and one.cost == other.cost


def reading(state: bytes) -> ClockReading:
    """A scope's clock."""
    names, n = _state(state)
    recovery, born, at, cooldown_until, pace, epoch = n[:6]
    place = HEAD
    dials = {}
    for name in names:
        dials[name] = Dial(n[place + 3], n[place], n[place + 1])
        place += WIDTH
    return ClockReading(at, max(0.0, cooldown_until - at), pace, int(epoch), born, recovery, dials)


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
    many, denied_wait, *before = _numbers(answer[4])
    taken = int(many)
    asked = entry.ask.cost
    cost = {name: units for name in clock.dials if (units := asked.get(name, 0.0)) > 0}
    levels = {name: level for name, level in zip(clock.dials, before, strict=True) if name in cost}
    clocks = {name: clock.dials[name].clock for name in cost}
    at_once = Booking(
        Outcome.TAKEN, Origin.BOOKED, clock.closed_for, "cooldown", 1, clock.epoch, clock.now, clock.now, cost, clocks
    )
    for _ in range(taken):
        owed: dict[str, float] | None = None
        for name, units in cost.items():
            if units > levels[name]:
                owed = owed or {}
                owed[name] = units - levels[name]
            levels[name] -= units
        if owed is None:
            # all that have not to wait are one and the same
            found.append(at_once)
            continue
        wait, limit = wait_for(clock.dials, owed, clock.closed_for, clock.pace, clock.recovery)
        due = {name: at + owed.get(name, 0.0) for name, at in clocks.items()}
        found.append(
            Booking(Outcome.TAKEN, Origin.BOOKED, wait, limit, 1, clock.epoch, clock.now, clock.now, cost, due)
        )
    if taken < entry.times:
        denied = Booking(Outcome.DENIED, Origin.NONE, denied_wait, answer[2].decode())
        found += [denied] * (entry.times - taken)


def snapshot(scope: str, state: bytes) -> Snapshot:
    """A scope, as it stands."""
    names, n = _state(state)
    _, _, at, cooldown_until, pace, epoch, strikes = n[:7]
    calls, grants, denials, rebooked, rejections = (int(count) for count in n[7:12])
    limits: Mapping[str, LimitSnapshot] = {
        name: LimitSnapshot(rate=n[at], burst=n[at + 1], level=n[at + 2], clock=n[at + 3], tail=n[at + 4])
        for name, at in zip(names, range(HEAD, len(n), WIDTH), strict=True)
    }
    return Snapshot(
        scope=scope,
        configured=True,
        limits=limits,
        pace=pace,
        closed_for=timedelta(seconds=max(0.0, cooldown_until - at)),
        epoch=int(epoch),
        strikes=int(strikes),
        version=int(n[12]),
        counters=Counters(calls=calls, grants=grants, denials=denials, rebooked=rebooked, rejections=rejections),
    )


def _state(state: bytes) -> tuple[tuple[str, ...], tuple[float, ...]]:
    end = state.index(b"\0")
    return _names(state[:end]), _struct((len(state) - end - 1) // 8).unpack_from(state, end + 1)


@cache
def _names(joined: bytes) -> tuple[str, ...]:
    return tuple(joined.decode().split())


@cache
def _struct(doubles: int) -> struct.Struct:
    return struct.Struct(f"<{doubles}d")


def _numbers(packed: bytes) -> tuple[float, ...]:
    return _struct(len(packed) // 8).unpack(packed)


def note(by: str, reason: str) -> str:
    """Who changed a quota and why: one line."""
    return json.dumps({"by": by, "reason": reason})


def change(scope: str, entry: bytes) -> Change:
    """One entry of the list of changes."""
    head, document = entry.decode().split("\n", 1)
    at, version, told = head.split(" ", 2)
    return Change(
        at=float(at), version=int(float(version)), quota=Quota.of_document(scope, document), **json.loads(told)
    )
