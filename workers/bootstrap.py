"""The composition root: settings and manifest become clients, the limiter and running pools."""

import asyncio
import random
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from importlib.metadata import version as release
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from temporalio.client import Client

from fleet import attributes, versions
from fleet.builds import CROWDED, Builds
from fleet.client import connect
from fleet.contracts import metrics
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.manifest import Manifest
from fleet.pools import HEARTBEAT_EVERY
from fleet.rates import Rate
from fleet.settings import Settings
from fleet.tables import AGENTS_POOL, REFERENCE, ModelProvider
from ratelimit.errors import BadQuota, StoreLost
from ratelimit.limiter import Limiter
from ratelimit.outage import Posture
from ratelimit.places import Kind
from ratelimit.profiles import PROFILES, Profile
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from workers.builds import build_id
from workers.door import DOOR, door_quota
from workers.metrics import METRICS, Bounds, StoreCalls
from workers.redaction import REDACTOR

if TYPE_CHECKING:
    from workers.pool import Pool
    from workers.serving import Chat

BURST_HEADROOM = 0.9
"""Share of a provider's burst that is used: a call may reach it a little earlier than the one before it allows."""
ASKED_EVERY = timedelta(seconds=5)
"""How often a store is asked whose last call had no answer."""
ASKED_FOR = "fleet/asked"
"""A scope that nobody has: what is asked of it leaves a key that is gone soon."""

Sharing = Callable[[Settings, Manifest], AbstractAsyncContextManager[Limiter]]
"""Makes the limiter of a process."""

_ADOPTED_WITHIN, _ADOPTED_AGAIN_WITHIN = timedelta(seconds=30), timedelta(seconds=1)
_LONGEST_PAUSE_S = 30.0

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
    posture, safety = Posture(manifest.limiter.posture), manifest.limiter.safety
    calls = METRICS.store(posture.value)
    try:
        store = RedisStore.from_url(settings.redis(), observer=calls)
    except ValueError as error:
        raise BadInput(f"FLEET_REDIS_URL: {error}") from None
    asking = None if calls is None else asyncio.create_task(_asked_again(store, calls))
    try:
        async with Limiter(store, quotas(manifest), observer=METRICS.observe, posture=posture, safety=safety) as found:
            await store.ping()
            yield found
    except StoreLost as lost:
        # one that refuses is there: its own words say what is wrong
        advice = "" if " refuses" in str(lost) else "; start one with `fleet dev` or set FLEET_REDIS_URL"
        raise Unreachable(f"{lost}{advice}") from None
    except BadQuota as bad:
        raise BadInput(f"quotas: {bad}") from None
    finally:
        if asking is not None:
            await _cancelled(asking)
        await store.aclose()


async def _asked_again(store: RedisStore, calls: StoreCalls) -> None:
    """Ask a store that is away: a process that has nothing to do would say for ever that it is."""
    every_s = ASKED_EVERY.total_seconds()
    while True:
        await asyncio.sleep(every_s)
        if calls.away:
            # by what writes: a store that is full, or a replica, answers a ping
            with suppress(StoreLost):
                await store.present(ASKED_FOR, "asked", 2 * every_s)


def secrets(settings: Settings, manifest: Manifest) -> list[str]:
    """Every secret that this process could come across: keys of manifest, payloads, Temporal; passwords in URLs."""
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
    walk("env:TEMPORAL_API_KEY")
    if settings.payload_keys is not None and re.match(REFERENCE, settings.payload_keys):
        with suppress(BadInput):
            lines = (settings.secret(settings.payload_keys) or "").splitlines()
            found += [line.partition(":")[2].strip() for line in lines]
    for url in (settings.redis, settings.database):
        with suppress(ValueError, BadInput):
            parts = urlsplit(url())
            found.append(unquote(parts.password or ""))
            found += [value for name, value in parse_qsl(parts.query) if name.endswith("password")]
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
    from workers import health, sdk_metrics
    from workers.pool import worker
    from workers.serving import Shop
    from workers.tls import Tls

    tls = Tls.of(settings)
    unknown = [n for n in names if n not in manifest.pools]
    if unknown:
        raise BadInput(f"unknown pool {unknown[0]!r}; the manifest has: {', '.join(manifest.pools)}")
    build = await asyncio.to_thread(build_id, settings)
    bounds = Bounds.of(manifest, quotas(manifest), settings.metrics_tenants, names)
    METRICS.configure(bounds, on=settings.metrics == "on")
    for name in names:
        METRICS.of(metrics.BUILD).labels(release("agent-fleet"), build or "", name).set(1)
    stopping = asyncio.Event()
    fatal: list[BaseException] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def failed(error: BaseException) -> None:
        fatal.append(error)
        stopping.set()

    async with AsyncExitStack() as stack:
        runtime = stack.enter_context(sdk_metrics.measured(METRICS, HEARTBEAT_EVERY, agents=AGENTS_POOL in names))
        client = await connect(settings, runtime=runtime)
        REDACTOR.learn(*secrets(settings, manifest))
        if absent := await attributes.missing(client):
            told = f"namespace {client.namespace!r} lacks the search attributes {', '.join(absent)}: run `fleet init`"
            raise BadInput(told)
        shared = await stack.enter_async_context(sharing(settings, manifest))
        await _seed(shared, manifest)
        shop = Shop(stack, settings, manifest, shared)
        shop.chat = chat or shop.chat
        shop.build = build
        pools = [await shop.pool(name) for name in names]
        pools = [fitted(pool) for pool in pools] if fitted else pools
        running = [await stack.enter_async_context(worker(client, pool, on_fatal=failed)) for pool in pools]
        checks: dict[str, health.Check] = {
            "temporal": lambda: _temporal_answers(client),
            "redis": lambda: _redis_answers(shared, manifest),
            "draining": lambda: _not_draining(stopping),
        }
        port = await stack.enter_async_context(
            health.serve(settings.health_host, settings.health_port, checks, METRICS.registry, tls=tls)
        )
        for adopting in [asyncio.create_task(_adopted(client, manifest, pool, build)) for pool in pools if build]:
            # it may take as long as a gate is closed: whoever never polls has no version that could be current
            stack.push_async_callback(_cancelled, adopting)
        served = [pool.name for pool in pools]
        health_url = f"{'https' if tls else 'http'}://{settings.health_host}:{port}"
        log.info("ready", pools=served, build=build or "", health=health_url)
        await stopping.wait()
        log.info("draining", pools=[p.name for p in pools])
        await asyncio.gather(*(w.shutdown() for w in running))
    if fatal:
        raise FleetError(f"a worker failed: {fatal[0]}")
    log.info("stopped", pools=list(names))


async def _adopted(client: Client, manifest: Manifest, pool: "Pool", build: str | None) -> None:
    """Say where the pool's new runs begin; the first version ever is where they do. Tries until it succeeds."""
    if build is None:
        return
    within, pause_s = _ADOPTED_WITHIN, 1.0
    while True:
        try:
            current = await versions.adopt(client, pool.task_queue, build, within=within)
            break
        except Unreachable as error:
            # runs in flight are served all the same
            log.warning("nobody knows which version is current: trying on", pool=pool.name, build=build, why=str(error))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        # a whole fleet may be trying, and Temporal takes few requests a second for one deployment
        await asyncio.sleep(random.uniform(0.5, 1) * pause_s)
        within = _ADOPTED_AGAIN_WITHIN
    if current == build:
        log.info("current version", pool=pool.name, build=build)
    else:
        see = f"fleet rollout promote {build}"
        log.warning("another version is current", pool=pool.name, build=build, current=current, see=see)
    try:
        deleted = await Builds(client, manifest).prune([pool.name], kept=CROWDED)
    except FleetError as error:
        log.warning("old versions were not deleted", pool=pool.name, why=str(error))
    else:
        if deleted:
            log.info("old versions deleted", pool=pool.name, builds=[row.version.build for row in deleted])


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


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
