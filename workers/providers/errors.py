"""What a provider may answer instead of a result.

ProviderError
├── RateLimited       429: over the quota; `retry_after` if the provider said so
├── Overloaded        503, 529: not our quota; `retry_after` if the provider said so
├── Unavailable       500s, time-outs, broken connections and streams: may work later
│   ├── Lost          …in the middle of an effect, which may have taken place
│   └── NotSent       …before anything was sent
├── Refused           401, 403: the key or the permission is wrong
├── Exhausted         out of money, or beyond a spend limit
├── BadRequest        the request itself is not accepted
└── Fenced            a later attempt holds the fence, and nothing was sent
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import time

from ratelimit.headers import read, retry_after
from ratelimit.transport import NOT_SENT


class ProviderError(Exception):
    """Root. The text is one line without secrets, and names the provider."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, limit: str | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.retry_after_s = retry_after_s
        self.limit = limit
        """The one limit that is exhausted, if the provider has named it."""


class RateLimited(ProviderError):
    """429: over the quota."""


class Overloaded(ProviderError):
    """503 or 529: the provider has too much to do."""


class Unavailable(ProviderError):
    """It failed, and may work later."""


class Refused(ProviderError):
    """The key or the permission is wrong."""


class Exhausted(ProviderError):
    """Out of money, or beyond a spend limit: waiting does not help."""


class BadRequest(ProviderError):
    """The request is not accepted as it stands."""


class Fenced(ProviderError):
    """A later attempt holds the fence: this one may not go on, and has sent nothing."""


class Lost(Unavailable):
    """An effect may have taken place: look it up before having it again."""


class NotSent(Unavailable):
    """No connection: the provider never heard of the call, and counts none."""


def unanswered(message: str, cause: BaseException | None) -> Unavailable:
    """The error for a call without an answer, by what the HTTP client says."""
    return (NotSent if isinstance(cause, NOT_SENT) else Unavailable)(message)


@contextmanager
def understood(name: str) -> Iterator[None]:
    """Reading what a provider has sent: what cannot be read came from somebody else, a proxy or a log-in page.

    Raises:
        Unavailable: it cannot be read.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise Unavailable(f"{name}: the answer is not what this API sends ({type(error).__name__})") from None


def from_status(
    status: int, message: str, headers: Mapping[str, str], *, dialect: str = "generic", limit: str | None = None
) -> ProviderError:
    """The error for an HTTP status that is not a success.

    Args:
        status: of the answer.
        message: one line about it.
        headers: of the answer.
        dialect: how its rate-limit headers are read.
        limit: the limit that the body names.
    """
    wait = retry_after(headers, time())
    if status == 429:
        said = read(headers, dialect, now=time())
        return RateLimited(message, retry_after_s=said.retry_after_s, limit=limit or said.exhausted())
    if status in (503, 529):
        return Overloaded(message, retry_after_s=wait)
    if status in (401, 403):
        return Refused(message)
    if status == 402:
        return Exhausted(message)
    if status >= 500 or status in (408, 409):
        return Unavailable(message, retry_after_s=wait)
    return BadRequest(message)
