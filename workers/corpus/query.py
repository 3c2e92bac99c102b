"""A question in plain words, turned into an FTS5 expression that cannot be malformed."""

import re

MAX_TERMS = 48
"""More words than this add time, not precision."""

_WORD = re.compile(r"[^\W_]+")  # as FTS5's unicode61 splits: letters and digits, so `total_ordering` is two words

_COMMON = """
a about an and any are as at be been but by can could did do does for from had has have how i if in into is it its
may me my no not of on or our shall should so such than that the their them then there these they this those to
use used using was we were what when where which who why will with would you your
"""

STOPWORDS = frozenset(_COMMON.split())


def words(text: str) -> list[str]:
    """The words of `text` in lower case, in order, repeated as they are."""
    return [word.lower() for word in _WORD.findall(text)]


def terms(query: str) -> list[str]:
    """The different words worth searching: without stop words, unless there is nothing else."""
    found = list(dict.fromkeys(words(query)))
    return ([word for word in found if word not in STOPWORDS] or found)[:MAX_TERMS]


def any_of(found: list[str]) -> str:
    """An FTS5 expression that matches documents with at least one of the terms."""
    return " OR ".join(f'"{term}"' for term in found)


def all_of(found: list[str]) -> str:
    """An FTS5 expression that matches documents with every term."""
    return " AND ".join(f'"{term}"' for term in found)
