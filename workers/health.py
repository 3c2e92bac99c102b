"""`/live`, `/ready` and `/metrics` of a process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from workers.web import served

Check = Callable[[], Awaitable[str | None]]
"""Answers None while all is well, else what is not."""


@asynccontextmanager
async def serve(host: str, port: int, checks: dict[str, Check], registry: CollectorRegistry) -> AsyncIterator[int]:
    """Serve the probes until the block ends; yields the port.

    Raises:
        BadInput: the port is taken.
    """

    async def live(_: Request) -> Response:
        return PlainTextResponse("live\n")

    async def ready(_: Request) -> Response:
        found = dict(zip(checks, await asyncio.gather(*(check() for check in checks.values())), strict=True))
        well = all(problem is None for problem in found.values())
        return JSONResponse(
            {"ready": well, "checks": {k: v or "ok" for k, v in found.items()}}, status_code=200 if well else 503
        )

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(routes=[Route("/live", live), Route("/ready", ready), Route("/metrics", metrics)])
    async with served(app, host, port, what="health port", remedy="FLEET_HEALTH_PORT") as listening:
        yield listening.port
