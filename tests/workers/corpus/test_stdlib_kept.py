import stat

import pytest

from workers.corpus import stdlib
from workers.corpus.documents import Document
from workers.corpus.stdlib_kept import stdlib_documents

FOUND = [Document(id="python/heapq", title="heapq — Heap queue", text="Said “so”.", source="Lib/heapq.py")]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "agent-fleet"


@pytest.fixture
def readings(monkeypatch):
    made = []

    def read():
        made.append(1)
        return iter(FOUND)

    monkeypatch.setattr(stdlib, "read_stdlib", read)
    return made


def test_the_library_is_read_once(cache, readings):
    assert [stdlib_documents(cache) for _ in range(3)] == [FOUND] * 3
    assert len(readings) == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "[", '[{"id": "python/heapq"}]', '[{"name": 1}]', "7"])
def test_a_file_that_is_not_understood_is_made_anew(cache, readings, text):
    stdlib_documents(cache)
    (kept,) = cache.iterdir()
    kept.write_text(text)
    assert stdlib_documents(cache) == FOUND
    assert stdlib_documents(cache) == FOUND
    assert len(readings) == 2


def test_another_python_and_other_code_read_it_again(cache, readings, monkeypatch, tmp_path):
    stdlib_documents(cache)
    monkeypatch.setattr("sys.version", "3.99.0")
    stdlib_documents(cache)
    changed = tmp_path / "stdlib.py"
    changed.write_text("# reads other modules")
    monkeypatch.setattr(stdlib, "__file__", str(changed))
    stdlib_documents(cache)
    assert len(readings) == len(list(cache.iterdir())) == 3


def test_a_folder_that_cannot_be_written_to_costs_a_reading_each_time(tmp_path, readings):
    (tmp_path / "file").write_text("in the way")
    assert [stdlib_documents(tmp_path / "file") for _ in range(2)] == [FOUND] * 2
    assert len(readings) == 2


def test_without_a_folder_it_is_read_each_time(readings):
    assert [stdlib_documents(None) for _ in range(2)] == [FOUND] * 2
    assert len(readings) == 2


def test_nobody_else_can_write_it(cache, readings):
    stdlib_documents(cache)
    (kept,) = cache.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
