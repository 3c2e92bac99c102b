"""Requests to places that others have named: a guard against server-side request forgery."""

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2

from workers.providers import errors

MAX_REDIRECTS = 5
MAX_ADDRESSES = 4
"""So many of a name's addresses are tried; all of them are checked."""
MAX_S = 60.0
"""Seconds for a page, redirects and body included: the client's time-outs are for each read."""

_RESERVED = "reserved"
_V4 = tuple(
    (ipaddress.IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
        ("168.63.129.16/32", "Azure's platform address"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("224.0.0.0/4", "multicast"),
        ("192.0.0.0/24", _RESERVED),
        ("192.88.99.0/24", _RESERVED),
    )
)
_V6 = tuple(
    (ipaddress.IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("fc00::/7", "private"),
        ("64:ff9b:1::/48", "private"),  # RFC 8215
        ("ff00::/8", "multicast"),
        ("2001::/23", _RESERVED),  # Teredo among them
        ("2001:db8::/32", _RESERVED),
        ("3fff::/20", _RESERVED),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_OUR_NAMES = ("localhost", "local", "internal", "home.arpa")
"""Top-level names that the public DNS does not have: RFC 6761, RFC 6762, ICANN 2024, RFC 8375.
`metadata.google.internal` is among them."""


class Forbidden(errors.BadRequest):
    """The URL leads where an agent's request must not go."""


def address_class(address: str) -> str:
    """What an address is that is not on the public internet; empty if it is on it.

    By IANA's registries of special-purpose addresses. IPv4 addresses inside IPv6 forms (mapped, 6to4, NAT64, ISATAP)
    count as what they are.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        kind = next((kind for network, kind in _V4 if ip in network), "")
        return kind or ("" if ip.is_global else _RESERVED)
    inner = _inside(ip)
    if inner is not None and (kind := address_class(str(inner))):
        return f"{kind} ({inner} inside IPv6)"
    if ip.ipv4_mapped or ip in _NAT64:
        return ""
    kind = next((kind for network, kind in _V6 if ip in network), "")
    return kind or ("" if ip in _GLOBAL_V6 and ip.is_global else _RESERVED)


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also when an IPv6 form hides an IPv4 address."""
    return not address_class(address)


def _inside(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in _NAT64 or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def parsed(url: str) -> httpx2.URL:
    """A URL that can be asked.

    Raises:
        Forbidden: it is none, or not http(s).
    """
    try:
        found = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, TypeError, ValueError):
        raise _unusable(url) from None
    if found.scheme not in {"http", "https"} or not found.host:
        raise _unusable(url)
    return found


def _led(url: httpx2.URL, location: str) -> httpx2.URL:
    """Where a redirect leads. What a stranger has written is not quoted: a model may read the error."""
    try:
        return parsed(str(url.join(location)))
    except (Forbidden, httpx2.InvalidURL, ValueError):
        raise Forbidden("the redirect leads to something that is no http(s) URL") from None


def _unusable(url: str) -> Forbidden:
    # what stands before an @ may be a password
    return Forbidden(f"cannot fetch {url.rpartition('@')[2][:120]!r}: give an http:// or https:// URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Lets requests out to the public internet only: a URL from elsewhere must not become a way into our own network.

    Every address of the host must be public, also after a redirect, and the connection goes to the very address that
    was checked: a second look-up could answer with another one. With `allow_private` only the form of the URL is
    checked: for tests, for an intranet, and where an egress proxy looks up the names.
    """

    allow_private: bool = False

    async def admit(self, url: httpx2.URL) -> tuple[str, ...]:
        """The addresses that may be connected to. Empty with `allow_private`: whoever connects looks up the name.

        Raises:
            Forbidden: not http(s), credentials in the URL, or an address that is not public.
            NotSent: the name has no address.
        """
        host = url.raw_host.decode("ascii").rstrip(".").lower()
        if url.scheme not in {"http", "https"} or not host:
            raise _unusable(str(url))
        if url.userinfo:
            raise Forbidden(f"the URL of {host} has a user or password in it: leave them out")
        if self.allow_private:
            return ()
        if (literal := _literal(host)) is not None:
            addresses: tuple[str, ...] = (literal,)
        elif any(host == name or host.endswith(f".{name}") for name in _OUR_NAMES):
            raise _private(host, "the name is one of our own network")
        else:
            addresses = await _looked_up(host, url.port or (443 if url.scheme == "https" else 80))
        for address in addresses:
            if kind := address_class(address):
                raise _private(host, f"its address {address} is {kind}")
        return addresses

    async def send(
        self, request: httpx2.Request, through: Callable[[httpx2.Request], Awaitable[httpx2.Response]]
    ) -> httpx2.Response:
        """Check, and send to the first of the checked addresses that takes the connection.

        Raises as `admit` and `through` do.
        """
        addresses = (await self.admit(request.url))[:MAX_ADDRESSES]
        for address in addresses[:-1]:
            try:
                return await through(_pinned(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await through(_pinned(request, addresses[-1]) if addresses else request)

    @asynccontextmanager
    async def opened(
        self, client: httpx2.AsyncClient, url: httpx2.URL, *, headers: Mapping[str, str], max_s: float = MAX_S
    ) -> AsyncIterator[tuple[httpx2.URL, httpx2.Response]]:
        """What a GET leads to after at most `MAX_REDIRECTS` redirects: its URL, and its answer, whose body is not read.

        Raises:
            Forbidden: as `admit`, for each hop; too many redirects.
            Unavailable: no address, or not done within `max_s` seconds, the reading inside included.
            httpx2.HTTPError: as the client does.
        """

        async def through(request: httpx2.Request) -> httpx2.Response:
            return await client.send(request, stream=True, follow_redirects=False)

        try:
            async with asyncio.timeout(max_s) as deadline:
                for _ in range(MAX_REDIRECTS + 1):
                    response = await self.send(client.build_request("GET", url, headers=headers), through)
                    try:
                        if not response.has_redirect_location:
                            yield url, response
                            return
                        url = _led(url, response.headers["location"])
                    finally:
                        await response.aclose()
                raise Forbidden(f"{url.host} redirects more than {MAX_REDIRECTS} times")
        except TimeoutError:
            if not deadline.expired():
                raise
            raise errors.Unavailable(f"{url.host} took longer than {max_s:g} s") from None


class GuardedTransport(httpx2.AsyncBaseTransport):
    """An `httpx2` transport with a guard before it: each hop of a client that follows redirects is checked."""

    def __init__(
        self, guard: Guard, *, verify: ssl.SSLContext | None = None, inner: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        """Args:
        guard: what it lets out.
        verify: whom to trust. Default: whom the system trusts.
        inner: sends the requests. It must speak HTTP/1.1: HTTP/2 would share a connection between names.
        """
        self._guard = guard
        self._inner = inner or httpx2.AsyncHTTPTransport(verify=verify or trust(), limits=ONE_EACH)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Check and send. Raises as `Guard.send` does."""
        return await self._guard.send(request, self._inner.handle_async_request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def _pinned(request: httpx2.Request, address: str) -> httpx2.Request:
    """The request to the address instead of the name; the Host header and the server that TLS asks for stay the name's.

    On a connection of its own: one that was verified for a name must not carry a request for another at its address.
    """
    headers = request.headers.copy()
    headers["connection"] = "close"
    sni = request.extensions.get("sni_hostname") or request.url.raw_host.decode("ascii").rstrip(".")
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": sni},
    )


def _literal(host: str) -> str | None:
    """The address that the host is, where it is one and not a name.

    Raises:
        Forbidden: a number in a form that only resolvers read as an address (`127.1`, `0x7f000001`, `2130706433`).
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if "%" in host or ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            means = f", which means {socket.inet_ntoa(socket.inet_aton(host))},"
        except (OSError, ValueError):
            means = ""
        raise Forbidden(
            f"{host[:120]}{means} is not a name on the public internet: write four decimal numbers with dots, or a name"
        )
    return None


async def _looked_up(host: str, port: int) -> tuple[str, ...]:
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise errors.NotSent(f"cannot find the address of {host}: {error}") from None
    addresses = tuple(dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers))
    if not addresses:
        raise errors.NotSent(f"cannot find the address of {host}: the name has none")
    return addresses


def _private(host: str, why: str) -> Forbidden:
    return Forbidden(f"{host} is not on the public internet: {why}; not asked. Where it may be: `allow_private = true`")


ONE_EACH = httpx2.Limits(max_keepalive_connections=0)
"""A connection for each request: one that the server has just closed for idling looks like a lost answer."""


@functools.cache
def trust() -> ssl.SSLContext:
    """Whom the system trusts."""
    # reading the system's certificates takes up to 100 ms
    return httpx2.create_ssl_context()


async def capped(chunks: AsyncIterator[bytes], limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes, and whether there were more."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            return bytes(data[:limit]), True
    return bytes(data), False
