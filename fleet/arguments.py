"""A call's arguments against its tool's schema and the agent's allow-lists. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator

from fleet.conditions import matches
from fleet.contracts.runs import AllowLists, ToolBinding

MOST: Final = 3
"""Problems that are told at once."""


def problems(binding: ToolBinding, arguments: Mapping[str, Any]) -> str | None:
    """What the tool's schema has against the arguments, in one line; None when nothing."""
    validator = Draft202012Validator(binding.spec.parameters)
    found = sorted(validator.iter_errors(dict(arguments)), key=lambda e: (list(map(str, e.absolute_path)), e.message))
    if not found:
        return None
    told = [f"{'.'.join(map(str, e.absolute_path)) or 'arguments'}: {e.message[:200]}" for e in found[:MOST]]
    more = f"; and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"{binding.spec.name} cannot be called so: {'; '.join(told)}{more}"


def excluded(binding: ToolBinding, arguments: Mapping[str, Any], allow: AllowLists) -> str | None:
    """Which argument is on no allow-list, in one line; None when all are allowed."""
    lists = {"recipients": allow.recipients, "payees": allow.payees}
    for argument, name in binding.lists.items():
        allowed, value = lists[name], str(arguments.get(argument, ""))
        if allowed and not any(matches(value, pattern) for pattern in allowed):
            return f"{binding.spec.name}: {argument} {value[:80]!r} is not on the list of {name} of this agent"
    return None
