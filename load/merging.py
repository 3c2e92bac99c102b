"""JSON merge patches (RFC 7396), without null: TOML has none, so nothing is taken away."""

from collections.abc import Mapping
from typing import Any


def merged(document: Any, change: Any) -> Any:
    """The document with the change applied; tables merge, everything else is replaced."""
    if not isinstance(document, Mapping) or not isinstance(change, Mapping):
        return change
    return {**document, **{key: merged(document.get(key), value) for key, value in change.items()}}
