"""`fleet load simulate` and `fleet load replay`: their options, and what they print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.options import JsonOption, ManifestOption

if TYPE_CHECKING:
    from fleet.manifest import Manifest
    from load.advice import Advice
    from load.behaviour import Habits
    from load.replay import Replayed
    from load.workload import Shape

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SCOPE:LIMIT=RATE", help="Another limit, as openai/gpt-5:tokens=180k/m. Repeatable."),
]
EngineOption = Annotated[
    float, typer.Option("--engine", min=0, help="Activities a second that Temporal carries. 0: any number.")
]
PoolsOption = Annotated[
    str | None,
    typer.Option("--pools", help="Processes of each pool, as in llm=2,search=1. Others: one. none: no bound."),
]


def simulate(
    agents: Annotated[int, typer.Option("--agents", help="How many runs, 1 to 100,000; with --every in each period.")],
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="NAME[=SHARE]", help="Which. Repeatable. Default: the manifest's first."),
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", metavar="NAME[=SHARE]", help="Whose runs. Repeatable.")
    ] = None,
    priority: Annotated[
        list[str] | None, typer.Option("--priority", metavar="1-4[=SHARE]", help="How urgent. Repeatable. Default: 3.")
    ] = None,
    once: Annotated[bool, typer.Option("--at-once", help="They arrive together. The default.")] = False,
    over: Annotated[str | None, typer.Option("--over", help="They arrive evenly over this time, as 10m.")] = None,
    every: Annotated[str | None, typer.Option("--every", help="They are schedules of this period, as 1h.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="With --every: how many periods.")] = 1,
    rate: Annotated[str | None, typer.Option("--rate", help="They arrive independently, as 5/s or 100/m.")] = None,
    jitter: Annotated[
        str | None, typer.Option("--jitter", help="Each comes later by a random time up to this.")
    ] = None,
    calls: Annotated[
        int | None, typer.Option("--calls", min=1, max=1000, help="Calls of the model in a run. Default: by its tools.")
    ] = None,
    output: Annotated[
        float,
        typer.Option("--output-share", min=0.01, max=1, help="Of max_output_tokens, that the median call writes."),
    ] = 0.4,
    latency: Annotated[
        str | None, typer.Option("--latency", help="Median of a model's call, as 2s. Default: by what it writes.")
    ] = None,
    tool_latency: Annotated[str, typer.Option("--tool-latency", help="Median of a tool's call.")] = "300ms",
    recorded: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Runs as recorded by a trial, not by definitions.")
    ] = None,
    changes: SetOption = None,
    pools: PoolsOption = None,
    max_active: Annotated[int | None, typer.Option("--max-active", min=1, help="Instead of the manifest's.")] = None,
    engine: EngineOption = 100.0,
    cold: Annotated[bool, typer.Option("--cold", help="Begin with empty buckets, as after a loss of Redis.")] = False,
    advise: Annotated[
        bool, typer.Option("--advise", help="Also say which jitter, processes and quotas to set.")
    ] = False,
    wait: Annotated[str, typer.Option("--wait", help="With --advise: the p99 wait that is wanted.")] = "30s",
    curves: Annotated[bool, typer.Option("--curves", help="With --json: queues, runs and use over time.")] = False,
    seed: Annotated[int, typer.Option(help="Draws arrivals, tokens and latencies.")] = 1,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Say what so many agents would meet under the quotas: waits, ends, use of limits, money. Starts nothing."""
    from dataclasses import replace

    from fleet import settings
    from fleet.cli import context
    from fleet.cli import output as printing
    from fleet.errors import BadInput
    from fleet.manifest import load
    from load import advice, figures, planner, workload
    from load.replay import read, runs_of
    from load.simulation import simulate as simulated

    loaded = load(context.manifest_path(settings.load(), manifest))
    shape = _shape(once=once, over=over, every=every, rounds=rounds, rate=rate, jitter=jitter)
    if not 1 <= agents * shape.rounds <= workload.MOST_RUNS:
        raise BadInput(f"--agents {agents}: must be 1 to {workload.MOST_RUNS:,} runs, all rounds together")
    mix = workload.Mix(
        agents=_shares("--agent", agent or [next(iter(loaded.agents), "")]),
        tenants=_shares("--tenant", tenant or ["default"]),
        priorities={_priority(name): share for name, share in _shares("--priority", priority or ["3"]).items()},
    )
    habits = _habits(calls, output, latency, tool_latency)
    if recorded is not None:
        bank = [tuple(run.calls) for run in runs_of(read(recorded), loaded)]
        scripts = dict.fromkeys(mix.agents, lambda source: source.choice(bank))
    else:
        from load.behaviour import script

        scripts = {name: script(loaded, name, habits) for name in mix.agents}

    given = planner.conditions(loaded, processes=_processes(loaded, pools), activities_per_s=engine or None)
    given = replace(
        given,
        quotas=planner.with_limits(given.quotas, changes or []),
        max_active=max_active or given.max_active,
        full=not cold,
    )

    def offer(of: "Shape") -> list[workload.Run]:
        return workload.offered(mix, scripts, of.arrivals(agents, seed), seed)

    found = simulated(offer(shape), given)
    told = figures.document(found, given, curves=curves)
    if shape.kind == "every":
        told["fits"] = planner.fits(found, shape.span_s)
    said: list[Advice] = []
    if advise:
        wanted = _seconds("--wait", wait)
        slots = {name: spec.slots for name, spec in loaded.pools.items()}
        said = advice.advise(advice.Question(offer=offer, shape=shape, conditions=given, wait_s=wanted, slots=slots))
        told["advice"] = said
    if json:
        printing.document(told)
    else:
        _print(told)
        _print_advice(said)


def replay(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A trial's report, or its reservations.jsonl.")],
    changes: SetOption = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", metavar="TENANT=WEIGHT", help="Another weight. Repeatable.")
    ] = None,
    jitter: Annotated[str | None, typer.Option("--jitter", help="Each run comes later by up to this.")] = None,
    estimator: Annotated[
        str, typer.Option("--estimator", help="recorded, exact, max_output, profile, or x1.5: times the recorded.")
    ] = "recorded",
    order: Annotated[
        str, typer.Option("--order", help="fleet: by priority and tenant, runs in flight first. fifo: first come.")
    ] = "fleet",
    pools: PoolsOption = "none",
    max_active: Annotated[int | None, typer.Option("--max-active", min=1, help="Instead of the manifest's.")] = None,
    sweep: Annotated[bool, typer.Option(help="Also replay at half to twice the quotas.")] = True,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the figures and curves.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Replay what a run reserved against other quotas, weights, arrivals and estimates. Starts nothing."""
    from dataclasses import replace

    from fleet import settings
    from fleet.cli import context, output
    from fleet.errors import BadInput
    from fleet.manifest import load
    from load import planner, whatif
    from load.replay import Change, read
    from load.replay import replay as replayed

    reservations = read(folder)
    loaded = load(_manifest(folder, manifest) or context.manifest_path(settings.load(), None))
    if order not in ("fleet", "fifo"):
        raise BadInput(f"--order {order!r} is not one of fleet, fifo")
    given = planner.conditions(loaded, processes=_processes(loaded, pools), activities_per_s=None)
    # gaps are recorded with all that the engine took; nothing was impossible, since it happened
    given = replace(given, dispatch_s=0.0, patience_s={})
    change = Change(
        conditions=replace(
            given,
            quotas=planner.with_limits(given.quotas, changes or []),
            weights={**given.weights, **_weights(weight or [])},
            max_active=max_active or given.max_active,
            ordered=order == "fleet",
        ),
        jitter_s=0.0 if jitter is None else _seconds("--jitter", jitter),
        estimator=estimator,
    )
    found = replayed(reservations, given, change, loaded, sweep=sweep or html is not None)
    if html is not None:
        whatif.write(html, found, title=f"What if: {folder.name or folder}")
    if json:
        output.document(
            {
                "recorded": found.recorded,
                "baseline": found.baseline,
                "what_if": found.changed,
                "drift": round(found.drift, 4),
                "curve": [
                    dict(zip(("factor", "wait_p50_s", "wait_p99_s", "utilisation"), x, strict=True))
                    for x in found.curve
                ],
            }
        )
    else:
        _print_replayed(found)


def _manifest(folder: Path, named: Path | None) -> Path | None:
    """The one that is named, else the one of the trial."""
    if named is not None:
        return named
    kept = (folder if folder.is_dir() else folder.parent) / "fleet.toml"
    return kept if kept.is_file() else None


def _seconds(what: str, text: str) -> float:
    from fleet.rates import read_duration

    return read_duration(what, text).total_seconds()


def _shape(
    *, once: bool, over: str | None, every: str | None, rounds: int, rate: str | None, jitter: str | None
) -> "Shape":
    from fleet.errors import BadInput
    from fleet.rates import read_rate
    from load.workload import Shape

    named = [
        name for name, value in (("--at-once", once), ("--over", over), ("--every", every), ("--rate", rate)) if value
    ]
    if len(named) > 1:
        raise BadInput(f"{' and '.join(named)}: runs arrive in one way: name one of them")
    jitter_s = _seconds("--jitter", jitter) if jitter else 0.0
    if rounds > 1 and not every:
        raise BadInput(f"--rounds {rounds}: only --every has rounds")
    if over:
        return Shape(kind="over", span_s=_seconds("--over", over), jitter_s=jitter_s)
    if rate:
        found = read_rate("requests", rate)
        return Shape(kind="rate", span_s=found.per.total_seconds() / found.units, jitter_s=jitter_s)
    if not every:
        return Shape(jitter_s=jitter_s)
    period = _seconds("--every", every)
    if jitter_s > period:
        raise BadInput(f"--jitter {jitter}: must be at most the period, {every}")
    return Shape(kind="every", span_s=period, jitter_s=jitter_s, rounds=rounds)


def _shares(option: str, texts: list[str]) -> dict[str, float]:
    from fleet.errors import BadInput

    found: dict[str, float] = {}
    for text in texts:
        name, equals, share = text.rpartition("=") if "=" in text else (text, "", "")
        try:
            found[name] = float(share) if equals else 1.0
        except ValueError:
            found[name] = 0.0
        if not name or not 0 < found[name] < 1e9:
            raise BadInput(f"{option} {text!r} does not look like name or name=3; shares are greater than zero")
    return found


def _weights(texts: list[str]) -> dict[str, float]:
    from fleet.errors import BadInput

    if bare := next((text for text in texts if "=" not in text), None):
        raise BadInput(f"--weight {bare!r} does not look like tenant=3")
    found = _shares("--weight", texts)
    for tenant, weight in found.items():
        if not 0.001 <= weight <= 1000:
            raise BadInput(f"--weight {tenant}={weight:g}: must be 0.001 to 1000, as in the manifest")
    return found


def _priority(text: str) -> int:
    from fleet.contracts.runs import LAST_PRIORITY
    from fleet.errors import BadInput

    if not text.isdigit() or not 1 <= int(text) <= LAST_PRIORITY:
        raise BadInput(f"--priority {text!r} is not between 1 (first) and {LAST_PRIORITY}")
    return int(text)


def _habits(calls: int | None, share: float, latency: str | None, tool_latency: str) -> "Habits":
    from load.behaviour import Habits
    from load.workload import Spread

    return Habits(
        calls=calls,
        output_share=share,
        latency=Spread(median=_seconds("--latency", latency), sigma=0.4) if latency else None,
        tool_latency=Spread(median=_seconds("--tool-latency", tool_latency), sigma=0.4),
    )


def _processes(manifest: "Manifest", text: str | None) -> dict[str, int]:
    """Of every pool that makes calls: those that are named, else one."""
    from fleet.errors import BadInput
    from fleet.tables import AGENTS_POOL

    if text == "none":
        return {}
    found = {pool: 1 for pool in manifest.pools if pool != AGENTS_POOL}
    for part in (text or "").split(",") if text else []:
        name, _, count = part.strip().partition("=")
        if name not in manifest.pools:
            raise BadInput(f"--pools: unknown pool {name!r}; the manifest has: {', '.join(manifest.pools)}")
        if not count.isdigit() or not 1 <= int(count) <= 10_000:
            raise BadInput(f"--pools: {name}={count} is not a number of processes from 1 to 10,000")
        found[name] = int(count)
    return found


def _print(told: dict[str, Any]) -> None:
    from fleet.cli import output

    shown = output.seconds
    typer.echo(f"runs     {told['runs']:,} with {told['calls']:,} calls, all done after {shown(told['finished_s'])}")
    typer.echo(f"starts   {_quantiles(told['first_call_s'])}")
    typer.echo(f"run      {_quantiles(told['run_s'])}")
    if told["door_s"]["max"] > 0:
        typer.echo(f"door     {_quantiles(told['door_s'])}: as many runs are active as may be")
    typer.echo(f"waits    {_quantiles(told['call_wait_s'])}, of a call")
    if told["money"]:
        typer.echo("cost     " + ", ".join(f"{amount:,.2f} {currency}" for currency, amount in told["money"].items()))
    engine = told["engine"]
    if engine["utilisation"] is not None:
        typer.echo(f"engine   {engine['utilisation']:.0%} of {engine['activities_per_s']:g} activities/s")
    if "fits" in told:
        typer.echo(f"periods  each round {'is' if told['fits'] else 'is NOT'} done before the next one begins")
    typer.echo("")
    rows = [
        (name, f"{one['count']:,}", *(shown(one[q]) for q in ("p50", "p95", "p99", "max")), _reasons(one["for"]))
        for name, one in told["waits"].items()
    ]
    output.table(("CALLS TO", "CALLS", "WAIT P50", "P95", "P99", "MAX", "WAITS FOR"), rows, empty="no calls")
    typer.echo("")
    rows = [
        (scope, name, f"{one['rate'] * 60:,.6g}/m", f"{one['used']:,.6g}", f"{one['utilisation']:.1%}")
        for scope, limits in told["limits"].items()
        for name, one in limits.items()
    ]
    output.table(("SCOPE", "LIMIT", "PLANNED RATE", "USED", "UTILISATION"), rows, empty="no quota is used")
    typer.echo("")
    rows = [
        (name, _count(one["slots"]), f"{one['busy_mean']:.1f}", _count(one["busy_p99"]), _count(one["busy_max"]))
        for name, one in told["pools"].items()
    ]
    output.table(("POOL", "SLOTS", "BUSY MEAN", "P99", "MAX"), rows, empty="no pools")
    for what in ("agents", "tenants", "priorities"):
        if len(told[what]) > 1:
            typer.echo("")
            _print_groups(what, told[what])


def _print_groups(what: str, groups: dict[str, Any]) -> None:
    from fleet.cli import output

    shown = output.seconds
    rows = [
        (
            name,
            f"{one['runs']:,}",
            shown(one["first_call_s"]["p50"]),
            shown(one["first_call_s"]["p99"]),
            shown(one["run_s"]["p50"]),
            shown(one["run_s"]["p99"]),
            shown(one["finished_s"]),
            ", ".join(f"{amount:,.2f} {currency}" for currency, amount in one["money"].items()),
        )
        for name, one in groups.items()
    ]
    heads = (what.upper(), "RUNS", "START P50", "P99", "RUN P50", "P99", "DONE AFTER", "COST")
    output.table(heads, rows, empty="")


def _quantiles(spread: dict[str, float]) -> str:
    from fleet.cli.output import seconds

    told = ", ".join(f"{name} {seconds(spread[name])}" for name in ("p50", "p95", "p99"))
    return f"{told}, longest {seconds(spread['max'])}"


def _reasons(shares: dict[str, float]) -> str:
    return ", ".join(f"{reason} {share:.0%}" for reason, share in shares.items() if share >= 0.01)


def _count(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _print_advice(said: "list[Advice]") -> None:
    for one in said:
        typer.echo(f"advice   {one.what}{' = ' + one.value if one.value else ''}: {one.reason}")


def _print_replayed(found: "Replayed") -> None:
    from fleet.cli import output
    from load import whatif

    heads = ("", *(head.upper() for head in whatif.HEADS))
    output.table(heads, [(name, *cells) for name, cells in whatif.rows(found)], empty="")
    typer.echo(f"drift    {found.drift:.1%}: by so much the replay without a change is off the recorded end")
    if len(found.baseline["tenants"]) > 1:
        typer.echo("")
        both = (found.baseline, found.changed)
        tenants = [
            (
                name,
                *(output.seconds(one["tenants"][name]["call_wait_s"]["p50"]) for one in both),
                *(output.seconds(one["tenants"][name]["finished_s"]) for one in both),
            )
            for name in found.baseline["tenants"]
        ]
        output.table(("TENANT", "WAIT P50", "WHAT IF", "DONE AFTER", "WHAT IF"), tenants, empty="")
    if found.curve:
        typer.echo("")
        output.table(("QUOTAS", "WAIT P50", "WAIT P99", "UTILISATION"), whatif.swept(found), empty="")
