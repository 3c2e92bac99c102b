"""Known vulnerabilities of what the lock files name: pip-audit over our own copy of advisories, then over OSV itself.

audit.py [--local] [LOCK …]    exit code 1: one is affected, or an exception is of no use; 2: it could not be asked
audit.py --refresh             fetch the advisories anew from OSV (deploy/advisories/README.md)

The copy is served on loopback as OSV's service would answer (https://google.github.io/osv.dev/post-v1-query/), so that
pip-audit reads one as the other. Every pin is looked at, whatever platform or Python its marker names.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "deploy/requirements.lock", "deploy/build.lock")
ADVISORIES = ROOT / "deploy" / "advisories"
OSV = "https://api.osv.dev/v1/query"
STALE_DAYS = 90
TIMEOUT_S = 20
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


class Unasked(Exception):
    """It cannot be told whether anything is affected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """An advisory that is passed over."""

    id: str
    package: str
    reason: str
    expires: date


def pins(locks: Sequence[Path]) -> list[tuple[str, str]]:
    """Every version that the lock files name, each once.

    Raises:
        Unasked: a file cannot be read or names nothing.
    """
    found: set[tuple[str, str]] = set()
    for lock in locks:
        try:
            named = _PIN.findall(lock.read_text(encoding="utf-8"))
        except OSError as error:
            raise Unasked(f"{lock}: cannot be read ({error.strerror})") from None
        if not named:
            raise Unasked(f"{lock}: names no version as name==1.0")
        found |= {(canonicalize_name(name), version) for name, version in named}
    return sorted(found)


def affects(vulnerability: dict[str, Any], name: str, version: str) -> bool:
    """Whether a record of OSV is of this version: https://ossf.github.io/osv-schema/#affectedranges-field."""
    for affected in vulnerability.get("affected", []):
        package = affected.get("package", {})
        if package.get("ecosystem") != "PyPI" or canonicalize_name(package.get("name", "")) != name:
            continue
        if version in affected.get("versions", []):
            return True
        ranges = [one["events"] for one in affected.get("ranges", []) if one["type"] == "ECOSYSTEM"]
        if any(_within(events, Version(version)) for events in ranges):
            return True
    return False


def _within(events: Sequence[dict[str, str]], version: Version) -> bool:
    inside = False
    for event in sorted(events, key=_when):
        ((kind, at),) = event.items()
        bound = Version("0.dev0") if at == "0" else Version(at)
        if kind == "introduced" and version >= bound:
            inside = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            inside = False
    return inside


def _when(event: dict[str, str]) -> Version:
    ((_, at),) = event.items()
    return Version("0.dev0") if at == "0" else Version(at)


def advisories(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], date]:
    """Records by package, and the day of the oldest look.

    Raises:
        Unasked: there are none, or a file is not what it should be.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    looked: list[date] = []
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            looked.append(date.fromisoformat(document["looked_up"]))
            found[canonicalize_name(path.stem)] = document["vulns"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unasked(
                f"{path}: is no list of advisories ({error}): run `python3 tasks.py audit --refresh`"
            ) from None
    if not found:
        raise Unasked(f"{folder}: holds no advisories: run `python3 tasks.py audit --refresh`")
    return found, min(looked)


@contextmanager
def served(known: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The address at which they are answered as OSV would."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            name, version = query["package"]["name"], query["version"]
            matching = [one for one in known.get(canonicalize_name(name), []) if affects(one, name, version)]
            body = json.dumps({"vulns": matching} if matching else {}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def affected(wanted: Sequence[tuple[str, str]], url: str) -> list[dict[str, Any]]:
    """What pip-audit finds of these versions at a service that speaks OSV's protocol.

    Raises:
        Unasked: the service does not answer, or some version was not looked at.
    """
    # pip-audit takes a name once
    sets: list[dict[str, str]] = []
    for name, version in wanted:
        one = next((one for one in sets if name not in one), None)
        if one is None:
            one = {}
            sets.append(one)
        one[name] = version
    with ThreadPoolExecutor() as pool:
        found = [package for packages in pool.map(lambda one: _asked(one, url), sets) for package in packages]
    looked_at = {(canonicalize_name(one["name"]), one.get("version")) for one in found}
    if unseen := [f"{name} {version}" for name, version in wanted if (name, str(_plain(version))) not in looked_at]:
        raise Unasked(f"pip-audit has not looked at {', '.join(unseen)}")
    return [one for one in found if one.get("vulns")]


def _asked(wanted: dict[str, str], url: str) -> list[dict[str, Any]]:
    """pip-audit's own answer."""
    straight = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} if "//127.0.0.1:" in url else {}
    with TemporaryDirectory(prefix="audit") as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in wanted.items()))
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--requirement",
            str(file),
            "--no-deps",
            "--disable-pip",
            "--strict",
        ]
        command += ["--format", "json", "--progress-spinner", "off", "--cache-dir", folder, "--timeout", str(TIMEOUT_S)]
        command += ["--vulnerability-service", "osv", "--osv-url", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | straight)
    try:
        answered: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        raise Unasked("no answer" if "Connection" in said or "Timeout" in said else said[:200]) from None
    return answered


def _plain(version: str) -> Version | str:
    try:
        return Version(version)
    except InvalidVersion:
        return version


def exceptions(path: Path, today: date) -> tuple[list[Passed], list[str]]:
    """Advisories that are passed over, and what is wrong with the list.

    Raises:
        Unasked: the file cannot be read, or is no list of exceptions.
    """
    if not path.exists():
        return [], []
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("exception", [])
    except (OSError, ValueError) as error:
        raise Unasked(f"{path}: cannot be read as TOML ({error})") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unasked(f"{path}: has no [[exception]], with two brackets on each side")
    passed: list[Passed] = []
    problems: list[str] = []
    for entry in entries:
        try:
            one = Passed(**entry)
        except TypeError:
            problems.append(
                f"exception {entry.get('id', '?')}: needs id, package, reason and expires, and nothing else"
            )
            continue
        texts = (one.id, one.package, one.reason)
        # a time is a date to Python
        if not all(isinstance(text, str) for text in texts) or type(one.expires) is not date:
            problems.append(f"exception {one.id}: expires must be a day, as 2027-01-31, and the others text")
        elif not one.reason.strip():
            problems.append(f"exception {one.id}: has no reason")
        elif one.expires <= today:
            problems.append(f"exception {one.id} of {one.package}: has expired on {one.expires}")
        else:
            passed.append(one)
    return passed, problems


def judged(found: Sequence[dict[str, Any]], passed: Sequence[Passed]) -> tuple[list[str], set[str]]:
    """A line for each advisory that holds, and the ids of exceptions that were needed."""
    lines: list[str] = []
    needed: set[str] = set()
    for package in found:
        for vulnerability in package["vulns"]:
            ids = {vulnerability["id"], *vulnerability["aliases"]}
            over = next(
                (one for one in passed if one.id in ids and canonicalize_name(one.package) == package["name"]), None
            )
            if over is not None:
                needed.add(over.id)
                continue
            fixed = ", ".join(vulnerability["fix_versions"]) or "none yet"
            names = ", ".join([vulnerability["id"], *sorted(vulnerability["aliases"])])
            lines.append(
                f"{package['name']} {package['version']}: {names}: {vulnerability['description'][:200]} Fixed: {fixed}."
            )
    return lines, needed


def refresh(wanted: Sequence[tuple[str, str]], folder: Path) -> int:
    """Fetch every advisory of the packages, whatever version they are of; packages that are not locked go.

    Raises:
        Unasked: OSV does not answer.
    """
    names = sorted({name for name, _ in wanted})
    today = datetime.now(UTC).date().isoformat()
    fetched = {name: _of_osv(name) for name in names}
    for path in folder.glob("*.json"):
        path.unlink()
    for name, vulns in fetched.items():
        document = {"looked_up": today, "vulns": sorted(vulns, key=lambda one: str(one["id"]))}
        if vulns:
            (folder / f"{name}.json").write_text(
                json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    return sum(map(len, fetched.values()))


def _of_osv(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token: str | None = ""
    while token is not None:
        query = {"package": {"name": name, "ecosystem": "PyPI"}, **({"page_token": token} if token else {})}
        asked = urllib.request.Request(OSV, json.dumps(query).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310 - of a constant
                page = json.load(answer)
        except (OSError, ValueError) as error:
            raise Unasked(f"OSV does not answer ({error}): nothing is changed") from None
        found += [one for one in page.get("vulns", []) if "withdrawn" not in one]
        token = page.get("next_page_token")
    return found


def audit(locks: Sequence[Path], folder: Path, *, local: bool) -> int:
    """Look, say what was found, and answer with the exit code."""
    wanted = pins(locks)
    known, looked = advisories(folder)
    today = datetime.now(UTC).date()
    passed, problems = exceptions(folder / "exceptions.toml", today)
    with served(known) as url:
        found = affected(wanted, url)
    where = f"{sum(map(len, known.values()))} advisories of {len(known)} packages, looked up on {looked}"
    if not local:
        try:
            found += [one for one in affected(wanted, OSV) if one not in found]
            where += ", and OSV"
        except Unasked as error:
            say(f"OSV was not asked ({error}): judged by the copy alone")
    lines, needed = judged(found, passed)
    problems += [f"exception {one.id} of {one.package}: no advisory needs it" for one in passed if one.id not in needed]
    for line in [*lines, *problems]:
        say(f"{line}")
    if (today - looked).days > STALE_DAYS:
        say(f"the copy is of {looked}: run `python3 tasks.py audit --refresh` where OSV can be reached")
    verdict = f"{len(lines)} found" if lines else "none is affected"
    say(f"{len(wanted)} versions against {where}: {verdict}")
    return 1 if lines or problems else 0


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(f"audit: {text}\n")


def main(arguments: Sequence[str]) -> int:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="audit", description=__doc__.splitlines()[0])
    parser.add_argument("lock", nargs="*", type=Path, help="lock files (default: the project's)")
    parser.add_argument("--local", action="store_true", help="only our own copy of advisories")
    parser.add_argument("--refresh", action="store_true", help="fetch the copy anew from OSV")
    parser.add_argument("--advisories", type=Path, default=ADVISORIES, help="folder of the copy")
    asked = parser.parse_args(arguments)
    locks = asked.lock or [ROOT / one for one in LOCKS if (ROOT / one).exists()]
    try:
        if asked.refresh:
            say(f"{refresh(pins(locks), asked.advisories)} advisories fetched")
            return 0
        return audit(locks, asked.advisories, local=asked.local)
    except Unasked as error:
        say(f"{error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
