"""The whole fleet on one machine, as a file of the Compose Specification: pools, stores and those who watch them."""

import json
import math
import re
from collections.abc import Iterable
from importlib import resources
from string import Template
from typing import Final

from fleet.deploying.plan import Files, Plan, PoolPlan
from fleet.errors import BadInput
from fleet.tables import AGENTS_POOL, MEMORY_POOL, SearchProvider

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
_STORES: Final = ("redis_url", "database_url")

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
        settings=_settings(plan),
        pools="".join(_pool(plan, pool) for pool in plan.pools),
        console_profile="" if plan.manifest.approvals.link_key else _NO_LINKS,
        console_files=_files(plan.console_secrets),
        console_mounted=_mounted(*_STORES, *plan.console_secrets),
        exporter_mounted=_mounted(*_STORES, *plan.codec_secrets),
        codec_files=_files(plan.codec_secrets),
        codec_mounted=_mounted("redis_url", "codec_tokens", *plan.codec_secrets),
        every_files=_files(plan.secrets),
        cli_mounted=_mounted(*_STORES, *plan.secrets),
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
    stores = _STORES if pool.database else _STORES[:1]
    database = ["      FLEET_DATABASE_URL_FILE: /run/secrets/database_url\n"] if pool.database else []
    return _template("compose-pool.yaml").substitute(
        name=pool.name,
        files="".join([*database, _files(pool.secrets)]),
        mounted=_mounted(*stores, *pool.secrets),
        corpus=_CORPUS if _reads_corpus(plan, pool) else "",
        # what calls nobody outside cannot be made to
        networks="backend" if pool.name in (AGENTS_POOL, MEMORY_POOL) else "backend, egress",
        replicas=pool.replicas,
        drain=f"{pool.drain_s:g}",
        grace=math.ceil(pool.drain_s + AFTER_DRAIN_S),
        memory=_memory(pool),
        shares=_shares(pool),
    )


def _files(names: Iterable[str]) -> str:
    return "".join(f"      {name}_FILE: /run/secrets/{name}\n" for name in names)


def _mounted(*names: str) -> str:
    return ", ".join(dict.fromkeys(names))


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
