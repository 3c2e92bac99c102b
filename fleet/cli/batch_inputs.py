"""The inputs of a batch: read as a stream, checked one by one, staged in the database before anything starts."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import iglob
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleet import batches
from fleet.contracts.batch import Work
from fleet.errors import BadInput

if TYPE_CHECKING:
    from workers.database.batches import Batches

STDIN: Final = "-"
CHUNK: Final = 500
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Inputs that are in memory at once."""
MOST_INPUTS: Final = 10_000_000
_PATTERN: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What has come of reading them all."""

    total: int
    digest: str
    """The same for the same inputs in the same order."""


def read(source: str, work: Work, limit: int | None) -> Iterator[dict[str, Any]]:
    """The inputs, each fit for the work.

    Args:
        source: a file of JSON lines, `-` for standard input, or a folder or pattern of text files: each is an input
            with the fields `path`, `name` and `text`.
        work: what is done with them.
        limit: only so many.

    Raises:
        BadInput: one cannot be read or does not fit; the text says which.
    """
    found = _of_files(source, work) if _is_of_files(source) else _of_lines(source, work)
    return islice(found, limit)


async def stage(store: "Batches", batch: str, token: str, inputs: Iterator[dict[str, Any]]) -> Inputs:
    """Write the inputs into the database, a chunk at a time. What is refused leaves nothing behind.

    Raises:
        BadInput: an input does not fit, or there is none.
    """
    digest, total = hashlib.sha256(), 0
    try:
        for chunk in _chunks(inputs, digest):
            await store.add(batch, token, total, chunk)
            total += len(chunk)
        if total == 0:
            raise BadInput("there are no inputs: give a JSON object a line, or a folder of text files")
    except BaseException:
        await store.discard(batch, token)
        raise
    return Inputs(total=total, digest=digest.hexdigest())


def weigh(inputs: Iterator[dict[str, Any]]) -> Inputs:
    """Read the inputs only to know whether they are those of a batch."""
    digest = hashlib.sha256()
    return Inputs(total=sum(len(chunk) for chunk in _chunks(inputs, digest)), digest=digest.hexdigest())


def _chunks(inputs: Iterator[dict[str, Any]], digest: "hashlib._Hash") -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    size = total = 0
    for one in inputs:
        text = json.dumps(one, sort_keys=True)
        digest.update(text.encode())
        digest.update(b"\n")
        chunk.append(one)
        size, total = size + len(text), total + 1
        if total > MOST_INPUTS:
            raise BadInput(f"there are more than {MOST_INPUTS} inputs: make several batches of them")
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _is_of_files(source: str) -> bool:
    path = Path(source)
    return source != STDIN and (path.is_dir() or (not path.exists() and not _PATTERN.isdisjoint(source)))


def _of_lines(source: str, work: Work) -> Iterator[dict[str, Any]]:
    name = "standard input" if source == STDIN else source
    try:
        # bytes: what is no UTF-8 is told by its line too
        with sys.stdin.buffer if source == STDIN else Path(source).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield batches.checked(work, line.decode())
                except UnicodeDecodeError:
                    raise BadInput(f"{name}, line {number}: is not UTF-8") from None
                except BadInput as bad:
                    raise BadInput(f"{name}, line {number}: {bad}") from None
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror})") from None


def _of_files(source: str, work: Work) -> Iterator[dict[str, Any]]:
    folder = Path(source)
    found = folder.rglob("*") if folder.is_dir() else map(Path, iglob(source, recursive=True))  # noqa: PTH207 - absolute patterns too
    for path in sorted(found):
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BadInput(f"{path}: is not UTF-8 text: name a pattern that leaves it out") from None
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
        try:
            yield batches.fit(work, {"path": str(path), "name": path.stem, "text": text})
        except BadInput as bad:
            raise BadInput(f"{path}: {bad}") from None
