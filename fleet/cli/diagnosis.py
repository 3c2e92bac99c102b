"""What the doctor says of a deployment, and what each target means."""

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from fleet.cli.doctor_app import Target

Severity = Literal["ok", "warn", "fail"]
"""`fail`: the fleet does not work there, may lose or double what it does, or shows a secret. `warn`: it works, and
whoever runs it should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One finding."""

    component: str
    severity: Severity
    detail: str
    fix: str = ""
    """What to do; empty where nothing is to be done."""


def passes(findings: Iterable[Diagnosis]) -> bool:
    """Whether the fleet may run there: warnings are no failures."""
    return not any(one.severity == "fail" for one in findings)


Needs = Collection[str] | None
"""Components that a pool's workers use, as `database` or `providers.openai`. None: all of them are looked at."""


def wanted(component: str, needed: Needs) -> bool:
    """Whether the component is to be looked at."""
    return needed is None or component in needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is asked of a deployment."""

    names: tuple[str, ...]
    deployed: bool
    """It is more than somebody's own machine."""
    contained: bool
    """Each process has a loopback and files of its own."""
    networked: bool
    """What it says to others crosses a network that is not its own."""
    cloud: bool
    """Temporal is Temporal Cloud."""
    files: Severity
    """How bad it is that others on the machine may read a secret's file."""

    @classmethod
    def of(cls, targets: Collection[Target]) -> Self:
        """The strictest of what the targets ask."""
        files: Severity = "ok"
        if Target.LOCAL in targets or Target.COMPOSE in targets:
            files = "warn"
        if Target.VM in targets:
            files = "fail"
        return cls(
            names=tuple(target.value for target in targets),
            deployed=bool(set(targets) - {Target.LOCAL}),
            contained=Target.COMPOSE in targets or Target.KUBERNETES in targets,
            networked=Target.VM in targets or Target.KUBERNETES in targets or Target.TEMPORAL_CLOUD in targets,
            cloud=Target.TEMPORAL_CLOUD in targets,
            files=files,
        )


class Reach(StrEnum):
    """Where a host is, as seen from here."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    PUBLIC = "public"
    UNKNOWN = "unknown"


async def reach(hosts: Iterable[str]) -> Reach:
    """Where the farthest of the hosts is; without any, it is this machine."""
    found = [await _one(host) for host in hosts]
    for far in (Reach.PUBLIC, Reach.UNKNOWN, Reach.PRIVATE):
        if far in found:
            return far
    return Reach.LOOPBACK


async def _one(host: str) -> Reach:
    try:
        told = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return Reach.UNKNOWN
    addresses = [ipaddress.ip_address(str(address[4][0]).partition("%")[0]) for address in told]
    if all(address.is_loopback for address in addresses):
        return Reach.LOOPBACK
    return Reach.PRIVATE if all(address.is_private for address in addresses) else Reach.PUBLIC


def way(component: str, what: str, where: Reach, *, encrypted: bool, place: Place, fix: str) -> Diagnosis:
    """Whether what is said to a component may be overheard.

    Args:
        component: of the finding.
        what: is said to whom, for the detail.
        where: it is.
        encrypted: as it is set up.
        place: what is asked.
        fix: how it is encrypted.
    """
    if encrypted:
        return Diagnosis(component=component, severity="ok", detail=f"{what} is encrypted")
    if where is Reach.LOOPBACK:
        return Diagnosis(component=component, severity="ok", detail=f"{what} does not leave the machine")
    plain = f"{what} is not encrypted"
    if where is Reach.PUBLIC:
        return Diagnosis(component=component, severity="fail", detail=f"{plain}, over public addresses", fix=fix)
    if not place.networked:
        return Diagnosis(component=component, severity="ok", detail=f"{plain}, within the machine's own network")
    return Diagnosis(component=component, severity="warn", detail=f"{plain}, over a private network", fix=fix)


def loopback(component: str, what: str, where: Reach, place: Place, fix: str) -> list[Diagnosis]:
    """A container that looks for others on its own loopback finds nobody."""
    if where is not Reach.LOOPBACK or not place.contained:
        return []
    detail = f"{what} is on the loopback, which each container has for itself"
    return [Diagnosis(component=component, severity="fail", detail=detail, fix=fix)]
