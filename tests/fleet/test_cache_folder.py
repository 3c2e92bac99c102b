from pathlib import Path

import pytest

from fleet import settings


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_it_is_that_of_the_user(home):
    assert settings.load().cache() == home / ".cache" / "agent-fleet"


def test_the_users_choice_counts(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert settings.load().cache() == home / "elsewhere" / "agent-fleet"


def test_a_folder_that_depends_on_where_one_stands_is_none(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")
    assert settings.load().cache() is None


def test_a_user_without_a_home_has_none(home, monkeypatch):
    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nowhere)
    assert settings.load().cache() is None
