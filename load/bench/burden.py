"""What the processes of a fleet use: processor and memory, by part."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Self

import psutil

from fleet.errors import FleetError
from load.local import LocalFleet

WORKER, CLIENT, SERVERS = "worker", "client", ("temporal", "valkey")
"""Parts of a fleet: workers by pool, those who start the agents, and what keeps their state."""


@dataclass(frozen=True, slots=True)
class Look:
    """What every part has used so far and holds; or, as a difference, what it has used between two looks."""

    at: float
    """Seconds on a monotonic clock; of a difference, those that passed."""
    cpu_s: Mapping[str, float]
    mb: Mapping[str, float]

    def __sub__(self, other: "Look") -> "Look":
        return Look(
            self.at - other.at,
            {part: seconds - other.cpu_s[part] for part, seconds in self.cpu_s.items()},
            {part: mb - other.mb[part] for part, mb in self.mb.items()},
        )

    @property
    def cores(self) -> float:
        """Of a difference: processors in use by the fleet, the measuring process aside."""
        return sum(used for part, used in self.cpu_s.items() if part != CLIENT) / self.at

    def beyond(self, idle: "Look") -> dict[str, float]:
        """Of a difference: processor seconds by part, without what it would have used at the rate of `idle`."""
        return {part: max(0.0, used - idle.cpu_s[part] / idle.at * self.at) for part, used in self.cpu_s.items()}

    @property
    def workers_mb(self) -> float:
        """Of all worker processes."""
        return sum(mb for part, mb in self.mb.items() if part.startswith(WORKER))


class Machine:
    """The processes of a fleet, by part."""

    def __init__(self, parts: dict[str, psutil.Process]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, fleet: LocalFleet) -> Self:
        """Those that run now.

        Raises:
            FleetError: one of them does not.
        """
        found = {CLIENT: psutil.Process()}
        for name, pid in fleet.supervisor.pids().items():
            pool = name.rpartition("-")[0]
            found[f"{WORKER} {pool}" if pool in fleet.manifest.pools else name] = psutil.Process(pid)
        ports = {"temporal": fleet.endpoints.temporal, "valkey": fleet.endpoints.redis.partition("/0")[0]}
        for name, address in ports.items():
            port = address.rpartition(":")[2]
            mine = (child for child in psutil.Process().children(recursive=True) if _serves(child, name, port))
            process = next(mine, None)
            if process is None:
                raise FleetError(f"{name} does not run")
            found[name] = process
        return cls(found)

    def look(self) -> Look:
        """Processor seconds and resident megabytes.

        Raises:
            FleetError: a process has died.
        """
        at, cpu_s, mb = monotonic(), {}, {}
        for part, process in self._parts.items():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    cpu_s[part], mb[part] = times.user + times.system, process.memory_info().rss / 1e6
            except psutil.Error:
                raise FleetError(f"{part} has died: nothing can be measured") from None
        return Look(at, cpu_s, mb)


def _serves(process: psutil.Process, name: str, port: str) -> bool:
    with suppress(psutil.Error):
        # valkey names its address, temporal was given the port
        return process.name().startswith(name) and any(port in part for part in process.cmdline())
    return False
