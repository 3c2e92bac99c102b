"""What each pool serves: the manifest's providers become clients, and clients become activities."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import structlog

from fleet import agents
from fleet.contracts import metrics
from fleet.errors import BadInput, Unreachable
from fleet.links import Links
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.tables import (
    AGENTS_POOL,
    APPROVALS_POOL,
    EFFECT_POOLS,
    LLM_POOL,
    MEMORY_POOL,
    WEBHOOK_POOL,
    BankProvider,
    EmailEndpoint,
    MailApiProvider,
    MailProvider,
    ModelProvider,
    SearchProvider,
    SlackEndpoint,
    WebhookEndpoint,
)
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.batch import BatchWorkflow
from fleet.workflows.effect import EffectWorkflow
from ratelimit.limiter import Limiter
from workers import clients
from workers.admission import Admission
from workers.door import DOOR, Door
from workers.gate import Gate
from workers.metrics import METRICS
from workers.pool import Pool
from workers.providers import errors

if TYPE_CHECKING:
    # a pool imports only what it serves with: a worker starts in half the time
    from workers.database.engine import Database
    from workers.effects.attempts import Attempts
    from workers.providers.chat import ChatProvider
    from workers.providers.mail import Mailer
    from workers.providers.webhooks import Endpoint

CHECK_TIMEOUT_S = 10.0
"""How long a worker that starts waits for a provider's first answer."""

Activities = Sequence[Callable[..., Any]]
Chat = Callable[[Settings, str, ModelProvider], "ChatProvider"]
"""Makes the client of a model provider, by its name."""

log = structlog.get_logger("fleet.worker")


@dataclass(slots=True)
class Shop:
    """What the pools of one process share."""

    stack: AsyncExitStack
    settings: Settings
    manifest: Manifest
    limiter: Limiter
    chat: Chat = clients.chat_provider
    build: str | None = None
    """The version of the code that the pools belong to."""
    _database: "Database | None" = field(default=None)

    async def pool(self, name: str) -> Pool:
        """The pool, ready to be run.

        Raises:
            BadInput: a missing or refused key.
            Unreachable: the database does not answer, or is of another release.
        """
        spec = self.manifest.pools[name]
        if name == AGENTS_POOL:
            door = Door(self.limiter)
            scopes, horizon = [DOOR] if self.manifest.max_active else [], timedelta(0)
            workflows: list[type] = [AgentWorkflow, BatchWorkflow]
            activities: Activities = [door.enter, door.leave, *_batches(self)]
        else:
            scopes = _gated(self.manifest, name)
            # what slips in besides still finds time to wait in its slot
            horizon = spec.max_inline_wait / 2
            admission = Admission(self.limiter, spec.max_inline_wait, gated=bool(scopes))
            workflows = [EffectWorkflow] if name in EFFECT_POOLS else []
            activities = await _SERVED[name](self, name, admission)
        return Pool(
            name=name,
            task_queue=self.manifest.task_queue(name),
            slots=spec.slots,
            drain=spec.drain,
            cached=spec.cached,
            workflows=workflows,
            activities=activities,
            gate=Gate(spec.slots, self.limiter, scopes, horizon, METRICS.of(metrics.GATE_CLOSED).labels(name).inc),
            build=self.build,
        )

    async def database(self) -> "Database":
        """The process's one connection pool to the database.

        Raises:
            Unreachable: it does not answer, or its schema is of another release.
        """
        from workers.database.engine import Database, DatabaseLost

        if self._database is None:
            try:
                found = Database(self.settings.database())
                self.stack.push_async_callback(found.aclose)
                await found.open()
            except DatabaseLost as lost:
                raise Unreachable(f"{lost}; see FLEET_DATABASE_URL") from None
            self._database = found
        return self._database

    async def attempts(self, admission: Admission, scope: str | None) -> "Attempts":
        """What has effects, over the ledger."""
        from workers.effects.attempts import Attempts
        from workers.effects.ledger import Ledger

        return Attempts(Ledger(await self.database()), admission, scope)


async def _llm(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.providers.chat import LaterChat
    from workers.tools.llm import LlmTools

    del name
    manifest = shop.manifest
    models = [model for agent in manifest.agents.values() for model in (agent.model, agent.context.model) if model]
    used = {model.partition("/")[0] for model in models}
    providers: dict[str, ChatProvider | LaterChat] = {}
    for spec_name, model in manifest.providers.items():
        if not isinstance(model, ModelProvider):
            continue
        if spec_name in used:
            chat = providers[spec_name] = shop.chat(shop.settings, spec_name, model)
            shop.stack.push_async_callback(chat.aclose)
            await _accepts(spec_name, chat.check)
        elif shop.settings.secret(model.api_key):
            # runs in flight may use a model that no agent of the manifest uses any more
            clients.key_of(shop.settings, f"providers.{spec_name}", model.api_key)
            later = providers[spec_name] = LaterChat(partial(shop.chat, shop.settings, spec_name, model))
            shop.stack.push_async_callback(later.aclose)
    prices = {model: price for model in manifest.prices if (price := agents.price(manifest, model)) is not None}
    budgets = None
    if any(tenant.daily for tenant in manifest.tenants.values()):
        from workers.effects.budgets import Budgets
        from workers.effects.spend import Spend

        spend = Spend(await shop.database())
        await spend.sweep((datetime.now(UTC) - timedelta(days=7)).date())
        budgets = Budgets(spend, manifest.daily, prices)
    return [LlmTools(admission, providers, Door(shop.limiter), budgets, prices).chat]


async def _search(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.tools.search import SearchTools

    provider_name = shop.manifest.pools[name].provider or name
    provider = shop.manifest.providers[provider_name]
    assert isinstance(provider, SearchProvider)
    http = await shop.stack.enter_async_context(httpx2.AsyncClient(timeout=30))
    client = clients.search_provider(shop.settings, provider_name, provider, http)
    shop.stack.push_async_callback(client.aclose)
    tools = SearchTools(admission, client, scope_of(shop.manifest, provider_name))
    return [tools.query, tools.fetch]


async def _email(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.tools.mail import MailTools

    provider_name = shop.manifest.pools[name].provider or name
    provider = shop.manifest.providers[provider_name]
    assert isinstance(provider, MailProvider | MailApiProvider)
    mailer = clients.mailer(shop.settings, provider_name, provider)
    await _accepts(provider_name, mailer.check)
    attempts = await shop.attempts(admission, scope_of(shop.manifest, provider_name))
    return [MailTools(attempts, mailer, provider.recipients).send]


async def _payments(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.tools.payments import PaymentTools

    provider_name = shop.manifest.pools[name].provider or name
    provider = shop.manifest.providers[provider_name]
    assert isinstance(provider, BankProvider)
    bank = clients.bank(shop.settings, provider_name, provider)
    await _accepts(provider_name, bank.check)
    attempts = await shop.attempts(admission, scope_of(shop.manifest, provider_name))
    return [PaymentTools(attempts, bank, provider.payees).transfer]


async def _webhook(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.effects.ledger import Ledger
    from workers.providers.webhooks import WebhookClient
    from workers.tools.webhook import Target, WebhookTools

    del name
    targets: dict[str, Target] = {}
    unusable: dict[str, str] = {}
    for endpoint, spec in shop.manifest.endpoints.items():
        if isinstance(spec, WebhookEndpoint):
            with _spared(endpoint, unusable):
                found = clients.endpoint(shop.settings, endpoint, spec)
                targets[endpoint] = Target(endpoint=found, deadline=spec.deadline)
    attempts = await shop.attempts(admission, None)
    return [WebhookTools(attempts, Ledger(await shop.database()), WebhookClient(), targets, unusable).send]


async def _memory(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.memory.store import MemoryStore
    from workers.tools.memory import Keeping, MemoryTools

    del name, admission
    keeping = {
        agent: Keeping(expires_s=spec.memory.expires.total_seconds(), max_bytes=spec.memory.max_bytes)
        for agent, spec in shop.manifest.agents.items()
        if spec.memory is not None
    }
    store = MemoryStore(await shop.database())
    await store.sweep(datetime.now(UTC))
    tools = MemoryTools(store, keeping)
    return [tools.recall, tools.remember, tools.forget, tools.keep, *_batches(shop)]


def _batches(shop: Shop) -> Activities:
    """What batches ask of the database: served where no quota holds it up, and by `agents` in fleets without memory."""
    from workers.tools.batch import BatchTools

    tools = BatchTools(shop.database)
    return [tools.count, tools.read, tools.write, tools.watch]


async def _approvals(shop: Shop, name: str, admission: Admission) -> Activities:
    from workers.effects.book import Book
    from workers.providers.webhooks import WebhookClient
    from workers.tools.notify import Channels, NotifyTools

    del name
    manifest, settings = shop.manifest, shop.settings
    webhooks: dict[str, Endpoint] = {}
    slacks: dict[str, Endpoint] = {}
    mailers: dict[str, tuple[Mailer, str]] = {}
    unusable: dict[str, str] = {}
    for endpoint, spec in manifest.endpoints.items():
        with _spared(endpoint, unusable):
            if isinstance(spec, EmailEndpoint):
                provider = manifest.providers[spec.provider]
                assert isinstance(provider, MailProvider | MailApiProvider)
                mailer = clients.mailer(settings, spec.provider, provider)
                mailers[endpoint] = (mailer, scope_of(manifest, spec.provider))
            elif isinstance(spec, SlackEndpoint):
                slacks[endpoint] = clients.endpoint(settings, endpoint, spec)
            else:
                webhooks[endpoint] = clients.endpoint(settings, endpoint, spec)
    channels = Channels(webhooks=webhooks, slacks=slacks, mailers=mailers, unusable=unusable)
    made = links(settings, manifest)
    link = made.link if made else lambda approval, who: None
    tools = NotifyTools(Book(await shop.database()), WebhookClient(), channels, link, admission)
    return [tools.record, tools.notify]


@contextmanager
def _spared(endpoint: str, unusable: dict[str, str]) -> Iterator[None]:
    """An endpoint that lacks its secret keeps no pool from serving the others."""
    try:
        yield
    except BadInput as bad:
        unusable[endpoint] = str(bad)
        log.warning("endpoint cannot be told anything", endpoint=endpoint, why=str(bad))


_SERVED: dict[str, Callable[[Shop, str, Admission], Awaitable[Activities]]] = {
    LLM_POOL: _llm,
    "search": _search,
    "email": _email,
    "payments": _payments,
    WEBHOOK_POOL: _webhook,
    MEMORY_POOL: _memory,
    APPROVALS_POOL: _approvals,
}


def links(settings: Settings, manifest: Manifest) -> Links | None:
    """What signs links to approvals; None where the manifest wants none.

    Raises:
        BadInput: the key is not set, or too short.
    """
    spec = manifest.approvals
    if spec.url is None or spec.link_key is None:
        return None
    key = settings.secret(spec.link_key)
    if key is None:
        raise BadInput(f"approvals.link_key: {spec.link_key} is not set")
    return Links(spec.url, key)


def scope_of(manifest: Manifest, provider: str) -> str:
    """What the provider's calls are counted in, all of them: the first quota that bears its name."""
    return next((s for s in manifest.scopes() if s.partition("/")[0] == provider), provider)


def _gated(manifest: Manifest, pool: str) -> list[str]:
    """The scopes that the pool's calls are charged to; none if some of its calls are not limited."""
    if pool in (APPROVALS_POOL, MEMORY_POOL, WEBHOOK_POOL):
        return []
    if pool != LLM_POOL:
        scope = scope_of(manifest, manifest.pools[pool].provider or pool)
        return [scope] if scope in manifest.quotas else []
    models = {agent.model for agent in manifest.agents.values()}
    return sorted(models) if models <= set(manifest.quotas) else []


async def _accepts(name: str, check: Callable[[], Awaitable[None]]) -> None:
    """Refuse to start with a key that the provider refuses; a provider that is away will be waited for."""
    try:
        await asyncio.wait_for(check(), CHECK_TIMEOUT_S)
    except errors.Refused as refused:
        raise BadInput(f"providers.{name}: {refused}") from None
    except (errors.ProviderError, TimeoutError) as error:
        log.warning("provider does not answer", provider=name, why=str(error) or "no answer in time")
