"""Temporal, Redis and PostgreSQL, as a target needs them set up. They are only looked at."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from fleet import client as clients
from fleet import pools
from fleet.cli.diagnosis import Diagnosis, Needs, Place, Reach, Severity, loopback, reach, wanted, way
from fleet.errors import FleetError
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.tables import AGENTS_POOL
from ratelimit.errors import StoreLost
from ratelimit.inspection import Server, hosts, inspected
from workers.database.engine import DatabaseLost
from workers.database.facts import Facts, facts

OLDEST_REDIS, OLDEST_VALKEY, OLDEST_POSTGRES = (7, 0), (8, 0), 14
OLDEST_TEMPORAL = (1, 29)
"""The first whose workers are heard of and whose queues are fair by tenant."""
SHORTEST_RETENTION = timedelta(days=3)
"""Shorter than a weekend: who asks on Monday what a run of Friday did finds nothing."""
SKEW_S, WRONG_S = 2.0, 30.0
"""Between clocks: noticed in waits; more than provider's hints, approvals' deadlines and certificates forgive."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the servers told."""

    findings: list[Diagnosis] = field(default_factory=list)
    machines: tuple[str, ...] = ()
    """Machines whose workers are alive."""


async def examine(settings: Settings, manifest: Manifest, place: Place, needed: Needs = None) -> Seen:
    """Look at all three, or those that are needed. Of what does not answer the doctor's other questions tell."""
    seen = Seen(findings=await addresses(settings, place, needed))
    try:
        client = await clients.connect(settings)
        seen.findings += await _temporal(client, settings, manifest, place)
        seen.machines = tuple(sorted({one.host for one in await pools.workers(client, manifest) if one.live}))
    except (FleetError, RPCError):
        # an older server lists no workers: who else there is cannot be told
        pass
    try:
        server = await inspected(settings.redis())
        seen.findings += list(redis(server, await reach(server.hosts), place, manifest.limiter.posture))
    except (StoreLost, ValueError, FleetError):
        pass
    if not wanted("database", needed):
        return seen
    try:
        found = await facts(settings.database())
        where = await reach([found.host] if found.host else [])
        seen.findings += list(database(found, where, place, seen.machines))
    except (DatabaseLost, FleetError):
        pass
    return seen


async def addresses(settings: Settings, place: Place, needed: Needs = None) -> list[Diagnosis]:
    """Whether the settings lead out of a container at all, whoever answers there."""
    found: list[Diagnosis] = []
    with suppress(FleetError):
        where = await reach([_host(clients.target(settings))])
        found += loopback(
            "temporal.address", "Temporal", where, place, "TEMPORAL_ADDRESS=temporal:7233, by its service"
        )
    with suppress(FleetError, ValueError):
        if named := hosts(settings.redis()):
            fix = "FLEET_REDIS_URL=redis://valkey:6379/0, by its service"
            found += loopback("redis.address", "Redis", await reach(named), place, fix)
    with suppress(FleetError, ValueError):
        if wanted("database", needed) and (host := urlsplit(settings.database()).hostname):
            fix = "FLEET_DATABASE_URL=postgresql+asyncpg://fleet@postgres/fleet, by its service"
            found += loopback("database.address", "PostgreSQL", await reach([host]), place, fix)
    return found


def _host(config: dict[str, Any]) -> str:
    return str(config["target_host"]).rpartition(":")[0].strip("[]")


def redis(server: Server, where: Reach, place: Place, posture: str = "pause") -> Iterator[Diagnosis]:
    """What a limiter's store lacks for a place, where workers keep that posture while it is away."""
    yield way(
        "redis.tls",
        "what is said to Redis, its password included,",
        where,
        encrypted=server.encrypted,
        place=place,
        fix="let FLEET_REDIS_URL begin with rediss://",
    )
    yield from _version(server)
    yield _memory(server)
    if server.persistent is False and place.deployed:
        yield Diagnosis(
            component="redis.persistence",
            severity="warn",
            detail="nothing is written down: a restart begins with empty buckets and the manifest's quotas",
            fix="set appendonly yes, appendfsync everysec",
        )
    elif server.persistent:
        yield Diagnosis(component="redis.persistence", severity="ok", detail="each change is written down (AOF)")
    if server.role == "slave":
        fix = "name the master in FLEET_REDIS_URL, or ask Sentinel for it (redis+sentinel://)"
        yield Diagnosis(
            component="redis.role", severity="fail", detail="it is a replica, which takes no writes", fix=fix
        )
    elif place.networked and server.replicas == 0 and server.kind != "cluster":
        meanwhile = "no call starts" if posture == "pause" else "each process paces itself"
        yield Diagnosis(
            component="redis.replicas",
            severity="warn",
            detail=f"there is no replica: while it is away {meanwhile} (posture {posture})",
            fix="add a replica and three Sentinels, or take a managed one",
        )
    yield from _user(server, place)
    if server.covered is False:
        fix = "see CLUSTER INFO and CLUSTER SHARDS: give each slot a master"
        yield Diagnosis(component="redis.cluster", severity="fail", detail="not all slots are served", fix=fix)
    elif server.covered:
        yield Diagnosis(component="redis.cluster", severity="ok", detail="all slots are served")
    yield from _sentinels(server)
    if server.ahead_s is not None:
        yield _clock("redis.clock", "Redis' clock", server.ahead_s, server.uncertain_s)


def _version(server: Server) -> Iterator[Diagnosis]:
    if server.version is None:
        return
    oldest = OLDEST_VALKEY if server.product == "valkey" else OLDEST_REDIS
    told = f"{server.product} {'.'.join(map(str, server.version))}"
    if server.version < oldest:
        fix = f"upgrade it to {'.'.join(map(str, oldest))} or newer"
        yield Diagnosis(component="redis.version", severity="fail", detail=f"{told} is too old", fix=fix)
    else:
        yield Diagnosis(component="redis.version", severity="ok", detail=told)


def _memory(server: Server) -> Diagnosis:
    if server.policy is None:
        return Diagnosis(
            component="redis.memory", severity="ok", detail="its user may not ask: see to it that nothing is evicted"
        )
    if server.policy == "noeviction":
        return Diagnosis(component="redis.memory", severity="ok", detail="nothing is evicted")
    # without a limit nothing is short, until somebody sets one
    everything = server.policy.startswith("allkeys") and server.memory_limit
    return Diagnosis(
        component="redis.memory",
        severity="fail" if everything else "warn",
        detail=f"maxmemory-policy is {server.policy}: quotas may be evicted, and without one nothing is limited",
        fix="set maxmemory-policy noeviction",
    )


def _user(server: Server, place: Place) -> Iterator[Diagnosis]:
    if server.may_flush and place.deployed:
        yield Diagnosis(
            component="redis.user",
            severity="warn",
            detail=f"its user {server.user!r} may do everything, FLUSHALL included",
            fix="give workers a user of their own (deploy/valkey/users.acl)",
        )
    elif server.user is None and server.version is None:
        detail = "its user may ask nothing about the server: its rights are narrow"
        yield Diagnosis(component="redis.user", severity="ok", detail=detail)
    elif server.may_flush is False:
        yield Diagnosis(component="redis.user", severity="ok", detail=f"its user {server.user!r} may not FLUSHALL")


def _sentinels(server: Server) -> Iterator[Diagnosis]:
    if not server.sentinels:
        return
    bad = {node: said for node, said in server.sentinels.items() if said != "ok"}
    quorum = "; ".join(f"{node} says {said}" for node, said in bad.items())
    fix = "start the Sentinels that are missing: a majority must agree before a replica takes over"
    if len(bad) * 2 >= len(server.sentinels):
        yield Diagnosis(
            component="redis.sentinel", severity="fail", detail=f"no failover is possible: {quorum}", fix=fix
        )
    elif bad or len(server.sentinels) < 3:
        detail = quorum or f"FLEET_REDIS_URL names {len(server.sentinels)} of them"
        yield Diagnosis(component="redis.sentinel", severity="warn", detail=detail, fix="name three that answer")
    else:
        yield Diagnosis(component="redis.sentinel", severity="ok", detail=f"{len(server.sentinels)} agree on a quorum")


def _clock(component: str, whose: str, ahead_s: float, uncertain_s: float = 0.0) -> Diagnosis:
    off_s = max(0.0, abs(ahead_s) - uncertain_s)
    side = "ahead of" if ahead_s > 0 else "behind"
    if off_s <= SKEW_S:
        return Diagnosis(component=component, severity="ok", detail=f"{whose} agrees with this machine's")
    severity: Severity = "fail" if off_s > WRONG_S else "warn"
    detail = f"{whose} is {off_s:.0f} s {side} this machine's"
    return Diagnosis(
        component=component, severity=severity, detail=detail, fix="run chrony or systemd-timesyncd on both"
    )


def database(found: Facts, where: Reach, place: Place, machines: tuple[str, ...]) -> Iterator[Diagnosis]:
    """What the ledger's database lacks for a place."""
    if found.sqlite:
        yield _sqlite(place, machines)
        return
    yield way(
        "database.tls",
        "what is said to PostgreSQL",
        where,
        encrypted=bool(found.encrypted),
        place=place,
        fix="add ?ssl=verify-full to FLEET_DATABASE_URL; with an issuer of your own also &sslrootcert=/its/file.pem",
    )
    if found.encoding != "UTF8":
        detail, fix = f"is encoded in {found.encoding}", "make it anew with ENCODING 'UTF8'"
        yield Diagnosis(component="database.encoding", severity="fail", detail=detail, fix=fix)
    if found.standby:
        yield Diagnosis(component="database.role", severity="fail", detail="is a standby", fix="name the primary")
    if found.durable is False:
        yield Diagnosis(
            component="database.durability",
            severity="fail" if place.deployed else "warn",
            detail="forgets what it has committed when its machine fails: an effect would be had twice",
            fix="set fsync = on and synchronous_commit = on",
        )
    if found.superuser and place.deployed:
        yield Diagnosis(
            component="database.user",
            severity="warn",
            detail=f"its user {found.user!r} is a superuser",
            fix="give workers a role that only reads and writes rows (deploy/postgres)",
        )
    if found.version is not None:
        old = found.version < OLDEST_POSTGRES
        yield Diagnosis(
            component="database.version",
            severity="warn" if old else "ok",
            detail=f"PostgreSQL {found.version}",
            fix=f"upgrade it to {OLDEST_POSTGRES} or newer" if old else "",
        )
    if found.ahead_s is not None:
        yield _clock("database.clock", "PostgreSQL's clock", found.ahead_s)


def _sqlite(place: Place, machines: tuple[str, ...]) -> Diagnosis:
    fix = "use PostgreSQL: FLEET_DATABASE_URL=postgresql+asyncpg://…, then `fleet db upgrade`"
    if len(machines) > 1:
        detail = f"is an SQLite file, and workers live on {len(machines)} machines: each has a ledger of its own"
        return Diagnosis(component="database.kind", severity="fail", detail=detail, fix=fix)
    if place.contained:
        detail = "is an SQLite file: each container has one of its own, and loses it"
        return Diagnosis(component="database.kind", severity="fail", detail=detail, fix=fix)
    if place.deployed:
        detail = "is an SQLite file, which is right for one machine only"
        return Diagnosis(component="database.kind", severity="warn", detail=detail, fix=fix)
    return Diagnosis(component="database.kind", severity="ok", detail="is an SQLite file, right for one machine")


async def _temporal(client: Client, settings: Settings, manifest: Manifest, place: Place) -> list[Diagnosis]:
    config: dict[str, Any] = clients.target(settings)
    host = _host(config)
    where = await reach([host])
    tls = config.get("tls")
    found = [
        way(
            "temporal.tls",
            "what is said to Temporal",
            where,
            encrypted=bool(tls) or bool(config.get("api_key")),
            place=place,
            fix="set TEMPORAL_TLS_SERVER_CA_CERT_PATH, or TEMPORAL_API_KEY_FILE",
        )
    ]
    if place.cloud:
        found += cloud(host, client.namespace, encrypted=bool(config.get("api_key") or tls), known=_known(config))
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    found.append(server(info.server_version))
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    found.append(retention(described.config.workflow_execution_retention_ttl.ToTimedelta(), place))
    queue = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=manifest.task_queue(AGENTS_POOL)),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    told = await client.workflow_service.describe_task_queue(queue)
    latest = max(
        (pools.moment(one.last_access_time) or datetime.min.replace(tzinfo=UTC) for one in told.pollers), default=None
    )
    if latest is not None:
        # nobody polls in the future; how far it is behind, Temporal does not tell
        found.append(
            _clock("temporal.clock", "Temporal's clock", max(0.0, (latest - datetime.now(UTC)).total_seconds()))
        )
    return found


def _known(config: dict[str, Any]) -> bool:
    """Whether Temporal is told who asks: by a key, or a certificate."""
    return bool(config.get("api_key")) or bool(getattr(config.get("tls"), "client_cert", None))


def cloud(host: str, namespace: str, *, encrypted: bool, known: bool) -> Iterator[Diagnosis]:
    """What Temporal Cloud wants: https://docs.temporal.io/cloud/namespaces#access-namespaces"""
    if not host.endswith((".tmprl.cloud", ".api.temporal.io")):
        yield Diagnosis(
            component="cloud.address",
            severity="fail",
            detail=f"{host} is no address of Temporal Cloud",
            fix="TEMPORAL_ADDRESS=NAMESPACE.ACCOUNT.tmprl.cloud:7233, as the namespace's page says",
        )
    if "." not in namespace:
        fix = "TEMPORAL_NAMESPACE=NAMESPACE.ACCOUNT"
        detail = f"namespace {namespace!r} does not name its account"
        yield Diagnosis(component="cloud.namespace", severity="fail", detail=detail, fix=fix)
    if not (encrypted and known):
        fix = "TEMPORAL_API_KEY_FILE, or TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH"
        detail = "neither an API key nor a client's certificate is set"
        yield Diagnosis(component="cloud.identity", severity="fail", detail=detail, fix=fix)


def server(version: str) -> Diagnosis:
    """Whether Temporal's server is new enough."""
    parts = tuple(int(part) for part in version.partition("-")[0].split(".")[:2] if part.isdigit())
    if parts and parts < OLDEST_TEMPORAL:
        detail = f"server {version} neither tells who works nor is fair by tenant"
        return Diagnosis(
            component="temporal.version", severity="warn", detail=detail, fix="upgrade it to 1.29 or newer"
        )
    detail = (
        f"server {version}; does not tell whether matching.enableFairness is on, without which tenants wait in line"
    )
    return Diagnosis(component="temporal.version", severity="ok", detail=detail)


def retention(kept: timedelta, place: Place) -> Diagnosis:
    """Whether what runs did can be read for long enough."""
    told = f"histories are kept for {kept / timedelta(days=1):g} days after the end of a run"
    if kept < SHORTEST_RETENTION and place.deployed:
        fix = "temporal operator namespace update --retention 30d"
        return Diagnosis(component="temporal.retention", severity="warn", detail=told, fix=fix)
    return Diagnosis(component="temporal.retention", severity="ok", detail=told)
