"""The supervisor: children that die start again, and end with it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from workers.supervisor import ProcessSpec, Supervisor, SupervisorError

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def _spec(folder: Path, argv: list[str], *, restart: bool = True, grace_s: float = 5.0) -> ProcessSpec:
    return ProcessSpec(name="child", argv=argv, log=folder / "child.log", restart=restart, grace_s=grace_s)


async def _until(condition) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_killed_child_starts_again(tmp_path):
    async with Supervisor() as supervisor:
        pid = await supervisor.start(_spec(tmp_path, SLEEP))
        os.kill(pid, signal.SIGKILL)
        await _until(lambda: supervisor.restarts("child") == 1)
        assert supervisor.pids()["child"] != pid
        assert supervisor.last_code("child") == 128 + signal.SIGKILL


async def test_a_child_that_need_not_be_restarted_tells_its_end(tmp_path):
    async with Supervisor() as supervisor:
        await supervisor.start(_spec(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"], restart=False))
        assert await asyncio.wait_for(supervisor.died("child"), 10) == 3
        assert supervisor.pids() == {}


async def test_children_end_with_the_supervisor(tmp_path):
    async with Supervisor() as supervisor:
        child = psutil.Process(await supervisor.start(_spec(tmp_path, SLEEP)))
    assert not child.is_running()
    assert supervisor.last_code("child") == 128 + signal.SIGTERM


async def test_a_child_that_was_stopped_stays_so_and_its_name_is_free(tmp_path):
    async with Supervisor() as supervisor:
        child = psutil.Process(await supervisor.start(_spec(tmp_path, SLEEP)))
        assert await supervisor.stop("child") == 128 + signal.SIGTERM
        assert not child.is_running()
        assert supervisor.pids() == {}
        assert await supervisor.start(_spec(tmp_path, SLEEP)) != child.pid


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path):
    async with Supervisor() as supervisor:
        child = psutil.Process(await supervisor.start(_spec(tmp_path, STUBBORN, grace_s=0.2)))
        await _until(lambda: "up" in (tmp_path / "child.log").read_text())
    assert not child.is_running()
    assert supervisor.last_code("child") == 128 + signal.SIGKILL


async def test_a_program_that_is_missing_is_one_line(tmp_path):
    async with Supervisor() as supervisor:
        with pytest.raises(SupervisorError, match=r"child: .*nowhere: No such file or directory \(log: "):
            await supervisor.start(_spec(tmp_path, [str(tmp_path / "nowhere")]))


async def test_two_children_of_one_name_are_refused(tmp_path):
    async with Supervisor() as supervisor:
        await supervisor.start(_spec(tmp_path, SLEEP))
        with pytest.raises(SupervisorError, match="there is such a process already"):
            await supervisor.start(_spec(tmp_path, SLEEP))
