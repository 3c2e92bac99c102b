"""What a corpus holds, and what can be wrong with it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text that agents may find, read and cite."""

    id: str
    """Unique in its corpus, readable: `python/heapq`, `handbook/leave.md`."""

    title: str
    text: str

    source: str = ""
    """Where the text came from, for a human who wants to check it."""

    truncated: bool = False
    """True if `text` stops before the end of the document."""

    @property
    def digest(self) -> str:
        """The content's fingerprint: a document with the same id and digest is unchanged."""
        parts = "\0".join((self.title, self.source, self.text))
        return hashlib.sha256(parts.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document that a search found."""

    id: str
    title: str

    snippet: str
    """About 30 words around the best match, on one line."""

    score: float
    """Greater is better; comparable only within one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What adding documents changed."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0


class CorpusError(Exception):
    """Something about the corpus that its user must know, in one line."""


class EmptyCorpus(CorpusError):
    """There is nothing to search yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"the corpus at {path} is empty: add documents with `fleet corpus add DIR`")


class UnknownDocument(CorpusError):
    """No document has this id."""

    def __init__(self, document_id: str) -> None:
        super().__init__(f"the corpus has no document {document_id!r}: use an id that a search returned")
        self.document_id = document_id


class BadRequest(CorpusError):
    """A question the corpus cannot answer, such as one without a word."""


class UnreadableFolder(CorpusError):
    """The folder to read documents from is not there or may not be read."""


class CorpusUnavailable(CorpusError):
    """The file cannot be opened, is locked by another process, or is not a corpus."""
