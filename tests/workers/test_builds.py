"""Which version of the code a worker runs."""

import subprocess

import pytest

from fleet import settings as environment
from fleet.errors import BadInput
from fleet.settings import Settings
from workers.builds import build_id


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one module and a paper."""
    root = tmp_path / "checkout"
    (root / "fleet").mkdir(parents=True)
    (root / "fleet" / "agents.py").write_text("A = 1\n")
    (root / "README.md").write_text("A\n")
    git(root.parent, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def of(checkout):
    return build_id(Settings(build_id="git"), checkout)


def test_without_a_build_id_workers_are_not_versioned():
    assert build_id(Settings()) is None
    assert build_id(Settings(build_id="v1.2-rc3")) == "v1.2-rc3"


def test_git_tells_the_commit(checkout):
    assert of(checkout) == git(checkout, "rev-parse", "--short=12", "HEAD")


def test_changed_code_has_a_digest_of_the_difference(checkout):
    commit = of(checkout)
    (checkout / "README.md").write_text("papers decide nothing\n")
    assert of(checkout) == commit
    (checkout / "fleet" / "agents.py").write_text("A = 2\n")
    two = of(checkout)
    (checkout / "fleet" / "agents.py").write_text("A = 3\n")
    three = of(checkout)
    (checkout / "fleet" / "more.py").write_text("B = 1\n")
    more = of(checkout)
    assert len({commit, two, three, more}) == 4
    assert all(found.startswith(f"{commit}-dirty-") for found in (two, three, more))
    (checkout / "fleet" / "more.py").unlink()
    assert of(checkout) == three
    # as a build must be called
    assert Settings(build_id=three).build_id == three


def test_where_git_knows_nothing_the_version_must_be_said(tmp_path, checkout):
    with pytest.raises(BadInput, match=r"FLEET_BUILD_ID=git: .* tells no commit .*: say the version itself"):
        of(tmp_path)
    (checkout / "installed").mkdir()
    with pytest.raises(BadInput, match="no checkout of its own"):
        of(checkout / "installed")


@pytest.mark.parametrize("bad", ["-x", "a b", "a:b", "ü", "x" * 64, "a/b", "a-"])
def test_a_build_id_is_also_a_label(bad, monkeypatch):
    monkeypatch.setenv("FLEET_BUILD_ID", bad)
    with pytest.raises(BadInput, match="FLEET_BUILD_ID"):
        environment.load()
