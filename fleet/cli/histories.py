"""Telling one run's history, and comparing two."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from temporalio.converter import DataConverter

from fleet.cli import context, output, stories
from fleet.client import connect, is_embedded
from fleet.codec import data_converter
from fleet.errors import BadInput
from fleet.history import Chain, Story, deciding, fetch, load, of_chain, parting, save
from fleet.settings import Settings

if TYPE_CHECKING:
    from temporalio.client import Client

PARTED = 1
"""Exit code of `fleet diff` where the runs are on different paths."""


class Source:
    """Reads runs from Temporal and from files; connects with the first run."""

    def __init__(self, manifest: Path | None) -> None:
        self._manifest = manifest
        self._settings: Settings | None = None
        self._client: Client | None = None
        self._converter: DataConverter | None = None

    async def client(self) -> "Client":
        """Connected to Temporal.

        Raises:
            Unreachable: it does not answer.
        """
        if self._client is None:
            self._settings, _ = context.load(self._manifest)
            self._client = await connect(self._settings)
        return self._client

    async def chain(self, what: str) -> Chain:
        """The histories of a run, or those of a file.

        Raises:
            BadInput: there is no such run or file, or it is no history.
        """
        file = _file(what)
        return load(file) if file is not None else await fetch(await self.client(), what)

    async def converter(self) -> DataConverter:
        """What reads payloads: the client's, or one like it where nobody has connected."""
        if self._client is not None:
            return self._client.data_converter
        if self._converter is None:
            settings, _ = context.load(self._manifest)
            # a file needs keys and stores, not Temporal
            self._converter = data_converter(settings, embedded=is_embedded(settings))
        return self._converter

    async def story(self, what: str) -> Story:
        """A run's or a file's story."""
        chain = await self.chain(what)
        return await of_chain(chain, await self.converter())


def trace(
    what: str,
    *,
    why: str | None,
    full: bool,
    html: Path | None,
    save: Path | None,
    manifest: Path | None,
    json: bool,
) -> None:
    """Tell one run as a story, or why a step was taken; write it to files if wanted."""

    async def work() -> None:
        source = Source(manifest)
        chain = await source.chain(what)
        if save is not None:
            _save(chain, save)
        told = await of_chain(chain, await source.converter())
        if html is not None:
            from fleet.history.page import write

            write(told, html)
        if why is not None:
            decided = deciding.why(told, why)
            output.document(stories.decision_as_json(decided)) if json else stories.print_decision(decided, full=full)
        elif json:
            output.document(stories.as_json(told))
        elif html is None and save is None:
            stories.print_story(told, full=full)
        for file in (each for each in (save, html) if each is not None and not json):
            typer.echo(f"written to {file}", err=True)

    context.run(work())


def _file(what: str) -> Path | None:
    """The file that is named; None if it is a run."""
    file = Path(what)
    if file.is_file():
        return file
    if "/" in what or file.suffix == ".json":
        raise BadInput(f"{what}: no such file: name one that `fleet trace RUN --save FILE` has written, or a run")
    return None


def _save(chain: Chain, file: Path) -> None:
    save(chain, file)


def diff(first: str, second: str, *, full: bool, manifest: Path | None, json: bool) -> None:
    """Show where two runs parted."""

    async def work() -> int:
        source = Source(manifest)
        told = [await source.story(first), await source.story(second)]
        found = parting.compare(told[0], told[1])
        if json:
            output.document(stories.parting_as_json(found, told[0], told[1]))
        else:
            stories.print_parting(found, told[0], told[1], full=full)
        return PARTED if found.parted else 0

    raise typer.Exit(context.run(work()))
