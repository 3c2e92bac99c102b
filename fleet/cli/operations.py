"""Commands for those who run the fleet."""

from pathlib import Path

import typer

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.cli import context, output
from fleet.contracts.names import SEARCH_ATTRIBUTES
from fleet.errors import BadInput


def check(*, manifest: Path | None, json: bool) -> None:
    """Check the manifest and the settings."""
    settings = environment.load()
    path = context.manifest_path(settings, manifest)
    loaded, problems = manifests.examine(path)
    if loaded is not None:
        problems = _contradictions(loaded)
        loaded = None if problems else loaded
    if json:
        output.document({"manifest": str(path), "ok": not problems, "problems": problems})
    elif loaded is not None:
        typer.echo(
            f"{path}: {len(loaded.providers)} providers, {len(loaded.quotas)} quotas, {len(loaded.pools)} pools,"
            f" {len(loaded.agents)} agents: no problem"
        )
    else:
        for problem in problems:
            output.problem(f"{path}: {problem}")
    raise typer.Exit(2 if problems else 0)


def _contradictions(loaded: manifests.Manifest) -> list[str]:
    """What only the limiter knows of quotas: nesting that means nothing."""
    if not any(spec.within for spec in loaded.quotas.values()) and len(loaded.scopes()) == len(loaded.quotas):
        return []
    from ratelimit.errors import BadQuota
    from ratelimit.quota import check_nesting
    from workers.bootstrap import quotas

    try:
        check_nesting(quotas(loaded))
    except BadQuota as bad:
        return [f"quotas: {bad}"]
    return []


def init(*, manifest: Path | None, json: bool) -> None:
    """Make the namespace know what runs are found by."""

    async def work() -> tuple[str, list[str]]:
        from fleet import attributes
        from fleet.client import connect

        settings, _ = context.load(manifest)
        client = await connect(settings)
        return client.namespace, await attributes.register(client)

    namespace, registered = context.run(work())
    if json:
        output.document({"namespace": namespace, "registered": registered, "search_attributes": SEARCH_ATTRIBUTES})
    elif registered:
        typer.echo(f"namespace {namespace!r}: registered the search attributes {', '.join(registered)}")
    else:
        typer.echo(f"namespace {namespace!r}: knows the search attributes {', '.join(SEARCH_ATTRIBUTES)} already")


def worker(pools: list[str], *, manifest: Path | None) -> None:
    """Serve pools until SIGTERM."""
    settings, loaded = context.load(manifest)
    unknown = [name for name in pools if name not in loaded.pools]
    if unknown:
        raise BadInput(f"unknown pool {unknown[0]!r}; the manifest has: {', '.join(loaded.pools)}")
    from workers.bootstrap import run_pools
    from workers.telemetry import configure_logging

    configure_logging(settings)
    serving = run_pools(settings, loaded, list(dict.fromkeys(pools)))
    context.run(serving, loop=settings.event_loop, service="fleet-worker")
