"""Commands about the local document collection."""

from pathlib import Path

import typer

from fleet.cli import context, output
from fleet.errors import BadInput
from fleet.tables import SearchProvider


def _index(manifest: Path | None) -> Path:
    settings, loaded = context.load(manifest)
    for spec in loaded.providers.values():
        if isinstance(spec, SearchProvider) and spec.kind == "corpus":
            return spec.path or settings.state_dir / "corpus.db"
    raise BadInput("the manifest has no provider of kind 'corpus'")


def add(folder: Path, *, manifest: Path | None, json: bool) -> None:
    """Index a folder."""
    from workers.corpus.index import Corpus, CorpusError
    from workers.corpus.ingest import add_folder

    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    index = _index(manifest)
    index.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Corpus(index) as corpus:
            summary = add_folder(corpus, folder)
    except CorpusError as error:
        raise BadInput(str(error)) from None
    if json:
        output.document({"index": str(index), "summary": summary})
        return
    typer.echo(
        f"{index}: {summary.added} added, {summary.replaced} replaced, {summary.unchanged} unchanged,"
        f" {len(summary.skipped)} skipped"
    )
    for path, why in summary.skipped:
        typer.echo(f"  skipped {path}: {why}")


def search(query: str, *, limit: int, manifest: Path | None, json: bool) -> None:
    """Search the collection."""
    from workers.corpus.index import Corpus, CorpusError

    try:
        hits = Corpus(_index(manifest)).search(query, limit)
    except CorpusError as error:
        raise BadInput(str(error)) from None
    if json:
        output.document(hits)
    else:
        rows = [(h.id, output.shorten(h.title, 60), output.shorten(h.snippet, 90)) for h in hits]
        output.table(("ID", "TITLE", "SNIPPET"), rows, empty="nothing found")
