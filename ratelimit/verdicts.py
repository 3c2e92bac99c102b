"""What becomes of somebody who waits in a line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ready:
    """The place is due."""

    now: float
    """The store's instant."""


@dataclass(frozen=True, slots=True)
class Late:
    """The place will not be due before the deadline: the scope was closed or slowed."""

    wait: float
    limit: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The place has expired, or its state is lost: book anew."""


Verdict = Ready | Late | Gone
