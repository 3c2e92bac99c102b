"""Values as the scripts take and give them: scopes' states as packed doubles, asks and answers around them."""

import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import starmap
from typing import Any, NamedTuple

from ratelimit.arithmetic import unit_of
from ratelimit.estimates import Learnt
from ratelimit.headers import Observed
from ratelimit.keys import place_key, scope_key
from ratelimit.model import span
from ratelimit.places import (
    Ask,
    Booking,
    Bookings,
    Claim,
    ClockReading,
    Closed,
    Counters,
    Dial,
    Heard,
    Kind,
    LimitSnapshot,
    Origin,
    Outcome,
    Part,
    Readings,
    Snapshot,
)
from ratelimit.quota import Change, Quota
from ratelimit.state import Record
from ratelimit.waits import wait_of

HEAD, WIDTH = 18, 11
"""Numbers of a scope before its first limit, and of each limit; `lua/_scope.lua` says which."""

_KINDS = tuple(Kind)
_CLOSED = tuple(Closed)


class Entry(NamedTuple):
    """Reservations that travel as one: a place under a key, or equal ones without."""

    ask: Ask
    times: int


def text(number: float) -> str:
    """17 digits bring every double back unchanged."""
    return format(number, ".17g")


def asked(scopes: Sequence[str], asks: Sequence[Ask]) -> tuple[list[str], list[str | bytes], list[Entry]]:
    """The keys and arguments of `reserve`, and how to read its answer."""
    keys = [scope_key(scope) for scope in scopes]
    args: list[str | bytes] = [str(len(scopes))]
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
            keys.append(place_key(scopes[0], ask.key))
        cost = ask.cost
        args += (flags, ask.asker, " ".join(cost), _struct(2 + len(cost)).pack(ask.max_wait, count, *cost.values()))
        entries.append(Entry(ask, count))
        place += count
    return keys, args, entries


def _alike(one: Ask, other: Ask) -> bool:
    if one is other:
        return True
    return other.key is None and one.max_wait == other.max_wait and one.cost == other.cost


def charged(claim: Claim) -> list[str]:
    """Lease and costs of a place in each scope."""
    args = []
    for part in claim.parts:
        args += [str(part.lease), str(len(part.cost))]
        for name, units in part.cost.items():
            args += [name, text(units)]
    return args


def pairs(units: Mapping[str, float]) -> list[str]:
    """Names and numbers in turn."""
    args = []
    for name, value in units.items():
        args += [name, text(value)]
    return args


def said(observed: Mapping[str, Observed]) -> list[str]:
    """Limits and what the provider says of them in turn."""
    args = []
    for name, told in observed.items():
        args += [name, *("" if value is None else text(value) for value in (told.remaining, told.limit, told.period_s))]
    return args


def place(raw: bytes) -> Record:
    """The record of a place, as `lua/_place.lua` writes it."""
    lines = raw.decode().split("\n")
    parts, at = [], 5
    while lines[at]:
        names = lines[at + 3 : at + 3 + 3 * int(lines[at + 2]) : 3]
        numbers = [float(line) for line in lines[at + 3 : at + 3 + 3 * len(names)] if line not in names]
        cost, due = dict(zip(names, numbers[::2], strict=True)), dict(zip(names, numbers[1::2], strict=True))
        parts.append(Part(int(lines[at]), int(lines[at + 1]), cost, due))
        at += 3 + 3 * len(names)
    return Record(lines[0], int(lines[1]), float(lines[2]), float(lines[3]), lines[4], parts)


def readings(states: Sequence[bytes]) -> Readings:
    """The clocks of a chain."""
    return tuple(reading(state) for state in states)


def reading(state: bytes) -> ClockReading:
    """A scope's clock."""
    names, n = _state(state)
    recovery, born, at, cooldown_until, pace, epoch, _, closed = n[:8]
    place = HEAD
    dials = {}
    for name in names:
        rate, burst, level, clock, _, until, kind, period, anchor, shadow, _ = n[place : place + WIDTH]
        dials[name] = Dial(clock, rate, burst, level, until, _KINDS[int(kind)], period, anchor, shadow == 1)
        place += WIDTH
    return ClockReading(at, cooldown_until, pace, int(epoch), _CLOSED[int(closed)], born, recovery, dials)


def bookings(scopes: Sequence[str], reply: Sequence[Any], entries: Sequence[Entry]) -> Bookings:
    """The answers of a batch, in the order of its asks."""
    clocks = readings(reply[0])
    found: list[Booking] = []
    for entry, answer in zip(entries, reply[1:], strict=True):
        if answer[0] == b"alike":
            numbers = _numbers(answer[4])
            shared = _at_once(entry, numbers, clocks)
            if shared is not None:
                found += [shared] * entry.times
            else:
                found += _Spread(scopes, entry, numbers, answer[2].decode(), clocks).all()
        else:
            found += [_booking(answer)] * entry.times
    return Bookings(clocks, found)


def _booking(answer: Sequence[bytes]) -> Booking:
    outcome, origin, limit = (value.decode() for value in answer[:3])
    numbers = _numbers(answer[4])
    if len(numbers) == 1:
        return Booking(Outcome(outcome), Origin(origin), numbers[0], limit)
    wait, generation, booked_at, first_at = numbers[:4]
    at, parts = 4, []
    for names in map(_names, answer[3].split(b"\n")):
        epoch, lease = numbers[at : at + 2]
        end = at + 2 + 2 * len(names)
        cost, due = numbers[at + 2 : end : 2], numbers[at + 3 : end : 2]
        parts.append(
            Part(int(epoch), int(lease), dict(zip(names, cost, strict=True)), dict(zip(names, due, strict=True)))
        )
        at = end
    return Booking(Outcome(outcome), Origin(origin), wait, limit, int(generation), booked_at, first_at, tuple(parts))


def _at_once(entry: Entry, numbers: Sequence[float], clocks: Readings) -> Booking | None:
    """The place that all of them share if none has to wait; None if one might."""
    taken, at, parts, asked = numbers[0], 2, [], entry.ask.cost
    if taken < entry.times:
        return None
    for clock in clocks:
        cost, due = {}, {}
        for name, dial in clock.dials.items():
            at += 1
            units = asked.get(name)
            if units is None:
                units = asked.get(unit_of(name), 0.0)
            if units > 0:
                # whatever the rounding errors of so many subtractions
                enough = numbers[at] * (1 - 1e-12) >= units * taken
                if not enough or dial.shadow or dial.until > clock.now or dial.kind is Kind.IN_FLIGHT:
                    return None
                cost[name], due[name] = units, dial.clock
        if clock.cooldown_until > clock.now:
            return None
        at += 1
        parts.append(Part(clock.epoch, 0, cost, due))
    now = clocks[0].now if len(clocks) == 1 else max(clock.now for clock in clocks)
    return Booking(Outcome.TAKEN, Origin.BOOKED, 0.0, "cooldown", 1, now, now, tuple(parts))


class _Spread:
    """The places of equal reservations, by the script's own arithmetic."""

    def __init__(
        self, scopes: Sequence[str], entry: Entry, numbers: Sequence[float], denial: str, clocks: Readings
    ) -> None:
        many, self._denied_wait, *before = numbers
        self._scopes = scopes
        self._entry = entry
        self._clocks = clocks
        self._taken = int(many)
        self._denial = denial
        self._booked_at = max(clock.now for clock in clocks)
        self._leases, self._levels, self._costs = [], [], []
        at = 0
        for clock in clocks:
            end = at + 1 + len(clock.dials)
            self._leases.append(int(before[at]))
            self._levels.append(dict(zip(clock.dials, before[at + 1 : end], strict=True)))
            self._costs.append(_cost(clock, entry.ask.cost))
            at = end

    def all(self) -> list[Booking]:
        """In order; the first denial denies all behind it."""
        found = [self._booking(self._owed()) for _ in range(self._taken)]
        if self._taken < self._entry.times:
            denied = Booking(Outcome.DENIED, Origin.NONE, self._denied_wait, self._denial)
            found += [denied] * (self._entry.times - self._taken)
        return found

    def _owed(self) -> list[dict[str, float]]:
        return [
            {
                name: units - levels[name] if units > levels[name] else 0.0
                for name, units in cost.items()
                if not clock.dials[name].shadow
            }
            for clock, cost, levels in zip(self._clocks, self._costs, self._levels, strict=True)
        ]

    def _booking(self, owed: list[dict[str, float]]) -> Booking:
        wait, limit = wait_of(self._scopes, self._clocks, owed)
        parts = tuple(starmap(self._part, enumerate(owed)))
        for part, levels in zip(parts, self._levels, strict=True):
            for name, units in part.cost.items():
                levels[name] -= units
        return Booking(Outcome.TAKEN, Origin.BOOKED, wait, limit, 1, self._booked_at, self._booked_at, parts)

    def _part(self, i: int, owed: Mapping[str, float]) -> Part:
        dials, levels = self._clocks[i].dials, self._levels[i]
        cost = {
            name: units for name, units in self._costs[i].items() if not (dials[name].shadow and units > levels[name])
        }
        lease = 0
        if any(dials[name].kind is Kind.IN_FLIGHT for name in cost):
            self._leases[i] += 1
            lease = self._leases[i]
        due = {name: dials[name].clock + owed.get(name, 0.0) for name in cost}
        return Part(self._clocks[i].epoch, lease, cost, due)


def _cost(clock: ClockReading, given: Mapping[str, float]) -> dict[str, float]:
    cost = {}
    for name in clock.dials:
        units = given.get(name)
        if units is None:
            units = given.get(unit_of(name), 0.0)
        if units > 0:
            cost[name] = units
    return cost


def snapshot(scope: str, reply: Sequence[Any]) -> Snapshot:
    """A scope, as it stands."""
    names, n = _state(reply[0])
    _, _, at, cooldown_until, pace, epoch, strikes, closed = n[:8]
    calls, grants, denials, rebooked, rejections = (int(count) for count in n[8:13])
    version, ends = n[13:15]
    limits = {}
    for name, place in zip(names, range(HEAD, len(n), WIDTH), strict=True):
        rate, burst, level, clock, tail, until, kind, _, _, shadow, shadowed = n[place : place + WIDTH]
        limits[name] = LimitSnapshot(
            rate=rate,
            burst=burst,
            level=level,
            clock=clock,
            tail=tail,
            kind=_KINDS[int(kind)],
            closed_for=span(until - at),
            shadow=shadow == 1,
            shadowed=int(shadowed),
        )
    return Snapshot(
        scope=scope,
        configured=True,
        limits=limits,
        pace=pace,
        closed_for=span(cooldown_until - at),
        closed=_CLOSED[int(closed)],
        epoch=int(epoch),
        strikes=int(strikes),
        version=int(version),
        ends_in=span(ends - at) if ends else None,
        counters=Counters(
            calls=calls, grants=grants, denials=denials, rebooked=rebooked, rejections=rejections, waited_s=n[17]
        ),
        heard=_heard(reply[1]),
    )


def _heard(fields: Sequence[bytes]) -> dict[str, Heard]:
    found: dict[str, Heard] = {}
    for field, value in zip(fields[::2], fields[1::2], strict=True):
        name, _, what = field.decode().rpartition(".")
        setattr(found.setdefault(name, Heard()), what, float(value))
    return found


def learnt(raw: bytes) -> Learnt:
    """What is known of one role."""
    calls, per_character, output, spread = _numbers(raw)
    return Learnt(int(calls), per_character, output, spread)


def spec(quota: Quota) -> bytes:
    """A quota as the scripts take it (`lua/_quota.lua`)."""
    given = quota.spec()
    numbers = [given.recovery, float(given.passing)]
    for rate, burst, kind, period, anchor, shadow in given.limits.values():
        numbers += [rate, burst, float(kind), period, anchor, float(shadow)]
    return " ".join(given.limits).encode() + b"\0" + _struct(len(numbers)).pack(*numbers)


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


def note(by: str, reason: str, action: str = "set", for_s: float | None = None) -> str:
    """Who changed a quota and why: one line."""
    return json.dumps({"by": by, "reason": reason, "action": action, "for_s": for_s})


def change(scope: str, entry: bytes) -> Change:
    """One entry of the list of changes."""
    head, document = entry.decode().split("\n", 1)
    at, version, told = head.split(" ", 2)
    return Change(
        at=float(at), version=int(float(version)), quota=Quota.of_document(scope, document), **json.loads(told)
    )
