"""Research questions drawn from a corpus: something to ask hundreds of agents, each question once."""

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from workers.corpus.documents import BadRequest, CorpusError, Document, EmptyCorpus
from workers.corpus.index import Corpus
from workers.corpus.query import STOPWORDS

_SAMPLE = 400
"""Most documents whose words are counted: enough to tell a rare word from a common one."""

_READ_CHARS = 60_000
_SALIENT = 12
_TERM = re.compile(r"[^\W\d_][^\W_]{3,23}")
_PYTHON = re.compile(r"^(?:class |async )?([a-z][\w.]*\.\w+)\(", re.MULTILINE)

_ABOUT_SYMBOL = (
    "What does {symbol} in the module {module} do, and when should it be used?",
    "How is {symbol} of the module {module} called, and what should its caller watch out for?",
    "What is {symbol} in the module {module} for, and what does it take and return?",
)
_ABOUT_TERMS = (
    "What does “{title}” say about {one} and {two}?",
    "According to “{title}”, how do {one} and {two} relate?",
    "How does “{title}” explain {one}, and what has {two} to do with it?",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What to find out, and the document that knows."""

    text: str
    document_id: str


def questions(corpus: Corpus, n: int, seed: int = 0) -> list[Question]:
    """`n` different questions, spread over the corpus as evenly as possible.

    The same corpus, `n` and seed give the same questions in the same order.

    Raises:
        EmptyCorpus: there is nothing to ask about.
        CorpusError: the corpus does not say enough for `n` different questions.
    """
    if n < 1:
        raise BadRequest(f"cannot draw {n} questions: ask for at least 1")
    ids = corpus.ids()
    if not ids:
        raise EmptyCorpus(corpus.path)
    rng = random.Random(seed)
    rng.shuffle(ids)
    documents = [corpus.fetch(document_id, _READ_CHARS) for document_id in ids[: max(n, _SAMPLE)]]
    frequency = Counter(itertools.chain.from_iterable(set(_terms(document.text)) for document in documents))
    # A document's questions are computed only when its turn comes.
    waiting = [_about(document, frequency, len(documents), rng.randrange(2**32)) for document in documents]
    waiting = [iter(candidates) for candidates in waiting]
    drawn: dict[str, Question] = {}
    while waiting and len(drawn) < n:
        for candidates in list(waiting):
            fresh = next((question for question in candidates if question.text not in drawn), None)
            if fresh is None:
                waiting.remove(candidates)
            else:
                drawn[fresh.text] = fresh
            if len(drawn) == n:
                break
    if len(drawn) < n:
        raise CorpusError(
            f"the corpus at {corpus.path} gives only {len(drawn)} different questions, {n} were asked for:"
            " add documents with `fleet corpus add DIR`"
        )
    return list(drawn.values())


def _about(document: Document, frequency: Counter[str], total: int, seed: int) -> Iterator[Question]:
    """Every question about one document, the most promising first."""
    rng = random.Random(seed)
    symbols = _symbols(document)
    rng.shuffle(symbols)
    for template, symbol in itertools.product(_ABOUT_SYMBOL, symbols):
        module = document.id.removeprefix("python/")
        yield Question(template.format(symbol=symbol, module=module), document.id)
    salient = _salient(document, frequency, total)
    pairs = list(itertools.combinations(salient, 2)) or [(term, "its use") for term in salient]
    head, tail = pairs[: len(salient)], pairs[len(salient) :]
    rng.shuffle(head)
    rng.shuffle(tail)
    templates = rng.sample(_ABOUT_TERMS, len(_ABOUT_TERMS))
    for template, (one, two) in itertools.product(templates, head + tail):
        yield Question(template.format(title=document.title, one=one, two=two), document.id)


def _symbols(document: Document) -> list[str]:
    """The documented functions and classes, if the document is a Python module's page."""
    module = document.id.removeprefix("python/")
    if module == document.id or not document.text.startswith(f"Module {module}\n"):
        return []
    found = dict.fromkeys(_PYTHON.findall(document.text))
    return [symbol for symbol in found if symbol.startswith(f"{module}.")]


def _salient(document: Document, frequency: Counter[str], total: int) -> list[str]:
    """The document's own words, by tf-idf; its title already names those in it."""
    said = set(_terms(document.title))
    counts = Counter(term for term in _terms(document.text) if term not in said)

    def weight(term: str) -> tuple[float, str]:
        idf = math.log((1 + total) / (1 + frequency[term])) + 1
        return (-(1 + math.log(counts[term])) * idf, term)

    return sorted(counts, key=weight)[:_SALIENT]


def _terms(text: str) -> list[str]:
    return [word for word in _TERM.findall(text.lower()) if word not in STOPWORDS]
