"""The part of a document that speaks of something: what an agent reads when it cannot read everything."""

import re
from collections import Counter

from workers.corpus.query import terms, words

_LINE = re.compile(r"^[^\n]*\S[^\n]*$", re.MULTILINE)


def passage(text: str, about: str, chars: int) -> tuple[str, int]:
    """The `chars` characters of `text` that say most about `about`, beginning with a line, and where they begin.

    A term weighs the more the rarer it is in the document. Without a term of `about` in it: the beginning.
    """
    if len(text) <= chars:
        return text, 0
    counts = Counter(words(text))
    weights = {term: 1.0 / counts[term] for term in terms(about) if counts[term]}
    if not weights:
        return text[:chars], 0
    best, start = 0.0, 0
    for line in _LINE.finditer(text):
        if weights.keys().isdisjoint(words(line.group())):
            continue
        window = words(text[line.start() : line.start() + chars])
        # near the beginning of the window a term is followed by what is said of it
        score = sum(weights[w] * (1.5 - place / len(window)) for place, w in enumerate(window) if w in weights)
        if score > best:
            best, start = score, line.start()
    return text[start : start + chars], start
