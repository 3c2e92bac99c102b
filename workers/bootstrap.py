"""The composition root: settings and manifest become clients, the limiter and running pools."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import structlog
from temporalio.client import Client

from fleet import attributes
from fleet.client import connect
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.manifest import Manifest
from fleet.rates import Rate
from fleet.settings import Settings
from fleet.tables import REFERENCE, ModelProvider
from ratelimit.errors import BadQuota, StoreLost
from ratelimit.limiter import Limiter
from ratelimit.outage import Posture
from ratelimit.places import Kind
from ratelimit.profiles import PROFILES, Profile
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from workers.door import DOOR, door_quota
from workers.redaction import REDACTOR
from workers.telemetry import METRICS

if TYPE_CHECKING:
    from workers.pool import Pool
    from workers.serving import Chat

BURST_HEADROOM = 0.9
"""Share of a provider's burst that is used: a call may reach it a little earlier than the one before it allows."""

Sharing = Callable[[Settings, Manifest], AbstractAsyncContextManager[Limiter]]
"""Makes the limiter of a process."""

log = structlog.get_logger("fleet.worker")


_KINDS = {
    "continuously": Kind.CONTINUOUS,
    "with_window": Kind.FIXED,
    "with_month": Kind.MONTHS,
    "with_call": Kind.IN_FLIGHT,
}


def limit(rate: Rate) -> Limit:
    """A limit of the manifest in the limiter's words."""
    return Limit(
        capacity=rate.units,
        period=rate.per,
        burst=rate.burst,
        kind=_KINDS[rate.returns],
        offset=rate.offset,
        shadow=rate.shadow,
    )


def _profile(manifest: Manifest, scope: str) -> Profile:
    spec = manifest.providers.get(scope.partition("/")[0])
    return PROFILES[(spec.counts or spec.kind) if isinstance(spec, ModelProvider) else "openai"]


def _sliced(manifest: Manifest, scope: str, name: str, rate: Rate) -> Rate:
    """Requests of a provider that enforces them over shorter windows come evenly: a second's worth at once.

    A burst of a whole window, and what returns meanwhile, would be two windows' requests in one.
    """
    window = _profile(manifest, scope).slice
    if name != "requests" or window is None or rate.burst is not None or rate.per <= window:
        return rate
    return rate.model_copy(update={"burst": max(1.0, rate.units * (timedelta(seconds=1) / rate.per))})


def quotas(manifest: Manifest) -> dict[str, Quota]:
    """The manifest's quotas in the limiter's words."""
    found = {
        scope: Quota(
            scope=scope,
            limits={name: limit(_sliced(manifest, scope, name, rate)) for name, rate in spec.limits().items()},
            recovery=_profile(manifest, scope).recovery,
            within=spec.within,
            headroom=spec.headroom,
            burst_headroom=BURST_HEADROOM,
        )
        for scope, spec in manifest.quotas.items()
    }
    if manifest.max_active is not None:
        found[DOOR] = door_quota(manifest.max_active)
    return found


@asynccontextmanager
async def limiter(settings: Settings, manifest: Manifest) -> AsyncIterator[Limiter]:
    """The limiter over the store of the settings.

    Raises:
        Unreachable: Redis does not answer.
    """
    try:
        store = RedisStore.from_url(settings.redis())
    except ValueError as error:
        raise BadInput(f"FLEET_REDIS_URL: {error}") from None
    try:
        posture, safety = Posture(manifest.limiter.posture), manifest.limiter.safety
        async with Limiter(store, quotas(manifest), observer=METRICS.observe, posture=posture, safety=safety) as found:
            await store.ping()
            yield found
    except StoreLost as lost:
        raise Unreachable(f"{lost}; start one with `fleet dev` or set FLEET_REDIS_URL") from None
    except BadQuota as bad:
        raise BadInput(f"quotas: {bad}") from None
    finally:
        await store.aclose()


def secrets(settings: Settings, manifest: Manifest) -> list[str]:
    """Every secret that this process could come across: keys of the manifest, passwords in the settings' URLs."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)
        elif isinstance(value, str) and re.match(REFERENCE, value):
            with suppress(BadInput):
                found.append(settings.secret(value) or "")

    walk(manifest.model_dump(mode="json"))
    for url in (settings.redis(), settings.database()):
        with suppress(ValueError):
            found.append(unquote(urlsplit(url).password or ""))
    return [secret for secret in found if secret]


async def _seed(shared: Limiter, manifest: Manifest) -> None:
    """Give scopes that have no quota yet the manifest's; say where another one is in force."""
    for quota in quotas(manifest).values():
        if quota.template:
            continue  # each tenant's own is made when it first asks
        if not await shared.seed(quota, by="manifest") and await shared.quota(quota.scope) != quota:
            log.warning("another quota than the manifest's is in force", scope=quota.scope, see="fleet quota show")


async def run_pools(
    settings: Settings,
    manifest: Manifest,
    names: Sequence[str],
    *,
    sharing: Sharing = limiter,
    chat: "Chat | None" = None,
    fitted: "Callable[[Pool], Pool] | None" = None,
) -> None:
    """Serve the pools until SIGTERM or SIGINT, then drain: finish or give back, within each pool's `drain`.

    Args:
        settings: where everything is.
        manifest: what the fleet is.
        names: of the pools.
        sharing: makes the limiter. Default: the one that all processes share.
        chat: makes the clients of models. Default: those that neither wait nor retry.
        fitted: changes a pool before it serves.

    Raises:
        BadInput: an unknown pool, a missing key.
        Unreachable: Temporal, Redis or the ledger's database does not answer at start.
    """
    # commands that only want the limiter do not pay for these
    from workers import health
    from workers.pool import worker
    from workers.serving import Shop

    unknown = [n for n in names if n not in manifest.pools]
    if unknown:
        raise BadInput(f"unknown pool {unknown[0]!r}; the manifest has: {', '.join(manifest.pools)}")
    stopping = asyncio.Event()
    fatal: list[BaseException] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def failed(error: BaseException) -> None:
        fatal.append(error)
        stopping.set()

    async with AsyncExitStack() as stack:
        client = await connect(settings)
        REDACTOR.learn(*secrets(settings, manifest))
        if absent := await attributes.missing(client):
            told = f"namespace {client.namespace!r} lacks the search attributes {', '.join(absent)}: run `fleet init`"
            raise BadInput(told)
        shared = await stack.enter_async_context(sharing(settings, manifest))
        await _seed(shared, manifest)
        shop = Shop(stack, settings, manifest, shared)
        shop.chat = chat or shop.chat
        pools = [await shop.pool(name) for name in names]
        pools = [fitted(pool) for pool in pools] if fitted else pools
        running = [await stack.enter_async_context(worker(client, pool, on_fatal=failed)) for pool in pools]
        checks: dict[str, health.Check] = {
            "temporal": lambda: _temporal_answers(client),
            "redis": lambda: _redis_answers(shared, manifest),
            "draining": lambda: _not_draining(stopping),
        }
        port = await stack.enter_async_context(
            health.serve(settings.health_host, settings.health_port, checks, METRICS.registry)
        )
        log.info("ready", pools=[p.name for p in pools], health=f"http://{settings.health_host}:{port}")
        await stopping.wait()
        log.info("draining", pools=[p.name for p in pools])
        await asyncio.gather(*(w.shutdown() for w in running))
    if fatal:
        raise FleetError(f"a worker failed: {fatal[0]}")
    log.info("stopped", pools=list(names))


_PROBE = timedelta(seconds=2)


async def _temporal_answers(client: Client) -> str | None:
    try:
        if await client.service_client.check_health(timeout=_PROBE):
            return None
    except Exception as error:  # noqa: BLE001 - a probe reports whatever it meets
        return str(error)
    return "not serving"


async def _redis_answers(shared: Limiter, manifest: Manifest) -> str | None:
    try:
        for scope in manifest.scopes():
            await asyncio.wait_for(shared.clock(scope), _PROBE.total_seconds())
            break
    except (StoreLost, TimeoutError) as error:
        return str(error) or "no answer in time"
    return None


async def _not_draining(stopping: asyncio.Event) -> str | None:
    return "draining" if stopping.is_set() else None
