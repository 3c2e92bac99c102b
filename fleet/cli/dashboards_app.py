"""Declarations of `fleet dashboards …`."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.options import JsonOption

app = typer.Typer(help="Grafana's dashboards of the fleet, and pictures of them.", no_args_is_help=True)

RUNBOOKS = "https://runbooks.example.com/fleet"
"""Where the committed files look for runbooks: nowhere, until an operator says where they are."""


def register(root: typer.Typer) -> None:
    """Join the commands to `root`."""
    root.add_typer(app, name="dashboards")


@app.command("build")
def build(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the files.")] = Path("deploy/grafana/dashboards"),
    runbooks: Annotated[
        str, typer.Option(metavar="URL", help="Where deploy/runbooks is served: panels link to the pages under it.")
    ] = RUNBOOKS,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a file would change.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the dashboards as Grafana's JSON, one file each. Needs the extra `dashboards`."""
    from fleet.cli import dashboards

    dashboards.build(out, runbooks=runbooks, check=check, json=json)


@app.command("render")
def render(
    prometheus: Annotated[str, typer.Option(metavar="URL", help="A Prometheus, as in http://localhost:9090.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pictures.")],
    begin: Annotated[
        str, typer.Option("--from", metavar="INSTANT", help="ISO 8601, or before the end as in -30m.")
    ] = "-1h",
    end: Annotated[str, typer.Option("--to", metavar="INSTANT", help="ISO 8601, or `now`.")] = "now",
    dashboard: Annotated[
        list[str] | None, typer.Option("--dashboard", metavar="UID", help="Only this one. Repeatable. Default: all.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option("--variable", metavar="NAME=REGEX", help="As in scope=openai/.*; repeatable. Default: all."),
    ] = None,
    scrape: Annotated[
        str | None,
        typer.Option(metavar="INTERVAL", help="Between two scrapes, as in 15s. Default: Prometheus says."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw the dashboards from what Prometheus knows, one SVG each."""
    from fleet.cli import dashboards

    dashboards.render(
        prometheus, out, begin=begin, end=end, only=dashboard or [], variables=variable or [], scrape=scrape, json=json
    )
