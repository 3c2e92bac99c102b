"""What every search provider answers with, and how it fails."""

import html
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ratelimit.headers import retry_after

Operation = Literal["search", "fetch"]
_PRIVATE_HEADERS = frozenset({"set-cookie", "authorization", "www-authenticate", "proxy-authenticate"})
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_REFUSING = frozenset({401, 402, 403, 432, 433})
"""Besides the key being wrong: 402 payment required; Tavily's 432 and 433, the plan's limit is used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """One thing found."""

    id: str
    """What `fetch` takes: a URL on the web, a document's id in the corpus."""

    title: str
    snippet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResponse:
    """What a search found, best first. Nothing found is an answer, not an error."""

    results: tuple[SearchResult, ...]

    headers: Mapping[str, str] = field(default_factory=dict)
    """The provider's response headers, names in lower case: its rate-limit state. Empty for the corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedDocument:
    """A document's plain text, from its beginning."""

    id: str
    title: str
    text: str
    truncated: bool
    source: str
    """Where it was really read: the last URL after redirects, the corpus file's path."""


class SearchError(Exception):
    """A search or fetch that gave no answer. The message never holds a key or a password."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        operation: Operation = "search",
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, if there was an answer."""
        self.retry_after = retry_after
        """Seconds from now, if the provider named them."""
        self.headers = dict(headers or {})
        """The answer's headers, names in lower case."""
        self.operation: Operation = operation
        """`fetch`: a web page's own server answered, not the search provider; its quota is not concerned."""


class SearchRateLimited(SearchError):
    """429: too many requests. Come back after `retry_after`."""


class SearchUnavailable(SearchError):
    """5xx, a time-out, no connection, or an answer that makes no sense: trying again may help."""


class SearchNotSent(SearchUnavailable):
    """No connection: the provider never heard of the search."""


class SearchRefused(SearchError):
    """The key is missing, wrong or out of credit, or access is forbidden: a human must act."""


class SearchBadRequest(SearchError):
    """The request itself cannot be answered: the same one will fail again."""


def error_for(
    status: int, message: str, headers: Mapping[str, str], *, now: float | None = None, operation: Operation = "search"
) -> SearchError:
    """The error that an HTTP status above 299 means."""
    if status == 429:
        kind: type[SearchError] = SearchRateLimited
    elif status >= 500 or status == 408:
        kind = SearchUnavailable
    elif status in _REFUSING:
        kind = SearchRefused
    else:
        kind = SearchBadRequest
    wait = retry_after(headers, time.time() if now is None else now)
    return kind(message, status=status, retry_after=wait, headers=headers, operation=operation)


def public_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Response headers with names in lower case, without cookies and credentials."""
    return {name.lower(): value for name, value in headers.items() if name.lower() not in _PRIVATE_HEADERS}


def plain_line(text: object) -> str:
    """A provider's title or description as plain text: no `<strong>` around the hits, no entities, one line."""
    return " ".join(html.unescape(_TAG.sub("", str(text or ""))).split())
