"""A web server on a free port that answers as told, breaks, or keeps silent."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

BREAK = "break"
SILENT = "silent"


@dataclass
class Asked:
    method: str
    path: str
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Web:
    port: int = 0
    tls: bool = False
    asked: list = field(default_factory=list)
    connections: int = 0

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"


def page(status, body=b"", **headers):
    """An answer: its status, its body (bytes, or what becomes JSON) and headers, `_` for `-` in their names."""
    if not isinstance(body, bytes):
        headers = {"content_type": "application/json", **headers}
        body = json.dumps(body).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


@contextlib.asynccontextmanager
async def web(*answers, ssl=None):
    """Serve; the answers are given one by one, the last one ever after."""
    found, over = Web(tls=ssl is not None), asyncio.Event()
    left = list(answers)
    running = set()

    async def serve(reader, writer):
        running.add(asyncio.current_task())
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            running.discard(asyncio.current_task())

    async def talk(reader, writer):
        found.connections += 1
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        found.asked.append(Asked(method, path, headers, body))
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer == SILENT:
            await over.wait()
        if answer in (BREAK, SILENT):
            return
        status, more, content = answer
        lines = [f"HTTP/1.1 {status} X", "connection: close", *(f"{name}: {value}" for name, value in more.items())]
        if "content-length" not in more:
            lines.append(f"content-length: {len(content)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()
        writer.write_eof() if writer.can_write_eof() else None
        await asyncio.wait_for(reader.read(), 5)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield found
        finally:
            over.set()
            await asyncio.gather(*running, return_exceptions=True)


async def unused_port():
    """A port that nobody listens on."""
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    async with server:
        return server.sockets[0].getsockname()[1]
