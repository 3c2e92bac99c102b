"""Declarations of the commands about batches."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.options import JsonOption, LimitOption, ManifestOption

app = typer.Typer(help="The same work for each of many inputs.", no_args_is_help=True)

BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="As `fleet batch ls` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Said by `fleet batch status`.")]


@app.command("run")
def batch_run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="A file of JSON lines, - for standard input, or a folder or pattern of text files."
        ),
    ],
    agent: Annotated[str | None, typer.Option(help="Run this agent for each item.")] = None,
    goal: Annotated[
        str | None, typer.Option(metavar="TEMPLATE", help="Of the agent: {field} is a field of the item.")
    ] = None,
    tool: Annotated[str | None, typer.Option(help="Call this tool for each item, which is its arguments.")] = None,
    model: Annotated[str | None, typer.Option(help="Call this model for each item: provider/model.")] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEMPLATE", help="Of the model: {field} is a field of the item.")
    ] = None,
    max_output_tokens: Annotated[int, typer.Option(min=1, help="Of the model.")] = 1024,
    batch: Annotated[
        str | None, typer.Option("--id", help="Id of the batch. The same again goes on with it. Default: made up.")
    ] = None,
    window: Annotated[int, typer.Option(help="Most items in flight, 1 to 1000.")] = 100,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many inputs.")] = None,
    on_failure: Annotated[str, typer.Option(help="Of an item: skip, stop or retry=N.")] = "skip",
    max_failures: Annotated[
        str, typer.Option(help="Failed items beyond which the batch pauses: a number, a share as 5%, or any.")
    ] = "10%",
    tenant: Annotated[str, typer.Option(help="Whose batch it is: the fairness key.")] = "default",
    priority: Annotated[int, typer.Option(help="1 (first) to 4.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", help="With --wait: write the results here.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the batch to its end.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Stage the inputs, start the batch and print its id."""
    from fleet.cli import batch as batches

    wanted = batches.Wanted(
        agent=agent,
        goal=goal,
        tool=tool,
        model=model,
        prompt=prompt,
        max_output_tokens=max_output_tokens,
        tenant=tenant,
        priority=priority,
        window=window,
        on_failure=on_failure,
        max_failures=max_failures,
    )
    batches.run(source, wanted, batch=batch, limit=limit, out=out, wait=wait, manifest=manifest, json=json)


@app.command("status")
def batch_status(
    batch: BatchArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Until it has ended.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Show where a batch stands: items by outcome, its rate, when it will end, its latest results."""
    from fleet.cli import batch as batches

    batches.status(batch, watch=watch, manifest=manifest, json=json)


@app.command("results")
def batch_results(
    batch: BatchArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Into this file. Default: standard output.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only items that are not done.")] = False,
    with_input: Annotated[bool, typer.Option("--with-input", help="Each with its input.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Print the results so far as JSON lines, in the order of the inputs."""
    from fleet.cli import batch as batches

    del json  # lines of JSON are what it prints anyway
    batches.results(batch, out=out, failed=failed, with_input=with_input, manifest=manifest)


@app.command("pause")
def batch_pause(
    batch: BatchArgument, reason: ReasonOption = "paused", manifest: ManifestOption = None, json: JsonOption = False
) -> None:
    """Let a batch begin nothing new. What is in flight goes on."""
    from fleet.cli import batch as batches

    batches.steer("pause", batch, reason, manifest=manifest, json=json)


@app.command("stop")
def batch_stop(
    batch: BatchArgument, reason: ReasonOption = "stopped", manifest: ManifestOption = None, json: JsonOption = False
) -> None:
    """End a batch soon: what is in flight is stopped. `resume` goes on with what is left."""
    from fleet.cli import batch as batches

    batches.steer("stop", batch, reason, manifest=manifest, json=json)


@app.command("resume")
def batch_resume(
    batch: BatchArgument,
    window: Annotated[int | None, typer.Option("--window", help="Most items in flight from now on.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let a batch go on, whether it was paused, stopped or terminated."""
    from fleet.cli import batch as batches

    batches.resume(batch, window, manifest=manifest, json=json)


@app.command("retry")
def batch_retry(batch: BatchArgument, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Have the items that are not done done again."""
    from fleet.cli import batch as batches

    batches.retry(batch, manifest=manifest, json=json)


@app.command("ls")
def batch_ls(limit: LimitOption = 50, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """List batches, newest first."""
    from fleet.cli import batch as batches

    batches.ls(limit=limit, manifest=manifest, json=json)
