"""`fleet top` as a command: one picture for scripts, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.top.conftest import in_line

PROGRAM = str(Path(sys.executable).parent / "fleet")


def fleet(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))} | environment
    return subprocess.run(
        [PROGRAM, "top", *arguments],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs a terminal: in scripts use `fleet top --once`"),
        (("--json",), "--json prints one picture: add --once"),
        (("--every", "0.5"), "--every 0.5: must be 1 to 60 seconds"),
        (("--every", "61"), "--every 61: must be 1 to 60 seconds"),
        (("--every", "often"), "'--every'"),
        (("--once", "--manifest", "none.toml"), "none.toml"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, words):
    found = fleet(*arguments, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, ""), found
    (line,) = found.stderr.strip().splitlines()
    assert words in line


async def test_one_picture_is_printed_for_people_and_for_programs(house, tmp_path, temporal_address):
    await in_line(house)
    where = {
        "TEMPORAL_ADDRESS": temporal_address,
        "FLEET_REDIS_URL": str(house.settings.redis_url),
        "FLEET_DATABASE_URL": str(house.settings.database_url),
        "FLEET_MANIFEST": str(house.path),
    }
    found = fleet("--once", cwd=tmp_path, **where)
    assert (found.returncode, found.stderr) == (0, ""), found
    assert [line.split()[0] for line in found.stdout.splitlines() if line[:1].isupper()] == [
        "QUOTAS", "POOLS", "RUNS", "APPROVALS",
    ]  # fmt: skip
    assert "openai/small" in found.stdout
    told = json.loads(fleet("--once", "--json", cwd=tmp_path, **where).stdout)
    assert told["whole"] is True
    small = next(one for one in told["quotas"]["data"] if one["scope"] == "openai/small")
    assert small["line_s"] > 60

    away = fleet("--once", "--json", cwd=tmp_path, **where | {"FLEET_REDIS_URL": "redis://me:s3cr3t-word@127.0.0.1:1"})
    assert away.returncode == 1
    told = json.loads(away.stdout)
    assert (told["whole"], told["quotas"]["data"]) == (False, None)
    assert told["pools"]["error"] is None
    assert "s3cr3t" not in away.stdout + away.stderr


def test_other_commands_do_not_load_the_terminal_library(tmp_path):
    code = "import sys, fleet.cli.main; print([m for m in sys.modules if m.split('.')[0] == 'textual'])"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
