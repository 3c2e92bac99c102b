"""The `fleet` command."""

import gc
import os
import signal
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fleet.cli import (
    approvals_app,
    batch_app,
    codec_app,
    dashboards_app,
    deploy_app,
    doctor_app,
    exporter_app,
    history_app,
    output,
    quota_app,
    records_app,
    rollout_app,
    schedule_app,
    steering_app,
    top_app,
)
from fleet.cli.options import JsonOption, LimitOption, ManifestOption, QueryOption, RunArgument
from fleet.errors import FleetError

COLLECTED = (50_000, 20, 50)
"""When the garbage collector looks: new objects before the youngest are looked at, and how often the older ones are."""

app = typer.Typer(
    name="fleet",
    help="Durable LLM agents under one global quota.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(help="The local document collection that `search` reads.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")
app.add_typer(quota_app.app, name="quota")
app.add_typer(approvals_app.app, name="approvals")
app.add_typer(batch_app.app, name="batch")
app.add_typer(schedule_app.app, name="schedule")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fleet {version('agent-fleet')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def run(
    agent: Annotated[str, typer.Argument(help="An agent of the manifest.")],
    goal: Annotated[str, typer.Argument(help="What it is to do.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run and print its answer.")] = False,
    run_id: Annotated[str | None, typer.Option("--id", help="Id of the run. Default: made up.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose run it is: the fairness key.")] = "default",
    priority: Annotated[int, typer.Option(help="1 (first) to 4.")] = 3,
    tell: Annotated[
        list[str] | None, typer.Option(metavar="ENDPOINT", help="A webhook endpoint that is told the end. Repeatable.")
    ] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Start a run of AGENT towards GOAL and print its id."""
    from fleet.cli import runs

    runs.run(
        agent,
        goal,
        wait=wait,
        run_id=run_id,
        tenant=tenant,
        priority=priority,
        tell=tell or [],
        manifest=manifest,
        json=json,
    )


@app.command()
def ps(
    state: Annotated[
        str | None, typer.Option(help="running, completed, failed, canceled, terminated, timedout.")
    ] = None,
    query: QueryOption = None,
    limit: LimitOption = 50,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    from fleet.cli import runs

    runs.ps(state=state, query=query, limit=limit, manifest=manifest, json=json)


@app.command()
def show(run_id: RunArgument, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Show where one run stands, or how it ended."""
    from fleet.cli import runs

    runs.show(run_id, manifest=manifest, json=json)


@app.command()
def why(run_id: RunArgument, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """What a run waits for: which quota and its place in line, which provider, which queue."""
    from fleet.cli import why as whys

    whys.why(run_id, manifest=manifest, json=json)


history_app.register(app)
steering_app.register(app)
top_app.register(app)


@app.command()
def check(manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Check manifest and settings.

    Prints every problem at once.
    """
    from fleet.cli import operations

    operations.check(manifest=manifest, json=json)


doctor_app.register(app)


@app.command()
def init(manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Make Temporal's namespace know what runs are found by. Safe to run twice."""
    from fleet.cli import operations

    operations.init(manifest=manifest, json=json)


@app.command()
def console(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8300,
    manifest: ManifestOption = None,
) -> None:
    """Serve the page on which approvers decide, until SIGTERM."""
    from fleet.cli import console as consoles

    consoles.console(host=host, port=port, manifest=manifest)


@app.command()
def worker(
    pools: Annotated[list[str], typer.Argument(metavar="POOL…", help="Pools to serve: agents, llm, search, email, …")],
    manifest: ManifestOption = None,
) -> None:
    """Serve pools until SIGTERM, then drain."""
    from fleet.cli import operations

    operations.worker(pools, manifest=manifest)


@corpus_app.command("add")
def corpus_add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Text, Markdown, HTML and PDF files, at any depth.")],
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Index a folder. Unchanged files are skipped."""
    from fleet.cli import corpus

    corpus.add(folder, manifest=manifest, json=json)


@corpus_app.command("search")
def corpus_search(
    query: Annotated[str, typer.Argument(help="A few words.")],
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Search the collection as an agent would."""
    from fleet.cli import corpus

    corpus.search(query, limit=limit, manifest=manifest, json=json)


records_app.register(app)
codec_app.register(app)
dashboards_app.register(app)
deploy_app.register(app)
exporter_app.register(app)
rollout_app.register(app)


def main() -> NoReturn:
    """Entry point: bad input is one line and exit code 2; the process always ends orderly.

    It ends by `os._exit` after flushing: a Temporal client alive at interpreter exit aborts one process in ten.
    """
    if os.getpid() == 1:
        # the first process of a container has no default for it: until a command drains on it, it ends at once
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    # modules and what they define are thousands of objects, none of them garbage: by default the collector would walk
    # through all of them a dozen times before a worker is ready
    gc.set_threshold(*COLLECTED)
    extend()
    code = _run(app)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def extend() -> None:
    """Add the commands of other rooms. To be called once."""
    for extension in entry_points(group="fleet.commands"):
        extension.load()(app)


def _run(command: Any) -> int:
    try:
        # an Exit comes back as its code
        code = command(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except FleetError as error:
        output.problem(str(error))
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - the last handler of the process
        # click's usage errors are known by their shape: typer carries a click of its own
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message())
            else:
                output.problem(error.format_message())
            return 2
        # anything else is a defect and keeps its traceback
        import traceback

        traceback.print_exc()
        return 1


if __name__ == "__main__":
    main()
