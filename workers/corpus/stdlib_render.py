"""A parsed module, written as a page of documentation."""

import ast
import re
from collections.abc import Iterator

_MAX_TITLE = 120
_MAX_SIGNATURE = 300
Function = ast.FunctionDef | ast.AsyncFunctionDef


def heading(name: str, docstring: str) -> str:
    """A page's title: `heapq — Heap queue algorithm (a.k.a. priority queue)`."""
    names_itself = re.compile(rf"^({re.escape(name)}|{re.escape(name.rpartition('.')[2])})(\.py)?(\s*(--?|:)\s*|$)")
    lines = (names_itself.sub("", line.strip()) for line in docstring.splitlines())
    first = next((line for line in lines if line), "")
    return f"{name} — {first.rstrip('.')[:_MAX_TITLE]}" if first else name


def render(name: str, docstring: str, tree: ast.Module) -> str:
    """The module's docstring, then every public function and class with signature and docstring."""
    sections = [f"Module {name}", docstring.strip()]
    for node in tree.body:
        if isinstance(node, Function) and _public(node):
            sections.append(_function(name, node))
        elif isinstance(node, ast.ClassDef) and _public(node):
            sections.extend(_class(name, node))
    return "\n\n".join(sections)


def indent(text: str) -> str:
    """A docstring, set below its signature."""
    return "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())


def _class(module: str, node: ast.ClassDef) -> Iterator[str]:
    qualified = f"{module}.{node.name}"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    methods = [child for child in node.body if isinstance(child, Function)]
    init = next((method for method in methods if method.name == "__init__"), None)
    constructed = f"{qualified}{_arguments(init, bound=True)}" if init else qualified
    yield _described(f"class {constructed}" + (f", a kind of {bases}" if bases else ""), ast.get_docstring(node))
    for method in methods:
        if _public(method) and ast.get_docstring(method):
            yield _function(qualified, method, bound=True)


def _function(owner: str, node: Function, *, bound: bool = False) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if bound and decorators & {"property", "functools.cached_property"}:
        return _described(f"{owner}.{node.name} (attribute)", ast.get_docstring(node))
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    signature = _arguments(node, bound=bound and "staticmethod" not in decorators)
    return _described(f"{prefix}{owner}.{node.name}{signature}", ast.get_docstring(node))


def _arguments(node: Function, *, bound: bool) -> str:
    arguments = ast.unparse(node.args)
    if bound:  # without the self that no caller passes
        _, _, arguments = arguments.partition(", ")
        arguments = arguments.removeprefix("/, ").removeprefix("/")
    return f"({arguments[:_MAX_SIGNATURE]})"


def _described(signature: str, docstring: str | None) -> str:
    return f"{signature}\n{indent(docstring)}" if docstring else signature


def _public(node: Function | ast.ClassDef) -> bool:
    return not node.name.startswith("_")
