"""A call's arguments against its tool's schema and the agent's allow-lists. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from fleet.conditions import fits
from fleet.contracts.runs import AllowLists, ToolBinding

MOST: Final = 3
"""Problems that are told at once."""


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    # JSON Schema's `$` is that of ECMA-262: the very end. Python's lets a line feed follow
    ends = pattern.endswith("$") and not pattern.endswith(r"\$")
    exact = rf"{pattern[:-1]}\Z" if ends else pattern
    if validator.is_type(instance, "string") and not re.search(exact, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator: Final = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


def problems(binding: ToolBinding, arguments: Mapping[str, Any]) -> str | None:
    """What the tool's schema has against the arguments, in one line; None when nothing."""
    try:
        json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        return f"{binding.spec.name} cannot be called so: what JSON does not have: {str(error)[:200]}"
    validator = _Validator(binding.spec.parameters)
    found = sorted(validator.iter_errors(dict(arguments)), key=lambda e: (list(map(str, e.absolute_path)), e.message))
    if not found:
        return None
    told = [f"{'.'.join(map(str, e.absolute_path)) or 'arguments'}: {e.message[:200]}" for e in found[:MOST]]
    more = f"; and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"{binding.spec.name} cannot be called so: {'; '.join(told)}{more}"


def excluded(binding: ToolBinding, arguments: Mapping[str, Any], allow: AllowLists) -> str | None:
    """Which argument is on no allow-list, in one line; None when all are allowed.

    It is compared as it will be sent, spaces included: who is sent to is who was allowed.
    """
    lists = {"recipients": allow.recipients, "payees": allow.payees}
    for argument, name in binding.lists.items():
        allowed, value = lists[name], str(arguments.get(argument, ""))
        if allowed and not any(fits(value, pattern) for pattern in allowed):
            return f"{binding.spec.name}: {argument} {value[:80]!r} is not on the list of {name} of this agent"
    return None
