"""Values of the fleet as JSON documents, and texts by models and strangers as people may read them."""

from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any


def plain(value: Any) -> Any:
    """Dataclasses, instants and enums as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def visible(text: str) -> str:
    """The text on one line, with escapes in place of what is not seen, or is obeyed by what shows it.

    Control characters, reversed and zero-width text among them: whoever decides on a text sees all of it.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> list[str]:
    """The same for each line of the text."""
    return [visible(line) for line in text.splitlines()]
