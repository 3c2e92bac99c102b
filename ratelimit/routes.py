"""Which connection a call takes: to one server, to the master that Sentinel names, to the node of a Cluster's slot."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ReadOnlyError

from ratelimit.wire import Answer, Command, Wire

TIMEOUT_S = 2.0
"""Longest wait for any answer."""
SENTINEL_TIMEOUT_S = 0.5
"""Longest wait for one Sentinel; then the next is asked."""
HOPS = 4
"""Most redirections of one call."""

Connect = Callable[[], Awaitable[AbstractConnection]]


class Routes(Protocol):
    """The connections of one store."""

    where: str
    """Names the server in errors."""

    def send(self, command: Command, key: str, answer: Answer) -> None:
        """Send one command to whoever has the key; `answer` is called once, with a reply or an exception."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Single:
    """One server at a time: always the same, or the master that Sentinel names."""

    def __init__(self, connect: Connect, where: str) -> None:
        """Args:
        connect: opens a connection.
        where: names the server in errors.
        """
        self.where = where
        self._wire = Wire(connect, TIMEOUT_S)

    def send(self, command: Command, key: str, answer: Answer) -> None:
        """Send one command."""
        del key
        wire = self._wire

        def answered(reply: Any) -> None:
            if isinstance(reply, ReadOnlyError):
                # it was the master: the next call finds out who is
                wire.drop()
            answer(reply)

        wire.send(command, answered)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._wire.aclose()


class Cluster:
    """The nodes of a Redis Cluster. Who has which slot is learnt from its redirections."""

    def __init__(self, nodes: Sequence[tuple[str, int]], connect: Callable[[str, int], Connect]) -> None:
        """Args:
        nodes: some of them, host and port.
        connect: makes what opens a connection to a node.
        """
        self.where = "Redis Cluster at " + ",".join(f"{_bracketed(host)}:{port}" for host, port in nodes)
        self._seeds = list(nodes)
        self._connect = connect
        self._wires: dict[tuple[str, int], Wire] = {}
        self._owners: dict[int, tuple[str, int]] = {}

    def send(self, command: Command, key: str, answer: Answer) -> None:
        """Send one command to the node that has the key's slot."""
        self._send(command, key_slot(key.encode()), answer, HOPS)

    async def aclose(self) -> None:
        """Close all connections."""
        for wire in self._wires.values():
            await wire.aclose()

    def _send(self, command: Command, slot: int, answer: Answer, hops: int) -> None:
        node = self._owners.get(slot, self._seeds[0])

        def answered(reply: Any) -> None:
            # a MovedError is an AskError to redis-py
            if isinstance(reply, MovedError) and hops > 0:
                self._owners[slot] = _told(reply, node)
                self._send(command, slot, answer, hops - 1)
            elif isinstance(reply, AskError) and hops > 0:
                # the slot moves: this key is there already
                wire = self._wire(_told(reply, node))
                wire.send(("ASKING",), lambda _: None)
                wire.send(command, answer)
            else:
                if isinstance(reply, OSError | ReadOnlyError) or type(reply).__name__ in _BROKEN:
                    self._lost(node)
                answer(reply)

        self._wire(node).send(command, answered)

    def _wire(self, node: tuple[str, int]) -> Wire:
        wire = self._wires.get(node)
        if wire is None:
            wire = self._wires[node] = Wire(self._connect(*node), TIMEOUT_S)
        return wire

    def _lost(self, node: tuple[str, int]) -> None:
        """Ask another node from now on who has its slots."""
        self._owners = {slot: owner for slot, owner in self._owners.items() if owner != node}
        known = [*self._seeds, *(owner for owner in self._owners.values() if owner not in self._seeds)]
        self._seeds = [one for one in dict.fromkeys(known) if one != node] + [node]


def _told(reply: AskError, by: tuple[str, int]) -> tuple[str, int]:
    """Where a redirection leads: without a host, to the one that it came from."""
    return reply.host or by[0], reply.port


_BROKEN = ("ConnectionError", "TimeoutError", "ClusterDownError")


def routes(url: str) -> Routes:
    """The connections that a URL asks for.

    ```
    redis://user:password@host:6379/0            one server; rediss:// with TLS, unix:///path over a socket
    redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0?sentinel_password=…
    redis+cluster://user:password@host1:6379,host2:6379
    ```

    `valkey` may stand for `redis`. Other options are redis-py's: `ssl_ca_certs`, `ssl_certfile`, …. With `rediss`
    Sentinels are spoken to by TLS too, unless `sentinel_ssl=no`.

    Raises:
        ValueError: it is no such URL. The text repeats nothing of it, as there may be a password anywhere in it.
    """
    _whole(url)
    if "+" not in urlsplit(url).scheme:
        plain = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        return _single(plain)
    found = _several(url)
    if found.kind == "cluster":
        options = found.options
        return Cluster(found.nodes, lambda host, port: _opening(dict(options, host=host, port=port)))
    hosts = urlsplit(url).netloc.rpartition("@")[2]
    connect = _by_sentinel(found.nodes, found.master, found.options, found.asking)
    return Single(connect, f"Redis {found.master!r} by Sentinel at {hosts}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """What a URL of several hosts says."""

    kind: str
    """`sentinel` or `cluster`."""
    nodes: list[tuple[str, int]]
    """Sentinels, or nodes of the Cluster."""
    options: dict[str, Any]
    """Of a connection to a server itself, as redis-py takes them."""
    master: str = ""
    """As Sentinel calls it."""
    asking: dict[str, Any]
    """Options of a client of the Sentinels."""


def sentinels(url: str) -> Several:
    """Who the Sentinels are, and how they are asked.

    Raises:
        ValueError: it is no URL of Sentinels.
    """
    _whole(url)
    return _several(url)


def _several(url: str) -> Several:
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.replace("valkey", "redis").partition("+")
    if kind not in ("sentinel", "cluster") or scheme not in ("redis", "rediss"):
        raise ValueError(
            "must begin with redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or their rediss+… forms"
        )
    user, at, hosts = parts.netloc.rpartition("@")
    nodes = [_node(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",")]
    path = parts.path.strip("/").split("/")
    database = path[1] if kind == "sentinel" and len(path) > 1 else ""
    # redis-py reads what is said of the servers themselves: user, password, TLS
    first = f"{_bracketed(nodes[0][0])}:{nodes[0][1]}"
    one = urlunsplit((scheme, f"{user}{at}{first}", f"/{database}", parts.query, ""))
    options: dict[str, Any] = dict(parse_url(one))
    secret: str | None = options.pop("sentinel_password", None)
    plain_sentinels = str(options.pop("sentinel_ssl", "yes")).lower() in ("no", "false", "0")
    for name in ("host", "port"):
        options.pop(name, None)
    if kind == "cluster":
        if path != [""]:
            raise ValueError(f"a Cluster has no databases: leave {parts.path!r} out")
        options.pop("db", None)
        return Several(kind=kind, nodes=nodes, options=options, asking={})
    if not path[0]:
        raise ValueError("name the master: redis+sentinel://host:26379/mymaster")
    asking: dict[str, Any] = {"password": secret}
    if options.get("connection_class") is SSLConnection and not plain_sentinels:
        asking |= {"ssl": True} | {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Several(kind=kind, nodes=nodes, options=options, master=unquote(path[0]), asking=asking)


def _whole(url: str) -> None:
    """See that the library reads the URL as it was meant: of what is left over it would show pieces of a password."""
    try:
        parts = urlsplit(url)
        # what follows a stray / or # would stand in the path or the fragment
        astray = parts.scheme != "unix" and ("@" in parts.path or parts.fragment != "")
        # several hosts are read one by one; of one, urlsplit itself complains of the port
        readable = not astray and ("+" in parts.scheme or (parts.port or 0) >= 0)
    except ValueError:
        readable = False
    if not readable:
        raise ValueError(
            "is not of the form scheme://user:password@host:port: percent-encode a password with / ? # @ or % in it"
        )


def _node(host: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        name, given = parts.hostname, parts.port
    except ValueError:
        name, given = None, None
    if not name:
        raise ValueError(
            "a host is not of the form host:port or [address]:port; a password with / or @ in it must be"
            " percent-encoded"
        )
    return name, port if given is None else given


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _single(url: str) -> Single:
    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else f"{_bracketed(parts.hostname or '')}:{parts.port or 6379}"
    # the pool only knows how to make a connection from a URL; it never holds one
    pool = ConnectionPool.from_url(url, protocol=2, socket_connect_timeout=TIMEOUT_S, decode_responses=False)
    return Single(_of_pool(pool), f"Redis at {where}")


def _opening(options: dict[str, Any]) -> Connect:
    return _of_pool(ConnectionPool(**options, protocol=2, socket_connect_timeout=TIMEOUT_S, decode_responses=False))


def _of_pool(pool: ConnectionPool) -> Connect:
    async def connect() -> AbstractConnection:
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    return connect


def _by_sentinel(
    nodes: Sequence[tuple[str, int]], master: str, options: dict[str, Any], asking: dict[str, Any]
) -> Connect:
    times: dict[str, Any] = {"socket_connect_timeout": SENTINEL_TIMEOUT_S, "socket_timeout": SENTINEL_TIMEOUT_S}
    # one that does not answer is not asked again: the next one knows as much
    times["retry"] = Retry(NoBackoff(), 0)

    async def connect() -> AbstractConnection:
        sentinel = Sentinel(nodes, sentinel_kwargs={**times, **asking})  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(master)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return await _opening(dict(options, host=host, port=port))()

    return connect
