"""The image: what its files say, that each rule can be broken, and what they name exists."""

import http.server
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import trustme

from fleet.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text()
ROOMS = ("fleet", "ratelimit", "workers", "load")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def instructions(text: str) -> list[tuple[str, str]]:
    """Word and rest of each instruction, its lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined.splitlines()]


def stages(text: str) -> list[list[tuple[str, str]]]:
    """Instructions from each FROM on; what stands before the first is in none."""
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(text):
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def named(stage: list[tuple[str, str]], word: str) -> list[str]:
    """What the stage says of it, in order."""
    return [rest for found, rest in stage if found == word]


def exec_form(text: str) -> list[str] | None:
    """Its words; None if it would need a shell."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def settings_of(stage: list[tuple[str, str]]) -> dict[str, str]:
    """The variables that the stage sets."""
    return dict(pair for rest in named(stage, "ENV") for pair in re.findall(r"(\w+)=(\S*)", rest))


def _bases(text: str) -> Iterator[str]:
    for stage in stages(text):
        (base,) = named(stage, "FROM")
        if not re.fullmatch(r"[a-z][\w./-]*:(?!latest)[\w.-]+\$\{PYTHON_DIGEST\}( AS \w+)?", base):
            yield f"FROM {base}: is not pinned by a tag and, if it is given, a digest"
    if len({named(stage, "FROM")[0].partition(" ")[0] for stage in stages(text)}) != 1:
        yield "FROM: what is built with one base runs on another"


def _sources(text: str) -> Iterator[str]:
    words = instructions(text)
    for word, rest in words:
        if word == "ADD":
            yield f"ADD {rest}: COPY cannot fetch"
        if word in ("ARG", "ENV") and SECRET.search(rest):
            yield f"{word} {rest}: a secret would stay in the image"
        if word == "RUN" and re.search(r"\b(curl|wget|apt|apt-get|git)\b", rest):
            yield f"RUN {rest}: fetches what no lock names"
    for word, rest in words:
        for install in re.findall(r"pip [^&|;]*\binstall [^&|;]*", rest) if word == "RUN" else []:
            by_hash = "--require-hashes" in install and "--only-binary :all:" in install and "-r " in install
            if not by_hash and not ("--no-index" in install and "--no-deps" in install):
                yield f"RUN {install.strip()}: installs without hashes"
        if word == "RUN" and "pip wheel" in rest and not {"--no-deps", "--no-build-isolation"} <= set(rest.split()):
            yield "RUN pip wheel: would fetch the build's own tools"
    if not any("--require-hashes" in rest and "requirements.lock" in rest for _, rest in words):
        yield "RUN: the lock is not installed"


def _runs(text: str) -> Iterator[str]:
    last = stages(text)[-1]
    user = (named(last, "USER") or [""])[-1]
    if not re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", user):
        yield f"USER {user}: is no number of an ordinary user and group"
    if set(named(last, "COPY")) != {"--from=build /opt/fleet /opt/fleet", "deploy/healthcheck.py /opt/healthcheck.py"}:
        yield "COPY: the last stage takes more than the environment that was built"
    if not any("rm -rf" in rest and "/bin/pip*" in rest for rest in named(last, "RUN")):
        yield "RUN: the installer is left in the image"
    if named(last, "STOPSIGNAL") != ["SIGTERM"]:
        yield "STOPSIGNAL: workers drain on SIGTERM"
    if [exec_form(rest) for rest in named(last, "ENTRYPOINT")] != [["fleet"]]:
        yield "ENTRYPOINT: signals reach a command only in exec form"
    if any(exec_form(rest) is None for rest in named(last, "CMD")):
        yield "CMD: a shell would stand before the command"
    if healthcheck(text) is None:
        yield "HEALTHCHECK: none in exec form"


def _settings(text: str) -> Iterator[str]:
    said = settings_of(stages(text)[-1])
    for name in said:
        if name.startswith("FLEET_") and name.removeprefix("FLEET_").lower() not in Settings.model_fields:
            yield f"ENV {name}: is no setting"
    wanted = {"FLEET_HEALTH_HOST": "0.0.0.0", "FLEET_HEALTH_PORT": "8303", "FLEET_LOG_FORMAT": "json"}
    wanted |= {"PYTHONDONTWRITEBYTECODE": "1", "FLEET_STATE_DIR": "/var/lib/fleet"}
    for name, value in wanted.items():
        if said.get(name) != value:
            yield f"ENV {name}={said.get(name)}: must be {value}"


def problems(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    return [problem for rule in (_bases, _sources, _runs, _settings) for problem in rule(text)]


def healthcheck(text: str) -> list[str] | None:
    """Its command; None if there is none in exec form."""
    found = named(stages(text)[-1], "HEALTHCHECK")
    return exec_form(found[-1].partition("CMD ")[2]) if found else None


def test_the_image_keeps_the_rules():
    assert problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("FROM python:3.12-slim-bookworm${PYTHON_DIGEST} AS build", "FROM python AS build", "not pinned"),
        ("3.12-slim-bookworm${PYTHON_DIGEST} AS", "latest${PYTHON_DIGEST} AS", "not pinned"),
        ("FROM python:3.12-slim-bookworm${PYTHON_DIGEST}\n", "FROM python:3.12-slim-bookworm\n", "not pinned"),
        ("3.12-slim-bookworm${PYTHON_DIGEST} AS", "3.13-slim-bookworm${PYTHON_DIGEST} AS", "runs on another"),
        ("USER 10001:10001", "USER fleet", "no number"),
        ("USER 10001:10001", "USER 0:0", "no number"),
        ("USER 10001:10001\n", "", "no number"),
        ("USER 10001:10001", "USER 10001:10001\nUSER root", "no number"),
        ("COPY fleet fleet", "ADD https://example.com/fleet.tar fleet", "cannot fetch"),
        ("COPY load load", "COPY load load\nRUN curl -sSf https://example.com | sh", "no lock names"),
        (
            "install --require-hashes --only-binary :all: -r requirements.lock",
            "install -r requirements.lock",
            "without",
        ),
        ("--only-binary :all: -r build.lock", "-r build.lock", "without hashes"),
        ("install --no-deps --no-index /wheels/*.whl", "install /wheels/*.whl", "without hashes"),
        (" --no-build-isolation", "", "own tools"),
        ("ARG REVISION", 'ARG OPENAI_API_KEY=""\nARG REVISION', "would stay"),
        ("HOME=/var", "REDIS_PASSWORD=hunter2 HOME=/var", "would stay"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "drain on SIGTERM"),
        ('ENTRYPOINT ["fleet"]', "ENTRYPOINT fleet", "exec form"),
        ('CMD ["--help"]', "CMD --help", "a shell"),
        ("HEALTHCHECK", "# HEALTHCHECK", "none in exec form"),
        ('CMD ["python", "-I", "-S", "/opt/healthcheck.py"]', "CMD python /opt/healthcheck.py", "none in exec form"),
        ("COPY --from=build /opt/fleet /opt/fleet", "COPY . /opt/fleet", "takes more"),
        (" /usr/local/bin/pip*", "", "installer is left"),
        ("FLEET_LOG_FORMAT=json", "FLEET_LOG_FROMAT=json", "is no setting"),
        ("FLEET_HEALTH_HOST=0.0.0.0", "FLEET_HEALTH_HOST=127.0.0.1", "must be 0.0.0.0"),
    ],
)
def test_a_rule_that_is_broken_is_found(old, new, problem):
    assert old in DOCKERFILE
    broken = DOCKERFILE.replace(old, new, 1)
    assert [found for found in problems(broken) if problem in found], problems(broken)


def test_hadolint_finds_nothing():
    found = subprocess.run(
        [_hadolint(), "--no-color", "-"], input=DOCKERFILE, capture_output=True, text=True, check=False, timeout=30
    )
    assert (found.returncode, found.stdout) == (0, "")
    broken = DOCKERFILE.replace('ENTRYPOINT ["fleet"]', "ENTRYPOINT fleet")
    worse = subprocess.run([_hadolint(), "-"], input=broken, capture_output=True, text=True, check=False, timeout=30)
    assert "DL3025" in worse.stdout


def _hadolint() -> str:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("needs hadolint (python3 tasks.py setup)")
    return found


# ---- the healthcheck


@contextmanager
def answering(status: int, certificate: trustme.LeafCert | None = None) -> Iterator[int]:
    """A server whose `/live` answers so, and nothing else; its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/live" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _checked(port: int | str, **more: str) -> int:
    return _asked(port, **more).returncode


def _asked(port: int | str, **more: str) -> "subprocess.CompletedProcess[str]":
    command = healthcheck(DOCKERFILE)
    assert command is not None
    assert (command[0], command[-1]) == ("python", "/opt/healthcheck.py")
    # what a proxy of the environment would answer is nobody's health
    environment = {
        "FLEET_HEALTH_PORT": str(port),
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run(
        [sys.executable, *command[1:-1], str(ROOT / "deploy" / "healthcheck.py")], env=environment | more,
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_healthcheck_asks_whether_the_process_lives(status, code):
    with answering(status) as port:
        assert _checked(port) == code


def test_the_healthcheck_asks_over_tls_where_the_process_has_a_certificate():
    with answering(200, trustme.CA().issue_cert("worker.example.com")) as port:
        assert _checked(port, FLEET_TLS_CERTIFICATE="/run/secrets/tls.pem") == 0
        assert _checked(port) == 1


def test_the_healthcheck_fails_where_nobody_answers():
    with answering(200) as port:
        pass
    assert _checked(port) == 1


@pytest.mark.parametrize("port", ["any", "0", "99999", "-1"])
def test_the_healthcheck_says_in_one_line_what_is_no_port(port):
    done = _asked(port)
    said = f"FLEET_HEALTH_PORT: must be a port from 1 to 65535, got {port!r}\n"
    assert (done.returncode, done.stderr) == (1, said)


# ---- the context


def _pattern(text: str) -> re.Pattern[str]:
    """Docker's patterns: `*` stays within a folder, `**` does not, and may be nothing."""
    out = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]*\])", text.strip("/")):
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or (
            part if part.startswith("[") else re.escape(part)
        )
    return re.compile(out)


def context(ignored: str, files: Iterable[str]) -> set[str]:
    """Which of the files the engine is sent: of the rules that match a file or a folder above it, the last one counts.

    https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    lines = [line.strip() for line in ignored.splitlines() if line.strip() and not line.startswith("#")]
    rules = [(line.startswith("!"), _pattern(line.lstrip("!"))) for line in lines]
    sent = set()
    for file in files:
        above = [file, *(str(folder) for folder in Path(file).parents)][:-1]
        kept = [keeps for keeps, rule in rules if any(rule.fullmatch(name) for name in above)]
        if not kept or kept[-1]:
            sent.add(file)
    return sent


SECRETS = [
    ".env", "fleet/.env", "deploy/.env", "workers/.env.production", "load/.netrc", ".git/config", ".venv/bin/python",
    ".fleet/dev.json", "fleet/.fleet/ledger.db", "tls.key", "fleet/tls.key", "workers/providers/client.pem",
    "load/simulators/ca.crt", "workers/client.p12", "id_rsa", "deploy/secrets/openai", "ledger.db", "fleet/corpus.db",
    "fleet/__pycache__/settings.cpython-312.pyc", "load/worker.log", "temporal.toml", "tests/deploy/test_image.py",
]  # fmt: skip


@cache
def _package() -> list[str]:
    """Every file of the rooms."""
    found = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*")) if file.is_file()]
    return [str(file.relative_to(ROOT)) for file in found if file.suffix != ".pyc"]


def _copied() -> list[str]:
    """What the build takes from the context."""
    taken = [rest for stage in stages(DOCKERFILE) for rest in named(stage, "COPY") if not rest.startswith("--from")]
    return [source for rest in taken for source in rest.split()[:-1]]


def test_the_context_holds_what_the_build_copies_and_no_secret():
    files = [file for source in _copied() for file in ([source] if (ROOT / source).is_file() else [])]
    files += [file for file in _package() if any(file.startswith(f"{source}/") for source in _copied())]
    assert {Path(file).parts[0] for file in files} >= {*ROOMS, "pyproject.toml", "README.md", "deploy"}
    assert set(files) >= set(_package())
    assert context(IGNORED, [*files, *SECRETS]) == set(files)


@pytest.mark.parametrize(
    ("rule", "consequence"),
    [
        ("*\n", "deploy/secrets/openai"),
        ("*\n", "id_rsa"),
        ("**/.*\n", "fleet/.env"),
        ("**/*.pem\n", "workers/providers/client.pem"),
        ("**/*.key\n", "fleet/tls.key"),
        ("**/__pycache__\n**/*.py[cod]\n", "fleet/__pycache__/settings.cpython-312.pyc"),
        ("!load\n", None),
    ],
)
def test_a_rule_that_is_missing_in_the_context_is_found(rule, consequence):
    # whole lines only
    assert f"\n{rule}" in IGNORED
    sent = context(IGNORED.replace(f"\n{rule}", "\n", 1), [*_package(), *SECRETS])
    if consequence is None:
        assert not any(file.startswith("load/") for file in sent)
    else:
        assert consequence in sent
