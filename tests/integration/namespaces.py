"""Machines on one machine: network namespaces behind a switch, between any two of which the link can be cut."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

BENCH = "198.18"
"""Addresses for tests of networks, which nobody has elsewhere: https://www.rfc-editor.org/rfc/rfc2544"""
PREFIX = "hosts"
CLONE_NEWNET = 0x40000000
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SWITCH = "switch"
_numbers = count()

_PUBLISHED = """
table ip here {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        iifname "eth0" ip daddr {address} dnat to 127.0.0.1
    }}
    chain input {{
        type nat hook input priority 100
        iifname "eth0" ip daddr 127.0.0.1 snat to 127.0.0.1
    }}
}}
"""
"""A server that trusts its own machine only sees callers as if they were on it."""
_SWITCHED = """
table ip links {{
    {counters}
    chain cuts {{
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        {counting}
        jump cuts
    }}
}}
"""
_CUT = """
flush chain ip links cuts
table ip links {{
    chain cuts {{
        {rules}
    }}
}}
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        pytest.skip(f"needs {name} (Debian: apt install {package})")
    return found


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A machine. Whatever listens on its loopback is heard at its address too."""

    name: str
    namespace: str
    address: str
    gateway: str

    @property
    def file(self) -> Path:
        """Holds the namespace."""
        return Path("/run/netns") / self.namespace

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command that runs another there."""
        return [_program("ip", "iproute2"), "netns", "exec", self.namespace, *command]

    def publish(self, port: int, *, at: int) -> None:
        """Let a port of its loopback be heard at another port as well."""
        rule = ["iifname", "eth0", "tcp", "dport", str(at), "dnat", "to", f"127.0.0.1:{port}"]
        nft = _program("nft", "nftables")
        _run(*self.argv([nft, "insert", "rule", "ip", "here", "prerouting", *rule]))

    def run(self, work: Callable[[], T]) -> T:
        """Do something there: processes that it starts stay there."""
        done: list[T] = []
        failed: list[BaseException] = []

        def there() -> None:
            try:
                with self.file.open() as handle:
                    if _libc.setns(handle.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns {self.namespace}")
                done.append(work())
            except BaseException as error:  # noqa: BLE001 - raised again by whoever asked
                failed.append(error)

        # a namespace is its thread's own: this one ends with the work
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]


class Links:
    """The switch between the machines: cuts links, and counts what a machine sends."""

    def __init__(self, spots: Mapping[str, Spot], switch: str, counted: Mapping[str, str]) -> None:
        """Args:
        spots: the machines by name.
        switch: the namespace through which everything passes.
        counted: by the name of a count: what nftables matches the packets by.
        """
        self.spots = spots
        self.made: Sequence[str] = ()
        """Namespaces and network devices that are there for it."""
        self._switch = switch
        self._ip, self._nft = _program("ip", "iproute2"), _program("nft", "nftables")
        counters = "\n".join(f"counter {name} {{\n}}" for name in counted)
        counting = "\n".join(f"{match} counter name {name}" for name, match in counted.items())
        self._table(_SWITCHED.format(counters=counters, counting=counting))
        self._cuts: dict[tuple[str, str], str] = {}
        self._writing = threading.Lock()

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Carry nothing between two machines: swallow it, or answer that nobody is there."""
        how = "drop" if silent else "reject with tcp reset"
        a, b = self.spots[one].address, self.spots[other].address
        ways = [(a, b), (b, a)]
        match = "" if silent else "meta l4proto tcp"
        rules = "\n".join(f"ip saddr {x} ip daddr {y} {match} {how}" for x, y in ways)
        with self._writing:
            self._cuts[one, other] = rules
            self._write()

    def heal(self, one: str, other: str) -> None:
        """Carry everything between them again."""
        with self._writing:
            self._cuts.pop((one, other), None)
            self._write()

    def counts(self) -> dict[str, int]:
        """Packets so far, by the name of the count."""
        told: dict[str, Any] = json.loads(self._say("-j", "list", "counters", "table", "ip", "links"))
        return {one["counter"]["name"]: one["counter"]["packets"] for one in told["nftables"] if "counter" in one}

    def _write(self) -> None:
        self._table(_CUT.format(rules="\n".join(self._cuts.values())))

    def _table(self, text: str) -> None:
        self._say("-f", "-", text=text)

    def _say(self, *command: str, text: str | None = None) -> str:
        return _run(self._ip, "netns", "exec", self._switch, self._nft, *command, text=text)


def needs_namespaces() -> None:
    """Skip the test where there can be none."""
    ip = _program("ip", "iproute2")
    _program("nft", "nftables")
    name = f"{PREFIX}-{os.getpid()}-try"
    tried = subprocess.run([ip, "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs network namespaces: {tried.stderr.strip()}")
    _run(ip, "netns", "del", name)


@contextmanager
def links(names: Sequence[str], counted: Callable[[Mapping[str, Spot]], Mapping[str, str]]) -> Iterator[Links]:
    """Machines with links to one another and to us, for as long as the block lasts.

    Args:
        names: of the machines.
        counted: what is counted at the switch, once the addresses are known; see `Links`.
    """
    ip = _program("ip", "iproute2")
    _forget_the_dead(ip)
    net = _free_net(ip)
    number = next(_numbers)
    prefix = f"{PREFIX}-{os.getpid()}-{number}"
    switch, ours = f"{prefix}-{SWITCH}", f"h{os.getpid()}-{number}"
    spots = {
        name: Spot(
            name=name,
            namespace=f"{prefix}-{name}",
            address=f"{net}.{4 * place + 2}",
            gateway=f"{net}.{4 * place + 1}",
        )
        for place, name in enumerate(names, 1)
    }
    with ExitStack() as stack:
        for namespace in (switch, *(spot.namespace for spot in spots.values())):
            _run(ip, "netns", "add", namespace)
            stack.callback(_run, ip, "netns", "del", namespace)
            _run(ip, "-n", namespace, "link", "set", "lo", "up")
        for spot in spots.values():
            _wire(ip, switch, spot)
        _run(ip, "link", "add", ours, "type", "veth", "peer", "name", "us", "netns", switch)
        stack.callback(_run, ip, "link", "del", ours)
        _run(ip, "-n", switch, "addr", "add", f"{net}.1/30", "dev", "us")
        _run(ip, "-n", switch, "link", "set", "us", "up")
        _run(ip, "addr", "add", f"{net}.2/30", "dev", ours)
        _run(ip, "link", "set", ours, "up")
        _run(ip, "route", "add", f"{net}.0/24", "via", f"{net}.1")
        _set(ip, switch, "ip_forward", "1")
        found = Links(spots, switch, counted(spots))
        found.made = [switch, ours, *(spot.namespace for spot in spots.values())]
        yield found


def left(names: Sequence[str]) -> list[str]:
    """Which of these namespaces and network devices are there."""
    ip = _program("ip", "iproute2")
    known = re.findall(r"^([\w-]+)", _run(ip, "netns", "list") + _run(ip, "-brief", "link"), re.MULTILINE)
    return [name for name in names if name in known]


def _wire(ip: str, switch: str, spot: Spot) -> None:
    """A cable from the machine to the switch, and its loopback published at its address."""
    there = f"to-{spot.name}"[:15]
    _run(ip, "link", "add", there, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", spot.namespace)
    _run(ip, "-n", switch, "addr", "add", f"{spot.gateway}/30", "dev", there)
    _run(ip, "-n", switch, "link", "set", there, "up")
    _run(ip, "-n", spot.namespace, "addr", "add", f"{spot.address}/30", "dev", "eth0")
    _run(ip, "-n", spot.namespace, "link", "set", "eth0", "up")
    _run(ip, "-n", spot.namespace, "route", "add", "default", "via", spot.gateway)
    _set(ip, spot.namespace, "conf/all/route_localnet", "1")
    heard = _PUBLISHED.format(address=spot.address)
    _run(ip, "netns", "exec", spot.namespace, _program("nft", "nftables"), "-f", "-", text=heard)


def _set(ip: str, namespace: str, name: str, value: str) -> None:
    _run(ip, "netns", "exec", namespace, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}")


def _free_net(ip: str) -> str:
    taken = set(re.findall(rf"\b{re.escape(BENCH)}\.(\d+)\.", _run(ip, "route")))
    return next(f"{BENCH}.{number}" for number in range(256) if str(number) not in taken)


def _forget_the_dead(ip: str) -> None:
    """Machines of a test that was killed."""
    for line in _run(ip, "netns", "list").splitlines():
        name = line.split()[0]
        found = re.fullmatch(rf"{PREFIX}-(\d+)-[\w-]+", name)
        if found and not Path("/proc", found[1]).exists():
            with contextlib.suppress(RuntimeError):
                _run(ip, "netns", "del", name)
