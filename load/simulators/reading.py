"""How the simulated models read: tool results, marked as found or not, and what is remembered of earlier runs."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_NOT_DONE = frozenset(("rejected", "denied", "expired", "withdrawn", "skipped", "failed", "unknown"))
"""What a result may give as its state when nobody has let the call be made, or it did not succeed."""

_CHANGED = "changed_by_a_human_to"


@dataclass(frozen=True, slots=True)
class Source:
    """Something that can be cited."""

    id: str
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Something remembered of an earlier run."""

    id: str
    subject: str
    text: str
    kind: str


def results(content: str) -> Iterator[Source]:
    """The hits of a search."""
    found = _parsed(content)
    hits = found.get("results") if isinstance(found, dict) else found
    for hit in hits if isinstance(hits, list) else []:
        if isinstance(hit, dict) and (identity := hit.get("id") or hit.get("url")):
            body = str(hit.get("snippet") or hit.get("content") or "")
            yield Source(str(identity), str(hit.get("title") or identity), body)


def document(content: str) -> Iterator[Source]:
    """The document that was read, if one was."""
    found = _parsed(content)
    if isinstance(found, dict) and "error" not in found and (body := found.get("text") or found.get("content")):
        identity = str(found.get("id") or found.get("url") or "document")
        yield Source(identity, str(found.get("title") or identity), str(body))


def fields(content: str) -> dict[str, Any]:
    """The result as an object, and beside it what a human has changed the call to; empty if it is none."""
    found = _parsed(content)
    if not isinstance(found, dict):
        return {}
    changed, result = found.get(_CHANGED), found.get("result")
    if isinstance(changed, dict):
        return {**changed, **result} if isinstance(result, dict) else changed
    return found


def texts(content: str) -> Iterable[str]:
    """Everything that a result says, however deep."""
    found = _parsed(content)
    return [content] if found is None else _strings(found)


def refusal(content: str) -> str | None:
    """Why a call was not carried out; None if it was."""
    found = fields(content)
    if error := found.get("error"):
        return str(error.get("message", error)) if isinstance(error, dict) else str(error)
    states = (str(found.get(name, "")).lower() for name in ("state", "status", "decision"))
    state = "rejected" if found.get("rejected") else next((s for s in states if s in _NOT_DONE), None)
    if state:
        reason = found.get("reason") or found.get("comment")
        return f"{state}: {reason}" if reason else state
    if not found and re.match(r"(?i)\s*(?:error\b|.{0,80}\b(?:rejected|denied)\b)", content):
        return " ".join(content.split())
    return None


def memories(said: str) -> list[Memory]:
    """What a message brings of earlier runs."""
    found = [value.get("memories") for value, _, _ in _marked("remembered", said) if isinstance(value, dict)]
    return [
        Memory(str(m.get("id", "")), str(m.get("subject") or ""), str(m["text"]), str(m.get("kind") or ""))
        for listed in found
        for m in (listed if isinstance(listed, list) else [])
        if isinstance(m, dict) and m.get("text")
    ]


def without_memories(said: str) -> str:
    """A message without the blocks of memories, and without the line that announces each."""
    kept, at = "", 0
    for _, begin, end in _marked("remembered", said):
        kept += re.sub(r"(?:\A|\n)[^\n]*:\s*\Z", "\n", said[at:begin])
        at = end
    return kept + said[at:] if at else said


def _parsed(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return next((value for value, _, _ in _marked("found", content)), None)


def _marked(tag: str, content: str) -> Iterator[tuple[Any, int, int]]:
    """JSON between `<tag …>` and `</tag>`, and where it stands. What the JSON itself quotes is no mark."""
    if f"<{tag}" not in content:
        return
    opening, at = re.compile(rf"<{tag}\b[^>]*>\s*"), 0
    while begin := opening.search(content, at):
        try:
            value, at = _DECODER.raw_decode(content, begin.end())
        except ValueError:
            at = begin.end()
            continue
        if closing := re.compile(rf"\s*</{tag}\b[^>]*>").match(content, at):
            at = closing.end()
        yield value, begin.start(), at


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
