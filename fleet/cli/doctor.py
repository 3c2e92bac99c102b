"""`fleet doctor`: asks every component, and looks at a deployment from within."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import typer

from fleet.cli import context, output
from fleet.cli.doctor_app import Target
from fleet.deploying import making
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.tables import (
    AGENTS_POOL,
    APPROVALS_POOL,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the doctor found of one component."""

    component: str
    ok: bool
    detail: str


def doctor(*, targets: Sequence[Target], pool: str | None, manifest: Path | None, json: bool) -> None:
    """Ask every component, or those that a pool needs; of targets, look also at how things are set up for them.

    Raises:
        BadInput: the manifest has problems, or no such pool.
    """
    settings, loaded = context.load(manifest)
    if pool is not None and pool not in loaded.pools:
        raise BadInput(f"--pool {pool!r}: the manifest has {', '.join(loaded.pools)}")
    if targets:
        _look(settings, loaded, targets, pool, json=json)
    findings = context.run(_examine(settings, loaded, pool))
    well = all(f.ok for f in findings)
    if json:
        output.document({"ok": well, "findings": findings})
    else:
        rows = [("ok" if f.ok else "FAILS", f.component, f.detail) for f in findings]
        output.table(("", "COMPONENT", "DETAIL"), rows, empty="")
    raise typer.Exit(0 if well else 2)


def _look(
    settings: Settings, manifest: Manifest, targets: Sequence[Target], pool: str | None, *, json: bool
) -> NoReturn:
    from fleet.cli import doctor_environment, doctor_servers
    from fleet.cli.diagnosis import Diagnosis, Place, passes

    place = Place.of(targets)
    needed = None if pool is None else needs(manifest, pool)

    async def work() -> list[Diagnosis]:
        asked = await _examine(settings, manifest, pool)
        found = [
            Diagnosis(component=one.component, severity="ok" if one.ok else "fail", detail=one.detail) for one in asked
        ]
        seen = await doctor_servers.examine(settings, manifest, place, needed)
        around = await doctor_environment.examine(settings, manifest, place, seen.machines, needed)
        return [*found, *seen.findings, *around]

    findings = context.run(work())
    well = passes(findings)
    if json:
        output.document({"ok": well, "targets": targets, "findings": findings})
        raise typer.Exit(0 if well else 2)
    words = {"ok": "ok", "warn": "warn", "fail": "FAILS"}
    rows = [
        (words[one.severity], one.component, f"{one.detail}: {one.fix}" if one.fix else one.detail) for one in findings
    ]
    output.table(("", "COMPONENT", "DETAIL"), rows, empty="")
    raise typer.Exit(0 if well else 2)


def needs(manifest: Manifest, pool: str) -> set[str]:
    """What a worker of the pool uses beside Temporal, Redis and the store of payloads."""
    used = {"temporal", "redis", "payloads"}
    if next(one for one in making.make(manifest, "").pools if one.name == pool).database:
        used.add("database")
    if pool == LLM_POOL:
        models = [model for agent in manifest.agents.values() for model in (agent.model, agent.context.model) if model]
        return used | {f"providers.{model.partition('/')[0]}" for model in models}
    if pool in (APPROVALS_POOL, WEBHOOK_POOL):
        told = {
            name: one for name, one in manifest.endpoints.items() if pool == APPROVALS_POOL or one.kind == "webhook"
        }
        mailers = {f"providers.{one.provider}" for one in told.values() if isinstance(one, EmailEndpoint)}
        links = {"approvals.link_key"} if pool == APPROVALS_POOL else set()
        return used | {f"endpoints.{name}" for name in told} | mailers | links
    return used if pool in (AGENTS_POOL, MEMORY_POOL) else used | {f"providers.{manifest.pools[pool].provider or pool}"}


async def _examine(settings: Settings, manifest: Manifest, pool: str | None) -> list[Finding]:
    components: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("temporal", lambda: _temporal(settings, manifest)),
        ("redis", lambda: _redis(settings, manifest)),
        ("database", lambda: _database(settings)),
        ("payloads", lambda: _payloads(settings)),
    ]
    for name, spec in manifest.providers.items():
        if isinstance(spec, ModelProvider):
            if any(a.model.partition("/")[0] == name for a in manifest.agents.values()):
                components.append((f"providers.{name}", lambda name=name, spec=spec: _model(settings, name, spec)))  # type: ignore[misc]
        elif isinstance(spec, SearchProvider):
            components.append((f"providers.{name}", lambda name=name, spec=spec: _search(settings, name, spec)))  # type: ignore[misc]
        elif isinstance(spec, BankProvider):
            components.append((f"providers.{name}", lambda name=name, spec=spec: _bank(settings, name, spec)))  # type: ignore[misc]
        else:
            components.append((f"providers.{name}", lambda name=name, spec=spec: _mail(settings, name, spec)))  # type: ignore[misc]
    for name, endpoint in manifest.endpoints.items():
        # of those by e-mail the provider is asked
        if not isinstance(endpoint, EmailEndpoint):
            components.append((f"endpoints.{name}", lambda name=name, spec=endpoint: _endpoint(settings, name, spec)))  # type: ignore[misc]
    if manifest.approvals.link_key is not None:
        components.append(("approvals.link_key", lambda: _links(settings, manifest)))
    needed = None if pool is None else needs(manifest, pool)
    return [await _ask(name, question) for name, question in components if needed is None or name in needed]


async def _ask(component: str, question: Callable[[], Awaitable[str]]) -> Finding:
    from temporalio.service import RPCError

    from ratelimit.errors import RateLimitError
    from workers.corpus.index import CorpusError
    from workers.database.engine import DatabaseLost
    from workers.providers.errors import ProviderError
    from workers.providers.search import SearchError

    try:
        return Finding(component=component, ok=True, detail=await question())
    except (FleetError, ProviderError, SearchError, CorpusError, DatabaseLost, RateLimitError, RPCError) as error:
        return Finding(component=component, ok=False, detail=str(error))


async def _temporal(settings: Settings, manifest: Manifest) -> str:
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest

    from fleet import attributes
    from fleet.client import connect

    client = await connect(settings)
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    idle = []
    for pool in manifest.pools:
        kind = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW if pool == AGENTS_POOL else TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
        described = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=manifest.task_queue(pool)),
                task_queue_type=kind,
            )
        )
        if not described.pollers:
            idle.append(pool)
    version = f"server {info.server_version} at {client.service_client.config.target_host}"
    if absent := await attributes.missing(client):
        raise BadInput(f"{version}; the search attributes {', '.join(absent)} are missing: `fleet init`")
    if idle:
        raise BadInput(f"{version}; no worker for {', '.join(idle)}: `fleet worker {' '.join(idle)}`")
    return f"{version}; workers for {', '.join(manifest.pools)}"


async def _redis(settings: Settings, manifest: Manifest) -> str:
    from workers.bootstrap import limiter

    async with limiter(settings, manifest) as found:
        for scope in manifest.scopes():
            await found.inspect(scope)
    return f"answers; scripts run; {len(manifest.quotas)} quotas"


async def _database(settings: Settings) -> str:
    from workers.database.engine import Database
    from workers.database.facts import file_of
    from workers.database.revisions import newest

    file = file_of(settings.database())
    if file is not None and not file.exists():
        # to open it would make it
        raise BadInput(f"there is no {file} yet: run `fleet db upgrade`")
    database = Database(settings.database())
    try:
        await database.open()
    finally:
        await database.aclose()
    return f"answers; schema {newest()}"


async def _payloads(settings: Settings) -> str:
    from fleet.cli.codec import examine

    return await examine(settings)


async def _model(settings: Settings, name: str, spec: ModelProvider) -> str:
    from workers.clients import chat_provider

    provider = chat_provider(settings, name, spec)
    try:
        await provider.check()
    finally:
        await provider.aclose()
    return f"{spec.kind} at {spec.base_url or 'its own address'}: the key is accepted"


async def _search(settings: Settings, name: str, spec: SearchProvider) -> str:
    import httpx2

    from workers.clients import search_provider
    from workers.corpus.documents import EmptyCorpus

    if spec.kind == "corpus" and not (corpus := spec.path or settings.state_dir / "corpus.db").exists():
        # to open it would make it
        raise EmptyCorpus(corpus)
    async with httpx2.AsyncClient(timeout=10) as http:
        provider = search_provider(settings, name, spec, http)
        found = await provider.search("documentation", 1)
        await provider.aclose()
    return f"{spec.kind}: answers, {len(found.results)} result"


async def _mail(settings: Settings, name: str, spec: MailProvider | MailApiProvider) -> str:
    from workers.clients import mailer

    await mailer(settings, name, spec).check()
    return f"smtp at {spec.host}:{spec.port}: answers" if spec.kind == "smtp" else f"{spec.base_url}: answers"


async def _bank(settings: Settings, name: str, spec: BankProvider) -> str:
    from workers.clients import bank

    await bank(settings, name, spec).check()
    return f"{spec.base_url}: answers"


async def _endpoint(settings: Settings, name: str, spec: WebhookEndpoint | SlackEndpoint) -> str:
    """Nobody is told anything by that."""
    from workers.clients import endpoint
    from workers.providers.outbound import Forbidden, parsed
    from workers.providers.webhooks import signed

    found = endpoint(settings, name, spec)
    try:
        parsed(found.url)
    except Forbidden:
        # the address may be a secret
        raise BadInput(f"endpoints.{name}.url: is no http:// or https:// URL") from None
    if isinstance(spec, SlackEndpoint):
        return f"{spec.kind}: its address is set"
    signed(found, message_id="doctor", body=b"", at=datetime.now(UTC))
    return f"{spec.kind}: its address and its secret are set"


async def _links(settings: Settings, manifest: Manifest) -> str:
    from workers.serving import links

    links(settings, manifest)
    return f"links to {manifest.approvals.url}: the key is set"
