"""The manifest becomes a plan: processes of each pool, what they may use, and the secrets that each of them needs."""

from collections.abc import Iterable
from importlib.metadata import version

from fleet.deploying import capacity
from fleet.deploying.plan import Plan, PoolPlan
from fleet.manifest import Manifest
from fleet.tables import (
    AGENTS_POOL,
    APPROVALS_POOL,
    LLM_POOL,
    MEMORY_POOL,
    WEBHOOK_POOL,
    EmailEndpoint,
    Endpoint,
    MailProvider,
    Provider,
    SearchProvider,
    WebhookEndpoint,
)
from fleet.tables_deploy import DeployPoolSpec

CPU = {AGENTS_POOL: "500m", LLM_POOL: "500m"}
"""Workflows are decided, and prompts are counted and read, in Python; the other pools wait."""
LEAST_CPU = "100m"
MEMORY = {AGENTS_POOL: "1Gi"}
"""Five hundred workflows are kept in memory between their steps."""
LEAST_MEMORY = "512Mi"
"""A process with an SDK or two takes a third of it before its first call."""
UNPROVEN = 4
"""Most processes of a pool that no quota bounds and of which the manifest says nothing."""


def make(
    manifest: Manifest, text: str, *, image: str | None = None, build_id: str | None = None, idle_allowed: bool = False
) -> Plan:
    """The plan of a manifest.

    Args:
        manifest: what the fleet is.
        text: its file as it is.
        image: instead of the manifest's.
        build_id: instead of the manifest's.
        idle_allowed: more slots than the quota keeps busy are meant.
    """
    release = version("agent-fleet")
    spec = manifest.deploy
    keys = _names([spec.payload_keys])
    pools = tuple(_pool(manifest, name, keys) for name in manifest.pools)
    console = _unique([*keys, *_names([manifest.approvals.link_key])])
    return Plan(
        manifest=manifest,
        text=text,
        image=image or spec.image or f"agent-fleet:{release}",
        version=release,
        build_id=spec.build_id if build_id is None else build_id,
        pools=pools,
        secrets=_unique([*(name for pool in pools for name in pool.secrets), *console]),
        environment=(("FLEET_PAYLOAD_KEYS", spec.payload_keys),) if spec.payload_keys else (),
        console_secrets=console,
        codec_secrets=keys,
        idle_allowed=idle_allowed,
    )


def idle(plan: Plan) -> list[str]:
    """Pools that may have more slots than the quota keeps busy, a line each."""
    found = (
        capacity.idle(
            pool.name,
            replicas=pool.replicas,
            max_replicas=pool.max_replicas,
            slots=pool.slots,
            useful_slots=pool.useful_slots,
            lines=pool.arithmetic,
        )
        for pool in plan.pools
    )
    return [line for line in found if line is not None]


def calls_outside(manifest: Manifest, pool: str) -> bool:
    """Whether the pool's processes call somebody beside the fleet's own servers."""
    if pool in (AGENTS_POOL, MEMORY_POOL):
        return False
    provider = manifest.providers.get(manifest.pools[pool].provider or pool)
    return not (isinstance(provider, SearchProvider) and provider.kind == "corpus")


def _pool(manifest: Manifest, name: str, keys: tuple[str, ...]) -> PoolPlan:
    spec, deployed = manifest.pools[name], manifest.deploy.pools.get(name, DeployPoolSpec())
    call_s = deployed.call.total_seconds() if deployed.call else capacity.CALL_S[name]
    useful = capacity.useful(manifest, name, call_s)
    allowed = capacity.allowed(spec.slots, useful.slots)
    return PoolPlan(
        name=name,
        task_queue=manifest.task_queue(name),
        slots=spec.slots,
        drain_s=spec.drain.total_seconds(),
        replicas=deployed.replicas,
        max_replicas=deployed.max_replicas or max(deployed.replicas, UNPROVEN if allowed is None else allowed),
        call_s=call_s,
        scopes=useful.scopes,
        useful_slots=useful.slots,
        arithmetic=useful.lines,
        cpu=deployed.cpu or CPU.get(name, LEAST_CPU),
        memory=deployed.memory or MEMORY.get(name, LEAST_MEMORY),
        secrets=_unique([*keys, *_names(_references(manifest, name))]),
        database=_writes(manifest, name),
        allowed_replicas=allowed,
    )


def _references(manifest: Manifest, pool: str) -> Iterable[str | None]:
    """Where the secrets are that `workers.serving` reads for the pool."""
    if pool == LLM_POOL:
        models = [model for agent in manifest.agents.values() for model in (agent.model, agent.context.model) if model]
        for name in dict.fromkeys(model.partition("/")[0] for model in models):
            yield _key(manifest.providers[name])
    elif pool == WEBHOOK_POOL:
        for endpoint in manifest.endpoints.values():
            if isinstance(endpoint, WebhookEndpoint):
                yield from _told(manifest, endpoint)
    elif pool == APPROVALS_POOL:
        yield manifest.approvals.link_key
        for endpoint in manifest.endpoints.values():
            yield from _told(manifest, endpoint)
    elif pool not in (AGENTS_POOL, MEMORY_POOL):
        yield _key(manifest.providers[manifest.pools[pool].provider or pool])


def _key(provider: Provider) -> str | None:
    return provider.password if isinstance(provider, MailProvider) else provider.api_key


def _told(manifest: Manifest, endpoint: Endpoint) -> Iterable[str | None]:
    if isinstance(endpoint, EmailEndpoint):
        yield _key(manifest.providers[endpoint.provider])
        return
    yield endpoint.url
    if isinstance(endpoint, WebhookEndpoint):
        yield endpoint.secret


def _writes(manifest: Manifest, pool: str) -> bool:
    """Whether the pool's processes use the database, as `workers.serving` has it."""
    if pool == AGENTS_POOL:
        # it serves batches where nobody else does
        return MEMORY_POOL not in manifest.pools
    if pool == LLM_POOL:
        return any(tenant.daily for tenant in manifest.tenants.values())
    return pool != "search"


def _names(references: Iterable[str | None]) -> tuple[str, ...]:
    """Environment variables that references name; files are where they are."""
    return tuple(one.removeprefix("env:") for one in references if one is not None and one.startswith("env:"))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
