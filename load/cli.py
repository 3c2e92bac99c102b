"""Commands that `load` adds to the `fleet` CLI."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import schedule_app
from fleet.cli.options import JsonOption, ManifestOption
from fleet.errors import BadInput
from load import cli_load, cli_schedule

if TYPE_CHECKING:
    from load.bench.report import Report

AgentsOption = Annotated[int, typer.Option("--agents", min=1, max=5000, help="How many agents run.")]
PoolsOption = Annotated[str, typer.Option("--pools", help="Processes of each pool, as in llm=2,search=1.")]
CorpusOption = Annotated[
    Path | None, typer.Option("--corpus", help="Folder of documents. Default: Python's own documentation.")
]

DEFAULT_POOLS = "agents=1,llm=2,search=1,email=1"


def register(app: typer.Typer) -> None:
    """Join the commands to `app`."""
    app.command()(demo)
    app.command()(dev)
    bench_app = typer.Typer(help="Measure, side by side in one run.", no_args_is_help=True)
    bench_app.command("limiter")(bench_limiter)
    bench_app.command("agents")(bench_agents)
    bench_app.command("simulators")(bench_simulators)
    bench_app.command("batch")(bench_batch)
    bench_app.command("instruments")(bench_instruments)
    bench_app.command("stores")(bench_stores)
    bench_app.command("footprint")(bench_footprint)
    app.add_typer(bench_app, name="bench")
    cli_load.register(app)
    cli_schedule.register(schedule_app.app)


def demo(
    agents: AgentsOption = 40,
    pools: PoolsOption = DEFAULT_POOLS,
    corpus: CorpusOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the real provider of OPENAI_API_KEY or ANTHROPIC_API_KEY.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="With --live: provider/model.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the questions.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and keep it. Default: a temporary one.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until the verdict is given anyway.")] = 600.0,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Run the main job and give a verdict.

    Agents research questions and e-mail briefs, on an embedded stack, under one quota.
    """
    from load import demo as job

    options = job.Options(
        agents=agents,
        pools=job.parse_pools(pools),
        corpus=corpus,
        live=live,
        model=model,
        seed=seed,
        folder=keep,
        timeout_s=timeout,
        manifest=manifest,
        json=json,
    )
    raise typer.Exit(job.run(options))


def dev(
    pools: PoolsOption = DEFAULT_POOLS,
    corpus: CorpusOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the manifest's own providers instead of simulators.")
    ] = False,
    stack_only: Annotated[bool, typer.Option("--stack-only", help="Temporal and Valkey alone: no workers.")] = False,
    temporal_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 7233,
    ui_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8233,
    redis_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 6379,
    console_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8300,
    manifest: ManifestOption = None,
) -> None:
    """Run a whole fleet here until Ctrl-C.

    Servers, worker pools and simulated providers.
    """
    from load import demo as job
    from load import dev as development

    ports = (temporal_port, ui_port, redis_port)
    processes = {} if stack_only else job.parse_pools(pools)
    raise typer.Exit(
        development.run(
            pools=processes,
            corpus=corpus,
            live=live,
            stack_only=stack_only,
            console_port=console_port,
            ports=ports,
            manifest=manifest,
        )
    )


def bench_limiter(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter: under three minutes, noisier.")] = False,
    peers: Annotated[
        bool, typer.Option(help="Measure other limiters too, in an environment that the first run makes for them.")
    ] = True,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the figures into this .svg or .png file. Needs the peers.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure the limiter against redis-py's own floor, other limiters and an independent provider.

    The exit code is 0 only if every figure is within its bound.
    """
    import asyncio

    from fleet.cli import output
    from load.bench import limiter

    if picture is not None and (picture.suffix not in (".svg", ".png") or not picture.parent.is_dir() or not peers):
        output.problem(f"--picture {picture}: must be an .svg or .png file in a folder that exists, and needs --peers")
        raise typer.Exit(2)
    report = asyncio.run(
        limiter.run(
            quick=quick,
            peers=peers,
            picture=picture and picture.absolute(),
            say=lambda line: typer.echo(line, err=True),
        )
    )
    raise typer.Exit(_shown(report, json=json))


def bench_simulators(
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, max=60, help="Of each measurement.")] = 4.0,
    json: JsonOption = False,
) -> None:
    """Measure how many requests a second one process of simulated providers serves."""
    import asyncio

    from load.bench import simulators

    report = asyncio.run(simulators.run(seconds=seconds, say=lambda line: typer.echo(line, err=True)))
    raise typer.Exit(_shown(report, json=json))


def bench_agents(
    sizes: Annotated[str, typer.Option("--sizes", help="Numbers of agents, ascending.")] = "100,500,2000",
    json: JsonOption = False,
) -> None:
    """Measure how many agents this machine carries, at which rate and with how much memory, and what bends."""
    import asyncio

    from fleet.cli import output
    from load.bench import agents

    counts = [part.strip() for part in sizes.split(",")]
    if not all(count.isdigit() and 1 <= int(count) <= 10_000 for count in counts):
        raise BadInput(f"--sizes {sizes}: must be numbers of agents from 1 to 10000, as in 100,500,2000")
    ordered = sorted({int(count) for count in counts})
    found = asyncio.run(agents.run(ordered, lambda line: typer.echo(line, err=True)))
    if json:
        output.document(found.document())
        return
    for title, heads, lines in found.tables():
        typer.echo(f"\n{title}")
        output.table(heads, lines, empty="")
    typer.echo(f"\n{found.says()}")


def bench_batch(
    items: Annotated[
        int, typer.Option("--items", min=0, max=10_000, help="Of each batch and bare workflow. 0: no comparison.")
    ] = 600,
    documents: Annotated[int, typer.Option("--documents", min=0, max=10_000, help="Read under fire. 0: none.")] = 2000,
    kills: Annotated[int, typer.Option("--kills", min=0, max=10, help="Of every worker, meanwhile.")] = 2,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=20, help="Of the comparison.")] = 5,
    json: JsonOption = False,
) -> None:
    """Measure a batch beside bare activities, and have it read documents while its workers are killed.

    The exit code is 0 only if every figure is within its bound.
    """
    import asyncio

    from load.bench import batch

    report = asyncio.run(
        batch.run(
            compared=items, read=documents, kills=kills, rounds=rounds, say=lambda line: typer.echo(line, err=True)
        )
    )
    raise typer.Exit(_shown(report, json=json))


def bench_instruments(
    agents: Annotated[int, typer.Option("--agents", min=1, max=2000, help="That begin at once in each turn.")] = 100,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=50, help="Turns of each fleet.")] = 7,
    json: JsonOption = False,
) -> None:
    """Measure what metrics and traces cost: two fleets in turns, one that counts, is scraped and traces, and one that
    does not.

    The exit code is 0 only if every figure is within its bound.
    """
    import asyncio

    from load.bench import instruments

    report = asyncio.run(instruments.run(agents=agents, rounds=rounds, say=lambda line: typer.echo(line, err=True)))
    raise typer.Exit(_shown(report, json=json))


def bench_stores(
    seconds: Annotated[float, typer.Option("--seconds", min=0.2, max=60, help="Of each measurement.")] = 3.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=20, help="Every case once in each.")] = 3,
    share: Annotated[
        float | None,
        typer.Option(
            "--share", min=0.05, max=1, help="Of a processor that each server gets at most. Needs root, on Linux."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure how many calls of a model one server of the limiter's store carries, beside a Cluster of three masters.

    The exit code is 0 only if every figure is within its bound.
    """
    import asyncio

    from load.bench import stores

    report = asyncio.run(
        stores.run(seconds=seconds, rounds=rounds, share=share, say=lambda line: typer.echo(line, err=True))
    )
    raise typer.Exit(_shown(report, json=json))


def bench_footprint(
    agents: Annotated[int, typer.Option("--agents", min=1, max=2000, help="That run.")] = 40,
    rows: Annotated[int, typer.Option("--rows", min=100, max=1_000_000, help="Of each table.")] = 2000,
    database: Annotated[
        str | None, typer.Option("--database", help="URL of an empty database. Default: SQLite, thrown away.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure what one run leaves behind, what one row takes, and what one process holds open."""
    import asyncio

    from load.bench import footprint

    report = asyncio.run(
        footprint.run(agents=agents, rows=rows, database=database, say=lambda line: typer.echo(line, err=True))
    )
    raise typer.Exit(_shown(report, json=json))


def _shown(report: "Report", *, json: bool) -> int:
    """Print what was measured; the exit code is 0 only if every figure is within its bound."""
    from fleet.cli import output

    if json:
        output.document({"checks": report.checks, "rows": report.rows})
    else:
        for title, heads, lines in report.tables():
            typer.echo(f"\n{title}")
            output.table(heads, lines, empty="")
        if not report.checks:
            return 0
        typer.echo("")
        rows = [("ok" if c.ok else "MISSED", c.name, f"{c.value:g}", c.target) for c in report.checks]
        output.table(("", "CHECK", "VALUE", "TARGET"), rows, empty="")
    return 0 if all(check.ok for check in report.checks) else 1
