"""What a contender is told, and what it gives. Plain: interpreters that know nothing of the limiter read it too."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Acquire = Callable[[], Awaitable[Any]]
"""Returns once a call may start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The quota of a trial."""

    name: str
    """Of what is counted together."""
    rate: float
    """Permits a second."""
    burst: float
    """Most at once."""
    limits: int = 1
    """Equal limits, all taken together; only ours has more than one."""
    headroom: float = 1.0
    """Share of the rate that is planned to be used."""
    burst_headroom: float = 1.0
    """Share of the burst."""
    window: int = 0
    """Places booked ahead; only ours has that."""
    waiters: int = 1
    """Tasks that may wait at once."""
