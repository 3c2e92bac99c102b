"""How long a place waits by what is known of its chain's clocks."""

from collections.abc import Mapping, Sequence

from ratelimit import arithmetic
from ratelimit.places import Booking, Kind, Readings


def wait_of(scopes: Sequence[str], readings: Readings, owed: Sequence[Mapping[str, float]]) -> tuple[float, str]:
    """The longest of the scopes' waits in seconds, and the limit that makes it, with its scope if that is an outer one.

    Args:
        scopes: of the chain, innermost first.
        readings: of each scope.
        owed: units by limit, of each scope; limits that are not charged are missing.
    """
    longest, binding = -1.0, ""
    for i, reading in enumerate(readings):
        wait, limit = arithmetic.wait_for(
            reading.dials, owed[i], reading.now, reading.cooldown_until, reading.pace, reading.recovery
        )
        if wait > longest:
            longest, binding = wait, arithmetic.bound_by(limit, reading.closed)
            if i > 0:
                binding = f"{binding}@{scopes[i]}"
    return longest, binding


def expected(scopes: Sequence[str], booking: Booking, readings: Readings, *, flights: bool = True) -> tuple[float, str]:
    """Seconds until the place is due by these readings, and the limit that makes it so.

    Args:
        scopes: of the chain, innermost first.
        booking: the place.
        readings: of each scope.
        flights: also wait for what is in flight, whose end is a guess.
    """
    owed = []
    for part, reading in zip(booking.parts, readings, strict=True):
        lacking = {}
        for name, due in part.due.items():
            dial = reading.dials.get(name)
            if dial is not None and not dial.shadow and (flights or dial.kind is not Kind.IN_FLIGHT):
                lacking[name] = arithmetic.shortfall(due, dial.clock)
        owed.append(lacking)
    return wait_of(scopes, readings, owed)


def expired(booking: Booking, readings: Readings) -> bool:
    """Whether the place is picked up so late that the provider's own bucket has long forgotten it."""
    return arithmetic.expired(
        (dial.clock, due, dial.rate, dial.burst)
        for part, reading in zip(booking.parts, readings, strict=True)
        for limit, due in part.due.items()
        if (dial := reading.dials.get(limit)) is not None and dial.kind is not Kind.IN_FLIGHT and not dial.shadow
    )
