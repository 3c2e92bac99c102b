import ast
import sys

import pytest

from workers.corpus import stdlib
from workers.corpus.index import Corpus
from workers.corpus.stdlib import MIN_CHARS
from workers.corpus.stdlib_render import heading


def test_the_running_python_gives_several_hundred_documents(documents):
    assert len(documents) >= 300
    assert all(
        len(document.text) >= MIN_CHARS and document.title and document.source for document in documents.values()
    )


def test_two_processes_that_read_them_find_the_same(reading):
    assert type(reading)(hash_seed=2).documents == reading.documents


def test_modules_have_readable_ids_and_titles(documents):
    assert documents["python/heapq"].title == "heapq — Heap queue algorithm (a.k.a. priority queue)"
    assert "heapq.merge(*iterables, key=None, reverse=False)" in documents["python/heapq"].text
    assert "email.message.Message.get_content_type()" in documents["python/email.message"].text


def test_modules_written_in_c_are_there(documents):
    assert "math.gcd" in documents["python/math"].text
    assert "class itertools.chain" in documents["python/itertools"].text
    assert "builtins.str.partition(self, sep, /)" in documents["python/builtins.str"].text


def test_the_language_reference_is_there(documents):
    assert "__debug__" in documents["python/reference/assert"].text


def test_nothing_private_or_installed_is_read(documents):
    modules = [key.removeprefix("python/") for key in documents]
    assert not [name for name in modules if name.startswith(("_", "test", "idlelib", "lib2to3", "encodings."))]
    assert "python/pytest" not in documents


def test_no_machine_path_or_address_is_in_a_document(documents):
    assert not [key for key, document in documents.items() if sys.prefix in document.text + document.source]
    assert not [key for key, document in documents.items() if " at 0x7" in document.text]


def test_modules_are_read_without_importing_them(reading):
    assert (reading.ended.returncode, reading.ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "docstring", "title"),
    [
        ("plistlib", "plistlib.py -- a tool to read plists.", "plistlib — a tool to read plists"),
        ("distutils.spawn", "distutils.spawn\n\nProvides spawn.", "distutils.spawn — Provides spawn"),
        ("json", "JSON codec.\nMore.", "json — JSON codec"),
        ("x", "x", "x"),
    ],
)
def test_a_title_is_the_name_and_what_it_does(name, docstring, title):
    assert heading(name, docstring) == title


def test_the_default_corpus_answers_a_question(documents, tmp_path):
    with Corpus(tmp_path / "corpus.db") as corpus:
        corpus.add(documents.values())
        assert corpus.search("How do I merge sorted iterables with a priority queue?")[0].id == "python/heapq"


def test_a_parser_that_trips_over_another_thread_is_asked_again(monkeypatch):
    parse, tripped = ast.parse, []

    def once(source):
        if not tripped:
            tripped.append(source)
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(source)

    monkeypatch.setattr(stdlib.ast, "parse", once)
    assert stdlib._parsed(b'"""Said."""').body
    assert tripped
