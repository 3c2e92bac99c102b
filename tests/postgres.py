"""A real PostgreSQL for the tests, from Debian's package."""

import os
import pwd
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import psutil
import pytest

from tests import containers

START_S = 30.0
FORGETFUL = ("-F", "-c", "full_page_writes=off")
SMALL = ("-c", "max_connections=100", "-c", "autovacuum=off", "-c", "shared_buffers=16MB")


def postgres_binaries() -> Path:
    """Folder of the newest installed PostgreSQL; skips the test where there is none."""
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        pytest.skip("needs PostgreSQL (Debian: apt install postgresql)")
    return max(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.parent.name)])


@dataclass
class Postgres:
    """One server on its own data folder, on a free port of the loopback; or in a container, without a process here."""

    folder: Path
    port: int
    options: tuple[str, ...]
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """SQLAlchemy's."""
        return f"postgresql+asyncpg://postgres@{self.host}:{self.port}/{database}"

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        """A connection past SQLAlchemy."""
        return await asyncpg.connect(host=self.host, port=self.port, user="postgres", database=database)

    async def create(self, template: str = "template0") -> str:
        """A new database; its name."""
        name = f"test_{next(self._names)}"
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    async def drop(self, database: str) -> None:
        """Drop it, whoever is connected."""
        await self.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    async def execute(self, statement: str) -> None:
        """One statement outside of any test's database."""
        connection = await self.connect()
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def start(self) -> None:
        """Start it on its data folder, and return once it takes connections."""
        assert self.process is None
        self.process = self._spawn()
        deadline = time.monotonic() + START_S
        ready = [postgres_binaries() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")
            if self.process.poll() is not None:
                # while it was down, a client's connection may have been given its port
                self.process = self._spawn()
            time.sleep(0.02)

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = [*self.options, "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        command = [postgres_binaries() / "postgres", "-D", self.folder / "data", *options]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **_unprivileged())

    def kill(self) -> None:
        """Kill -9 of all its processes; returns once they are gone."""
        assert self.process is not None
        members = self._held()
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + START_S
        while any(_alive(member) for member in members):
            assert time.monotonic() < deadline, "PostgreSQL does not die"
            time.sleep(0.01)

    def suspend(self, how: signal.Signals) -> None:
        """SIGSTOP or SIGCONT to all its processes."""
        for member in self._held():
            with suppress(psutil.NoSuchProcess):
                member.send_signal(how)

    def _held(self) -> list[psutil.Process]:
        """All its processes, of which the first is stopped.

        Else it might begin one more for a client that connects just now, which would outlive it, and hold its memory,
        for as long as that client takes to say who it is.
        """
        assert self.process is not None
        family = psutil.Process(self.process.pid)
        family.suspend()
        deadline = time.monotonic() + START_S
        while family.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, "PostgreSQL does not stop"
            time.sleep(0.001)
        return [family, *family.children(recursive=True)]

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_S)
            self.process = None


def _alive(process: psutil.Process) -> bool:
    try:
        # nobody may be there to reap an orphan
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _unprivileged() -> dict[str, object]:
    """Root may not run PostgreSQL."""
    if os.geteuid():
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def shared_postgres() -> Iterator[Postgres]:
    """A server that no test kills, nor stops; from a container where those are asked for."""
    if not containers.wanted():
        with running_postgres() as server:
            yield server
        return
    with containers.postgres(*FORGETFUL, *SMALL) as (host, port):
        yield Postgres(folder=Path(), port=port, options=(), host=host)


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """A server for as long as the block lasts. Only a `durable` one keeps what it has said when its machine fails."""
    binaries = postgres_binaries()
    # a socket's path is short by law of the kernel: pytest's own directories are too deep
    with TemporaryDirectory(prefix="pg") as folder:
        if not os.geteuid():
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = ["-D", str(Path(folder) / "data"), "-U", "postgres"]
        kind = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        made = subprocess.run(
            [binaries / "initdb", *data, *kind], cwd=folder, capture_output=True, text=True, check=False,
            **_unprivileged(),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        options = [*([] if durable else FORGETFUL), *SMALL]
        server = Postgres(folder=Path(folder), port=_free_port(), options=tuple(options))
        server.start()
        try:
            yield server
        finally:
            server.stop()
