import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.corpus.documents import BadRequest, CorpusUnavailable
from workers.corpus.index import Added, Corpus, Document, EmptyCorpus, UnknownDocument


def document(name, title="A title", text="Some words."):
    return Document(id=name, title=title, text=text, source="test")


@pytest.fixture
def corpus(tmp_path):
    with Corpus(tmp_path / "corpus.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    with Corpus(tmp_path_factory.mktemp("animals") / "corpus.db") as opened:
        opened.add(
            [
                document("otter", "The otter", "Otters hold hands while sleeping. They eat shellfish."),
                document("crab", "Crabs", "A crab is a shellfish with ten legs. Otters eat it."),
                document("owl", "Owls of the night", "An owl turns its head and hunts mice. It eats them whole."),
            ]
        )
        yield opened


def test_adding_the_same_documents_again_changes_nothing(corpus):
    documents = [document("a"), document("b")]
    assert corpus.add(documents) == Added(added=2)
    assert corpus.add(documents) == Added(unchanged=2)
    assert corpus.count() == 2


def test_a_changed_document_replaces_its_old_text(corpus):
    corpus.add([document("a", text="about walruses")])
    assert corpus.add([document("a", text="about narwhals")]) == Added(replaced=1)
    assert [hit.id for hit in corpus.search("narwhals")] == ["a"]
    assert corpus.search("walruses") == []


def test_a_failing_addition_adds_nothing(corpus):
    with pytest.raises(BadRequest, match="has no id"):
        corpus.add([document("a"), document(" ")])
    assert corpus.count() == 0


def test_a_removed_document_is_found_no_more(corpus):
    corpus.add([document("a", text="walrus"), document("b", text="narwhal")])
    corpus.remove("a")
    assert corpus.search("walrus") == []
    assert corpus.ids() == ["b"]
    with pytest.raises(UnknownDocument, match="'a'"):
        corpus.remove("a")


def test_what_was_added_is_there_after_reopening(tmp_path):
    path = tmp_path / "new" / "folder" / "corpus.db"
    with Corpus(path) as first:
        first.add([document("a", text="walrus")])
    with Corpus(path) as second:
        assert [hit.id for hit in second.search("walrus")] == ["a"]


def test_a_word_in_the_title_counts_more_than_in_the_text(animals):
    assert [hit.id for hit in animals.search("otter")] == ["otter", "crab"]


def test_other_forms_of_a_word_are_found(animals):
    assert {hit.id for hit in animals.search("eating")} == {"otter", "crab", "owl"}


def test_a_document_with_every_word_comes_before_one_with_some(animals):
    assert animals.search("shellfish legs")[0].id == "crab"
    assert animals.search("what eats mice at night?")[0].id == "owl"


def test_scores_fall_and_snippets_are_one_line(animals):
    hits = animals.search("shellfish otters eat")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 and hit.snippet and "\n" not in hit.snippet for hit in hits)


def test_a_limit_bounds_the_hits(animals):
    assert len(animals.search("eat", limit=2)) == 2
    assert len(animals.search("eat", limit=-1)) == 1


@pytest.mark.parametrize(
    "query",
    ['"', 'a" OR "b', "otter AND", "NEAR(", "title:otter", "otter*", "^otter", "-otter", "(((", "a\0b", "{x}: y"],
)
def test_fts_syntax_in_a_query_is_only_words(animals, query):
    with contextlib.suppress(BadRequest):  # "(((" has no word
        animals.search(query)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=80), limit=st.integers(-3, 300))
def test_no_text_breaks_the_search(animals, query, limit):
    try:
        hits = animals.search(query, limit)
    except BadRequest:
        return
    assert len(hits) <= 3


def test_a_query_of_stop_words_still_searches(animals):
    assert [hit.id for hit in animals.search("them")] == ["owl"]


@pytest.mark.parametrize("query", ["", "   ", "?!", "___"])
def test_a_query_without_a_word_is_refused(animals, query):
    with pytest.raises(BadRequest, match="at least one word"):
        animals.search(query)


def test_searching_an_empty_corpus_says_how_to_fill_it(corpus):
    with pytest.raises(EmptyCorpus) as raised:
        corpus.search("anything")
    assert str(raised.value) == f"the corpus at {corpus.path} is empty: add documents with `fleet corpus add DIR`"


def test_a_document_is_read_in_pieces(corpus):
    corpus.add([document("a", text="0123456789")])
    first, second = corpus.fetch("a", 6), corpus.fetch("a", 6, offset=6)
    assert (first.text, first.truncated) == ("012345", True)
    assert (second.text, second.truncated) == ("6789", False)
    assert corpus.fetch("a").text == "0123456789"
    assert corpus.fetch("a", 10).truncated is False
    assert corpus.fetch("a", 5, offset=99).text == ""
    assert corpus.fetch("a", 5).source == "test"


def test_a_missing_document_is_named(corpus):
    with pytest.raises(UnknownDocument, match="no document 'nowhere'"):
        corpus.fetch("nowhere")


def test_text_that_sqlite_cannot_hold_is_made_storable(corpus):
    corpus.add([document("a", text="walrus\0tusk \ud800")])
    assert corpus.fetch("a").text == "walrus tusk ?"
    assert corpus.add([document("a", text="walrus\0tusk \ud800")]) == Added(unchanged=1)


def test_a_file_that_is_no_corpus_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be mistaken for one " * 50)
    before = path.read_bytes()
    with pytest.raises(CorpusUnavailable, match="cannot be used: file is not a database"):
        Corpus(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    with pytest.raises(CorpusUnavailable, match="another program's database"):
        Corpus(path)


def test_a_corpus_of_another_format_is_refused(tmp_path):
    path = tmp_path / "corpus.db"
    Corpus(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(CorpusUnavailable, match="format 99"):
        Corpus(path)


def test_a_closed_corpus_says_so(tmp_path):
    corpus = Corpus(tmp_path / "corpus.db")
    corpus.close()
    corpus.close()
    with pytest.raises(CorpusUnavailable, match="closed"):
        corpus.count()


def test_many_threads_search_while_one_adds(corpus):
    corpus.add([document("0", text="walrus 0")])
    done = threading.Event()

    def search(_):
        found = 0
        while not done.is_set():
            found = max(found, len(corpus.search("walrus", 100)))
        return found

    with ThreadPoolExecutor(9) as threads:
        searches = [threads.submit(search, n) for n in range(8)]
        for number in range(1, 40):
            corpus.add([document(str(number), text=f"walrus {number}")])
        done.set()
        assert all(searching.result() <= 40 for searching in searches)
    assert len(corpus.search("walrus", 100)) == 40


OPEN_AND_ADD = """
import sys, time
from pathlib import Path
from workers.corpus.index import Corpus, Document
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / name).touch()
while not (folder / "go").exists():
    time.sleep(0.001)
with Corpus(folder / "corpus.db") as corpus:
    for number in range(10):
        corpus.add([Document(id=f"{name}/{number}", title="", text="walrus")])
"""


def test_processes_that_open_a_new_corpus_at_once_all_succeed(tmp_path):
    names = [f"child{number}" for number in range(6)]
    children = [subprocess.Popen([sys.executable, "-c", OPEN_AND_ADD, tmp_path, name]) for name in names]
    while not all((tmp_path / name).exists() for name in names):
        assert all(child.poll() is None for child in children)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [child.wait(30) for child in children] == [0] * 6
    with Corpus(tmp_path / "corpus.db") as corpus:
        assert corpus.count() == 60
