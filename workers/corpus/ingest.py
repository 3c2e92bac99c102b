"""A folder of files, read into a corpus."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from workers.corpus.documents import Document, UnreadableFolder
from workers.corpus.extract import FORMATS, UnreadableText
from workers.corpus.index import Corpus

MAX_BYTES = 5 * 1024 * 1024


class Skipped(NamedTuple):
    """A file that did not become a document."""

    path: str
    """Below the folder."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSummary:
    """What reading, and perhaps adding, a folder came to."""

    read: int
    skipped: tuple[Skipped, ...]
    added: int = 0
    replaced: int = 0
    unchanged: int = 0


class FolderReading:
    """The documents of a folder, in order of path; `summary` tells how it went once they are read."""

    def __init__(self, root: Path, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self._read = 0
        self._skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[Document]:
        self._read, self._skipped = 0, []
        for path in self._files():
            try:
                document = _read(path, self._relative(path), self._prefix)
            except UnreadableText as error:
                self._skip(path, str(error))
            except OSError as error:
                self._skip(path, error.strerror or str(error))
            else:
                self._read += 1
                yield document

    @property
    def summary(self) -> FolderSummary:
        """Counts so far. A file's fate is known when the iteration has passed it."""
        return FolderSummary(read=self._read, skipped=tuple(self._skipped))

    def _files(self) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            self._skip(Path(error.filename), error.strerror or str(error))

        for parent, folders, names in os.walk(self._root, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))

    def _skip(self, path: Path, reason: str) -> None:
        self._skipped.append(Skipped(self._relative(path), reason))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix().encode("utf-8", "replace").decode("utf-8")


def read_folder(folder: Path, *, prefix: str | None = None) -> FolderReading:
    """Documents from the text, Markdown, reStructuredText, HTML and PDF files below `folder`.

    A document's id is its path below `folder` after `prefix` (default: the folder's name). Hidden files
    and folders are passed over; other files that cannot become a document are listed in the summary.

    Raises:
        UnreadableFolder: `folder` is not a folder.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise UnreadableFolder(f"there is no folder {folder}: give one with {', '.join(FORMATS)} files")
    return FolderReading(root, root.name if prefix is None else prefix)


def add_folder(corpus: Corpus, folder: Path, *, prefix: str | None = None) -> FolderSummary:
    """Add every readable file below `folder` to the corpus; repeat it to bring the corpus up to date.

    Documents whose file has gone stay.

    Raises:
        UnreadableFolder: `folder` is not a folder.
    """
    reading = read_folder(folder, prefix=prefix)
    done = corpus.add(reading)
    return replace(reading.summary, added=done.added, replaced=done.replaced, unchanged=done.unchanged)


def _read(path: Path, relative: str, prefix: str) -> Document:
    extract = FORMATS.get(path.suffix.lower())
    if extract is None:
        raise UnreadableText(f"not one of {', '.join(FORMATS)}")
    if not path.is_file():  # a named pipe would be waited for
        raise UnreadableText("not a regular file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UnreadableText(f"{size / 1024 / 1024:.1f} MB, more than {MAX_BYTES // 1024 // 1024} MB")
    extracted = extract(path.read_bytes())
    if not extracted.text.strip():
        raise UnreadableText("no text")
    return Document(
        id=f"{prefix}/{relative}" if prefix else relative,
        title=extracted.title or path.stem,
        text=extracted.text,
        source=relative,
    )
