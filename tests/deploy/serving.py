"""Real servers that run with the files of `deploy/`, their paths adapted and their secrets made up."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.postgres import Postgres, postgres_binaries
from tests.ratelimit.servers import running
from tests.ratelimit.test_routes import free_port, until

DEPLOY = Path(__file__).parents[2] / "deploy"
USERS = ("fleet", "metrics", "replica", "sentinel", "admin", "sentinels")
TLS = ("tls.crt", "tls.key", "ca.crt")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A folder that stands in for the root of a container."""

    folder: Path
    conf: Path
    run: Path
    secrets: Path

    @classmethod
    def prepare(cls, folder: Path) -> "Ground":
        """Files of `deploy/valkey` with this folder's paths, and a password for each user."""
        made = cls(folder=folder, conf=folder / "conf", run=folder / "run", secrets=folder / "secrets")
        for path in (made.conf, made.run, made.secrets, folder / "data", folder / "tls"):
            path.mkdir(parents=True)
        for file in (DEPLOY / "valkey").iterdir():
            text = file.read_text()
            for there in ("/run/valkey", "/run/tls", "/data"):
                text = text.replace(f" {there}", f" {folder}{there.removeprefix('/run').replace('/valkey', '/run')}")
            (made.conf / file.name).write_text(text)
        for user in USERS:
            (made.secrets / f"valkey_{user}").write_text(f"of-{user}\n")
        return made

    def command(self, *server: str) -> list[str]:
        """What starts a server as its container does."""
        told = {"SECRETS_DIR": self.secrets, "CONFIG_DIR": self.conf, "RUN_DIR": self.run}
        named = [f"{name}={value}" for name, value in told.items()]
        return ["env", *named, "sh", str(self.conf / "start.sh"), *server]


@dataclass(frozen=True, kw_only=True)
class Server:
    """One that runs."""

    ground: Ground
    port: int
    process: "subprocess.Popen[bytes]"

    def client(self, user: str) -> redis.Redis:
        """A connection past the limiter."""
        return redis.Redis(port=self.port, username=user, password=f"of-{user}", socket_timeout=5)

    @property
    def url(self) -> str:
        """The workers'."""
        return f"redis://fleet:of-fleet@127.0.0.1:{self.port}"


@contextmanager
def served(binary: str, folder: Path, *options: str, port: int | None = None) -> Iterator[Server]:
    """A server with `valkey.conf` and what else is named."""
    ground, port = Ground.prepare(folder), port or free_port()
    base = [binary, str(ground.conf / "valkey.conf"), "--port", str(port), "--bind", "127.0.0.1"]
    # a command line's own word counts last
    files = [part for name in options if name.endswith(".conf") for part in ("--include", _found(ground, name))]
    more = [option for option in options if not option.endswith(".conf")]
    with running(ground.command(*base, *files, *more), str(folder)) as process:
        server = Server(ground=ground, port=port, process=process)
        with server.client("admin") as admin:
            until(lambda: process.poll() is not None or admin.ping())
        assert process.poll() is None, f"{binary} does not start with {options}"
        yield server


def _found(ground: Ground, name: str) -> str:
    return str((ground.run if name == "replicated.conf" else ground.conf) / name)


@dataclass(frozen=True, kw_only=True)
class Sentinel:
    """One of them: what starts it, and where it is asked."""

    ground: Ground
    port: int
    command: list[str]

    @classmethod
    def prepare(cls, binary: str, folder: Path, master: int, *options: str) -> "Sentinel":
        """`sentinel.conf` for a master on that port, with a test's patience in place of a machine's."""
        ground, port = Ground.prepare(folder), free_port()
        for file in (ground.conf / "sentinel.conf", ground.conf / "sentinel-tls.conf"):
            text = re.sub(r"(?m)^((?:tls-)?port) 26379$", rf"\1 {port}\nbind 127.0.0.1", file.read_text())
            text = text.replace("valkey-1 6379", f"127.0.0.1 {master}").replace("dir /tmp", f"dir {ground.run}")
            file.write_text(text.replace(" 3000\n", " 500\n").replace(" 30000\n", " 3000\n"))
        files = [part for name in options for part in ("--include", _found(ground, name))]
        command = ground.command(binary, str(ground.run / "sentinel.conf"), "--sentinel", *files)
        return cls(ground=ground, port=port, command=command)

    def client(self, password: str = "of-sentinels", **options: Any) -> redis.Redis:
        """Whoever asks."""
        return redis.Redis(port=self.port, password=password, socket_timeout=5, decode_responses=True, **options)


def initialise(server: Postgres, secrets: Path, *, user: str = "postgres") -> "subprocess.CompletedProcess[str]":
    """Run `deploy/postgres/init.sh` as that role."""
    program = shutil.which("psql") or str(postgres_binaries() / "psql")
    told = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": user, "SECRETS_DIR": str(secrets)}
    return subprocess.run(
        ["sh", DEPLOY / "postgres" / "init.sh"], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, **told, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"},
    )  # fmt: skip


def passwords_of_roles(folder: Path) -> dict[str, str]:
    """What each role's password is, and a file of each in that folder."""
    folder.mkdir()
    made = {role: f"it's-{role}" for role in ("temporal", "fleet_owner", "fleet", "fleet_reader")}
    for role, password in made.items():
        (folder / f"postgres_{role}").write_text(f"{password}\n")
    return made


def initialised(server: Postgres, folder: Path) -> dict[str, str]:
    """Run `deploy/postgres/init.sh` as a superuser; what each role's password is. From then on passwords count."""
    found = passwords_of_roles(folder / "secrets")
    done = initialise(server, folder / "secrets")
    assert (done.returncode, done.stderr) == (0, "")
    rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    (server.folder / "data" / "pg_hba.conf").write_text(rules)
    asyncio.run(server.execute("SELECT pg_reload_conf()"))
    return found
