"""Debian's Prometheus: a real server on a free port, over targets and rules of the test."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from fleet.dashboards.answers import Prometheus

READY_S = 30.0
LOOK_S = 0.1

Target = Mapping[str, object]
"""As file_sd has it: `targets`, addresses, and `labels`, `job` among them."""


def program() -> str:
    """Where it is; skips the test where it is not installed."""
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("needs prometheus (Debian: apt install prometheus)")
    return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A Prometheus that runs."""

    url: str
    folder: Path

    @property
    def api(self) -> Prometheus:
        """Its HTTP API."""
        return Prometheus(self.url)

    def until(self, expression: str, *, within_s: float = 60.0) -> float:
        """The instant at which the expression has an answer.

        Raises:
            AssertionError: it has none in time.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            now = time.time()
            if self.api.instant(expression, now):
                return now
            time.sleep(LOOK_S)
        raise AssertionError(f"{expression}: no answer within {within_s:g} s\n{(self.folder / 'log').read_text()}")


@contextmanager
def running(
    folder: Path, targets: Sequence[Target] | Path, *, rules: Sequence[Path] = (), interval_s: float = 1.0
) -> Iterator[Server]:
    """A server for as long as the block lasts, scraping every `interval_s`. Its log is in `folder`.

    Targets are a list, or a file that somebody keeps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = targets if isinstance(targets, Path) else folder / "targets.json"
    if not isinstance(targets, Path):
        listed.write_text(json.dumps(list(targets)))
    every = f"{int(interval_s * 1000)}ms"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(rule.resolve()) for rule in rules],
        "scrape_configs": [{"job_name": "fleet", "file_sd_configs": [{"files": [str(listed)]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program(),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            server = Server(url=f"http://127.0.0.1:{port}", folder=folder)
            _until_ready(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(URLError, OSError), urlopen(f"{server.url}/-/ready", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(LOOK_S)
    raise AssertionError(f"Prometheus is not ready:\n{(server.folder / 'log').read_text()}")
