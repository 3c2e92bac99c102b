"""The whole fleet on one machine, as a file of the Compose Specification: pools, stores and those who watch them."""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from importlib import resources
from string import Template
from typing import Final

from fleet.deploying import making
from fleet.deploying.plan import Files, Plan, PoolPlan
from fleet.errors import BadInput
from fleet.tables import SearchProvider

AFTER_DRAIN_S: Final = 15.0
"""What a process needs beside its drain: to close its connections, and to be late."""

SERVERS: Final = (
    "postgres", "postgres_temporal", "postgres_fleet_owner", "postgres_fleet", "postgres_fleet_reader",
    "valkey_fleet", "valkey_metrics", "valkey_replica", "valkey_sentinel", "valkey_admin",
    "grafana_admin", "codec_tokens", "redis_url", "database_url", "database_owner_url",
)  # fmt: skip
"""Secrets that every fleet on one machine has, beside those of its manifest."""

OTHERS: Final = (
    "console", "exporter", "codec-server", "cli", "migrate", "init", "postgres", "valkey", "temporal-setup", "temporal",
    "temporal-namespace", "temporal-ui", "prometheus", "alertmanager", "grafana", "otel-collector", "simulators",
)  # fmt: skip
"""Services that are no pools: no pool can have one of these names."""

_SHARES: Final = 1024
"""`cpu_shares` of one CPU."""
_REDIS: Final = ("FLEET_REDIS_URL", "redis_url")
_DATABASE: Final = ("FLEET_DATABASE_URL", "database_url")
"""The variable, and its secret here."""

_NO_LINKS: Final = """\
    # the manifest has no links to approvals ([approvals] url and link_key): the console would have nothing to show
    profiles: [console]
"""
_CORPUS: Final = """\
    # the documents' index lasts: `docker compose run --rm -v /path:/documents:ro cli corpus add /documents`
    tmpfs: ["/tmp:size=64m"]
    volumes:
      - ${FLEET_MANIFEST_FILE:-./fleet.toml}:/etc/fleet/fleet.toml:ro
      - corpus:/var/lib/fleet
"""


class _Text(Template):
    """A file with `@@{name}` in it: `$` is Docker's."""

    delimiter = "@@"


def render(plan: Plan) -> Files:
    """`compose.yaml`. It names the files of `deploy/` that lie beside it: those of the servers, and secrets.

    Raises:
        BadInput: a pool has the name of another service, or its memory or CPU is no amount that Docker knows.
    """
    secrets = dict.fromkeys([*SERVERS, *plan.secrets, *plan.console_secrets, *plan.codec_secrets])
    text = _template("compose.yaml").substitute(
        image=plan.image,
        manifest=hashlib.sha256(plan.text.encode()).hexdigest(),
        settings=_settings(plan),
        pools="".join(_pool(plan, pool) for pool in plan.pools),
        console_profile="" if plan.manifest.approvals.link_key else _NO_LINKS,
        console=_given(_DATABASE, secrets=plan.console_secrets),
        exporter=_given(_REDIS, _DATABASE, secrets=plan.codec_secrets),
        codec=_given(secrets=plan.codec_secrets, also="codec_tokens"),
        every=_given(_REDIS, _DATABASE, secrets=plan.secrets),
        # it asks for a namespace by the client that reads payloads
        init=_given(secrets=plan.codec_secrets),
        secrets="".join(f"  {name}: {{ file: ./secrets/{name} }}\n" for name in secrets),
    )
    return {"compose.yaml": text}


def _template(name: str) -> _Text:
    return _Text(resources.files("fleet.deploying").joinpath("templates", name).read_text(encoding="utf-8"))


def _settings(plan: Plan) -> str:
    """What all processes are told alike."""
    # the image has a version of its own, which an empty one would hide
    build = {"FLEET_BUILD_ID": f"${{FLEET_BUILD_ID:-{plan.build_id}}}"} if plan.build_id else {}
    return "".join(f"  {name}: {json.dumps(value)}\n" for name, value in (build | dict(plan.environment)).items())


def _pool(plan: Plan, pool: PoolPlan) -> str:
    if pool.name in OTHERS:
        raise BadInput(f"pools.{pool.name}: another service of the compose file has this name: call the pool otherwise")
    stores = (_REDIS, _DATABASE) if pool.database else (_REDIS,)
    return _template("compose-pool.yaml").substitute(
        name=pool.name,
        given=_given(*stores, secrets=pool.secrets),
        corpus=_CORPUS if _reads_corpus(plan, pool) else "",
        # what calls nobody outside cannot be made to
        networks="backend, egress" if making.calls_outside(plan.manifest, pool.name) else "backend",
        replicas=pool.replicas,
        drain=f"{pool.drain_s:g}",
        grace=math.ceil(pool.drain_s + AFTER_DRAIN_S),
        memory=_memory(pool),
        shares=_shares(pool),
    )


def _given(*stores: tuple[str, str], secrets: Iterable[str], also: str | None = None) -> str:
    """What a service is told of its secrets, and which are mounted: no other ones."""
    held = [*stores, *((name, name) for name in secrets)]
    told = "".join(f"      {variable}_FILE: /run/secrets/{name}\n" for variable, name in held)
    mounted = dict.fromkeys([name for _, name in held] + ([also] if also else []))
    return told + (f"    secrets: [{', '.join(mounted)}]\n" if mounted else "")


def _reads_corpus(plan: Plan, pool: PoolPlan) -> bool:
    provider = plan.manifest.providers.get(plan.manifest.pools[pool.name].provider or pool.name)
    return isinstance(provider, SearchProvider) and provider.kind == "corpus" and provider.path is None


def _memory(pool: PoolPlan) -> str:
    """Kubernetes' amount in Docker's words, which are powers of 1024 too."""
    found = re.fullmatch(r"(\d+)([KMG])i", pool.memory)
    if found is None:
        told = f"deploy.pools.{pool.name}.memory: {pool.memory!r}"
        raise BadInput(f"{told}: a compose file takes whole numbers of Ki, Mi or Gi, as 512Mi")
    return found[1] + found[2].lower()


def _shares(pool: PoolPlan) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", pool.cpu)
    if found is None:
        raise BadInput(f"deploy.pools.{pool.name}.cpu: {pool.cpu!r}: must be a number of CPUs, as 250m or 2")
    # Docker takes none below two
    return max(2, round(float(found[1]) / (1000 if found[2] else 1) * _SHARES))
