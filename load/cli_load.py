"""`fleet load …`: scenarios, reports, comparisons."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli import output
from fleet.cli.options import JsonOption, ManifestOption
from fleet.errors import BadInput, FleetError

if TYPE_CHECKING:
    from fleet.manifest import Manifest
    from load.report import Report
    from load.scenario import Parameters


def register(app: typer.Typer) -> None:
    """Join the commands to `app`."""
    from load import cli_planner

    load_app = typer.Typer(help="Offer load, inject faults, get a verdict.", no_args_is_help=True)
    load_app.command("ls")(ls)
    load_app.command("run")(run)
    load_app.command("compare")(compare)
    load_app.command("simulate")(cli_planner.simulate)
    load_app.command("replay")(cli_planner.replay)
    app.add_typer(load_app, name="load")


def ls(
    name: Annotated[str | None, typer.Argument(help="One scenario: its parameters and its oracles.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """List the scenarios; of one, its parameters and oracles."""
    from load import scenario
    from load.plants import PLANTS

    if name is None:
        found = [scenario.find(one) for one in scenario.names()]
        if json:
            output.document([{"name": one.name, "says": one.says, "short": dict(one.short)} for one in found])
        else:
            output.table(("SCENARIO", "WHAT"), [(one.name, one.says) for one in found], empty="")
        return
    one = scenario.find(name)
    held = scenario.oracles(one, _with_our_agents(manifest))
    if json:
        output.document(
            {
                "name": one.name,
                "says": one.says,
                "parameters": dict(one.described()),
                "oracles": {oracle.name: oracle.says for oracle in held},
                "short": dict(one.short),
            }
        )
        return
    typer.echo(f"{one.name}: {one.says}\n")
    output.table(("PARAMETER", "MEANING"), list(one.described()), empty="")
    typer.echo("")
    output.table(("ORACLE", "BOUND", "VALUE"), [(o.name, f"{o.bound:g}", o.says) for o in held], empty="")
    typer.echo(f"\nPlants (--plant), each of which a trial must catch: {', '.join(PLANTS)}")


def _with_our_agents(manifest: Path | None) -> "Manifest":
    from fleet import manifest as manifests
    from fleet import settings as environment
    from load import harness
    from load.scenario import Stage

    with TemporaryDirectory(prefix="fleet-load-") as folder:
        source = manifest or environment.load().manifest
        return manifests.load(harness.prepared(source, Path(folder) / "load.toml", Stage()))


def run(
    name: Annotated[str, typer.Argument(help="A scenario of `fleet load ls`, or the path of your own file.")],
    agents: Annotated[int | None, typer.Option("--agents", help="Runs that are offered.")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="How long load is offered, as in 90s or 5m.")] = None,
    pools: Annotated[str | None, typer.Option("--pools", help="Processes of each pool, as in llm=2,search=1.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draws arrivals, victims, latencies.")] = None,
    option: Annotated[list[str] | None, typer.Option("-o", help="A parameter, as in -o pressure=2.")] = None,
    short: Annotated[bool, typer.Option("--short", help="The short form: under a minute.")] = False,
    modes: Annotated[
        str,
        typer.Option(
            "--modes", help="Who limits, one after the other: global,backoff,temporal,process,process-divided."
        ),
    ] = "global",
    plant: Annotated[list[str] | None, typer.Option("--plant", help="Put in misbehaviour that must be caught.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the report. Default: .fleet/load/…")] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Run the servers in this folder and keep it, logs and all.")
    ] = None,
    probe: Annotated[float, typer.Option("--probe", min=0, max=60, help="Seconds to measure a bare workflow.")] = 2.0,
    linger: Annotated[
        float,
        typer.Option("--linger", min=0, max=3600, help="Seconds to keep everything up after the verdict."),
    ] = 0.0,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Run a scenario on an embedded stack and give a verdict. The exit code is 0 only if every oracle holds."""
    from fleet import settings as environment
    from load import harness, scenario, scraped
    from load.plants import PLANTS
    from load.view import View

    found = scenario.find(name)
    given: dict[str, Any] = dict(found.short) if short else {}
    given |= {k: v for k, v in {"agents": agents, "for": for_, "pools": pools, "seed": seed}.items() if v is not None}
    given |= dict(_assigned(one) for one in option or ())
    asked = found.ask(given)
    for one in plant or ():
        if one not in PLANTS:
            raise BadInput(f"--plant {one}: there are: {', '.join(PLANTS)}")
    wanted = _modes(modes)
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise BadInput(f"--keep {keep}: is not empty: runs of an earlier trial would go on in this one")
    if keep is not None and not json:
        typer.echo(f"metrics  {scraped.command(keep.absolute() / 'prometheus')}", err=True)
    settings = environment.load()
    folder = out or settings.state_dir / "load" / f"{found.name}-{asked.seed}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    reports: dict[str, Report] = {}
    order = harness.Order(
        scenario=found,
        asked=asked,
        manifest=manifest or settings.manifest,
        probe_s=probe,
        plants=tuple(plant or ()),
        keep=keep,
        command=_command(name, asked, wanted, plant or [], manifest),
        linger_s=linger,
    )
    for mode in wanted:
        view = View(quiet=json)
        try:
            # the first one has measured what runs cost, and what the quotas must be
            there = folder / mode if len(wanted) > 1 else folder
            order = replace(order, mode=mode, out=there, keep=keep / mode if keep and len(wanted) > 1 else keep)
            done = asyncio.run(harness.run(order, settings, view))
        except FleetError as error:
            if not reports:
                raise
            # what the modes before have shown is told all the same
            output.problem(f"--modes: {mode}: {error}")
            break
        finally:
            view.close()
        reports[mode], order = done.report, replace(order, given=done.measured)
        if done.report.interrupted:
            break
    raise typer.Exit(_told(reports, folder, json=json))


def _command(name: str, asked: "Parameters", modes: list[str], plants: list[str], manifest: Path | None) -> list[str]:
    """What repeats the trial."""
    found = ["fleet", "load", "run", name, *(f"--plant={plant}" for plant in plants)]
    found += ["--manifest", str(manifest)] if manifest else []
    for key, value in asked.model_dump(by_alias=True, exclude_defaults=True).items():
        found += ["-o", f"{key}={value}"]
    return [*found, "--modes", ",".join(modes)] if len(modes) > 1 else found


def _assigned(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise BadInput(f"-o {text}: must be a parameter and its value, as in -o pressure=2")
    return key, value


def _modes(text: str) -> list[str]:
    from load.harness import GLOBAL, MODES

    wanted = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for one in wanted:
        if one not in MODES:
            raise BadInput(f"--modes {text}: {one!r} is none of {', '.join(MODES)}")
    # it measures what the others are given
    return [GLOBAL, *(one for one in wanted if one != GLOBAL)]


def compare(
    a: Annotated[Path, typer.Argument(help="A report's folder or its report.json.")],
    b: Annotated[Path, typer.Argument(help="The other, which is better or worse.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the charts of both.")] = None,
    json: JsonOption = False,
) -> None:
    """Hold two reports against each other. The exit code is 1 if an oracle that held no longer does."""
    from load import comparing, report

    found = comparing.compare(report.read(a), report.read(b))
    if html is not None:
        _write(html, found.html())
    if json:
        output.document(found.document())
    else:
        found.show()
    broke = {o["name"] for o in found.a["oracles"] if o["ok"]} & {o["name"] for o in found.b["oracles"] if not o["ok"]}
    raise typer.Exit(1 if broke else 0)


def _told(reports: "dict[str, Report]", folder: Path, *, json: bool) -> int:
    """Say how it ended; the exit code. Of several modes it is that of `global`: what the others break is shown."""
    from load import comparing, report

    first = next(iter(reports.values()))
    if len(reports) == 1:
        if json:
            output.document(first.document())
        else:
            typer.echo(report.markdown(first.document()))
            typer.echo(f"report   {folder / 'report.html'}")
    else:
        found = comparing.modes({mode: one.stored() for mode, one in reports.items()})
        _write(folder / "modes.html", found.html())
        _write(folder / "modes.md", found.markdown())
        if json:
            output.document({**first.document(), "modes": found.document()})
        else:
            found.show()
            typer.echo(f"\nreport   {folder / 'modes.html'}")
    interrupted = any(one.interrupted for one in reports.values())
    return 0 if first.ok and not interrupted else 1


def _write(path: Path, text: str) -> None:
    from load import report

    try:
        report.store(path, text)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
