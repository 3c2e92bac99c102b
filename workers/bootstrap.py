"""The composition root: settings and manifest become clients, the limiter and running pools."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2
import structlog
from temporalio.client import Client

from fleet.client import connect
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.manifest import AGENTS_POOL, LLM_POOL, MailProvider, Manifest, ModelProvider, SearchProvider
from fleet.rates import Rate
from fleet.settings import Settings
from fleet.workflows.agent import AgentWorkflow
from ratelimit.errors import BadQuota, StoreLost
from ratelimit.limiter import Limiter
from ratelimit.outage import Posture
from ratelimit.places import Kind
from ratelimit.profiles import PROFILES, Profile
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from workers import health
from workers.admission import Admission
from workers.door import DOOR, Door, door_quota
from workers.gate import Gate
from workers.pool import Pool, worker
from workers.providers import errors
from workers.providers.chat import ChatProvider
from workers.telemetry import METRICS

if TYPE_CHECKING:
    # a pool imports only what it serves with: a worker starts in half the time
    from workers.providers.search import SearchProvider as SearchClient
    from workers.providers.smtp import Relay

BURST_HEADROOM = 0.9
"""Share of a provider's burst that is used: a call may reach it a little earlier than the one before it allows."""

CHECK_TIMEOUT_S = 10.0
"""How long a worker that starts waits for a provider's first answer."""

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


def chat_provider(settings: Settings, name: str, spec: ModelProvider) -> ChatProvider:
    """The client of one model provider.

    Raises:
        BadInput: its key is not set.
    """
    key = settings.secret(spec.api_key)
    if key is None:
        raise BadInput(f"providers.{name}: no API key: set {spec.api_key.partition(':')[2]} ({spec.api_key})")
    if not (key.isascii() and key.isprintable()):
        raise BadInput(f"providers.{name}: the API key in {spec.api_key} is not plain text: set it again")
    profile = PROFILES[spec.counts or spec.kind]
    # each SDK takes a second and more to import: only those that are used are
    if spec.kind == "openai":
        from workers.providers.openai import OpenAIChat

        timeout_s = spec.timeout.total_seconds()
        return OpenAIChat(name=name, api_key=key, base_url=spec.base_url, timeout_s=timeout_s, profile=profile)
    from workers.providers.anthropic import AnthropicChat

    timeout_s = spec.timeout.total_seconds()
    return AnthropicChat(name=name, api_key=key, base_url=spec.base_url, timeout_s=timeout_s, profile=profile)


def search_provider(settings: Settings, name: str, spec: SearchProvider, http: httpx2.AsyncClient) -> "SearchClient":
    """The client of one search provider."""
    from workers.corpus.index import Corpus
    from workers.providers import search

    if spec.kind == "corpus":
        return search.CorpusSearch(Corpus(spec.path or settings.state_dir / "corpus.db"))
    if spec.base_url is None:
        raise BadInput(f"providers.{name}.base_url: is required for kind {spec.kind!r}")
    if spec.kind == "searxng":
        return search.SearxngSearch(spec.base_url, http, allow_private=spec.allow_private)
    key = settings.secret(spec.api_key) if spec.api_key else None
    if key is None:
        raise BadInput(f"providers.{name}.api_key: is required for kind {spec.kind!r}, and must be set")
    kind = search.BraveSearch if spec.kind == "brave" else search.TavilySearch
    return kind(spec.base_url, key, http, allow_private=spec.allow_private)


def relay(settings: Settings, spec: MailProvider) -> "Relay":
    """The client of the mail relay."""
    from workers.providers.smtp import Relay

    return Relay(
        host=spec.host,
        port=spec.port,
        tls=spec.tls,
        sender=spec.sender,
        username=spec.username,
        password=settings.secret(spec.password) if spec.password else None,
        lookup_url=spec.lookup_url,
        timeout_s=spec.timeout.total_seconds(),
    )


def _scope_of(manifest: Manifest, provider: str) -> str:
    # the pool's provider counts all its calls in one scope: the first quota that bears its name
    return next((s for s in manifest.scopes() if s.partition("/")[0] == provider), provider)


def _gated(manifest: Manifest, pool: str) -> list[str]:
    """The scopes that the pool's calls are charged to; none if some of its calls are not limited."""
    if pool != LLM_POOL:
        scope = _scope_of(manifest, manifest.pools[pool].provider or pool)
        return [scope] if scope in manifest.quotas else []
    models = {agent.model for agent in manifest.agents.values()}
    return sorted(models) if models <= set(manifest.quotas) else []


def _used_models(manifest: Manifest) -> set[str]:
    return {agent.model.partition("/")[0] for agent in manifest.agents.values()}


async def _accepts(name: str, check: Callable[[], Awaitable[None]]) -> None:
    """Refuse to start with a key that the provider refuses; a provider that is away will be waited for."""
    try:
        await asyncio.wait_for(check(), CHECK_TIMEOUT_S)
    except errors.Refused as refused:
        raise BadInput(f"providers.{name}: {refused}") from None
    except (errors.ProviderError, TimeoutError) as error:
        log.warning("provider does not answer", provider=name, why=str(error) or "no answer in time")


async def _build(stack: AsyncExitStack, settings: Settings, manifest: Manifest, name: str, shared: Limiter) -> Pool:
    spec = manifest.pools[name]
    queue = manifest.task_queue(name)
    if name == AGENTS_POOL:
        door = Door(shared)
        gate = Gate(spec.slots, shared, [DOOR] if manifest.max_active else [], timedelta(0))
        return Pool(
            name=name,
            task_queue=queue,
            slots=spec.slots,
            drain=spec.drain,
            workflows=[AgentWorkflow],
            activities=[door.enter, door.leave],
            gate=gate,
        )
    scopes = _gated(manifest, name)
    # what slips in besides still finds time to wait in its slot
    gate = Gate(spec.slots, shared, scopes, spec.max_inline_wait / 2)
    admission = Admission(shared, spec.max_inline_wait, gated=bool(scopes))
    provider_name = spec.provider or name
    if name == LLM_POOL:
        from workers.tools.llm import LlmTools

        providers: dict[str, ChatProvider] = {}
        for spec_name, model in manifest.providers.items():
            used = spec_name in _used_models(manifest)
            # runs in flight may use a model that no agent of the manifest uses any more
            if isinstance(model, ModelProvider) and (used or settings.secret(model.api_key)):
                providers[spec_name] = chat_provider(settings, spec_name, model)
                stack.push_async_callback(providers[spec_name].aclose)
                if used:
                    await _accepts(spec_name, providers[spec_name].check)
        llm = LlmTools(admission, providers, Door(shared))
        return Pool(name=name, task_queue=queue, slots=spec.slots, drain=spec.drain, activities=[llm.chat], gate=gate)
    provider = manifest.providers[provider_name]
    if isinstance(provider, SearchProvider):
        from workers.tools.search import SearchTools

        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=30))
        client = search_provider(settings, provider_name, provider, http)
        stack.push_async_callback(client.aclose)
        search = SearchTools(admission, client, _scope_of(manifest, provider_name))
        activities = [search.query, search.fetch]
        return Pool(name=name, task_queue=queue, slots=spec.slots, drain=spec.drain, activities=activities, gate=gate)
    assert isinstance(provider, MailProvider)
    from workers.effects.ledger import Ledger, LedgerLost
    from workers.tools.mail import MailTools

    try:
        ledger = Ledger(settings.database())
        stack.push_async_callback(ledger.aclose)
        await ledger.open()
    except LedgerLost as lost:
        raise Unreachable(f"{lost}; see FLEET_DATABASE_URL") from None
    handed_to = relay(settings, provider)
    await _accepts(provider_name, handed_to.check)
    mail = MailTools(admission, handed_to, ledger, _scope_of(manifest, provider_name))
    return Pool(name=name, task_queue=queue, slots=spec.slots, drain=spec.drain, activities=[mail.send], gate=gate)


async def _seed(shared: Limiter, manifest: Manifest) -> None:
    """Give scopes that have no quota yet the manifest's; say where another one is in force."""
    for quota in quotas(manifest).values():
        if quota.template:
            continue  # each tenant's own is made when it first asks
        if not await shared.seed(quota, by="manifest") and await shared.quota(quota.scope) != quota:
            log.warning("another quota than the manifest's is in force", scope=quota.scope, see="fleet quota show")


async def run_pools(settings: Settings, manifest: Manifest, names: Sequence[str]) -> None:
    """Serve the pools until SIGTERM or SIGINT, then drain: finish or give back, within each pool's `drain`.

    Raises:
        BadInput: an unknown pool, a missing key.
        Unreachable: Temporal, Redis or the ledger's database does not answer at start.
    """
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
        shared = await stack.enter_async_context(limiter(settings, manifest))
        await _seed(shared, manifest)
        pools = [await _build(stack, settings, manifest, name, shared) for name in names]
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
