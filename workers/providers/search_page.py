"""A web page, read as plain text and no more of it than is good for us."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator

import httpx2

from workers.corpus import extract
from workers.providers.search_types import (
    FetchedDocument,
    SearchBadRequest,
    SearchError,
    SearchUnavailable,
    error_for,
    public_headers,
)

MAX_BYTES = 2 * 1024 * 1024
MAX_REDIRECTS = 5
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_TEXT = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/rss+xml")


class PageReader:
    """Downloads pages that others have named: an agent's fetch must not become a way into our own network.

    Every host, also after a redirect, must resolve to public addresses only, and the connection goes to the
    very address that was checked. With `allow_private` nothing is checked: for tests, for an intranet, and
    where an egress proxy resolves the names.
    """

    def __init__(self, client: httpx2.AsyncClient, *, allow_private: bool = False, max_bytes: int = MAX_BYTES) -> None:
        self._client = client
        self._allow_private = allow_private
        self._max_bytes = max_bytes

    async def read(self, url: str, max_chars: int) -> FetchedDocument:
        """The page's text, at most `max_chars` characters of it.

        Raises:
            SearchBadRequest: not an http(s) URL, a private address, not text, too many redirects, or a 4xx.
            SearchError: as the page's server answers; `operation` is `fetch`.
        """
        target = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._request(target)
            try:
                response = await self._client.send(request, stream=True, follow_redirects=False)
                try:
                    if response.has_redirect_location:
                        target = _parsed(str(target.join(response.headers["location"])))
                        continue
                    data, cut = await self._body(response, target)
                finally:
                    await response.aclose()
            except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, UnicodeError) as error:
                raise SearchUnavailable(
                    f"cannot read {_name(target)}: {type(error).__name__}", operation="fetch"
                ) from None
            return await self._document(url, target, response, data, cut=cut, max_chars=max_chars)
        raise SearchBadRequest(f"{_name(target)} redirects more than {MAX_REDIRECTS} times", operation="fetch")

    async def _request(self, target: httpx2.URL) -> httpx2.Request:
        headers = {"accept": "text/html, text/plain;q=0.9, */*;q=0.5"}
        if self._allow_private:
            return self._client.build_request("GET", target, headers=headers)
        address = await _public_address(target)
        # Connecting to the address, not the name: a second look-up could answer with a private one.
        return self._client.build_request(
            "GET",
            target.copy_with(host=address),
            headers=headers | {"host": target.netloc.decode("ascii")},
            extensions={"sni_hostname": target.raw_host.decode("ascii")},
        )

    async def _body(self, response: httpx2.Response, target: httpx2.URL) -> tuple[bytes, bool]:
        if not response.is_success:
            message = f"{_name(target)} answered {response.status_code}"
            raise error_for(response.status_code, message, public_headers(response.headers), operation="fetch")
        kind = _content_type(response)
        if kind != "application/pdf" and not kind.startswith(_TEXT):
            raise SearchBadRequest(
                f"{_name(target)} is {kind}, not text", status=response.status_code, operation="fetch"
            )
        return await _capped(response.aiter_bytes(), self._max_bytes)

    async def _document(
        self, url: str, target: httpx2.URL, response: httpx2.Response, data: bytes, *, cut: bool, max_chars: int
    ) -> FetchedDocument:
        try:
            found = await asyncio.to_thread(_extracted, _content_type(response), response.charset_encoding, data)
        except extract.UnreadableText as error:
            raise SearchBadRequest(f"cannot read {_name(target)}: {error}", operation="fetch") from None
        return FetchedDocument(
            id=url,
            title=found.title or _name(target),
            text=found.text[: max(max_chars, 0)],
            truncated=cut or len(found.text) > max_chars,
            source=str(target),
        )


def _extracted(kind: str, charset: str | None, data: bytes) -> extract.Extracted:
    if kind == "application/pdf":
        return extract.pdf(data)
    if kind in {"text/html", "application/xhtml+xml"}:
        return extract.html(data, charset)
    return extract.Extracted("", extract.decode(data, charset).strip())


async def _capped(chunks: AsyncIterator[bytes], limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes after decompression, and whether there were more."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            return bytes(data[:limit]), True
    return bytes(data), False


def _parsed(url: str) -> httpx2.URL:
    try:
        target = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, TypeError, ValueError):
        raise _unusable(url) from None
    if target.scheme not in {"http", "https"} or not target.host:
        raise _unusable(url)
    return target.copy_with(fragment=None, username=None, password=None) if target.userinfo else target


def _unusable(url: str) -> SearchError:
    return SearchBadRequest(f"cannot fetch {url[:120]!r}: give an http:// or https:// URL", operation="fetch")


async def _public_address(target: httpx2.URL) -> str:
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SearchUnavailable(f"cannot find the address of {target.host}: {error}", operation="fetch") from None
    addresses = [str(answer[4][0]).partition("%")[0] for answer in answers]
    for address in addresses:
        if not is_public(address):
            raise SearchBadRequest(f"{target.host} is not on the public internet: not fetched", operation="fetch")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also when an IPv6 form hides an IPv4 address."""
    ip = ipaddress.ip_address(address)
    hidden: list[ipaddress.IPv4Address | ipaddress.IPv6Address | None] = []
    if isinstance(ip, ipaddress.IPv6Address):
        hidden = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            hidden.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if ip.ipv4_mapped:
            return is_public(str(ip.ipv4_mapped))
    return ip.is_global and not ip.is_multicast and all(is_public(str(inner)) for inner in hidden if inner)


def _content_type(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", "text/html")).partition(";")[0].strip().lower()


def _name(target: httpx2.URL) -> str:
    """The URL without its query, which may carry a token."""
    return str(target.copy_with(query=None, fragment=None))[:200]
