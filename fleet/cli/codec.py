"""`fleet codec-server` and `fleet payloads`."""

import asyncio
import ipaddress
import signal
from datetime import timedelta

import structlog
import typer

from fleet import settings as environment
from fleet.cli import context, output
from fleet.client import connect, is_embedded, target
from fleet.codec import data_converter
from fleet.console.access import Access
from fleet.console.codec import app, origins
from fleet.documents import plain
from fleet.errors import BadInput
from fleet.keyring import Keyring
from fleet.settings import Settings
from fleet.storage.places import places
from fleet.storage.probe import probe
from fleet.storage.pruning import Pruned
from fleet.storage.pruning import prune as pruned
from workers.telemetry import configure_logging
from workers.tls import Tls
from workers.web import served

MOST_DAYS = 36_500
"""Of `--older-than`."""

log = structlog.get_logger("fleet.codec")


def codec_server(*, host: str, port: int, is_open: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BadInput: nobody is named who may ask, or the port is taken.
    """
    settings = environment.load()
    configure_logging(settings)
    context.run(_serve(settings, host, port, is_open=is_open))


async def _serve(settings: Settings, host: str, port: int, *, is_open: bool) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    access = who_may(settings, host, is_open=is_open)
    embedded = is_embedded(settings)
    server = app(
        data_converter(settings, embedded=embedded),
        places(settings, embedded=embedded),
        access,
        origins(settings.codec_origins),
    )
    tls = Tls.of(settings)
    async with served(server, host, port, what="codec server", remedy="--host and --port", tls=tls) as listening:
        typer.echo(f"codec server at {listening.url}")
        log.info("ready", codec_server=listening.url)
        await listening.until(stopping)
        log.info("draining")
    log.info("stopped")


def who_may(settings: Settings, host: str, *, is_open: bool) -> Access | None:
    """Who may ask; None for whoever reaches an open server.

    Raises:
        BadInput: nobody is named, or an open one would be reached by others than this machine.
    """
    access = Access.of(settings)
    if not is_open:
        if access is None:
            raise BadInput(
                "nobody may ask this codec server: set FLEET_CODEC_TOKENS, or FLEET_CODEC_ISSUER, FLEET_CODEC_AUDIENCE"
                " and FLEET_CODEC_JWKS_URL; or --open, on a loopback address, for whoever reaches it"
            )
        return access
    if access is not None:
        raise BadInput("--open: FLEET_CODEC_* say who may ask: leave one of the two")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadInput(f"--open: {host!r} is no loopback address: others would read everything; use --host 127.0.0.1")
    return None


async def examine(settings: Settings) -> str:
    """How payloads are written here, once one has gone the whole way.

    Raises:
        BadInput: keys or store are set to what they cannot be.
        PayloadLost: a payload does not come back.
    """
    embedded = is_embedded(settings)
    keyring = Keyring.of(settings)
    found = places(settings, embedded=embedded)
    namespace = str(target(settings).get("namespace") or "default")
    became = await probe(data_converter(settings, embedded=embedded), found, namespace)
    secret = f"encrypted with {keyring.newest!r} (keys: {', '.join(keyring.ciphers)})" if keyring else "not encrypted"
    return f"{secret}; compression {settings.payload_compression}; {became}"


def prune(*, older_than: float | None, dry_run: bool, json: bool) -> None:
    """Delete stored payloads that nothing refers to any more.

    Raises:
        BadInput: there is no folder of payloads here, or `older_than` is shorter than the namespace's retention, or
            more than `MOST_DAYS`.
    """
    if older_than is not None and not 0 <= older_than <= MOST_DAYS:
        raise BadInput(f"--older-than {older_than:g}: days from 0 to {MOST_DAYS}")
    settings = environment.load()
    found = places(settings, embedded=is_embedded(settings))
    if not found.folders:
        raise BadInput(
            f"payloads are stored in {found}: only those of a folder are pruned here; for S3 set a lifecycle rule"
            " (docs/payloads.md)"
        )

    async def work() -> list[Pruned]:
        client = await connect(settings)
        age = None if older_than is None else timedelta(days=older_than)
        return [await pruned(client, folder, older_than=age, dry_run=dry_run) for folder in found.folders]

    results = context.run(work())
    if json:
        output.document([{"folder": str(f), **plain(one)} for f, one in zip(found.folders, results, strict=True)])
        return
    for folder, one in zip(found.folders, results, strict=True):
        did = "would delete" if one.dry_run else "deleted"
        typer.echo(
            f"{folder}: {did} {one.deleted} payloads of namespace {one.namespace!r} ({one.freed_bytes / 1e6:.1f} MB);"
            f" of {one.found} older than {one.older_than_s / 86_400:g} days {one.claimed} are referred to"
        )
