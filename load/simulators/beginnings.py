"""What prompts begin with, as each provider's cache looks at it."""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from load.simulators import text
from load.simulators.caching import LEAST_TOKENS, NONE, Beginning, Beginnings
from load.simulators.conversation import Prompt

STEP_TOKENS = 128
"""OpenAI caches in steps of this size."""
LOOKS_BACK = 20
"""Blocks before a mark at which Anthropic looks for what it has cached before."""
_MARK = "cache_control"


def of_text(prompt: Prompt) -> Beginnings:
    """OpenAI's: by itself, in steps of 128 tokens from 1,024 on."""
    if prompt.characters < LEAST_TOKENS * text.CHARS_PER_TOKEN:
        return NONE
    said, step = "".join(_parts(prompt)), STEP_TOKENS * text.CHARS_PER_TOKEN
    hashed, found = blake2b(digest_size=12), []
    for end in range(step, len(said) + 1, step):
        hashed.update(said[end - step : end].encode(errors="surrogatepass"))
        if end >= LEAST_TOKENS * text.CHARS_PER_TOKEN:
            found.append(Beginning(digest=hashed.copy().digest(), tokens=end // text.CHARS_PER_TOKEN))
    return Beginnings(read=found[::-1], written=found)


def _parts(prompt: Prompt) -> Iterator[str]:
    for tool in prompt.tools:
        yield f"{tool.name}{tool.description}{json.dumps(tool.schema, ensure_ascii=False)}"
    for turn in prompt.turns:
        yield turn.text
        for call in turn.calls:
            yield f"{call.name}{json.dumps(call.arguments, ensure_ascii=False)}"


def of_blocks(body: dict[str, Any]) -> Beginnings:
    """Anthropic's: up to each block marked with `cache_control`; a mark on the body itself is on its last block."""
    blocks = list(_blocks(body))
    marks = [n for n, block in enumerate(blocks) if isinstance(block, dict) and block.get(_MARK)]
    if body.get(_MARK) and blocks and len(blocks) - 1 not in marks:
        marks.append(len(blocks) - 1)
    if not marks:
        return NONE
    ends = _ends(blocks)
    near = {n for mark in marks for n in range(max(0, mark - LOOKS_BACK), mark + 1)}
    long = [n for n in range(len(blocks)) if ends[n].tokens >= LEAST_TOKENS]
    return Beginnings(
        read=[ends[n] for n in reversed(long) if n in near],
        written=[ends[n] for n in long if n in marks],
        billed=True,
    )


def _blocks(body: dict[str, Any]) -> Iterator[Any]:
    """Tools, system prompt, messages: in the order in which they are cached."""
    yield from body.get("tools") or []
    yield from _listed(body.get("system"))
    for message in body.get("messages") or []:
        for block in _listed(message.get("content")):
            # the same words of somebody else are another prompt
            yield {"role": message.get("role"), **block} if isinstance(block, dict) else [message.get("role"), block]


def _listed(content: Any) -> Iterable[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []


def _ends(blocks: list[Any]) -> list[Beginning]:
    """Where each block ends."""
    hashed, characters, found = blake2b(digest_size=12), 0, []
    for block in blocks:
        plain = {name: value for name, value in block.items() if name != _MARK} if isinstance(block, dict) else block
        hashed.update(json.dumps(plain, sort_keys=True).encode())
        characters += _characters(block)
        found.append(Beginning(digest=hashed.copy().digest(), tokens=characters // text.CHARS_PER_TOKEN))
    return found


def _characters(block: Any) -> int:
    """As the whole prompt's are counted."""
    if not isinstance(block, dict):
        return 0
    match block.get("type"):
        case "text":
            return len(block.get("text", ""))
        case "tool_use":
            return len(block.get("name", "")) + text.size(block.get("input", {}))
        case "tool_result":
            return sum(_characters(one) for one in _listed(block.get("content")))
    if "input_schema" in block:
        return len(block["name"]) + len(block.get("description") or "") + text.size(block["input_schema"])
    return 0
