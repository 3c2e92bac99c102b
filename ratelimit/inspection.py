"""What a store's server is and how it is set up: for whoever looks after it. Changes nothing."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ratelimit.errors import StoreLost
from ratelimit.routes import SENTINEL_TIMEOUT_S, sentinels
from ratelimit.store import RedisStore

DANGEROUS = "FLUSHALL"
"""What nobody needs who only books and settles. It is never sent: the server is asked whether it would be allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A store's server. What is None could not be told: the user may not ask, or the server does not know."""

    kind: str
    """`single`, `sentinel` or `cluster`."""
    encrypted: bool
    hosts: tuple[str, ...]
    """Without ports; none for a socket file."""
    product: str | None = None
    """`redis` or `valkey`."""
    version: tuple[int, ...] | None = None
    policy: str | None = None
    """What goes first where memory is short: `maxmemory-policy`."""
    memory_limit: int | None = None
    """Bytes; 0: none."""
    persistent: bool | None = None
    """Whether it writes down each change (AOF)."""
    role: str | None = None
    """`master` or `slave`, in the server's words."""
    replicas: int | None = None
    user: str | None = None
    may_flush: bool | None = None
    """Whether its user may delete everything."""
    ahead_s: float | None = None
    """How far its clock is ahead of ours, to within half the time of the question."""
    uncertain_s: float = 0.0
    covered: bool | None = None
    """Of a cluster: whether all slots are served."""
    sentinels: Mapping[str, str] = field(default_factory=dict)
    """Of Sentinels: each with what it says of its quorum; `ok` where it is one."""


async def inspected(url: str) -> Server:
    """Look at the server.

    Raises:
        ValueError: it is no such URL.
        StoreLost: nobody answers.
    """
    store = RedisStore.from_url(url)
    try:
        await store.ping()
        info = _read(await _asked(store, "INFO", "everything"))
        ahead_s, uncertain_s = await _ahead(store)
        user = await _asked(store, "ACL", "WHOAMI")
        name = user.decode(errors="replace") if isinstance(user, bytes) else None
        kind = _kind(url)
        return Server(
            kind=kind,
            encrypted=urlsplit(url).scheme.startswith(("rediss", "valkeys")),
            hosts=hosts(url),
            product=_product(info),
            version=_version(info),
            policy=info.get("maxmemory_policy"),
            memory_limit=int(info["maxmemory"]) if info.get("maxmemory", "").isdigit() else None,
            persistent=info["aof_enabled"] == "1" if "aof_enabled" in info else None,
            role=info.get("role"),
            replicas=int(info["connected_slaves"]) if "connected_slaves" in info else None,
            user=name,
            may_flush=await _may(store, name),
            ahead_s=ahead_s,
            uncertain_s=uncertain_s,
            covered=await _covered(store) if kind == "cluster" else None,
            sentinels=await _quorums(url) if kind == "sentinel" else {},
        )
    finally:
        await store.aclose()


def _kind(url: str) -> str:
    return urlsplit(url).scheme.partition("+")[2] or "single"


def hosts(url: str) -> tuple[str, ...]:
    """Those that the URL names, without ports; none for a socket file."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return ()
    named = parts.netloc.rpartition("@")[2].split(",")
    found = (urlsplit(f"//{host}").hostname for host in named)
    return tuple(host or "localhost" for host in found)


async def _asked(store: RedisStore, *command: str) -> Any:
    """The answer; None where it is refused."""
    try:
        return await store.execute(*command)
    except StoreLost:
        # whoever may not ask is told so, and the server has just answered
        return None


def _read(info: Any) -> dict[str, str]:
    if not isinstance(info, bytes):
        return {}
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, colon, value in lines if colon}


def _product(info: Mapping[str, str]) -> str | None:
    if "valkey_version" in info:
        return "valkey"
    return "redis" if "redis_version" in info else None


def _version(info: Mapping[str, str]) -> tuple[int, ...] | None:
    text = info.get("valkey_version") or info.get("redis_version") or ""
    found = tuple(int(part) for part in text.split(".") if part.isdigit())
    return found or None


async def _ahead(store: RedisStore) -> tuple[float | None, float]:
    before = time.time()
    told = await _asked(store, "TIME")
    after = time.time()
    if not isinstance(told, list):
        return None, 0.0
    seconds, micros = (int(part) for part in told)
    return seconds + micros / 1e6 - (before + after) / 2, (after - before) / 2


async def _may(store: RedisStore, user: str | None) -> bool | None:
    if user is None:
        return None
    try:
        told = await store.execute("ACL", "DRYRUN", user, DANGEROUS)
    except StoreLost as refused:
        # servers before Redis 7 do not know the question; whoever may not ask it has been given rights by hand
        return None if "unknown subcommand" in str(refused).lower() else False
    return bool(told == b"OK")


async def _covered(store: RedisStore) -> bool | None:
    told = _read(await _asked(store, "CLUSTER", "INFO"))
    if not told:
        return None
    return told.get("cluster_state") == "ok" and told.get("cluster_slots_ok") == "16384"


async def _quorums(url: str) -> dict[str, str]:
    """What each Sentinel answers to CKQUORUM: https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/"""
    asked = sentinels(url)
    found: dict[str, str] = {}
    for host, port in asked.nodes:
        node = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        client = Redis(
            host=host,
            port=port,
            **asked.asking,
            socket_connect_timeout=SENTINEL_TIMEOUT_S,
            socket_timeout=SENTINEL_TIMEOUT_S,
        )
        try:
            told = await client.execute_command("SENTINEL CKQUORUM", asked.master)  # type: ignore[no-untyped-call]
            found[node] = "ok" if bytes(told).startswith(b"OK") else bytes(told).decode(errors="replace")[:200]
        except (RedisError, OSError) as error:
            said = str(error) if str(error).startswith("NO") else type(error).__name__
            found[node] = said[:200]
        finally:
            await client.aclose()
    return found
