"""Child processes under tethers: started, restarted when they die, stopped together. No orphans."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from workers import tether

GRACE_S = 25.0
"""How long a child may take to end before it is killed: longer than a pool's default drain."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 5.0
STEADY_S = 10.0
"""A child that lived so long starts again at the first backoff."""

log = structlog.get_logger("fleet.supervisor")


class SupervisorError(Exception):
    """A child could not be started. One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A child process."""

    name: str
    argv: Sequence[str]
    log: Path
    """Where its output goes; appended."""
    env: Mapping[str, str] | None = None
    """Its whole environment; None: ours."""
    restart: bool = True
    """Start it again when it dies by itself."""
    grace_s: float = GRACE_S


class Tethered:
    """One child under its tether."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process, hold: int, pid_file: Path) -> None:
        self.spec = spec
        self._process = process
        self._hold = hold
        self._pid_file = pid_file

    @classmethod
    async def start(cls, spec: ProcessSpec) -> Self:
        """Start the child.

        Raises:
            SupervisorError: the program is missing or cannot be run.
        """
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        pid_file = spec.log.with_suffix(".pid")
        pid_file.unlink(missing_ok=True)
        theirs, ours = os.pipe()
        output = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", tether.__file__, "--grace", str(spec.grace_s), "--pid-file", str(pid_file),
                "--", *spec.argv,
                stdin=theirs, stdout=output, stderr=output, env=spec.env, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
            os.close(output)
        child = cls(spec, process, ours, pid_file)
        while not pid_file.exists() and process.returncode is None:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        if not pid_file.exists():
            child._release()
            raise SupervisorError(f"{spec.name}: {last_line(spec.log)} (log: {spec.log})")
        return child

    @property
    def pid(self) -> int:
        """Process id of the child itself, not of its tether."""
        return int(self._pid_file.read_text())

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end."""
        code = await self._process.wait()
        self._release()
        return code

    async def stop(self) -> int:
        """SIGTERM, then SIGKILL after the grace."""
        self._release()
        return await self.wait()

    async def kill(self) -> None:
        """SIGKILL the child at once, as a crash would."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self.wait()

    def _release(self) -> None:
        # the tether ends its child when this pipe closes
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1


@dataclass(slots=True)
class _Kept:
    spec: ProcessSpec
    child: Tethered
    task: "asyncio.Task[None] | None" = None
    restarts: int = 0
    last_code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps named children running until it is left."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._stopping = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    async def start(self, spec: ProcessSpec) -> int:
        """Start a child and keep it; returns its pid.

        Raises:
            SupervisorError: it cannot be started, or the name is taken.
        """
        if spec.name in self._kept:
            raise SupervisorError(f"{spec.name}: there is such a process already")
        kept = _Kept(spec, await Tethered.start(spec))
        self._kept[spec.name] = kept
        kept.task = asyncio.create_task(self._keep(kept))
        return kept.child.pid

    def pids(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        return {name: k.child.pid for name, k in self._kept.items() if k.child.returncode is None}

    def restarts(self, name: str) -> int:
        """How often the child had to be started again."""
        return self._kept[name].restarts

    def last_code(self, name: str) -> int | None:
        """How its last life ended; None while that is its first."""
        return self._kept[name].last_code

    async def stop(self, name: str) -> int:
        """Stop one child for good and forget it; answers its exit code."""
        kept = self._kept.pop(name)
        if kept.task is not None:
            kept.task.cancel()
            await asyncio.gather(kept.task, return_exceptions=True)
        return await kept.child.stop()

    async def died(self, name: str) -> int:
        """Wait until a child that is not restarted has ended by itself; answers its exit code."""
        kept = self._kept[name]
        await kept.ended.wait()
        return kept.last_code or 0

    async def stop_all(self) -> None:
        """Stop every child, all at once."""
        self._stopping = True
        for kept in self._kept.values():
            if kept.task is not None:
                kept.task.cancel()
        await asyncio.gather(*(k.task for k in self._kept.values() if k.task), return_exceptions=True)
        codes = await asyncio.gather(*(k.child.stop() for k in self._kept.values()))
        for kept, code in zip(self._kept.values(), codes, strict=True):
            kept.last_code = code

    async def _keep(self, kept: _Kept) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_S
        while True:
            began = loop.time()
            kept.last_code = await kept.child.wait()
            if not kept.spec.restart:
                kept.ended.set()
                return
            log.warning("restarting", process=kept.spec.name, code=kept.last_code)
            backoff = FIRST_BACKOFF_S if loop.time() - began > STEADY_S else min(backoff * 2, LONGEST_BACKOFF_S)
            await asyncio.sleep(backoff)
            try:
                kept.child = await Tethered.start(kept.spec)
            except SupervisorError as error:
                log.error("cannot restart", process=kept.spec.name, why=str(error))
                return
            kept.restarts += 1


def last_line(path: Path) -> str:
    """The last words of a log."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it said nothing"
