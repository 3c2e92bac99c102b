"""Declaration of `fleet exporter`."""

from typing import Annotated

import typer

from fleet.cli.options import ManifestOption

PORT = 8302
"""Where it is scraped, unless it is told another port."""


def register(app: typer.Typer) -> None:
    """Join the command to `app`."""
    app.command(name="exporter")(exporter)


def exporter(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = PORT,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=1, max=300, help="How often it looks.")] = 10.0,
    manifest: ManifestOption = None,
) -> None:
    """Serve the fleet's runs, queues, quotas and approvals as metrics for Prometheus, until SIGTERM."""
    from fleet.cli import exporter as exporters

    exporters.exporter(host=host, port=port, every=every, manifest=manifest)
