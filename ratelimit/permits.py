"""Making asks, places and permits: what a limiter hands out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from ratelimit.errors import NEVER, BadCost
from ratelimit.headers import Observed
from ratelimit.model import permit_id
from ratelimit.places import Ask, Booking, Claim, Permit, Place
from ratelimit.quota import Cost, check_cost

_AT_ONCE = timedelta(0)
_SHAPES = 1024
"""Most asks that are remembered."""
_LOCAL = "local:"
_LONGEST_S = NEVER.total_seconds()


class Permits:
    """Numbers those of one limiter."""

    def __init__(self) -> None:
        self._asks: dict[Any, Ask] = {}
        self._name = uuid4().hex
        self._numbered = 0

    def plain(self, cost: Cost, max_wait: timedelta) -> Ask:
        """An ask without a key. Equal ones are one object: they are recognised, and sent, fastest."""
        shape = (max_wait, *cost.items())
        ask = self._asks.get(shape)
        if ask is None:
            if len(self._asks) >= _SHAPES:
                self._asks.clear()
            ask = self._asks[shape] = ask_for(cost, max_wait, None, "", hold=False)
        return ask

    def place(self, scope: str, booking: Booking, ask: Ask) -> Place:
        """The place that was booked."""
        return Place(
            scope=scope,
            cost=ask.cost,
            id=self._id(booking, ask),
            key=ask.key,
            asker=ask.asker,
            generation=booking.generation,
            booked_at=booking.booked_at,
            parts=booking.parts,
            waited=timedelta(seconds=max(0.0, booking.booked_at - booking.first_at)),
            wait=upwards(booking.wait),
            limit=booking.limit,
        )

    def bound(self, scope: str, booking: Booking, ask: Ask, waited: float) -> Permit:
        """The permit of a booking that is due now, `waited` seconds after it was asked for."""
        return Permit(
            scope,
            ask.cost,
            self._id(booking, ask),
            ask.key,
            ask.asker,
            booking.generation,
            booking.booked_at,
            booking.parts,
            timedelta(seconds=waited) if waited else _AT_ONCE,
        )

    def local(self, scope: str, ask: Ask) -> Permit:
        """A permit that the store knows nothing of."""
        self._numbered += 1
        name = f"{_LOCAL}{self._name}-{self._numbered}"
        return Permit(scope, ask.cost, name, ask.key, ask.asker, 0, 0.0, (), _AT_ONCE)

    def _id(self, booking: Booking, ask: Ask) -> str:
        if ask.key is not None:
            return permit_id(ask.key, booking.generation)
        self._numbered += 1
        return f"{self._name}-{self._numbered}"


@dataclass(slots=True)
class Use:
    """A permit that is being used."""

    permit: Permit
    was_sent: bool = False
    actual: Cost | None = None
    """What the call has cost, once that is known."""
    observed: Mapping[str, Observed] = field(default_factory=dict)
    """What the answer's headers say."""

    def sent(self) -> None:
        """The call leaves now: from here on it may be charged by the provider."""
        self.was_sent = True


def permit_of(place: Place, waited: float) -> Permit:
    """The permit of a place whose time has come, `waited` seconds after it was first booked."""
    return Permit(
        scope=place.scope,
        cost=place.cost,
        id=place.id,
        key=place.key,
        asker=place.asker,
        generation=place.generation,
        booked_at=place.booked_at,
        parts=place.parts,
        waited=timedelta(seconds=waited),
        limit=place.limit,
    )


def is_local(permit: Place | Permit) -> bool:
    """Whether the store knows nothing of it: it was granted by a local share."""
    return permit.id.startswith(_LOCAL)


def claim_of(place: Place | Permit) -> Claim:
    """What the store needs to know of a place that ends."""
    return Claim(place.id, place.key, place.generation, place.booked_at, place.parts)


def ask_for(cost: Cost, max_wait: timedelta, key: str | None, asker: str, *, hold: bool) -> Ask:
    """A checked ask.

    Raises:
        BadCost: a cost is negative or not a number, or the asker is more than one line.
    """
    if "\n" in asker:
        raise BadCost(f"asker {asker!r}: must be one line")
    for name in (asker, key or "", *cost):
        # lone surrogates; found here they refuse one ask, and not all that travel with it
        if not name.isascii() and name.encode(errors="replace") != name.encode(errors="surrogatepass"):
            raise BadCost(f"{name!r}: is not text that can be written down")
    longest = min(max(0.0, max_wait.total_seconds()), _LONGEST_S)
    return Ask(cost=check_cost(cost), max_wait=longest, hold=hold, key=key, asker=asker)


def upwards(seconds: float) -> timedelta:
    """Rounded up, and a microsecond on top for the resolution of the server's clock: waiting this long suffices."""
    if seconds <= 0:
        return timedelta(0)
    if seconds >= _LONGEST_S:
        return NEVER
    return timedelta(microseconds=math.ceil(seconds * 1e6) + 1)
