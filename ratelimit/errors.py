"""Everything the limiter raises.

```
RateLimitError
├── Denied          the wait would exceed `max_wait`: come back after `retry_after`
├── CostTooLarge    no amount of waiting would help: ask for less
├── BadCost         the cost makes no sense: fix the call
├── BadQuota        the quota makes no sense: fix the configuration (also a ValueError)
├── UnknownScope    nobody configured a quota for the scope
├── UnknownLimit    the quota has no limit of that name
└── StoreLost       Redis does not answer: pause, then try again
```
"""

from datetime import timedelta

NEVER = timedelta(seconds=3e9)
"""About a century: the wait for what is closed until somebody opens it."""


class RateLimitError(Exception):
    """Root of the room's errors."""


class Denied(RateLimitError):
    """The wait would exceed `max_wait`."""

    def __init__(self, retry_after: timedelta, scope: str, limit: str) -> None:
        """Args:
        retry_after: waiting this long suffices, unless the scope is closed or slowed meanwhile.
        scope: the scope that was asked for.
        limit: the limit that makes the wait this long, with its scope if that is one around the scope
            (`tokens@openai/org`); `cooldown` if only a cooldown does, `frozen` or `billing` if the scope is closed.
        """
        told = (
            f"come back in {retry_after.total_seconds():.3f} s" if retry_after < NEVER else "closed until it is opened"
        )
        super().__init__(f"{scope} {limit}: {told}")
        self.retry_after = retry_after
        self.scope = scope
        self.limit = limit

    def __reduce__(self) -> tuple[type["Denied"], tuple[timedelta, str, str]]:
        return Denied, (self.retry_after, self.scope, self.limit)


class CostTooLarge(RateLimitError):
    """No amount of waiting would help."""


class BadCost(RateLimitError, ValueError):
    """A cost is negative or not a number."""


class BadQuota(RateLimitError, ValueError):
    """A quota, a limit or a rate that makes no sense."""


class QuotaChanged(RateLimitError):
    """Somebody else has set the quota meanwhile. Look at it again, then decide."""


class UnknownScope(RateLimitError):
    """The scope has no quota, neither in the store nor in the limiter's own configuration."""


class UnknownLimit(RateLimitError):
    """A cost names a limit that the quota does not have."""


class StoreLost(RateLimitError):
    """The store does not answer."""
