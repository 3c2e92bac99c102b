"""Conditions over a call's arguments: `amount > 500 or domain(to) != "example.com"`. Pure and bounded.

They are written by operators, over arguments that a model has written. Python's own comparisons, `and`, `or`, `not`,
`in`, lists and the functions below; no attribute that starts with an underscore, no call of anything else, no loop
(`simpleeval` sees to it). Amounts are decimals, also those that the expression writes.
"""

import ast
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from itertools import islice, product
from typing import Any, Final
from unicodedata import normalize

from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

LONGEST: Final = 1000
"""Characters of one expression."""
CONTEXT: Final = ("agent", "tenant", "found", "arguments")
"""Names that every condition knows besides the arguments: `found` is whether strangers' text was read before."""
_AMOUNTS: Final = frozenset({"amount"})


class BadCondition(ValueError):
    """It cannot be read, or cannot be told of these arguments."""


def domain(address: object) -> str:
    """What follows the @ of an address, in lower case."""
    return str(address).rpartition("@")[2].strip(" >").lower()


def number(value: object) -> Decimal:
    """A decimal from text or a number."""
    try:
        found = Decimal(str(value).strip())
    except InvalidOperation:
        raise BadCondition(f"{str(value)[:40]!r} is not a number") from None
    if not found.is_finite():
        raise BadCondition(f"{found} is not a finite number")
    return found


def matches(value: object, pattern: str) -> bool:
    """Whether text is of a pattern with `*` and `?`, whatever the case of its letters and the spaces around it."""
    return fits(str(value).strip(), pattern)


def fits(text: str, pattern: str) -> bool:
    """Whether text, its spaces included, is of a pattern with `*` and `?`, whatever the case of its letters."""
    return fnmatchcase(text.lower(), pattern.strip().lower().replace("[", "[[]"))


def is_pattern(name: str) -> bool:
    """Whether a name of a list stands for many."""
    return "*" in name or "?" in name


def person(name: str) -> str:
    """The form of a name by which people are compared: NFKC (Unicode annex 15), no spaces around it, case folded.

    What follows a `+` in an address is a part of it: `ana+1@example.com` is somebody else.
    """
    return normalize("NFKC", name).strip().casefold()


def _lower(value: object) -> str:
    return str(value).lower()


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | dict) else 0


def _remainder(left: Any, right: Any) -> Any:
    # of text it would be formatting, which writes as much as a model's text says
    if isinstance(left, str | bytes):
        raise BadCondition("% is not for text")
    return left % right


_FUNCTIONS: Final = {"domain": domain, "number": number, "matches": matches, "lower": _lower, "len": _length}
# what makes large things out of small ones is left out
_OPERATORS: Final = {
    kind: act
    for kind, act in DEFAULT_OPERATORS.items()
    if kind not in (ast.Pow, ast.LShift, ast.RShift, ast.BitXor, ast.BitOr, ast.BitAnd)
} | {ast.Mod: _remainder}


class _Evaluator(EvalWithCompoundTypes):  # type: ignore[misc]  # it has no types
    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__(operators=_OPERATORS, functions=dict(_FUNCTIONS), names=dict(names), allowed_attrs={})
        self.nodes[ast.Constant] = self._exact
        for loop in (ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp, ast.JoinedStr, ast.Attribute):
            self.nodes.pop(loop, None)

    def _exact(self, node: ast.Constant) -> Any:
        if isinstance(node.value, float):
            return number(node.value)
        return self._eval_constant(node)


def check(expression: str, arguments: Mapping[str, Any]) -> None:
    """Refuse an expression that can never be told.

    It is also told of samples of the arguments' types: what compares text with a number fails for each of them.

    Args:
        expression: what an operator has written.
        arguments: the properties of the tool's JSON Schema.

    Raises:
        BadCondition: with the reason.
    """
    tree = _readable(expression, arguments)
    if any(isinstance(node, ast.Subscript) for node in ast.walk(tree)):
        return  # what an object or a list holds has no samples
    names: dict[str, Any] = {"agent": "", "tenant": "", "found": False, "arguments": {}}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used = sorted(read & {*arguments} - {*CONTEXT} | read & {"found"})
    samples = [[True, False] if name == "found" else list(_samples(name, arguments[name])) for name in used]
    failed: TypeError | None = None
    tried = 0
    for values in islice(product(*samples), _MOST_SAMPLES + 1):
        tried += 1
        try:
            _Evaluator(names | dict(zip(used, values, strict=True))).eval(expression)
        except TypeError as error:
            failed = error
        except _UNTOLD:
            return  # of these values it cannot be told, of others perhaps
        else:
            return
    if tried <= _MOST_SAMPLES:
        raise BadCondition(f"{expression!r} can never be told: {failed}")


_UNTOLD: Final = (InvalidExpression, ArithmeticError, ValueError, LookupError, AttributeError, RecursionError)
_MOST_SAMPLES: Final = 2000
"""Combinations that are tried. Of an expression with more nothing is said."""
_OF_TYPE: Final[dict[str, list[Any]]] = {
    "string": ["text", ""],
    "number": [1, Decimal("1.5")],
    "integer": [1],
    "boolean": [True, False],
    "array": [[], ["text"], [1]],
    "object": [{}],
    "null": [],
}


def _samples(name: str, schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values that an argument may have, and None, which it has if it was not given."""
    if name in _AMOUNTS:
        yield number("120.50")
    else:
        kinds = schema.get("type", list(_OF_TYPE))
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            yield from _OF_TYPE.get(kind, ())
    yield None


def _readable(expression: str, arguments: Mapping[str, Any]) -> ast.AST:
    tree = _tree(expression)
    known = {*arguments, *CONTEXT, *_FUNCTIONS}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _FUNCTIONS and not (node.id in arguments or id(node) in called):
            raise BadCondition(f"{expression!r}: {node.id} is called with an argument, as in {node.id}(to)")
        if isinstance(node, ast.Name) and node.id not in known:
            raise BadCondition(f"{expression!r}: there is no {node.id!r}; there are: {', '.join(sorted(known))}")
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS):
            raise BadCondition(f"{expression!r}: only these can be called: {', '.join(_FUNCTIONS)}")
        if type(node) not in _KNOWN:
            raise BadCondition(f"{expression!r}: {type(node).__name__} is not allowed")
    return tree


_KNOWN: Final = {
    ast.Expression, ast.Expr, ast.Name, ast.Load, ast.Constant, ast.Call, ast.Compare, ast.BoolOp, ast.UnaryOp,
    ast.BinOp, ast.And, ast.Or, ast.Not, ast.USub, ast.UAdd, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.FloorDiv,
    ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Subscript, ast.IfExp,
}  # fmt: skip


def _tree(expression: str) -> ast.AST:
    if len(expression) > LONGEST:
        raise BadCondition(f"the expression has {len(expression)} characters; {LONGEST} are the most")
    try:
        return ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadCondition(f"{expression!r} is not an expression: write as in amount > 500") from None


def holds(
    expression: str, arguments: Mapping[str, Any], *, schema: Mapping[str, Any], agent: str, tenant: str, found: bool
) -> bool:
    """Whether the condition is true of these arguments.

    Args:
        expression: the condition.
        arguments: of the call.
        schema: the properties of the tool's JSON Schema: arguments that were not given are None.
        agent: name of the agent.
        tenant: whose run it is.
        found: whether strangers' text was read before.

    Raises:
        BadCondition: it cannot be told. Who decides by it must take the safe side.
    """
    _readable(expression, schema)
    names = dict.fromkeys(schema) | {name: _exactly(name, value) for name, value in arguments.items()}
    names |= {"agent": agent, "tenant": tenant, "found": found, "arguments": dict(arguments)}
    try:
        return bool(_Evaluator(names).eval(expression))
    except (TypeError, *_UNTOLD) as error:
        raise BadCondition(f"{expression!r} cannot be told of this call: {error}") from None


def _exactly(name: str, value: Any) -> Any:
    if isinstance(value, float) or (name in _AMOUNTS and isinstance(value, str | int)):
        return number(value)
    return value
