"""The exporter as a process: looks at the whole fleet, serves what it has seen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry
from temporalio.client import Client

from fleet.client import refusal, target
from fleet.errors import BadInput, Unreachable
from fleet.manifest import Manifest
from fleet.settings import Settings
from ratelimit.limiter import Limiter
from workers import health
from workers.bootstrap import quotas
from workers.database.engine import Database, DatabaseLost
from workers.exporter.collector import Readings
from workers.exporter.looking import TIMEOUT_S, Look, Part, Sample, Watch
from workers.exporter.queues import Queues
from workers.exporter.records import Records
from workers.exporter.runs import Runs
from workers.exporter.scopes import Scopes
from workers.exporter.versions import Versions
from workers.tls import Tls

TEMPORAL, REDIS, DATABASE = "temporal", "redis", "database"
"""Sources, as `fleet_exporter_up` names them."""


@asynccontextmanager
async def exporting(
    settings: Settings, manifest: Manifest, *, host: str, port: int, every_s: float
) -> AsyncIterator[str]:
    """Look and serve until the block ends; yields the address. Nobody who is asked need answer, now or later.

    Args:
        settings: where everything is.
        manifest: what there is: agents, tools, pools, scopes.
        host: address to listen on.
        port: 0: any free one.
        every_s: how often it looks.

    Raises:
        BadInput: the port is taken, or a setting cannot be what it is.
    """
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(Watch(await _parts(settings, manifest, stack), every_s))
        registry = CollectorRegistry()
        registry.register(Readings(watch.samples))

        async def looked() -> str | None:
            unseen = watch.unseen()
            return f"not looked at yet: {', '.join(unseen)}" if unseen else None

        tls = Tls.of(settings)
        checks: dict[str, health.Check] = {"first look": looked}
        bound = await stack.enter_async_context(
            health.serve(host, port, checks, registry, what="exporter", remedy="--host and --port", tls=tls)
        )
        yield f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}"


async def _parts(settings: Settings, manifest: Manifest, stack: AsyncExitStack) -> list[Part]:
    # it connects with the first call; payloads are not read, so that no key is needed
    where = target(settings)
    client = await Client.connect(**where, lazy=True)
    scopes = [scope for scope, quota in quotas(manifest).items() if not quota.template]
    try:
        shared = await stack.enter_async_context(Limiter.from_url(settings.redis(), {}))
    except ValueError as error:
        raise BadInput(f"FLEET_REDIS_URL: {error}") from None
    try:
        database = Database(settings.database(), command_s=TIMEOUT_S)
    except DatabaseLost as lost:
        raise BadInput(f"FLEET_DATABASE_URL: {lost}") from None
    stack.push_async_callback(_closed, database)
    tools = sorted({tool for agent in manifest.agents.values() for tool in agent.tools})
    looks: dict[tuple[str, str], Look] = {
        (TEMPORAL, "runs"): _asking(Runs(client, list(manifest.agents)).look, where["target_host"]),
        (TEMPORAL, "queues"): _asking(Queues(client, manifest).look, where["target_host"]),
        (TEMPORAL, "versions"): _asking(Versions(client, manifest).look, where["target_host"]),
        (REDIS, "quotas"): Scopes(shared, scopes).look,
        (DATABASE, "records"): Records(database, tools).look,
    }
    return [Part(source=source, name=name, look=look) for (source, name), look in looks.items()]


def _asking(look: Look, host: str) -> Look:
    async def asked() -> Sequence[Sample]:
        try:
            return await look()
        except RuntimeError as error:
            # the first connection failed
            raise Unreachable(f"Temporal does not answer at {host}{refusal(error)}") from None

    return asked


async def _closed(database: Database) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await database.aclose()
    except (DatabaseLost, TimeoutError):
        pass  # it was away all the time
