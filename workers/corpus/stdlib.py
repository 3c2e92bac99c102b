"""The default corpus: the documentation of the Python that runs us.

Modules written in Python are parsed, never imported: importing all of them would start side effects.
"""

import ast
import os
import platform
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from workers.corpus.documents import Document
from workers.corpus.stdlib_builtin import builtin_documents
from workers.corpus.stdlib_render import heading, render

MIN_CHARS = 400
TRIES = 5
_SKIPPED_FOLDERS = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "encodings",
    "lib-dynload", "pydoc_data", "ensurepip",
})  # fmt: skip


def read_stdlib() -> Iterator[Document]:
    """One document per documented module and per chapter of the language reference, sorted by kind and id.

    Reads only files of the running Python: same Python, same documents.
    """
    root = Path(sysconfig.get_path("stdlib"))
    yield from (document for document in _module_documents(root) if len(document.text) >= MIN_CHARS)
    yield from (document for document in builtin_documents() if len(document.text) >= MIN_CHARS)
    yield from (document for document in _reference_documents(root) if len(document.text) >= MIN_CHARS)


def _module_documents(root: Path) -> Iterator[Document]:
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and name.isidentifier())
        folders[:] = [name for name in folders if not name.startswith("_")]
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix == ".py" and (path.stem == "__init__" or not path.stem.startswith("_")):
                yield from _module(path, path.relative_to(root))


def _parsed(source: bytes) -> ast.Module:
    """The tree of a module.

    CPython before 3.12 counts the depth of all threads' trees together, and fails if another thread is parsing too
    (https://github.com/python/cpython/issues/106905): the next try finds it done.
    """
    for _ in range(TRIES):
        with suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _module(path: Path, relative: Path) -> Iterator[Document]:
    parts = relative.parent.parts if relative.stem == "__init__" else relative.with_suffix("").parts
    name = ".".join(parts)
    try:
        tree = _parsed(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    docstring = ast.get_docstring(tree)
    if not name or not docstring:
        return
    yield Document(
        id=f"python/{name}",
        title=heading(name, docstring),
        text=render(name, docstring, tree),
        source=f"Python {platform.python_version()}, Lib/{relative.as_posix()}",
    )


def _reference_documents(root: Path) -> Iterator[Document]:
    """The language reference, as `help("assert")` shows it: one dictionary literal in pydoc's data."""
    try:
        tree = ast.parse((root / "pydoc_data" / "topics.py").read_bytes())
        value = next(node.value for node in tree.body if isinstance(node, ast.Assign))
        topics = ast.literal_eval(value)
    except (OSError, SyntaxError, ValueError, StopIteration):
        return  # some distributions leave it out
    for topic in sorted(topics):
        text = str(topics[topic]).strip()
        first = text.split("\n", 1)[0].strip().strip("*").replace('"', "")
        yield Document(
            id=f"python/reference/{topic}",
            title=f"{first} (language reference)",
            text=text,
            source=f"Python {platform.python_version()}, Lib/pydoc_data/topics.py",
        )
