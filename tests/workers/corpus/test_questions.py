import pytest

from workers.corpus.documents import BadRequest, CorpusError, EmptyCorpus
from workers.corpus.index import Corpus, Document
from workers.corpus.questions import questions


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory, documents):
    with Corpus(tmp_path_factory.mktemp("stdlib") / "corpus.db") as corpus:
        corpus.add(documents.values())
        yield corpus


@pytest.fixture
def small(tmp_path):
    with Corpus(tmp_path / "corpus.db") as corpus:
        corpus.add(
            [
                Document(id="otters", title="On otters", text="Otters sleep holding hands and crack shellfish."),
                Document(id="owls", title="On owls", text="Owls turn their heads, hunt mice and live in barns."),
            ]
        )
        yield corpus


@pytest.mark.parametrize("n", [1, 40, 300, 1200])
def test_every_question_is_different(stdlib, n):
    drawn = questions(stdlib, n, seed=1)
    assert len({question.text for question in drawn}) == len(drawn) == n
    assert len({question.document_id for question in drawn}) == min(n, stdlib.count())


def test_a_seed_decides_the_questions(stdlib):
    assert questions(stdlib, 40, seed=5) == questions(stdlib, 40, seed=5)
    assert questions(stdlib, 40, seed=5) != questions(stdlib, 40, seed=6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_questions_own_words_find_its_document(stdlib, seed):
    drawn = questions(stdlib, 150, seed)
    found = [any(hit.id == question.document_id for hit in stdlib.search(question.text, 5)) for question in drawn]
    assert sum(found) / len(found) >= 0.95


def test_pages_of_modules_are_asked_about_their_functions(stdlib):
    about = next(q for q in questions(stdlib, stdlib.count(), seed=0) if q.document_id == "python/shelve")
    assert "shelve." in about.text
    assert "the module shelve" in about.text


def test_a_small_corpus_gives_several_questions_per_document(small):
    drawn = questions(small, 20, seed=0)
    assert len({question.text for question in drawn}) == 20
    assert sorted(question.document_id for question in drawn) == ["otters"] * 10 + ["owls"] * 10
    assert all("otters" in question.text for question in drawn if question.document_id == "otters")


def test_more_questions_than_the_corpus_has_are_refused(small):
    with pytest.raises(CorpusError, match=r"gives only \d+ different questions, 5000 were asked for"):
        questions(small, 5000)


def test_documents_of_the_same_title_and_text_do_not_repeat_a_question(tmp_path):
    with Corpus(tmp_path / "corpus.db") as corpus:
        corpus.add(Document(id=f"copy/{n}", title="Copy", text="Otters crack shellfish gently.") for n in range(5))
        drawn = questions(corpus, 12)
    assert len({question.text for question in drawn}) == 12


def test_an_empty_corpus_gives_no_questions(tmp_path):
    with Corpus(tmp_path / "corpus.db") as corpus, pytest.raises(EmptyCorpus, match="fleet corpus add"):
        questions(corpus, 3)


def test_no_questions_cannot_be_drawn(small):
    with pytest.raises(BadRequest, match="at least 1"):
        questions(small, 0)
