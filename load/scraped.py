"""What Prometheus needs to scrape a local fleet: a configuration, and a list of targets that is kept right.

A worker that starts again serves its metrics on another port: one that was fixed in advance may be taken by then. Its
log says which, and the list follows the log. https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

WORKER, EXPORTER, LOAD = "fleet-worker", "fleet-exporter", "fleet-load"
"""Jobs, as dashboards and alerts name them."""
LOOK_S = 1.0
SCRAPE_S = 5
"""How often Prometheus is to scrape a fleet of one machine."""

CONFIG = "prometheus.yml"

_READY = b'"event": "ready"'


def command(folder: Path) -> str:
    """How to start Prometheus on the configuration in a folder."""
    return (
        f"prometheus --config.file={folder / CONFIG} --storage.tsdb.path={folder / 'data'}"
        " --web.listen-address=127.0.0.1:9090"
    )


@dataclass(slots=True)
class _Process:
    job: str
    log: Path | None = None
    read: int = 0
    """Bytes of the log that are known."""
    address: str = ""
    """Empty: it is not ready yet."""
    rest: bytes = field(default=b"")
    """Of a line that was not finished."""


class Scraped:
    """The processes of a local fleet that serve metrics."""

    def __init__(self, folder: Path, rules: Path | None) -> None:
        """Args:
        folder: where the configuration and the list are written.
        rules: folder of Prometheus' rules; None: there are none.
        """
        self.config = folder / CONFIG
        self.targets = folder / "targets.json"
        self._rules = rules
        self._processes: dict[str, _Process] = {}

    @property
    def command(self) -> str:
        """How to start Prometheus on it."""
        return command(self.config.parent)

    def follow(self, name: str, job: str, log: Path) -> None:
        """Scrape a process from when its log says, after what is in it now, that it is ready, and where."""
        self._processes[name] = _Process(job=job, log=log, read=log.stat().st_size if log.exists() else 0)

    def add(self, name: str, job: str, address: str) -> None:
        """Scrape `host:port`."""
        self._processes[name] = _Process(job=job, address=address)
        self._write()

    def remove(self, name: str) -> None:
        """Scrape the process no more."""
        if self._processes.pop(name, None) is not None:
            self._write()

    def look(self) -> None:
        """Read what the logs say since the last look."""
        moved = [name for name, process in self._processes.items() if _moved(process)]
        if moved:
            self._write()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write the files, and keep the list right until the block ends. Then it is empty: nobody is there any more."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._configuration(), encoding="utf-8")
        self._write()
        looking = asyncio.create_task(self._keep_looking())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self._processes.clear()
            self._write()

    async def _keep_looking(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def _configuration(self) -> str:
        # JSON is YAML too: https://yaml.org/spec/1.2.2/#12-relation-to-json-schema
        text = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [f"{self._rules.absolute()}/*.yml"] if self._rules else [],
            "scrape_configs": [
                {
                    "job_name": "fleet",
                    "file_sd_configs": [{"files": [str(self.targets.absolute())], "refresh_interval": f"{SCRAPE_S}s"}],
                }
            ],
        }
        return f"# `prometheus --config.file={self.config.name}` scrapes this fleet; written anew at each start\n" + (
            json.dumps(text, indent=2) + "\n"
        )

    def _write(self) -> None:
        found = [
            # an instance is a process, whatever port its present life has
            {"targets": [one.address], "labels": {"job": one.job, "instance": name, "process": name}}
            for name, one in self._processes.items()
            if one.address
        ]
        # Prometheus may be reading
        fresh = self.targets.with_suffix(".new")
        fresh.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.targets)


def _moved(process: _Process) -> bool:
    """Read on in the log; answers whether the process serves at another address than before."""
    if process.log is None:
        return False
    try:
        with process.log.open("rb") as log:
            log.seek(process.read)
            new = log.read()
    except OSError:
        return False
    process.read += len(new)
    *lines, process.rest = (process.rest + new).split(b"\n")
    before = process.address
    for line in lines:
        if _READY in line:
            process.address = _address(line) or process.address
    return process.address != before


def _address(line: bytes) -> str:
    try:
        told = json.loads(line)
    except ValueError:
        return ""
    health = told.get("health") if isinstance(told, dict) else None
    return urlsplit(health).netloc if isinstance(health, str) else ""
