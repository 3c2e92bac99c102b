"""Pages for what is written in C and has no source to parse: imported, but only if known to be harmless."""

import builtins
import importlib
import inspect
import platform
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from workers.corpus.documents import Document
from workers.corpus.stdlib_render import heading, indent

_HARMLESS = frozenset({
    "array", "atexit", "binascii", "cmath", "errno", "faulthandler", "fcntl", "gc", "grp", "itertools", "marshal",
    "math", "mmap", "posix", "pwd", "resource", "select", "sys", "syslog", "termios", "time", "unicodedata", "zlib",
})  # fmt: skip
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def builtin_documents() -> Iterator[Document]:
    """One page per harmless C module and per built-in type, sorted by name within each."""
    for name in sorted(_HARMLESS & sys.stdlib_module_names):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue  # not on this platform
        # A module that is Python here (another implementation) has its page from its source.
        if (docstring := inspect.getdoc(module)) and not getattr(module, "__file__", "").endswith(".py"):
            yield _document(name, docstring, _module(module))
    for name, kind in sorted(vars(builtins).items()):
        if isinstance(kind, type) and not name.startswith("_") and not issubclass(kind, BaseException):
            yield _document(f"builtins.{name}", inspect.getdoc(kind) or name, _members(f"builtins.{name}", kind))


def _document(name: str, docstring: str, members: list[str]) -> Document:
    return Document(
        id=f"python/{name}",
        title=heading(name, docstring),
        text=_ADDRESS.sub("", "\n\n".join([f"Module {name}", docstring.strip(), *members])),
        source=f"Python {platform.python_version()}, built in",
    )


def _module(module: ModuleType) -> list[str]:
    pages = []
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not callable(value):
            continue
        pages.append(_member(f"{module.__name__}.{name}", value))
        if isinstance(value, type):
            pages.extend(_members(f"{module.__name__}.{name}", value))
    return pages


def _members(owner: str, kind: type) -> list[str]:
    return [
        _member(f"{owner}.{name}", value)
        for name, value in sorted(vars(kind).items())
        if not name.startswith("_") and callable(value) and inspect.getdoc(value)
    ]


def _member(name: str, value: object) -> str:
    prefix = "class " if isinstance(value, type) else ""
    # The attribute's own docstring only: an instance must not answer with its class's.
    docstring = getattr(value, "__doc__", None)
    return f"{prefix}{name}{_signature(value)}" + (f"\n{indent(inspect.cleandoc(docstring))}" if docstring else "")


def _signature(value: object) -> str:
    try:
        return str(inspect.signature(value)) if callable(value) else ""
    except (TypeError, ValueError, AttributeError, NameError, SyntaxError):  # defaults that only C can see
        return "(…)"
