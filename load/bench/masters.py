"""Valkeys for a benchmark: one server, or a Cluster of several masters."""

import asyncio
from binascii import crc_hqx
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from fleet.errors import BadInput
from workers.embedded import EmbeddedError, free_ports, valkey_answers, valkey_binary, valkey_says
from workers.supervisor import ProcessSpec, SupervisorError, Tethered, last_line

SLOTS = 16384
START_S = 30.0
HIGHEST_PORT = 55_535
"""A node talks to the others on a port ten thousand above its own."""
TRIES = 5
GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
"""Short, or calls gather while a server is held and all travel together."""


def shares(count: int) -> list[tuple[int, int]]:
    """First and last slot of each of so many masters, as even as can be."""
    edges = [round(SLOTS * number / count) for number in range(count + 1)]
    return [(first, after - 1) for first, after in pairwise(edges)]


def slot(provider: str) -> int:
    """Where all keys of a provider lie: its name is their hash tag.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
    """
    return crc_hqx(provider.encode(), 0) % SLOTS


def spread(count: int) -> list[str]:
    """Names of providers, one for each of so many masters that share the slots evenly."""
    found: list[str] = []
    number = 0
    for first, last in shares(count):
        while not first <= slot(f"bench{number}") <= last:
            number += 1
        found.append(f"bench{number}")
        number += 1
    return found


class Held:
    """A process that gets no more than its share of a processor, for the length of a block: Linux's control groups."""

    def __init__(self, pid: int, share: float) -> None:
        """Args:
        pid: of the process.
        share: of one processor, above 0.
        """
        self._pid = pid
        self._limit = round(PERIOD_US * share)
        self._group = (GROUPS / "cpu" if (GROUPS / "cpu").is_dir() else GROUPS) / f"fleet-bench-{pid}"

    def __enter__(self) -> Self:
        """Hold it.

        Raises:
            BadInput: nobody but root may, or this is no Linux.
        """
        try:
            self._group.mkdir()
            if (self._group / "cpu.max").exists():
                (self._group / "cpu.max").write_text(f"{self._limit} {PERIOD_US}")
            else:
                (self._group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self._group / "cpu.cfs_quota_us").write_text(str(self._limit))
            (self._group / "cgroup.procs").write_text(str(self._pid))
        except OSError as error:
            with suppress(OSError):
                self._group.rmdir()
            why = error.strerror or type(error).__name__
            raise BadInput(
                f"--share: no control group can be made in {self._group.parent} ({why}): leave it out, or be root"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # only an empty group goes
        for _ in range(100):
            with suppress(OSError):
                self._group.rmdir()
                return
            sleep(0.02)


class Masters:
    """So many empty servers that keep nothing; of more than one a Cluster with all slots served."""

    def __init__(self, folder: Path, count: int, *, share: float | None = None) -> None:
        """Args:
        folder: of their state and logs; made if it is not there.
        count: of servers.
        share: of a processor that each gets at most. None: as much as there is.
        """
        self._folder = folder
        self._count = count
        self._share = share
        self._held = ExitStack()
        self._children: list[Tethered] = []
        self.ports: list[int] = []

    @property
    def url(self) -> str:
        """Where they are, for the limiter."""
        kind = "+cluster" if self._count > 1 else ""
        return f"redis{kind}://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    async def __aenter__(self) -> Self:
        """Start them.

        Raises:
            EmbeddedError: the binary is missing, one does not start, or they do not find each other.
            BadInput: they cannot be held to their share.
        """
        try:
            for number in range(self._count):
                await self._start(number)
            if self._count > 1:
                await self._join()
            if self._share is not None:
                for child in self._children:
                    self._held.enter_context(Held(child.pid, self._share))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def info(self, section: str) -> list[dict[str, Any]]:
        """What each server says of itself."""
        told = await asyncio.gather(*(valkey_says(port, "INFO", section) for port in self.ports))
        if None in told:
            raise EmbeddedError("a Valkey of the benchmark has died: nothing can be measured")
        return list(told)

    async def _start(self, number: int) -> None:
        log = self._folder / f"valkey-{number}.log"
        home = self._folder / f"valkey-{number}"
        home.mkdir(parents=True, exist_ok=True)
        cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"] if self._count > 1 else []
        for _ in range(TRIES):
            port = next(port for port in free_ports(8) if port <= HIGHEST_PORT)
            command = [valkey_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home)]
            command += ["--save", "", "--appendonly", "no", *cluster]
            try:
                child = await Tethered.start(ProcessSpec(name=f"valkey-{number}", argv=command, log=log, restart=False))
            except SupervisorError as error:
                raise EmbeddedError(str(error)) from None
            deadline = monotonic() + START_S
            while child.returncode is None and monotonic() < deadline:
                if await valkey_answers(port, child.pid):
                    self._children.append(child)
                    self.ports.append(port)
                    return
                await asyncio.sleep(0.02)
            await child.stop()
        raise EmbeddedError(f"valkey-{number} did not start: {last_line(log)} (log: {log})")

    async def _join(self) -> None:
        for port, (first, last) in zip(self.ports, shares(self._count), strict=True):
            await valkey_says(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            await valkey_says(port, "CLUSTER", "MEET", "127.0.0.1", str(self.ports[0]))
        deadline = monotonic() + START_S
        while not all(await asyncio.gather(*map(partial(_joined, self._count), self.ports))):
            if monotonic() > deadline:
                raise EmbeddedError(f"the Valkeys are no Cluster within {START_S:g} s")
            await asyncio.sleep(0.05)

    async def _stop(self) -> None:
        children, self._children, self.ports = self._children, [], []
        await asyncio.gather(*(child.stop() for child in children))
        self._held.close()


async def _joined(count: int, port: int) -> bool:
    told = await valkey_says(port, "CLUSTER", "INFO")
    said = _pairs(told)
    return said.get("cluster_state") == "ok" and said.get("cluster_known_nodes") == str(count)


def _pairs(told: Any) -> dict[str, str]:
    """A reply of lines `name:value`, which the client may have made a mapping of."""
    if isinstance(told, dict):
        return {str(name): str(value) for name, value in told.items()}
    lines: Sequence[str] = told.decode().splitlines() if isinstance(told, bytes) else str(told or "").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
