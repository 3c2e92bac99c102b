"""`fleet …` as a process over real servers and a real database."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fleet.cli import main
from workers.database import Database, upgrade

ROOT = Path(__file__).parents[3]
PROGRAM = str(Path(sys.executable).parent / "fleet")

main.extend()
COMMAND = get_command(main.app)  # once: it costs more than most of what the tests ask it


@dataclass
class Cli:
    """Runs `fleet …` in an empty folder with the shipped manifest."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """Ours without what configures a fleet."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))}
        return clean | {"FLEET_MANIFEST": str(ROOT / "deploy" / "fleet.toml")} | self.settings | more

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Its output and its exit code."""
        return subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def said(self, *arguments: str, **environment: str) -> str:
        """What it prints, having done its work."""
        found = self(*arguments, **environment)
        assert found.returncode == 0, found
        return found.stdout

    def document(self, *arguments: str, **environment: str) -> Any:
        """Its JSON document."""
        return json.loads(self.said(*arguments, "--json", **environment))

    def refused(self, *arguments: str, **environment: str) -> str:
        """The one line of stderr of a command that was refused."""
        found = self(*arguments, **environment)
        assert (found.returncode, found.stdout) == (2, ""), found
        assert "Traceback" not in found.stderr
        *shown, line = found.stderr.strip().splitlines()
        assert line.startswith("fleet: "), found.stderr
        assert not any(other.startswith("fleet: ") for other in shown), found.stderr
        return line

    async def aside(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same while this process serves the run."""
        return await asyncio.to_thread(self, *arguments)


class InProcess(Cli):
    """The same without the second that a process needs to begin: what the entry point does, but for its exit."""

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Its output and its exit code."""
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
            for name, value in self.environment(**environment).items():
                patched.setenv(name, value)
            patched.chdir(self.folder)
            code = main._run(lambda **options: COMMAND(list(arguments), **options))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def fleet(tmp_path: Path) -> Cli:
    """Without servers."""
    return InProcess(tmp_path)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("database") / "template.db"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
def database_url(_migrated: Path, tmp_path: Path) -> str:
    """An SQLite database at the newest revision."""
    file = tmp_path / "fleet.db"
    shutil.copy(_migrated, file)
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Connections to it."""
    found = Database(database_url)
    await found.open()
    yield found
    await found.aclose()


@pytest.fixture
def operator(tmp_path: Path, temporal_address: str, database_url: str) -> Cli:
    """With Temporal and the database."""
    return InProcess(tmp_path, {"TEMPORAL_ADDRESS": temporal_address, "FLEET_DATABASE_URL": database_url})
