"""Texts with fields of an item in them: `{title}` stands for the item's field `title`. Pure.

Only names of fields: no attributes, no indexes, no conversions, no formats. So a template can reach nothing but the
item, and an item nothing at all. Braces are written twice.
"""

import json
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any, Final

from fleet.errors import BadInput

_NAME: Final = re.compile(r"[^\W\d][\w-]*")


def fields(template: str) -> list[str]:
    """The fields that a template names, each once, in order.

    Raises:
        BadInput: it is no template.
    """
    return list(dict.fromkeys(name for _, name in _parts(template) if name is not None))


def render(template: str, item: Mapping[str, Any]) -> str:
    """The text of one item. A field that is no text comes as JSON.

    Raises:
        BadInput: it is no template, or the item lacks a field.
    """
    made: list[str] = []
    for text, name in _parts(template):
        made.append(text)
        if name is None:
            continue
        if name not in item:
            has = ", ".join(sorted(item)) or "none"
            raise BadInput(f"there is no field {name!r}; there are: {has[:200]}")
        value = item[name]
        made.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return "".join(made)


def _parts(template: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"template {template[:80]!r}: {error}; a brace of the text is written twice") from None
    for _, name, form, conversion in parsed:
        if name is not None and (form or conversion or not _NAME.fullmatch(name)):
            raise BadInput(
                f"template {template[:80]!r}: {{{name}}} names no field of an item;"
                " write {name}, without dots, brackets, conversions and formats"
            )
    return [(text, name) for text, name, _, _ in parsed]
