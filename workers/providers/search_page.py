"""A web page, read as plain text and no more of it than is good for us."""

import asyncio

import httpx2

from workers.corpus import extract
from workers.providers import errors
from workers.providers.outbound import Forbidden, Guard, capped, is_public, parsed
from workers.providers.search_types import (
    FetchedDocument,
    SearchBadRequest,
    SearchUnavailable,
    error_for,
    public_headers,
)

__all__ = ["MAX_BYTES", "PageReader", "is_public"]

MAX_BYTES = 2 * 1024 * 1024
_ACCEPTED = {"accept": "text/html, text/plain;q=0.9, */*;q=0.5"}
_TEXT = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/rss+xml")


class PageReader:
    """Downloads pages that others have named, as far as the guard lets it (`workers/providers/outbound.py`)."""

    def __init__(self, client: httpx2.AsyncClient, *, allow_private: bool = False, max_bytes: int = MAX_BYTES) -> None:
        self._client = client
        self._guard = Guard(allow_private=allow_private)
        self._max_bytes = max_bytes

    async def read(self, url: str, max_chars: int) -> FetchedDocument:
        """The page's text, at most `max_chars` characters of it.

        Raises:
            SearchBadRequest: not an http(s) URL, a private address, not text, too many redirects, or a 4xx.
            SearchError: as the page's server answers; `operation` is `fetch`.
        """
        try:
            asked = parsed(url)
            if asked.userinfo:
                asked = asked.copy_with(username=None, password=None)
            async with self._guard.opened(self._client, asked, headers=_ACCEPTED) as (target, response):
                data, cut = await self._body(response, asked)
        except Forbidden as error:
            raise SearchBadRequest(str(error), operation="fetch") from None
        except errors.Unavailable as error:
            raise SearchUnavailable(str(error), operation="fetch") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, UnicodeError) as error:
            raise SearchUnavailable(f"cannot read {_name(asked)}: {type(error).__name__}", operation="fetch") from None
        try:
            found = await asyncio.to_thread(_extracted, _content_type(response), response.charset_encoding, data)
        except extract.UnreadableText as error:
            # what follows the colon may be the page's own words
            why = str(error).partition(":")[0]
            raise SearchBadRequest(f"cannot read {_name(asked)}: {why}", operation="fetch") from None
        return FetchedDocument(
            id=url,
            title=found.title or _name(target),
            text=found.text[: max(max_chars, 0)],
            truncated=cut or len(found.text) > max_chars,
            source=str(target),
        )

    async def _body(self, response: httpx2.Response, asked: httpx2.URL) -> tuple[bytes, bool]:
        # errors name what was asked for: where redirects lead, and what a header says, are a stranger's words
        if not response.is_success:
            message = f"{_name(asked)} answered {response.status_code}"
            raise error_for(response.status_code, message, public_headers(response.headers), operation="fetch")
        kind = _content_type(response)
        if kind != "application/pdf" and not kind.startswith(_TEXT):
            text = f"{_name(asked)}: the content type is not text"
            raise SearchBadRequest(text, status=response.status_code, operation="fetch")
        return await capped(response.aiter_bytes(), self._max_bytes)


def _extracted(kind: str, charset: str | None, data: bytes) -> extract.Extracted:
    if kind == "application/pdf":
        return extract.pdf(data)
    if kind in {"text/html", "application/xhtml+xml"}:
        return extract.html(data, charset)
    return extract.Extracted("", extract.decode(data, charset).strip())


def _content_type(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", "text/html")).partition(";")[0].strip().lower()


def _name(target: httpx2.URL) -> str:
    """The URL without its query, which may carry a token."""
    return str(target.copy_with(query=None, fragment=None))[:200]
