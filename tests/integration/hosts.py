"""A fleet on several machines: two hosts of workers, Redis, Temporal, and the stores, each in a network namespace."""

import asyncio
import json
import os
import re
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import httpx2
import tomli_w

from fleet import manifest as manifests
from fleet.client import FleetClient, connect
from fleet.contracts.names import SEARCH_ATTRIBUTES
from fleet.manifest import Manifest
from fleet.settings import Settings
from load import harness, providers
from load.course import Crew
from load.local import TOGETHER, Plan
from load.providers import Ledgers
from load.scenario import Stage
from load.trial import Engine
from load.view import View
from tests.conftest import TUNING, binary
from tests.integration import namespaces
from tests.integration.namespaces import Links, Spot
from tests.postgres import Postgres, running_postgres
from tests.ratelimit.servers import valkey_binary
from workers.bootstrap import limiter
from workers.corpus.index import Corpus
from workers.corpus.ingest import read_folder
from workers.database.schema import upgrade
from workers.supervisor import ProcessSpec, Supervisor

ROOT = Path(__file__).parents[2]
HOSTS = ("one", "two")
SERVERS = ("redis", "temporal")
STORES = "stores"
"""Where PostgreSQL and whatever the workers do to the world are."""
GROUPS = ("agents", "llm", "search+email+payments+approvals+memory+webhook")
"""Worker processes of each host, by the pools that they serve."""
REDIS, TEMPORAL, HTTP, MODELS, SMTP, HEALTH = 6379, 7233, 8080, 8081, 2525, 9000
"""Ports: every machine has all to itself. Models have another than the bank and lookups, which need no quota."""
READY_S = 60.0
LOOK_S = 0.2
"""How often the switch is asked what it has carried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the switch has carried so far."""

    at: float
    """Wall-clock seconds."""
    sent: Mapping[str, int]
    """Packets of calls to models and the relay, by host."""


class Link:
    """What the first host's connections to one server pass through; see `load.faults.Network`."""

    def __init__(self, links: Links, server: str) -> None:
        self._links = links
        self._server = server

    async def cut(self, *, silent: bool = False) -> None:
        """Carry nothing."""
        await asyncio.to_thread(self._links.cut, HOSTS[0], self._server, silent=silent)

    async def delay(self, seconds: float) -> None:
        """Carry everything later: not here."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Carry everything again."""
        await asyncio.to_thread(self._links.heal, HOSTS[0], self._server)


class Hosts:
    """The fleet. What `load.course` asks of one."""

    def __init__(self, folder: Path, links: Links, database: str, supervisor: Supervisor) -> None:
        self.folder = folder
        self.links = links
        self.database = database
        self.supervisor = supervisor
        self.networks = {server: Link(links, server) for server in SERVERS}
        self.corpus = Corpus(folder / "corpus.db")
        self.seen: list[Seen] = []
        self.simulators: dict[str, Any] = {}
        self.manifest_path = folder / "pause.toml"
        self.manifest: Manifest

    def use(self, posture: str) -> None:
        """Workers that are started from now on have this posture."""
        self.manifest_path = self.folder / f"{posture}.toml"
        self.manifest = manifests.load(self.manifest_path)

    @property
    def plan(self) -> Plan:
        """What runs, in the harness's words."""
        return Plan(folder=self.folder, manifest=self.manifest_path, pools={}, proxied=True)

    @property
    def temporal(self) -> str:
        """Where it is."""
        return f"{self._address('temporal')}:{TEMPORAL}"

    def settings(self) -> Settings:
        """Settings of a program that joins this fleet."""
        return Settings(
            state_dir=self.folder,
            redis_url=f"redis://{self._address('redis')}:{REDIS}/0",
            manifest=self.manifest_path,
            database_url=self.database,
            payload_store=f"file:{self.folder / 'payloads'}",
        )

    def groups(self) -> dict[str, int]:
        """Worker processes by pools."""
        return dict.fromkeys(GROUPS, len(HOSTS))

    def pids(self, pool: str = "") -> dict[str, int]:
        """Worker processes that run, by name: pools, then the host."""
        return {
            name: pid
            for name, pid in self.supervisor.pids().items()
            if (pools := name.rpartition("-")[0]) in GROUPS and (not pool or pool in pools.split(TOGETHER))
        }

    async def watch(self) -> None:
        """Return only by raising: a server has died."""
        died = [asyncio.create_task(self.supervisor.died(name)) for name in (*SERVERS, "simulators")]
        try:
            await asyncio.wait(died, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in died:
                task.cancel()
        raise RuntimeError(f"a server has died: see {self.folder / 'logs'}")

    async def start_servers(self) -> None:
        """Redis, Temporal, simulated providers; then the tables and the manifests."""
        attributes = [f"--search-attribute={name}={kind}" for name, kind in SEARCH_ATTRIBUTES.items()]
        options = self.folder / "simulators.json"
        redis = [valkey_binary(), "--port", str(REDIS), "--save", "", "--dir", str(self.folder)]
        temporal = [binary("temporal"), "server", "start-dev", "--port", str(TEMPORAL), "--headless"]
        temporal += ["--log-level", "error", *TUNING, *attributes]
        await self._start("redis", "redis", redis)
        await self._start("temporal", "temporal", temporal)
        await asyncio.to_thread(self.corpus.add, read_folder(ROOT / "docs" / "decisions"))
        self.links.spots[STORES].publish(HTTP, at=MODELS)
        for posture in ("degrade", "pause"):
            self._write(posture)
        self.use("pause")
        options.write_text(json.dumps(providers.options(self.manifest)), encoding="utf-8")
        ready = self.folder / "simulators.ready"
        command = [sys.executable, "-m", "load.simulators", "--port", str(HTTP), "--smtp-port", str(SMTP)]
        command += ["--maildir", str(self.folder / "Maildir"), "--options", str(options), "--ready-file", str(ready)]
        await self._start("simulators", STORES, command)
        self.simulators = {"http": self._http(), "smtp_port": SMTP}
        async with asyncio.timeout(READY_S):
            while not ready.exists():
                await asyncio.sleep(0.02)
        await upgrade(self.database)

    async def start(self, host: str, groups: Sequence[str] = GROUPS) -> None:
        """Start a host's workers by the manifest in use; returns once they are ready."""
        for group in groups:
            command = [sys.executable, "-m", "fleet.cli.main", "worker", *group.split(TOGETHER)]
            await self._start(f"{group}-{host}", host, command, health=str(HEALTH + GROUPS.index(group)))
        async with asyncio.timeout(READY_S):
            for group in groups:
                log = self._log(f"{group}-{host}")
                while '"event": "ready"' not in log.read_text(errors="replace"):
                    await asyncio.sleep(0.1)

    async def stop(self, host: str, groups: Sequence[str] = GROUPS) -> None:
        """Let a host's workers drain, and end."""
        names = [f"{group}-{host}" for group in groups]
        await asyncio.gather(*(self.supervisor.stop(name) for name in names))
        for name in names:
            # whoever waits for the next one reads what that one says
            self._log(name).rename(self._log(name).with_suffix(".first"))

    async def degraded(self, host: str) -> float:
        """Calls of models that a host's own share has granted while Redis was away, by its metrics."""
        async with httpx2.AsyncClient(timeout=10) as http:
            answer = await http.get(f"http://{self._address(host)}:{HEALTH + GROUPS.index('llm')}/metrics")
        found = re.findall(r"^fleet_quota_degraded_total\{.*\} (\S+)$", answer.text, re.MULTILINE)
        return sum(float(value) for value in found)

    async def look(self) -> None:
        """Note what the switch carries, until cancelled."""
        while True:
            sent = await asyncio.to_thread(self.links.counts)
            self.seen.append(Seen(at=time(), sent=sent))
            await asyncio.sleep(LOOK_S)

    def _address(self, name: str) -> str:
        return self.links.spots[name].address

    def _http(self) -> str:
        return f"http://{self._address(STORES)}:{HTTP}"

    def _write(self, posture: str) -> None:
        """The shipped manifest with this posture, the harness's agents and the simulated providers."""
        patch = {
            "limiter": {"posture": posture},
            # agents that hear within seconds that a worker is gone, and effects that are looked up as soon
            "agents": {name: {"policy": {"heartbeat": "4s"}} for name in ("load-caller", "load-mailer", "load-payer")},
        }
        source, target = self.folder / f"{posture}.source.toml", self.folder / f"{posture}.toml"
        harness.prepared(ROOT / "deploy" / "fleet.toml", source, Stage(manifest=patch))
        models = f"http://{self._address(STORES)}:{MODELS}"
        providers.rewrite(source, manifests.load(source), target, models=models, outside=(self._http(), SMTP))
        raw = tomllib.loads(target.read_text(encoding="utf-8"))
        raw["providers"]["email"]["host"] = self._address(STORES)
        raw["providers"]["search"]["path"] = str(self.folder / "corpus.db")
        target.write_text(tomli_w.dumps(raw), encoding="utf-8")

    async def _start(self, name: str, place: str, command: Sequence[str], *, health: str = "0") -> None:
        spot = self.links.spots[place]
        env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("FLEET_", "TEMPORAL_", "OTEL_"))
            },
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "TEMPORAL_ADDRESS": self.temporal,
            "FLEET_MANIFEST": str(self.manifest_path),
            "FLEET_STATE_DIR": str(self.folder),
            "FLEET_REDIS_URL": f"redis://{self._address('redis')}:{REDIS}/0",
            "FLEET_DATABASE_URL": self.database,
            "FLEET_PAYLOAD_STORE": f"file:{self.folder / 'payloads'}",
            "FLEET_LOG_FORMAT": "json",
            "FLEET_LOG_LEVEL": "info",
            "FLEET_HEALTH_PORT": health,
            "GOGC": "400",
        }
        await self.supervisor.start(
            ProcessSpec(name=name, argv=spot.argv(command), env=env, log=self._log(name), restart=False, grace_s=30.0)
        )

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"


@contextmanager
def _postgres(spot: Spot) -> Iterator[str]:
    """The URL of a new database on a server there."""
    running = running_postgres()
    server: Postgres = spot.run(running.__enter__)
    try:
        name = spot.run(lambda: asyncio.run(server.create()))
        yield re.sub(r"127\.0\.0\.1", spot.address, server.url(name))
    finally:
        running.__exit__(None, None, None)


def _counted(spots: Mapping[str, Spot]) -> dict[str, str]:
    to = f"ip daddr {spots[STORES].address} tcp dport {{ {MODELS}, {SMTP} }} tcp flags & psh == psh"
    return {host: f"ip saddr {spots[host].address} {to}" for host in HOSTS}


def of(crew: Crew) -> Hosts:
    """The fleet of a trial's crew."""
    fleet: object = crew.fleet
    assert isinstance(fleet, Hosts)
    return fleet


@asynccontextmanager
async def standing(folder: Path, posture: str = "pause") -> AsyncIterator[Crew]:
    """The fleet with both hosts' workers ready, as the crew of a trial."""
    namespaces.needs_namespaces()
    async with AsyncExitStack() as stack:
        links = stack.enter_context(namespaces.links((*HOSTS, *SERVERS, STORES), _counted))
        database = stack.enter_context(_postgres(links.spots[STORES]))
        supervisor = await stack.enter_async_context(Supervisor())
        fleet = Hosts(folder, links, database, supervisor)
        await fleet.start_servers()
        ledgers = Ledgers(fleet.simulators["http"])
        stack.push_async_callback(ledgers.aclose)
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    temporal = await connect(fleet.settings(), address=fleet.temporal)
                    break
                except Exception:  # noqa: BLE001 - it is starting
                    await asyncio.sleep(0.1)
        fleet.use(posture)
        await asyncio.gather(*(fleet.start(host) for host in HOSTS))
        looking = asyncio.create_task(fleet.look())
        try:
            async with limiter(fleet.settings(), fleet.manifest) as shared:
                client = FleetClient(temporal, fleet.manifest)
                yield Crew(
                    fleet=fleet,  # type: ignore[arg-type]  # it has what a trial asks of one
                    client=client,
                    ledgers=ledgers,
                    shared=shared,
                    view=View(quiet=True),
                    engine=Engine(activities_per_s=0.0),
                )
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
