"""What the limiter tells its observer. The room knows no metrics library."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ratelimit.places import Closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened to a scope."""

    scope: str
    """For a tenant's share the scope around it that the provider counts by: there may be tenants without number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked(Event):
    """A place was charged."""

    wait_s: float
    """Expected wait."""
    rebooked: bool
    """An earlier place of the same key had expired or may have been used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted(Event):
    """A permit was handed out."""

    waited_s: float
    """Since the first booking, across attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied(Event):
    """The wait would have been too long."""

    limit: str
    retry_after_s: float
    held: bool
    """A place is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    """An estimate was replaced by the actual cost."""

    spent: Mapping[tuple[str, str], float] = field(default_factory=dict, compare=False)
    """Units that the call has cost, by scope and limit; without those that came back with its end, and without a
    tenant's share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Event):
    """A place was given back unused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooled(Event):
    """The scope is closed for a while."""

    for_s: float
    cut: bool
    """The pace was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut(Event):
    """The scope was closed until somebody opens it, or opened."""

    cause: Closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed(Event):
    """A shadow limit would have refused the call."""

    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered(Event):
    """The provider said that less is left than was thought: somebody else uses the key, or more was charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(Event):
    """A call was granted by the local share, the store being away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated(Event):
    """A call has ended whose use had been estimated."""

    what: str
    """`input_tokens` or `output_tokens`."""
    ratio: float
    """Estimated by used: above 1 quota lay idle, below 1 the call left a debt."""
