"""`/live`, `/ready` and `/metrics` of a process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from workers.tls import Tls
from workers.web import served

Check = Callable[[], Awaitable[str | None]]
"""Answers None while all is well, else what is not."""


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    checks: dict[str, Check],
    registry: CollectorRegistry,
    *,
    what: str = "health port",
    remedy: str = "FLEET_HEALTH_PORT",
    tls: Tls | None = None,
) -> AsyncIterator[int]:
    """Serve the probes until the block ends; yields the port.

    Args:
        host: address to listen on.
        port: 0: any free one.
        checks: what must be well for `/ready`.
        registry: what `/metrics` tells.
        what: it is, for the error.
        remedy: how to choose another port.
        tls: its certificate, and whether `/metrics` asks for its readers'. None: plain HTTP.

    Raises:
        BadInput: the port is taken, or the certificate is none.
    """

    async def live(_: Request) -> Response:
        return PlainTextResponse("live\n")

    async def ready(_: Request) -> Response:
        found = dict(zip(checks, await asyncio.gather(*(check() for check in checks.values())), strict=True))
        well = all(problem is None for problem in found.values())
        return JSONResponse(
            {"ready": well, "checks": {k: v or "ok" for k, v in found.items()}}, status_code=200 if well else 503
        )

    async def metrics(request: Request) -> Response:
        # OpenMetrics for those who ask for it, as Prometheus does: only there exemplars are told
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # in a thread: whoever scrapes, and whatever a collector reads, the event loop goes on
        text = await asyncio.to_thread(encode, registry)
        return Response(text, headers={"content-type": content_type})

    app = Starlette(routes=[Route("/live", live), Route("/ready", ready), Route("/metrics", metrics)])
    async with served(app, host, port, what=what, remedy=remedy, tls=tls) as listening:
        yield listening.port
