"""The process's own surroundings, as a target needs them: user, files, addresses, secrets."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fleet import client as clients
from fleet.cli.diagnosis import Diagnosis, Needs, Place, Reach, Severity, reach, wanted
from fleet.cli.doctor_app import Target
from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.storage.places import Places, places
from fleet.tables import REFERENCE, BankProvider, MailApiProvider, MailProvider, ModelProvider, SearchProvider

_FILES = ("FLEET_REDIS_URL_FILE", "TEMPORAL_API_KEY_FILE", "FLEET_TLS_KEY")
_OF_DATABASE = ("FLEET_DATABASE_URL_FILE",)
_PRIVATE_KEYS = ("TEMPORAL_TLS_CLIENT_KEY_PATH",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Somebody whom the fleet calls, by the manifest."""

    where: str
    """The key of the manifest."""
    host: str
    encrypted: bool
    fix: str


async def examine(
    settings: Settings, manifest: Manifest, place: Place, machines: tuple[str, ...], needed: Needs = None
) -> list[Diagnosis]:
    """Look around.

    Args:
        settings: where am I?
        manifest: what the fleet is.
        place: what is asked.
        machines: whose workers are alive.
        needed: components that are looked at.
    """
    variables = settings.environment()
    found = [
        user(os.geteuid(), place),
        state(settings, manifest, place, needed),
        *build(settings, place),
        *health(settings, place),
        *stored(_stored(settings), place, machines),
        *_encrypted(settings, place),
        *files(secret_files(settings, manifest, variables, needed), place),
        *(links(manifest, place) if wanted("approvals.link_key", needed) else ()),
        *collector(variables, place),
    ]
    for one in outsiders(manifest, needed):
        found += outside(one, await reach([one.host]), place)
    return found


def user(uid: int, place: Place) -> Diagnosis:
    """Whether it is root."""
    if uid or not place.deployed:
        told = "root, on a machine of one's own" if not uid else f"user {uid}"
        return Diagnosis(component="process.user", severity="ok", detail=f"runs as {told}")
    fix = "run it as a user of its own: User=fleet, user: 10001, runAsNonRoot"
    return Diagnosis(component="process.user", severity="warn", detail="runs as root", fix=fix)


def state(settings: Settings, manifest: Manifest, place: Place, needed: Needs = None) -> Diagnosis:
    """Whether what must be written can be."""
    component, folder = "process.state", settings.state_dir
    needs = []
    if wanted("database", needed) and settings.database_url is None and settings.database_url_file is None:
        needs.append("the SQLite ledger")
    if settings.payload_store is None and clients.is_embedded(settings):
        needs.append("payloads")
    if any(
        isinstance(one, SearchProvider)
        and one.kind == "corpus"
        and not one.path
        and wanted(f"providers.{name}", needed)
        for name, one in manifest.providers.items()
    ):
        needs.append("the corpus")
    nearest = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), Path("/"))
    if not needs:
        return Diagnosis(component=component, severity="ok", detail=f"nothing is kept in {folder}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        detail = f"{folder} cannot be written, and {', '.join(needs)} would lie there"
        fix = "mount a volume there and name it in FLEET_STATE_DIR, or use PostgreSQL and s3://"
        return Diagnosis(component=component, severity="fail", detail=detail, fix=fix)
    if "the corpus" in needs and place.contained:
        detail = f"the corpus lies in {folder}, which each container has for itself"
        fix = "mount one volume for all of the pool `search`, or name another search provider"
        return Diagnosis(component=component, severity="warn", detail=detail, fix=fix)
    return Diagnosis(component=component, severity="ok", detail=f"{folder} can be written, for {', '.join(needs)}")


def build(settings: Settings, place: Place) -> Iterator[Diagnosis]:
    """Whether runs stay on the code that they began with."""
    if settings.build_id:
        yield Diagnosis(component="process.build", severity="ok", detail=f"FLEET_BUILD_ID is {settings.build_id}")
    elif Target.COMPOSE.value in place.names:
        # one file runs one release: a version that is not promoted gets no work, and those of the current one are gone
        detail = "workers have no version, as compose runs them: what replaces them goes on with their runs"
        yield Diagnosis(component="process.build", severity="ok", detail=detail)
    elif place.deployed:
        yield Diagnosis(
            component="process.build",
            severity="warn",
            detail="workers have no version: new code goes on with runs that older code began",
            fix="name each release, start it beside the old one, `fleet rollout promote` it (docs/rollouts.md)",
        )


def health(settings: Settings, place: Place) -> Iterator[Diagnosis]:
    """Whether probes and Prometheus reach a worker."""
    if not place.contained:
        return
    if settings.health_host in ("127.0.0.1", "localhost", "::1"):
        detail = f"FLEET_HEALTH_HOST is {settings.health_host}: neither probes nor Prometheus reach it"
        yield Diagnosis(component="process.health", severity="fail", detail=detail, fix="FLEET_HEALTH_HOST=0.0.0.0")
    elif settings.health_port == 0:
        detail = "FLEET_HEALTH_PORT is 0: each process takes another port, which nobody knows"
        yield Diagnosis(component="process.health", severity="fail", detail=detail, fix="FLEET_HEALTH_PORT=8303")
    else:
        detail = f"probes and metrics on {settings.health_host}:{settings.health_port}"
        yield Diagnosis(component="process.health", severity="ok", detail=detail)


def _stored(settings: Settings) -> Places | None:
    try:
        return places(settings, embedded=clients.is_embedded(settings))
    except BadInput:
        # the doctor's question about payloads tells
        return None


def stored(found: Places | None, place: Place, machines: tuple[str, ...]) -> Iterator[Diagnosis]:
    """Whether everybody finds what one has stored."""
    if found is None or found.written != "file":
        return
    folder = found.folders[0]
    fix = "FLEET_PAYLOAD_STORE=s3://bucket, or a folder that all machines share"
    mounted = any(os.path.ismount(one) for one in (folder, *folder.parents) if one != Path("/"))
    if len(machines) > 1 or place.contained:
        severity: Severity = "warn" if mounted else "fail"
        whose = "on a mount: it must be the same for all" if mounted else "which others do not see"
        detail = f"large payloads lie in {folder}, {whose}"
        yield Diagnosis(component="payloads.store", severity=severity, detail=detail, fix=fix)
    elif place.deployed:
        detail = f"large payloads lie in {folder}: right for one machine only"
        yield Diagnosis(component="payloads.store", severity="warn", detail=detail, fix=fix)


def _encrypted(settings: Settings, place: Place) -> Iterator[Diagnosis]:
    if place.cloud and settings.payload_keys is None:
        yield Diagnosis(
            component="payloads.keys",
            severity="warn",
            detail="payloads are not encrypted: whoever hosts Temporal can read what agents say",
            fix="set FLEET_PAYLOAD_KEYS (docs/payloads.md)",
        )


def secret_files(
    settings: Settings, manifest: Manifest, variables: dict[str, str], needed: Needs = None
) -> dict[str, Path]:
    """Files that hold secrets, by what names them."""
    references = set(_references(_tables(manifest, needed)))
    # no worker reads the codec server's
    references |= {one for one in (settings.payload_keys, None if needed else settings.codec_tokens) if one}
    found = {one: Path(one.removeprefix("file:")) for one in references if one.startswith("file:")}
    for one in sorted(references - set(found)):
        name = f"{one.removeprefix('env:')}_FILE"
        if path := variables.get(name):
            found[name] = Path(path)
    own = (*_FILES, *_PRIVATE_KEYS, *(_OF_DATABASE if wanted("database", needed) else ()))
    found |= {name: Path(variables[name]) for name in own if variables.get(name)}
    if settings.tls_certificate is not None and settings.tls_key is None:
        found["FLEET_TLS_CERTIFICATE"] = settings.tls_certificate
    if (config := variables.get("TEMPORAL_CONFIG_FILE")) and _holds_secrets(Path(config)):
        found["TEMPORAL_CONFIG_FILE"] = Path(config)
    with suppress(BadInput):
        found |= _of_url("FLEET_REDIS_URL", settings.redis(), "ssl_keyfile")
    if wanted("database", needed):
        with suppress(BadInput):
            found |= _of_url("FLEET_DATABASE_URL", settings.database(), "sslkey")
    return found


def _holds_secrets(config: Path) -> bool:
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return "api_key" in text or "client_key_data" in text


def _of_url(name: str, url: str, option: str) -> dict[str, Path]:
    """The file of a private key that a URL names."""
    try:
        named = parse_qs(urlsplit(url).query).get(option)
    except ValueError:
        return {}
    return {f"{option} of {name}": Path(named[-1])} if named else {}


def _tables(manifest: Manifest, needed: Needs) -> Any:
    """The manifest, or of it what a pool uses."""
    whole = manifest.model_dump(mode="json")
    if needed is None:
        return whole
    paths = (one.split(".", 1) for one in needed if "." in one)
    return [whole[table].get(name) for table, name in paths]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
    elif isinstance(value, str) and re.match(REFERENCE, value):
        yield value


def files(found: dict[str, Path], place: Place) -> Iterator[Diagnosis]:
    """Whether others may read, or change, a secret."""
    if place.files == "ok":
        # in a pod whoever reads its files runs in it
        return
    well = 0
    for name, path in found.items():
        try:
            mode = path.stat().st_mode
        except OSError as error:
            detail = f"{name}: {path} cannot be read ({error.strerror})"
            yield Diagnosis(component="secrets.files", severity="fail", detail=detail, fix="write the secret there")
            continue
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            detail = f"{name}: {path} is {stat.filemode(mode)}: others may read or change it"
            yield Diagnosis(component="secrets.files", severity=place.files, detail=detail, fix=f"chmod 0600 {path}")
        else:
            well += 1
    if well:
        yield Diagnosis(component="secrets.files", severity="ok", detail=f"{well} are not open to others")


def links(manifest: Manifest, place: Place) -> Iterator[Diagnosis]:
    """Whether approvers' links lead somewhere, unseen by others."""
    url = manifest.approvals.url
    if url is None or not place.deployed:
        return
    parts = urlsplit(url)
    if parts.hostname in ("localhost", "127.0.0.1", "::1"):
        detail = f"approvers' links lead to {parts.hostname}, which is their own machine"
        fix = "name the address that leads to `fleet console` from where they are"
        yield Diagnosis(component="approvals.url", severity="fail", detail=detail, fix=fix)
    elif parts.scheme != "https":
        detail, fix = "approvers' links, which decide, are not encrypted", "serve the console by https://"
        yield Diagnosis(component="approvals.url", severity="warn", detail=detail, fix=fix)


def collector(variables: dict[str, str], place: Place) -> Iterator[Diagnosis]:
    """Whether spans leave a container."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        host = urlsplit(variables.get(name, "")).hostname if _is_url(variables.get(name, "")) else None
        if place.contained and host in ("localhost", "127.0.0.1", "::1"):
            detail = f"{name} is on the loopback, which each container has for itself"
            fix = f"{name}=http://otel-collector:4318"
            yield Diagnosis(component="traces.address", severity="warn", detail=detail, fix=fix)


def _is_url(text: str) -> bool:
    try:
        return bool(urlsplit(text).hostname)
    except ValueError:
        return False


def outsiders(manifest: Manifest, needed: Needs = None) -> Iterable[Outside]:
    """Whom the fleet, or a pool of it, calls at an address that the manifest has."""
    used = {
        model.partition("/")[0]
        for agent in manifest.agents.values()
        for model in (agent.model, agent.context.model or "")
    }
    for name, spec in manifest.providers.items():
        if not wanted(f"providers.{name}", needed):
            continue
        if isinstance(spec, MailProvider):
            yield Outside(
                where=f"providers.{name}.host",
                host=spec.host,
                encrypted=spec.tls != "none",
                fix='set tls = "starttls" or "implicit"',
            )
        elif not isinstance(spec, ModelProvider) or name in used:
            assert isinstance(spec, ModelProvider | SearchProvider | BankProvider | MailApiProvider)
            if spec.base_url is not None and _is_url(spec.base_url):
                parts = urlsplit(spec.base_url)
                yield Outside(
                    where=f"providers.{name}.base_url",
                    host=parts.hostname or "",
                    encrypted=parts.scheme == "https",
                    fix="name its https:// address",
                )


def outside(one: Outside, where: Reach, place: Place) -> list[Diagnosis]:
    """Whether a provider can be where the manifest says, and whether its key may be overheard on the way."""
    if where is Reach.LOOPBACK:
        if not place.contained:
            return []
        detail = f"{one.host} is the loopback, which each container has for itself"
        fix = "name the address that leads there from a container"
        return [Diagnosis(component=one.where, severity="fail", detail=detail, fix=fix)]
    if one.encrypted or not place.deployed:
        return []
    detail = f"what is said to {one.host}, the key included, is not encrypted"
    severity: Severity = "fail" if where is Reach.PUBLIC else "warn"
    return [Diagnosis(component=one.where, severity=severity, detail=detail, fix=one.fix)]
