"""The corpus: documents in one SQLite file, found by full-text search."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from workers.corpus import query as fts
from workers.corpus.documents import (
    Added,
    BadRequest,
    CorpusError,
    CorpusUnavailable,
    Document,
    EmptyCorpus,
    Hit,
    UnknownDocument,
)

__all__ = ["Added", "Corpus", "CorpusError", "Document", "EmptyCorpus", "Hit", "UnknownDocument"]

MAX_HITS = 100
BUSY_SECONDS = 15.0
_VERSION = 1
_TITLE_WEIGHT = 6.0
_ALL_TERMS_BOOST = 1.6
_WITHOUT_NUL = {0: " "}  # SQLite's C API ends a text at NUL

_SCHEMA = """
CREATE TABLE documents (
  key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
  source TEXT NOT NULL, digest TEXT NOT NULL
);;
CREATE VIRTUAL TABLE pages USING fts5 (
  title, text, content='documents', content_rowid='key', tokenize='porter unicode61'
);;
CREATE TRIGGER documents_added AFTER INSERT ON documents BEGIN
  INSERT INTO pages (rowid, title, text) VALUES (new.key, new.title, new.text);
END;;
CREATE TRIGGER documents_removed AFTER DELETE ON documents BEGIN
  INSERT INTO pages (pages, rowid, title, text) VALUES ('delete', old.key, old.title, old.text);
END
"""

_RANKED = """
SELECT rowid, -bm25(pages, :title, 1.0)
  * CASE WHEN rowid IN (SELECT rowid FROM pages WHERE pages MATCH :all) THEN :boost ELSE 1.0 END AS score
FROM pages WHERE pages MATCH :any ORDER BY score DESC, rowid LIMIT :limit
"""

_SNIPPETS = """
SELECT documents.key, documents.id, documents.title, snippet(pages, 1, '', '', ' … ', 32)
FROM pages JOIN documents ON documents.key = pages.rowid WHERE pages MATCH ? AND pages.rowid IN ({keys})
"""


class Corpus:
    """Documents that agents may search and read.

    The file is created when it is not there. Every method may be called from any thread and blocks:
    from a coroutine use `asyncio.to_thread`. Several processes may share the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare()
        except CorpusError:
            self._connection.close()
            raise

    def add(self, documents: Iterable[Document]) -> Added:
        """Add new documents, replace those whose content changed, leave the others alone. All or nothing.

        Raises:
            BadRequest: a document has no id.
            CorpusUnavailable: the file is locked, full or damaged.
        """
        counts = {"added": 0, "replaced": 0, "unchanged": 0}
        ready = list(documents)  # reading files must not hold the write lock
        with self._transaction() as connection:
            for document in ready:
                counts[_put(connection, document)] += 1
        return Added(**counts)

    def search(self, query: str, limit: int = 10) -> list[Hit]:
        """Documents with at least one of the query's words, best first; those with all of them are preferred.

        Raises:
            BadRequest: the query has no word.
            EmptyCorpus: there is nothing to search.
        """
        found = fts.terms(query)
        if not found:
            raise BadRequest(f"the query {query[:80]!r} has no word to search for: ask with at least one word")
        some, every = fts.any_of(found), fts.all_of(found)
        ranking = {"title": _TITLE_WEIGHT, "boost": _ALL_TERMS_BOOST, "any": some, "all": every}
        with self._reading() as connection:
            ranked = connection.execute(_RANKED, ranking | {"limit": min(max(limit, 1), MAX_HITS)}).fetchall()
            # Snippets are dear: made for the winners only.
            keys = ",".join(str(key) for key, _ in ranked)
            rows = {row[0]: row[1:] for row in connection.execute(_SNIPPETS.format(keys=keys), (some,))}
            if not ranked and not _count(connection):
                raise EmptyCorpus(self.path)
        return [_hit(*rows[key], score=score) for key, score in ranked]

    def fetch(self, document_id: str, max_chars: int | None = None, offset: int = 0) -> Document:
        """A document's text from `offset`, at most `max_chars` characters of it.

        Raises:
            UnknownDocument: no document has this id.
        """
        start = max(offset, 0)
        with self._reading() as connection:
            row = connection.execute(
                "SELECT title, text, source FROM documents WHERE id = ?", (document_id,)
            ).fetchone()
        if row is None:
            raise UnknownDocument(document_id)
        title, text, source = row
        end = len(text) if max_chars is None else start + max(max_chars, 0)
        return Document(id=document_id, title=title, text=text[start:end], source=source, truncated=end < len(text))

    def ids(self) -> list[str]:
        """Every document's id, sorted."""
        with self._reading() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM documents ORDER BY id")]

    def count(self) -> int:
        """How many documents there are."""
        with self._reading() as connection:
            return _count(connection)

    def remove(self, document_id: str) -> None:
        """Forget a document.

        Raises:
            UnknownDocument: no document has this id.
        """
        with self._transaction() as connection:
            if connection.execute("DELETE FROM documents WHERE id = ?", (document_id,)).rowcount == 0:
                raise UnknownDocument(document_id)

    def close(self) -> None:
        """Release the file. Closing twice is harmless."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            _create(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise CorpusUnavailable(
                f"the corpus at {self.path} has format {version}, this program reads {_VERSION}: index it anew"
            )
        _enter_wal(connection)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            yield self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CorpusUnavailable(f"the corpus at {self.path} cannot be used: {error}") from error


def _create(connection: sqlite3.Connection) -> None:
    """Create the tables, unless another process was faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("it is another program's database")
            for statement in _SCHEMA.split(";;"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at once.

    SQLite does not wait for a busy file here. The mode is kept in the file, so a loser of the race
    finds it switched, or works on without it until somebody opens the file again.
    """
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname not in {"SQLITE_BUSY", "SQLITE_READONLY"}:
            raise


def _put(connection: sqlite3.Connection, document: Document) -> str:
    if not document.id.strip():
        raise BadRequest(f"the document titled {document.title!r} has no id")
    row = connection.execute("SELECT digest FROM documents WHERE id = ?", (document.id,)).fetchone()
    if row is not None and row[0] == document.digest:
        return "unchanged"
    if row is not None:
        connection.execute("DELETE FROM documents WHERE id = ?", (document.id,))
    connection.execute(
        "INSERT INTO documents (id, title, text, source, digest) VALUES (?, ?, ?, ?, ?)",
        (document.id, _storable(document.title), _storable(document.text), document.source, document.digest),
    )
    return "added" if row is None else "replaced"


def _storable(text: str) -> str:
    """Text that SQLite can hold: no NUL, no lone surrogates."""
    return text.translate(_WITHOUT_NUL).encode("utf-8", "replace").decode("utf-8")


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])


def _hit(document_id: str, title: str, snippet: str, *, score: float) -> Hit:
    return Hit(id=document_id, title=title, snippet=" ".join(snippet.split()), score=round(score, 6))
