"""The default corpus, kept: to read the whole standard library takes seconds, and the same Python says the same."""

import hashlib
import json
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from workers.corpus import stdlib, stdlib_builtin, stdlib_render
from workers.corpus.documents import Document


def stdlib_documents(folder: Path | None) -> list[Document]:
    """What `stdlib.read_stdlib` gives, out of a file in the folder where it was read before.

    Args:
        folder: need not exist; None, or one that cannot be written to: the library is read each time.
    """
    kept = None if folder is None else folder / f"stdlib-{_digest()}.json"
    if kept is not None:
        with suppress(OSError, ValueError, TypeError):
            return [Document(**fields) for fields in json.loads(kept.read_text("utf-8"))]
    found = list(stdlib.read_stdlib())
    if kept is not None:
        with suppress(OSError):
            _write(kept, json.dumps([asdict(document) for document in found]))
    return found


def _digest() -> str:
    """Another for each Python and for each version of the code that reads it."""
    digest = hashlib.sha256()
    for part in _parts():
        digest.update(part + b"\0")
    return digest.hexdigest()[:16]


def _parts() -> Iterator[bytes]:
    yield sys.version.encode()
    yield sysconfig.get_path("stdlib").encode()
    for module in (stdlib, stdlib_builtin, stdlib_render):
        yield Path(str(module.__file__)).read_bytes()


def _write(file: Path, text: str) -> None:
    """All of it or nothing: others may be reading."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as written:
        written.write(text)
    Path(written.name).replace(file)
