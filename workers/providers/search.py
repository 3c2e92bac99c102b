"""Search: the local corpus, and thin clients of SearXNG, Brave and Tavily. None retries: Temporal does."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import httpx2

from ratelimit.transport import NOT_SENT
from workers.corpus.documents import BadRequest, CorpusError, CorpusUnavailable, EmptyCorpus, UnknownDocument
from workers.corpus.index import Corpus
from workers.providers.search_page import PageReader
from workers.providers.search_types import (
    FetchedDocument,
    Operation,
    SearchBadRequest,
    SearchError,
    SearchNotSent,
    SearchRateLimited,
    SearchRefused,
    SearchResponse,
    SearchResult,
    SearchUnavailable,
    error_for,
    plain_line,
    public_headers,
)

__all__ = [
    "BraveSearch",
    "CorpusSearch",
    "FetchedDocument",
    "SearchBadRequest",
    "SearchError",
    "SearchNotSent",
    "SearchProvider",
    "SearchRateLimited",
    "SearchRefused",
    "SearchResponse",
    "SearchResult",
    "SearchUnavailable",
    "SearxngSearch",
    "TavilySearch",
]

MAX_RESULTS = 20
"""What Brave and Tavily allow in one request."""


class SearchProvider(Protocol):
    """Finds documents and reads them."""

    async def search(self, query: str, limit: int) -> SearchResponse:
        """At most `limit` results (1 to 20), best first. Raises SearchError."""

    async def fetch(self, id: str, max_chars: int) -> FetchedDocument:  # noqa: A002  the result's field of that name
        """The text behind a result's id, at most `max_chars` characters of it. Raises SearchError."""

    async def aclose(self) -> None:
        """Release what the provider owns; never the HTTP client, which its giver closes."""


class CorpusSearch:
    """The local corpus. Owns it: `aclose` closes the file."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    async def search(self, query: str, limit: int) -> SearchResponse:
        """Full-text search, in a thread."""
        try:
            hits = await asyncio.to_thread(self._corpus.search, query, _bounded(limit))
        except CorpusError as error:
            raise _corpus_error(error, "search") from error
        return SearchResponse(
            results=tuple(SearchResult(id=hit.id, title=hit.title, snippet=hit.snippet) for hit in hits)
        )

    async def fetch(self, id: str, max_chars: int) -> FetchedDocument:  # noqa: A002
        """A document of the corpus, in a thread."""
        try:
            found = await asyncio.to_thread(self._corpus.fetch, id, max_chars)
        except CorpusError as error:
            raise _corpus_error(error, "fetch") from error
        return FetchedDocument(
            id=found.id, title=found.title, text=found.text, truncated=found.truncated, source=found.source
        )

    async def aclose(self) -> None:
        """Close the corpus."""
        await asyncio.to_thread(self._corpus.close)


class _WebSearch:
    """What the HTTP providers share: one request, one table of errors, pages from the web."""

    name: str

    def __init__(
        self, http: httpx2.AsyncClient, base_url: str, *, api_key: str = "", allow_private: bool = False
    ) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        self._key = api_key
        self._pages = PageReader(http, allow_private=allow_private)

    async def fetch(self, id: str, max_chars: int) -> FetchedDocument:  # noqa: A002
        """The web page at the URL `id`, as plain text."""
        return await self._pages.read(id, max_chars)

    async def aclose(self) -> None:
        """Nothing to release: the client belongs to whoever gave it."""

    async def _ask(self, method: str, path: str, query: str, **request: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The decoded JSON of one request, and the answer's headers."""
        if not query.strip():
            raise SearchBadRequest("the query is empty: ask with at least one word")
        try:
            response = await self._http.request(method, self._base + path, **request)
        except httpx2.TimeoutException as error:
            # `from None`: a transport error's text may quote a header, and with it the key.
            kind = SearchNotSent if isinstance(error, NOT_SENT) else SearchUnavailable
            raise kind(f"{self.name} did not answer in time ({type(error).__name__})") from None
        except httpx2.RequestError as error:
            kind = SearchNotSent if isinstance(error, NOT_SENT) else SearchUnavailable
            raise kind(f"{self.name} cannot be reached: {self._without_key(str(error))}") from None
        except httpx2.InvalidURL:
            raise SearchBadRequest(f"{self.name}'s base URL is not a URL: correct it in the settings") from None
        headers = public_headers(response.headers)
        if not response.is_success:
            detail = self._without_key(response.text[:2000])
            raise error_for(response.status_code, f"{self.name} answered {response.status_code}: {detail}", headers)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise SearchUnavailable(
                f"{self.name} answered {response.status_code} without a JSON object: is the base URL right?",
                status=response.status_code,
                headers=headers,
            )
        return body, headers

    def _response(self, found: object, headers: Mapping[str, str], limit: int, snippet: str) -> SearchResponse:
        """Results from the provider's list; entries without a URL, and a URL's second entry, are left out."""
        if not isinstance(found, list):
            raise SearchUnavailable(f"{self.name} answered without a list of results", status=200, headers=headers)
        entries: dict[str, dict[str, Any]] = {}
        for entry in found:
            if isinstance(entry, dict) and entry.get("url"):
                entries.setdefault(str(entry["url"]), entry)
        results = [
            SearchResult(id=url, title=plain_line(entry.get("title")) or url, snippet=plain_line(entry.get(snippet)))
            for url, entry in entries.items()
        ]
        return SearchResponse(results=tuple(results[:limit]), headers=headers)

    def _without_key(self, text: str) -> str:
        line = plain_line(text)
        return (line.replace(self._key, "***") if self._key else line)[:200]


class SearxngSearch(_WebSearch):
    """A SearXNG instance; its JSON format must be enabled (`search.formats` in its settings.yml).

    https://docs.searxng.org/dev/search_api.html
    """

    name = "SearXNG"

    def __init__(self, base_url: str, http: httpx2.AsyncClient, *, allow_private: bool = False) -> None:
        super().__init__(http, base_url, allow_private=allow_private)

    async def search(self, query: str, limit: int) -> SearchResponse:
        """One page of results: SearXNG decides how many, `limit` cuts it."""
        try:
            body, headers = await self._ask("GET", "/search", query, params={"q": query, "format": "json"})
        except SearchRefused as error:
            if error.status == 403:
                error.args = (f"{error}; SearXNG does so when `json` is missing in its search.formats",)
            raise
        return self._response(body.get("results"), headers, _bounded(limit), "content")


class BraveSearch(_WebSearch):
    """The Brave Search API.

    https://api-dashboard.search.brave.com/app/documentation/web-search/get-started
    """

    name = "Brave"

    def __init__(self, base_url: str, api_key: str, http: httpx2.AsyncClient, *, allow_private: bool = False) -> None:
        super().__init__(http, base_url, api_key=_usable_key(self.name, api_key), allow_private=allow_private)

    async def search(self, query: str, limit: int) -> SearchResponse:
        """Web results. Brave leaves `web` out when there are none."""
        body, headers = await self._ask(
            "GET",
            "/res/v1/web/search",
            query,
            params={"q": _short(query), "count": _bounded(limit)},
            headers={"x-subscription-token": self._key, "accept": "application/json"},
        )
        web = body.get("web") or {"results": []}
        return self._response(
            web.get("results") if isinstance(web, dict) else None, headers, _bounded(limit), "description"
        )


class TavilySearch(_WebSearch):
    """The Tavily Search API.

    https://docs.tavily.com/documentation/api-reference/endpoint/search
    """

    name = "Tavily"

    def __init__(self, base_url: str, api_key: str, http: httpx2.AsyncClient, *, allow_private: bool = False) -> None:
        super().__init__(http, base_url, api_key=_usable_key(self.name, api_key), allow_private=allow_private)

    async def search(self, query: str, limit: int) -> SearchResponse:
        """Results with an excerpt of each page."""
        body, headers = await self._ask(
            "POST",
            "/search",
            query,
            json={"query": _short(query), "max_results": _bounded(limit)},
            headers={"authorization": f"Bearer {self._key}"},
        )
        return self._response(body.get("results"), headers, _bounded(limit), "content")


def _bounded(limit: int) -> int:
    return min(max(limit, 1), MAX_RESULTS)


def _short(query: str) -> str:
    """Brave refuses more than 400 characters or 50 words, Tavily more than 400 characters."""
    return " ".join(query.split()[:50])[:400]


def _usable_key(provider: str, key: str) -> str:
    """A key that can travel in a header, or an error that does not quote it."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise SearchRefused(f"the API key for {provider} is empty or not plain text: set it in the settings")
    return key


def _corpus_error(error: CorpusError, operation: Operation) -> SearchError:
    match error:
        case UnknownDocument():
            return SearchBadRequest(str(error), status=404, operation=operation)
        case BadRequest():
            return SearchBadRequest(str(error), operation=operation)
        case EmptyCorpus():
            return SearchRefused(str(error), operation=operation)
        case CorpusUnavailable():
            return SearchUnavailable(str(error), operation=operation)
        case _:
            return SearchError(str(error), operation=operation)
