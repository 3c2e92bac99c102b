"""Declarations of the commands over payloads: the codec server, and what is stored outside of histories."""

from typing import Annotated

import typer

from fleet.cli.options import JsonOption

payloads_app = typer.Typer(help="Large payloads, which lie outside of histories.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Join the commands to `app`."""
    app.command(name="codec-server")(codec_server)
    app.add_typer(payloads_app, name="payloads")


def codec_server(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8301,
    is_open: Annotated[
        bool, typer.Option("--open", help="Whoever reaches it may read everything: on a loopback address only.")
    ] = False,
) -> None:
    """Show decrypted payloads in Temporal's Web UI and CLI to those who may see them, until SIGTERM."""
    from fleet.cli import codec

    codec.codec_server(host=host, port=port, is_open=is_open)


@payloads_app.command("prune")
def payloads_prune(
    older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="Since last stored. Default: the namespace's retention and 7 days."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete stored payloads that are old and that no run and no schedule of the namespace refers to."""
    from fleet.cli import codec

    codec.prune(older_than=older_than, dry_run=dry_run, json=json)
