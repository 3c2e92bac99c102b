"""Fixed windows: days, months. The twin of `lua/_window.lua`."""

import math
from typing import Protocol

from ratelimit.places import Kind

DAY_S = 86400.0
_EPOCH_DAY = 719468
"""Days from 1 March of the year 0 to 1 January 1970."""
_QUADRICENTENNIAL = 146097


class Windowed(Protocol):
    """A limit of windows."""

    @property
    def kind(self) -> Kind:
        """How it gives back."""

    @property
    def period(self) -> float:
        """A window's length in seconds; months have none."""

    @property
    def anchor(self) -> float:
        """Where windows begin."""


def window_of(limit: Windowed, at: float) -> int:
    """The number of the window that an instant lies in."""
    if limit.kind is Kind.MONTHS:
        return _month_of(at - limit.anchor)
    return math.floor((at - limit.anchor) / limit.period)


def window_start(limit: Windowed, window: int) -> float:
    """The instant with which a window begins."""
    if limit.kind is Kind.MONTHS:
        return _month_start(window) + limit.anchor
    return limit.anchor + window * limit.period


def _month_of(at: float) -> int:
    """Calendar months since March of the year 0, so that a leap day ends a year."""
    day = math.floor(at / DAY_S) + _EPOCH_DAY
    era, rest = divmod(day, _QUADRICENTENNIAL)
    leaps = rest // 1460 - rest // 36524 + rest // 146096
    year = (rest - leaps) // 365
    of_year = rest - (365 * year + year // 4 - year // 100)
    return (era * 400 + year) * 12 + (5 * of_year + 2) // 153


def _month_start(month: int) -> float:
    years, of_year = divmod(month, 12)
    era, year = divmod(years, 400)
    days = year * 365 + year // 4 - year // 100
    return (era * _QUADRICENTENNIAL + days + (153 * of_year + 2) // 5 - _EPOCH_DAY) * DAY_S
