"""A Valkey with a replica under three Sentinels: the limiter's store when a primary's death must not stop the fleet.

Replication is asynchronous: what the primary has answered in its last moments, the replica that takes over may not
know. Hence `kill_primary` waits for a replica that follows; then only bookings are forgotten that were under way to it.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workers.embedded import EmbeddedError, free_ports, valkey_answers, valkey_binary, valkey_says
from workers.supervisor import ProcessSpec, SupervisorError, Tethered, last_line

NAME = "fleet"
"""Of the primary, to the Sentinels."""
SENTINELS = 3
DOWN_AFTER_MS = 1000
"""A primary that has been silent for so long is taken for dead."""
FAILOVER_TIMEOUT_MS = 3000
"""An election without a winner is repeated after twice this time (Valkey's sentinel.conf, `failover-timeout`)."""
START_TIMEOUT_S = 30.0
TAKEOVER_TIMEOUT_S = 60.0
"""A Sentinel that got no processor for two seconds decides nothing for 30 s (its TILT mode)."""
TRIES = 5
"""Starts on a free port: between finding one and opening it somebody else may take it."""


class Failover:
    """Two servers and who watches them, until it is left. Starts empty: nothing of an earlier life is kept."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: holds their state; logs lie in `folder/../logs`.
        """
        self._folder = folder
        self._servers: dict[int, Tethered] = {}
        self._sentinels: dict[int, Tethered] = {}

    @property
    def url(self) -> str:
        """Names the Sentinels, who name the primary (`ratelimit/routes.py`)."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._sentinels)
        return f"redis+sentinel://{hosts}/{NAME}/0"

    async def __aenter__(self) -> Self:
        """Start them and wait until a replica could take over.

        Raises:
            EmbeddedError: the binary is missing, or one does not start.
        """
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            primary = await self._start_server("valkey-1", None)
            await self._start_server("valkey-2", primary)
            for number in range(1, SENTINELS + 1):
                await self._start_sentinel(number, primary)
            await _until(self._ready, START_TIMEOUT_S, "the Sentinels did not find each other and the replica")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def primary(self) -> int | None:
        """Port of the server that most Sentinels take for the primary; None if they do not agree."""
        told = await asyncio.gather(
            *(valkey_says(port, "SENTINEL", "get-master-addr-by-name", NAME) for port in self._sentinels)
        )
        ports = [int(address[1]) for address in told if address]
        return next((port for port in set(ports) if ports.count(port) > SENTINELS // 2), None)

    async def kill_primary(self) -> str:
        """kill -9 of the primary; returns when another has taken over, and says which.

        Raises:
            EmbeddedError: there was no replica to take over, or it has not.
        """
        old = await _until(self._ready, START_TIMEOUT_S, "no replica follows the primary: nobody could take over")
        pid = self._servers[old].pid
        await self._servers[old].kill()

        async def taken_over() -> int | None:
            named = await self.primary()
            return named if named != old and await _role(named) == "master" else None

        new = await _until(taken_over, TAKEOVER_TIMEOUT_S, "no replica has taken over")
        return f"127.0.0.1:{new} has taken over from 127.0.0.1:{old} (pid {pid})"

    async def rejoin(self) -> None:
        """Start a server that was killed again, as a replica of the primary; the set is whole when it returns.

        Raises:
            EmbeddedError: it does not start, or does not follow.
        """
        for port, child in list(self._servers.items()):
            if child.returncode is not None:
                primary = await _until(self.primary, START_TIMEOUT_S, "the Sentinels do not agree on a primary")
                await self._start_server(child.spec.name, None if primary == port else primary, port=port)
        await _until(self._ready, START_TIMEOUT_S, "the server that was killed does not follow")

    async def _stop(self) -> None:
        # Sentinels first: nobody shall be elected meanwhile
        for children in (self._sentinels, self._servers):
            await asyncio.gather(*(child.stop() for child in children.values()))
            children.clear()

    async def _ready(self) -> int | None:
        """The primary's port, if every Sentinel knows it, the others and a replica, and a replica follows it."""
        named = set()
        for port in self._sentinels:
            seen = _pairs(await valkey_says(port, "SENTINEL", "MASTER", NAME))
            if seen.get("flags") != "master" or int(seen.get("num-other-sentinels", 0)) < SENTINELS - 1:
                return None
            replicas = await valkey_says(port, "SENTINEL", "REPLICAS", NAME)
            if not any(_pairs(one).get("flags") == "slave" for one in replicas or []):
                return None
            named.add(int(seen["port"]))
        if len(named) != 1:
            return None
        (primary,) = named
        followers = [await _follows(port, primary) for port in self._servers if port != primary]
        told = await valkey_says(primary, "INFO", "replication")
        replica = told and told.get("slave0")
        # it reports every second how far it has come
        known = replica and replica["state"] == "online" and replica["lag"] <= 1
        return primary if known and any(followers) else None

    async def _start_server(self, name: str, primary: int | None, *, port: int | None = None) -> int:
        options = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        # by default it waits 5 s for more replicas before it sends its state
        options += ["--repl-diskless-sync-delay", "0"]
        if primary is not None:
            options += ["--replicaof", f"127.0.0.1 {primary}"]

        def command(port: int) -> list[str]:
            home = self._home(name)
            return [valkey_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home), *options]

        return await self._start(name, command, self._servers, port)

    async def _start_sentinel(self, number: int, primary: int) -> None:
        name = f"sentinel-{number}"

        def command(port: int) -> list[str]:
            home = self._home(name)
            # a Sentinel writes what it learns into its configuration
            file = home / "sentinel.conf"
            file.write_text(
                f'port {port}\nbind 127.0.0.1\ndir "{home}"\n'
                f"sentinel monitor {NAME} 127.0.0.1 {primary} {SENTINELS // 2 + 1}\n"
                f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}\n",
                encoding="utf-8",
            )
            return [valkey_binary(), str(file), "--sentinel"]

        await self._start(name, command, self._sentinels, None)

    async def _start(
        self, name: str, command: Callable[[int], list[str]], children: dict[int, Tethered], fixed: int | None
    ) -> int:
        log = self._folder.parent / "logs" / f"{name}.log"
        for _ in range(1 if fixed else TRIES):
            port = fixed or free_ports(1)[0]
            try:
                child = await Tethered.start(ProcessSpec(name=name, argv=command(port), log=log, restart=False))
            except SupervisorError as error:
                raise EmbeddedError(str(error)) from None
            children[port] = child
            if await _answers(child, partial(valkey_answers, port, child.pid)):
                return port
            await child.stop()
            del children[port]
        raise EmbeddedError(f"{name} did not start: {last_line(log)} (log: {log})")

    def _home(self, name: str) -> Path:
        home = self._folder / name
        home.mkdir(parents=True, exist_ok=True)
        return home


async def _answers(child: Tethered, ask: Callable[[], Awaitable[bool]]) -> bool:
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while child.returncode is None and asyncio.get_running_loop().time() < deadline:
        if await ask():
            return True
        await asyncio.sleep(0.02)
    return False


async def _until(what: Callable[[], Awaitable[int | None]], within_s: float, otherwise: str) -> int:
    """The port that `what` answers as soon as it does."""
    try:
        async with asyncio.timeout(within_s):
            while (found := await what()) is None:  # noqa: ASYNC110 - other processes get there
                await asyncio.sleep(0.05)
            return found
    except TimeoutError:
        raise EmbeddedError(f"{otherwise} within {within_s:g} s") from None


async def _follows(port: int, primary: int) -> bool:
    told = await valkey_says(port, "INFO", "replication")
    return bool(
        told and told["role"] == "slave" and told["master_port"] == primary and told["master_link_status"] == "up"
    )


async def _role(port: int | None) -> str | None:
    told = None if port is None else await valkey_says(port, "INFO", "replication")
    return told and str(told["role"])


def _pairs(reply: Any) -> dict[str, str]:
    """A reply of names and values, which the client may have made a mapping of."""
    if not reply:
        return {}
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in items}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
