"""A network that can fail: a TCP proxy on loopback that cuts, swallows or delays what it carries.

    python -m load.proxy --target HOST:PORT --ready-file FILE

runs one in a process of its own, which no busy event loop makes slow; `RemoteProxy` steers it. The file gets
`{"port": …, "control": …}` once it listens. It imports next to nothing: it starts in a moment.
"""

import argparse
import asyncio
import json
import math
import signal
import socket
import struct
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from fleet.errors import FleetError

MOST_HELD = 8 * 1024 * 1024
"""Bytes under way in one direction of a connection, before its sender has to wait."""
LONGEST_DELAY_S = 60.0
CONTROL_TIMEOUT_S = 5.0
_HOST = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with RST


class ProxyError(FleetError):
    """The proxy's process does not answer, or refuses an order. One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a proxy has carried."""

    accepted: int = 0
    """Connections that were opened."""
    open: int = 0
    """Of these, not ended yet."""
    reset: int = 0
    """Ended by `cut`, or by healing from a silent one."""
    unreachable: int = 0
    """Ended because the target did not accept."""
    bytes_to: int = 0
    """Bytes on the way to the target."""
    bytes_back: int = 0


class _End(asyncio.Protocol):
    """One of the two sockets of a link. What one hears, the other says."""

    other: "_End"

    def __init__(self, link: "_Link") -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.full = False
        """Its socket takes no more for now."""
        self.held = 0
        """Bytes that are under way to it."""
        self.said_all = self.heard_all = False
        """Nothing more will be written to it, or read."""
        self._link = link
        self._outbox: deque[tuple[float, bytes | None]] = deque()
        self._latest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        self._link.heard(self, data)

    def eof_received(self) -> bool:
        self.heard_all = True
        self._link.heard(self, None)
        # the other direction stays open
        return True

    def pause_writing(self) -> None:
        self.full = True
        self.other.throttle()

    def resume_writing(self) -> None:
        self.full = False
        self.other.throttle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._drop()
        self._link.lost(self)

    # ---- what the link calls

    def say(self, data: bytes | None) -> None:
        """Write when the network lets it through; None ends the direction."""
        proxy = self._link.proxy
        if self.lost:
            return
        if not self._outbox and not proxy.silent and not proxy.delay_s and self.transport is not None:
            self._write(data)
            return
        # never earlier than what went before it
        self._latest = max(asyncio.get_running_loop().time() + proxy.delay_s, self._latest)
        self._outbox.append((self._latest, data))
        self.held += len(data or b"")
        self._arm()
        self.other.throttle()

    def flush(self, *, all_of_it: bool = False) -> None:
        """Write what is due, or everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.lost or self.transport is None or self._link.proxy.silent:
            return
        now = math.inf if all_of_it else asyncio.get_running_loop().time()
        due: list[bytes] = []
        ends = False
        while self._outbox and self._outbox[0][0] <= now:
            _, data = self._outbox.popleft()
            if data is None:
                ends = True
            else:
                due.append(data)
        if due:
            self.held -= sum(map(len, due))
            self._write(b"".join(due))
        if ends:
            self._write(None)
        if all_of_it:
            self._latest = 0.0
        self._arm()
        self.other.throttle()

    def throttle(self) -> None:
        """Read only what the other end can take."""
        if self.transport is None or self.lost or self.heard_all:
            return
        other = self.other
        if other.full or other.held > MOST_HELD or other.transport is None or self._link.proxy.silent:
            self.transport.pause_reading()
        elif not self.transport.is_reading():
            self.transport.resume_reading()

    def reset(self) -> None:
        """End the connection with RST."""
        self._drop()
        if self.transport is not None and not self.lost:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def close(self) -> None:
        """End the connection after what has been written."""
        if self.transport is not None:
            self.transport.close()

    def _write(self, data: bytes | None) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return
        if data is not None:
            self.transport.write(data)
            return
        self.said_all = True
        try:
            self.transport.write_eof()
        except OSError:
            # it has gone, and nobody reads there any more who would have noticed
            self.reset()
            return
        if self.other.said_all:
            self.close()
            self.other.close()

    def _arm(self) -> None:
        if self._outbox and self._timer is None and not self._link.proxy.silent:
            self._timer = asyncio.get_running_loop().call_at(self._outbox[0][0], self.flush)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._outbox.clear()
        self.held = 0


class _Link:
    """A connection through the proxy."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.client, self.target = _End(self), _End(self)
        self.client.other, self.target.other = self.target, self.client
        self.connecting: asyncio.Task[None] | None = None
        self.stillborn = False
        """Opened while nothing got through: it never will be more."""
        self._ended = False

    def opened(self, end: _End) -> None:
        # Python 3.11 forgets a pause that is asked for before it has begun to read
        asyncio.get_running_loop().call_soon(self.settle)
        if end is self.target:
            return
        self.proxy.links.add(self)
        self.proxy.accepted += 1
        if self.proxy.refusing:
            self.reset()
        elif self.proxy.silent:
            self.stillborn = True
        else:
            self.connecting = asyncio.create_task(self._connect())

    def heard(self, end: _End, data: bytes | None) -> None:
        if self.stillborn:
            if data is None:
                end.close()
            return
        if end is self.client:
            self.proxy.bytes_to += len(data or b"")
        else:
            self.proxy.bytes_back += len(data or b"")
        end.other.say(data)

    def lost(self, end: _End) -> None:
        if end.said_all and end.other.said_all:
            end.other.close()
        else:
            end.other.reset()
        if self.client.lost and (self.target.lost or self.target.transport is None):
            self._gone()

    def reset(self) -> None:
        if not self._ended:
            self._ended = True
            self.proxy.resets += 1
        self.client.reset()
        self.target.reset()

    def settle(self) -> None:
        """Follow the state of the network."""
        if self.stillborn:
            return
        for end in (self.client, self.target):
            end.throttle()
            if not self.proxy.silent:
                end.flush(all_of_it=not self.proxy.delay_s)

    def _gone(self) -> None:
        if self.connecting is not None and not self.connecting.done():
            self.connecting.cancel()
        else:
            self.proxy.gone(self)

    async def _connect(self) -> None:
        try:
            host, port = self.proxy.target
            await asyncio.get_running_loop().create_connection(lambda: self.target, host, port)
        except OSError:
            self.proxy.unreachable += 1
            self.client.reset()
        finally:
            if self.client.lost:
                self.target.reset()
                if self.target.lost or self.target.transport is None:
                    self.proxy.gone(self)
            else:
                self.settle()


class Proxy:
    """Carries connections to one server. The port stays the same until it is left.

    A delay moves everything by the same time, in each direction. It costs no throughput up to `MOST_HELD` bytes under
    way.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.port = 0
        self.silent = False
        """Nothing gets through, and nobody is told."""
        self.refusing = False
        """Nobody listens."""
        self.delay_s = 0.0
        self.links: set[_Link] = set()
        self.accepted = self.resets = self.unreachable = self.bytes_to = self.bytes_back = 0
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def __aenter__(self) -> Self:
        # bound and never listening: keeps the port while nobody listens on it
        self._holder = _bound(0)
        self.port = int(self._holder.getsockname()[1])
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refusing, self.silent = True, False
        self._deafen()
        while self.links:
            self._empty.clear()
            for link in list(self.links):
                link.reset()
            await self._empty.wait()
        if self._holder is not None:
            self._holder.close()

    async def cut(self, *, silent: bool = False) -> None:
        """Let nothing through until `heal`.

        Args:
            silent: False: connections are reset and new ones refused. True: what is sent stays under way, as if packets
                were dropped: connections stand still, and go on when the network heals. Those opened meanwhile get no
                answer, and are reset then.
        """
        if silent:
            self.silent = True
            if self.refusing:
                self.refusing = False
                await self._listen()
            for link in list(self.links):
                link.settle()
            return
        self.silent, self.refusing = False, True
        self._deafen()
        for link in list(self.links):
            link.reset()

    async def delay(self, seconds: float) -> None:
        """Let everything arrive that much later, each way.

        Raises:
            ValueError: less than 0 or more than a minute.
        """
        if not 0 <= seconds <= LONGEST_DELAY_S:
            raise ValueError(f"a delay of {seconds:g} s: must be from 0 to {LONGEST_DELAY_S:g}")
        self.delay_s = seconds
        for link in list(self.links):
            link.settle()

    async def heal(self) -> None:
        """Carry everything again, at once what is still under way."""
        was_refusing = self.refusing
        self.silent = self.refusing = False
        self.delay_s = 0.0
        for link in list(self.links):
            if link.stillborn:
                link.reset()
            link.settle()
        if was_refusing:
            await self._listen()

    async def counts(self) -> Counts:
        """What it has carried so far."""
        return Counts(
            accepted=self.accepted,
            open=len(self.links),
            reset=self.resets,
            unreachable=self.unreachable,
            bytes_to=self.bytes_to,
            bytes_back=self.bytes_back,
        )

    def gone(self, link: _Link) -> None:
        """A link has ended."""
        self.links.discard(link)
        if not self.links:
            self._empty.set()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._deafen()
        self._server = await loop.create_server(lambda: _Link(self).client, sock=_bound(self.port), backlog=512)

    def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _bound(port: int) -> socket.socket:
    # named: asyncio sets TCP_NODELAY only on sockets of this protocol
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((_HOST, port))
    return found


class RemoteProxy:
    """A proxy in another process, with the same orders."""

    def __init__(self, port: int, control: int) -> None:
        """Args:
        port: where it carries connections.
        control: where it takes orders.
        """
        self.port = port
        self._control = control

    @classmethod
    def read(cls, ready_file: Path) -> Self:
        """The one that has written this file."""
        told = json.loads(ready_file.read_text(encoding="utf-8"))
        return cls(told["port"], told["control"])

    async def cut(self, *, silent: bool = False) -> None:
        """As `Proxy.cut`."""
        await self._order(do="cut", silent=silent)

    async def delay(self, seconds: float) -> None:
        """As `Proxy.delay`."""
        await self._order(do="delay", seconds=seconds)

    async def heal(self) -> None:
        """As `Proxy.heal`."""
        await self._order(do="heal")

    async def counts(self) -> Counts:
        """As `Proxy.counts`."""
        return Counts(**await self._order(do="counts"))

    async def _order(self, **order: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(_HOST, self._control)
                try:
                    writer.write(json.dumps(order).encode() + b"\n")
                    said = json.loads(await reader.readline())
                finally:
                    writer.close()
                    await writer.wait_closed()
        except (OSError, ValueError, TimeoutError) as error:
            raise ProxyError(f"the proxy on port {self.port} does not answer ({type(error).__name__})") from None
        if "error" in said:
            raise ProxyError(f"the proxy on port {self.port} refuses: {said['error']}")
        return dict(said)


async def _obey(proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        order = json.loads(await reader.readline())
        match order.pop("do", None):
            case "cut":
                await proxy.cut(**order)
            case "delay":
                await proxy.delay(**order)
            case "heal":
                await proxy.heal()
            case "counts":
                pass
            case other:
                raise ValueError(f"no such order: {other!r}")
        said = asdict(await proxy.counts())
    except (ValueError, TypeError, AttributeError) as error:
        said = {"error": str(error)}
    writer.write(json.dumps(said).encode() + b"\n")
    writer.close()


async def _serve(host: str, port: int, ready_file: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Proxy(host, port) as proxy:
        control = await asyncio.start_server(lambda reader, writer: _obey(proxy, reader, writer), _HOST, 0)
        partial = ready_file.with_suffix(".partial")
        told = {"port": proxy.port, "control": control.sockets[0].getsockname()[1]}
        partial.write_text(json.dumps(told), encoding="utf-8")
        partial.rename(ready_file)
        await stop.wait()
        control.close()


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m load.proxy", description="A TCP proxy that cuts and delays.")
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--ready-file", required=True, type=Path)
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    if not (host and port.isdigit()):
        parser.error(f"--target {options.target}: must be HOST:PORT")
    asyncio.run(_serve(host, int(port), options.ready_file))


if __name__ == "__main__":
    main()
