"""How the simulated models read and write: counting tokens, splitting sentences, finding what a text is about."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

CHARS_PER_TOKEN = 4
"""Of English text, by OpenAI's own rule of thumb; its rate limiter estimates from characters too."""

_WORD = re.compile(r"[^\W_][\w.]*[^\W_]|[^\W_]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`“\"(])|\n\s*\n|\n(?=\s*[-*•])")
_STOP_WORDS = (
    "a about according an and any are as at be been but by can could did do does each for from had has have how if in"
    " into is it its itself may more most not of on one only or other out over say says should so some such than that"
    " the their them then there these they this to two use used uses using was were what when where which who why will"
    " with would you your yours e-mail email brief send please me i we our us called calls relate explain watch module"
    " caller take takes return returns"
)
_STOP = frozenset(_STOP_WORDS.split())


def tokens(characters: int) -> int:
    """Tokens of that many characters, at least one."""
    return max(1, math.ceil(characters / CHARS_PER_TOKEN))


def size(value: Any) -> int:
    """Characters of a text, or of a value's JSON."""
    return len(value) if isinstance(value, str) else len(json.dumps(value, ensure_ascii=False))


def said(content: Any) -> str:
    """The text of a message's content, which OpenAI's APIs take as a string or as a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def words(text: str) -> list[str]:
    """Lower-case words; dotted names stay whole."""
    return [word.lower() for word in _WORD.findall(text)]


def topic(text: str, most: int = 8) -> list[str]:
    """The words a text is about: no stop words, dotted names first, else in their order."""
    found = dict.fromkeys(word for word in words(text) if word not in _STOP and len(word) > 1)
    return sorted(found, key=lambda word: "." not in word)[:most]


def sentences(text: str) -> list[str]:
    """Sentences and list items, blanks collapsed."""
    found = (" ".join(part.split()) for part in _SENTENCE.split(text))
    return [part for part in found if 20 <= len(part) <= 400]


def relevance(sentence: str, about: Mapping[str, float]) -> float:
    """How much of what is asked a sentence speaks of, with a little less for long ones."""
    said = set(words(sentence))
    parts = {part for word in said for part in word.split(".")}
    hits = sum(weight for word, weight in about.items() if word in said or word in parts)
    return hits / math.sqrt(8 + len(said))
