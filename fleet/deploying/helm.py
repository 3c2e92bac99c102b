"""Values of the Helm chart: what the fleet is, in the chart's words. Where it runs is the operator's to say."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from fleet.deploying import making
from fleet.deploying.plan import Files, Plan, PoolPlan
from fleet.manifest import Manifest
from fleet.tables import AGENTS_POOL, EFFECT_POOLS, MailProvider

KEPT_IN: Final = "fleet-secrets"
"""Existing Secret with all secrets of the manifest, by their variables, unless the operator says others."""

_HEADER: Final = """\
# Written by `fleet deploy render helm`: render again rather than edit. What is left to say goes into a file of its own:
#   helm upgrade --install fleet deploy/helm/fleet -f values.yaml -f production.yaml
"""
_PLAIN: Final = re.compile(r"[A-Za-z_][\w./-]*")
_WORDS: Final = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
"""What YAML 1.1 takes for something else than text."""

Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


def render(plan: Plan) -> Files:
    """`values.yaml`: image, manifest, pools with bounds and arithmetic, names of secrets. No secret is in it."""
    values: dict[str, Value] = {
        "image": _image(plan.image),
        "versioning": {"mode": "fleet" if plan.build_id else "none", "buildId": plan.build_id},
        "quota": _quota(plan),
        "environment": dict(plan.environment),
        "secrets": {name: {"name": KEPT_IN, "key": name} for name in plan.secrets},
        "pools": {pool.name: _pool(plan.manifest, pool) for pool in plan.pools},
        "console": {
            "enabled": plan.manifest.approvals.url is not None and plan.manifest.approvals.link_key is not None,
            "secrets": plan.console_secrets,
        },
        "exporter": {"secrets": plan.codec_secrets},
        "migrate": {"secrets": plan.codec_secrets},
        "codecServer": {"secrets": plan.codec_secrets},
        "networkPolicy": {"providers": {"ports": sorted(_ports(plan.manifest))}},
    }
    text = "".join(_lines(values)) + "manifest: " + _block(plan.text)
    return {"values.yaml": _HEADER + text}


def _pool(manifest: Manifest, pool: PoolPlan) -> dict[str, Value]:
    return {
        "taskQueue": pool.task_queue,
        "queueTypes": _queue_types(pool.name),
        "slots": pool.slots,
        "drainSeconds": math.ceil(pool.drain_s),
        "replicas": pool.replicas,
        "maxReplicas": pool.max_replicas,
        "usefulSlots": pool.useful_slots,
        "arithmetic": pool.arithmetic,
        "secrets": pool.secrets,
        "database": pool.database,
        "providers": making.calls_outside(manifest, pool.name),
        "resources": {"requests": {"cpu": pool.cpu, "memory": pool.memory}, "limits": {"memory": pool.memory}},
    }


def _quota(plan: Plan) -> dict[str, Value]:
    idle = [
        pool for pool in plan.pools if pool.allowed_replicas is not None and pool.max_replicas > pool.allowed_replicas
    ]
    if not idle:
        return {"enforceCap": True, "reason": ""}
    told = ", ".join(f"{pool.name}: {pool.max_replicas} processes, {pool.allowed_replicas} useful" for pool in idle)
    return {"enforceCap": False, "reason": f"rendered with --allow-idle-slots ({told})"}


def _queue_types(pool: str) -> tuple[str, ...]:
    if pool == AGENTS_POOL:
        return ("workflow",)
    return ("workflow", "activity") if pool in EFFECT_POOLS else ("activity",)


def _ports(manifest: Manifest) -> set[int]:
    """Where providers and endpoints listen; of addresses that are secret nobody knows more than that it is HTTPS."""
    found = {443}
    for provider in manifest.providers.values():
        if isinstance(provider, MailProvider):
            found.add(provider.port)
            if provider.lookup_url:
                found.add(_port(provider.lookup_url))
        elif provider.base_url:
            found.add(_port(provider.base_url))
    for endpoint in manifest.endpoints.values():
        url = getattr(endpoint, "url", None)
        if isinstance(url, str) and "://" in url:
            found.add(_port(url))
    return found


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (80 if parts.scheme == "http" else 443)


def _image(image: str) -> dict[str, Value]:
    """The parts of `registry:5000/agent-fleet:0.1.0@sha256:…`."""
    named, _, digest = image.partition("@")
    folder, slash, last = named.rpartition("/")
    name, _, tag = last.partition(":")
    return {"repository": f"{folder}{slash}{name}", "tag": tag, "digest": digest}


def _lines(value: Mapping[str, Value], indent: str = "") -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield f"{indent}{_scalar(key)}:\n"
            yield from _lines(inner, indent + "  ")
        elif isinstance(inner, Sequence) and not isinstance(inner, str) and any(len(str(one)) > 30 for one in inner):
            yield f"{indent}{_scalar(key)}:\n"
            yield from (f"{indent}  - {_scalar(one)}\n" for one in inner)
        else:
            yield f"{indent}{_scalar(key)}: {_scalar(inner)}\n"


def _scalar(value: Value) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _block(text: str) -> str:
    """The text as a literal block; as a quoted string where a block would change it."""
    lines = text.split("\n")
    if not text.strip() or not all(line.replace("\t", " ").isprintable() for line in lines):
        return json.dumps(text) + "\n"
    mark = "|2+" if text.endswith("\n") else "|2-"
    body = lines[:-1] if text.endswith("\n") else lines
    return mark + "\n" + "".join(f"  {line}\n" if line else "\n" for line in body)
