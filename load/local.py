"""A whole fleet on one machine: embedded servers, simulated providers, worker pools, each its own process."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from fleet import manifest as manifests
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from fleet.settings import DEV_FILE, Settings
from fleet.storage.places import FOLDER
from fleet.tables import POOLS, SearchProvider
from load import deploying, providers
from load.failover import Failover
from load.modes import Setup
from load.proxy import RemoteProxy
from load.scraped import EXPORTER, WORKER, Scraped
from load.trial import Deploy
from workers.bootstrap import limiter, quotas
from workers.corpus.index import Corpus, CorpusError
from workers.corpus.ingest import read_folder
from workers.corpus.stdlib_kept import stdlib_documents
from workers.database.engine import DatabaseLost
from workers.database.schema import upgrade
from workers.embedded import EmbeddedError, EmbeddedStack, Endpoints, Ports, free_ports
from workers.supervisor import ProcessSpec, Supervisor, last_line

READY_TIMEOUT_S = 60.0
LIGHT_POOLS = ("payments", "approvals", "memory", "webhook")
TOGETHER = "+"
"""Joins the names of pools that one process serves."""
FIRST_BUILD = "v1"
"""Version of the workers that a trial begins with, where it deploys another."""
BUILD_MARK = "@"
"""Before the build in the name of a worker that was not there from the begin: `agents-1@v2`."""
DRAIN_MARGIN_S = 5.0
"""A worker that has drained still has connections to close."""
EXPORTER_EVERY_S = 5.0
"""How often the exporter of a local fleet looks."""


def parse_pools(text: str) -> dict[str, int]:
    """`llm=2,search=1` as a mapping.

    Raises:
        BadInput: it has another form, an unknown pool or no process.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = part.strip().partition("=")
        if name not in POOLS:
            raise BadInput(f"--pools: unknown pool {name!r}; there are: {', '.join(POOLS)}")
        if not count.isdigit() or not 1 <= int(count) <= 64:
            raise BadInput(f"--pools: {name}={count} is not a number of processes from 1 to 64")
        found[name] = int(count)
    # a fleet without one of its pools would wait for ever; those with little to do share a process with `email`
    light = [name for name in LIGHT_POOLS if name not in found]
    shared = TOGETHER.join(["email", *light])
    return {shared if name == "email" else name: found.get(name, 1) for name in POOLS if name not in light}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run."""

    folder: Path
    manifest: Path
    pools: Mapping[str, int]
    """Processes by pool, or by pools as `approvals+memory`. Pools that the manifest does not have are left out."""
    simulate: bool = True
    """Start the provider simulators and let them stand in for the manifest's providers."""
    live_models: bool = False
    """Leave the model providers as the manifest has them."""
    live_outside: bool = False
    """Leave mail, bank and endpoints as the manifest has them."""
    own_ledger: bool = False
    """Keep effects in the folder, whatever `FLEET_DATABASE_URL` says."""
    corpus: Path | None = None
    console: bool = False
    """Serve the page on which approvers decide."""
    console_port: int = 0
    codec_endpoint: str = ""
    """Where Temporal's Web UI has payloads decoded. Somebody else serves it."""
    ports: Ports = field(default_factory=Ports)
    proxied: bool = False
    """Workers reach Temporal and Valkey through networks that can be cut; with `sentinel` only Temporal, because a
    Sentinel names the servers themselves."""
    sentinel: bool = False
    """The limiter's store is a Valkey with a replica under Sentinels. It starts empty."""
    build: str = ""
    """Version of the workers' code, which another can be deployed beside. Empty: they are not versioned."""
    setups: Mapping[str, Setup] = field(default_factory=dict)
    """How the workers of a group wait for quotas, where it is not by the limiter."""
    exporter_every_s: float = 0.0
    """How often `fleet exporter` looks at the fleet, in seconds. 0: there is none."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment of all processes that join it, over those that we have ourselves."""


class LocalFleet:
    """Starts everything in the right order and stops it in the other."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan = plan
        self.manifest: Manifest = manifests.load(plan.manifest)
        self.manifest_path = plan.manifest
        self.stack = EmbeddedStack(
            plan.folder, plan.ports, valkey=not plan.sentinel, codec_endpoint=plan.codec_endpoint
        )
        self.failover: Failover | None = None
        """The limiter's store, if the plan has Sentinels."""
        self.networks: dict[str, RemoteProxy] = {}
        """Between the workers and `redis` and `temporal`, if the plan is proxied."""
        self.supervisor = Supervisor()
        if plan.corpus is not None and not plan.corpus.is_dir():
            raise BadInput(f"--corpus: {plan.corpus} is not a folder")
        self.corpus = self._open_corpus()
        self.simulators: dict[str, Any] = {}
        self.console: str | None = None
        """Where approvers decide, if the manifest has a pool that asks them."""
        self.builds: list[str] = [plan.build] if plan.build else []
        """Versions of which workers run, oldest first."""
        self.scraped = Scraped(plan.folder / "prometheus", _rules(plan.manifest))
        """What Prometheus is told of the processes."""
        self.restarting = asyncio.Lock()
        """Held by whoever changes which workers run."""
        self._log_began: dict[str, int] = {}
        self._base = settings
        self._exit = AsyncExitStack()

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers are; never through a proxy."""
        found = self.stack.endpoints
        return replace(found, redis=self.failover.url) if self.failover else found

    def settings(self) -> Settings:
        """Settings of a program that joins this fleet."""
        return self._base.model_copy(
            update={
                "state_dir": self.plan.folder,
                "redis_url": self.endpoints.redis,
                "manifest": self.manifest_path,
                **({"database_url": None, "database_url_file": None} if self.plan.own_ledger else {}),
                "payload_store": self._payloads(),
            }
        )

    def environment(self, build: str = "") -> dict[str, str]:
        """Environment of a process that joins this fleet; workers have a build."""
        # whatever leads to another Temporal stays behind, its configuration file included
        # and so do certificates: its servers are reached by loopback, which is no name of theirs
        astray = (
            "TEMPORAL_",
            "FLEET_TLS_",
            "FLEET_REDIS_URL",
            *(["FLEET_DATABASE_URL"] if self.plan.own_ledger else []),
        )
        kept = {k: v for k, v in self._base.environment().items() if not k.startswith(astray)}
        # `ready` must be said, and is said at level info
        level = "debug" if self._base.log_level == "debug" else "info"
        redis, temporal = self.networks.get("redis"), self.networks.get("temporal")
        return {
            **kept,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "FLEET_LOG_LEVEL": level,
            "FLEET_MANIFEST": str(self.manifest_path),
            "FLEET_STATE_DIR": str(self.plan.folder),
            "FLEET_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0" if redis else self.endpoints.redis,
            "FLEET_LOG_FORMAT": "json",
            "FLEET_HEALTH_PORT": "0",
            **({"FLEET_BUILD_ID": build} if build else {}),
            "FLEET_PAYLOAD_STORE": self._payloads(),
            "TEMPORAL_ADDRESS": f"127.0.0.1:{temporal.port}" if temporal else self.endpoints.temporal,
            **self.plan.variables,
        }

    def _payloads(self) -> str:
        """Where all processes of this fleet keep large payloads, through a proxy or not."""
        return self._base.payload_store or f"file:{(self.plan.folder / FOLDER).absolute()}"

    async def __aenter__(self) -> Self:
        try:
            await self._exit.enter_async_context(self.stack)
            if self.plan.sentinel:
                self.failover = await self._exit.enter_async_context(Failover(self.plan.folder / "sentinel"))
            await self._exit.enter_async_context(self.supervisor)
            await self._exit.enter_async_context(self.scraped.kept())
            if self.plan.proxied:
                await self._proxy()
            await asyncio.to_thread(self._fill_corpus)
            if self.plan.console:
                port = self.plan.console_port or free_ports(1)[0]
                self.console = f"http://127.0.0.1:{port}"
            if self.plan.simulate:
                await self._simulate()
            await self._apply_quotas()
            await upgrade(self.settings().database())
            for group, count in self.groups().items():
                for number in range(1, count + 1):
                    await self._start_worker(group, number, self.plan.build)
            if self.console and self.manifest.approvals.url:
                await self._start_served("console", "--port", self.console.rpartition(":")[2])
            if self.plan.exporter_every_s:
                await self._start_exporter()
        except (EmbeddedError, CorpusError, DatabaseLost) as error:
            await self._exit.aclose()
            raise BadInput(str(error)) from None
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    def _corpus_path(self) -> Path:
        for spec in self.manifest.providers.values():
            if isinstance(spec, SearchProvider) and spec.kind == "corpus" and spec.path is not None:
                return spec.path
        return self.plan.folder / "corpus.db"

    def _open_corpus(self) -> Corpus:
        try:
            return Corpus(self._corpus_path())
        except CorpusError as error:
            raise BadInput(f"{error}: FLEET_STATE_DIR must be a folder that can be written to") from None

    def _fill_corpus(self) -> None:
        if self.plan.corpus is not None:
            self.corpus.add(read_folder(self.plan.corpus))
            if self.corpus.count() == 0:
                raise BadInput(f"--corpus: {self.plan.corpus} has no readable document (.txt .md .rst .html .pdf)")
        elif self.corpus.count() == 0:
            self.corpus.add(stdlib_documents(self._base.cache()))

    async def _simulate(self) -> None:
        folder = self.plan.folder
        ready, options = folder / "simulators.ready", folder / "simulators.json"
        ready.unlink(missing_ok=True)
        options.write_text(json.dumps(providers.options(self.manifest)), encoding="utf-8")
        command = [sys.executable, "-m", "load.simulators", "--port", "0", "--smtp-port", "0"]
        command += ["--maildir", str(folder / "Maildir"), "--options", str(options), "--ready-file", str(ready)]
        command += ["--ledger-file", str(folder / "providers.jsonl")]
        await self.supervisor.start(
            ProcessSpec(
                name="simulators",
                argv=command,
                env=self._base.environment(),
                log=self._log("simulators"),
                restart=False,
            )
        )
        await self._written("simulators", ready)
        self.simulators = json.loads(ready.read_text(encoding="utf-8"))
        target = folder / "fleet.toml"
        providers.rewrite(
            self.plan.manifest,
            self.manifest,
            target,
            models=None if self.plan.live_models else self.simulators["http"],
            outside=None if self.plan.live_outside else (self.simulators["http"], self.simulators["smtp_port"]),
            console=self.console,
        )
        self.manifest, self.manifest_path = manifests.load(target), target

    async def _proxy(self) -> None:
        servers = {"temporal": self.endpoints.temporal}
        if not self.plan.sentinel:
            servers["redis"] = urlsplit(self.endpoints.redis).netloc
        for server, address in servers.items():
            name = f"{server}-proxy"
            ready = self.plan.folder / f"{name}.ready"
            ready.unlink(missing_ok=True)
            command = [sys.executable, "-m", "load.proxy", "--target", address, "--ready-file", str(ready)]
            await self.supervisor.start(
                ProcessSpec(name=name, argv=command, env=self._base.environment(), log=self._log(name), restart=False)
            )
            await self._written(name, ready)
            self.networks[server] = RemoteProxy.read(ready)

    async def _written(self, name: str, ready: Path) -> None:
        """Wait until a process has written where it is."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not ready.exists():  # noqa: ASYNC240 - a look at a local file
                if name not in self.supervisor.pids():
                    raise FleetError(f"{name} did not start: {last_line(self._log(name))} (log: {self._log(name)})")
                await asyncio.sleep(0.02)

    async def _apply_quotas(self) -> None:
        # the manifest is the truth here, whatever an earlier start has left in Valkey
        async with limiter(self.settings(), self.manifest) as shared:
            for scope, quota in quotas(self.manifest).items():
                if await shared.quota(scope) != quota:
                    await shared.configure(quota, by="manifest", reason="the local fleet starts")

    def groups(self) -> dict[str, int]:
        """Worker processes by pools, of pools that the manifest has."""
        found: dict[str, int] = {}
        for group, count in self.plan.pools.items():
            served = [pool for pool in group.split(TOGETHER) if pool in self.manifest.pools]
            if served:
                found[TOGETHER.join(served)] = count
        return found

    async def start_build(self, build: str, code: Path | None = None) -> None:
        """Start workers of another version beside those that run, and wait until they are ready.

        Args:
            build: without `-`.
            code: folder that holds its packages `fleet`, `workers`, `ratelimit` and `load`. Default: ours.

        Raises:
            FleetError: one of them does not start.
        """
        names = [
            await self._start_worker(group, number, build, code)
            for group, count in self.groups().items()
            for number in range(1, count + 1)
        ]
        self.builds.append(build)
        await self._ready(names)

    async def stop_build(self, build: str) -> None:
        """Let the workers of a version drain, and end."""
        first = build == self.plan.build
        ending = [
            name for name in self.pids() if (BUILD_MARK not in name if first else name.endswith(f"{BUILD_MARK}{build}"))
        ]
        await asyncio.gather(*map(self.stop_worker, ending))
        self.builds.remove(build)

    async def start_worker(self, name: str) -> None:
        """Start a worker of our own code by its name, as `llm-3`, and wait until it is ready.

        Raises:
            FleetError: it does not start.
        """
        group, _, rest = name.rpartition("-")
        number, _, build = rest.partition(BUILD_MARK)
        await self._ready([await self._start_worker(group, int(number), build or self.plan.build)])

    async def stop_worker(self, name: str) -> None:
        """Let a worker drain, and end."""
        self.scraped.remove(name)
        await self.supervisor.stop(name)

    async def _start_worker(self, group: str, number: int, build: str = "", code: Path | None = None) -> str:
        name, pools = f"{group}-{number}", group.split(TOGETHER)
        name += f"{BUILD_MARK}{build}" if build != self.plan.build else ""
        argv = self.plan.setups.get(group, Setup()).argv(pools)
        log = self._log(name)
        self._log_began[name] = log.stat().st_size if log.exists() else 0
        grace = max(self.manifest.pools[pool].drain.total_seconds() for pool in pools) + DRAIN_MARGIN_S
        # a module of the folder that we are in would come first
        env = self.environment(build) | ({"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"} if code else {})
        self.scraped.follow(name, WORKER, log)
        await self.supervisor.start(ProcessSpec(name=name, argv=argv, env=env, log=log, restart=True, grace_s=grace))
        return name

    async def _start_exporter(self) -> None:
        # not through networks that are cut: who looks at a fleet must see that
        direct = {"FLEET_REDIS_URL": self.endpoints.redis, "TEMPORAL_ADDRESS": self.endpoints.temporal}
        self.scraped.follow("exporter", EXPORTER, self._log("exporter"))
        await self._start_served("exporter", "--port", "0", "--every", f"{self.plan.exporter_every_s:g}", **direct)

    async def _start_served(self, command: str, *options: str, **environment: str) -> None:
        """Start `fleet command` and keep it running."""
        await self.supervisor.start(
            ProcessSpec(
                name=command,
                argv=[sys.executable, "-m", "fleet.cli.main", command, *options],
                env=self.environment() | environment,
                log=self._log(command),
                restart=True,
                grace_s=DRAIN_MARGIN_S,
            )
        )

    def pids(self, pool: str = "") -> dict[str, int]:
        """Worker processes that run, by name; with a pool those that serve it."""
        found = {}
        for name, pid in self.supervisor.pids().items():
            pools = name.rpartition("-")[0].split(TOGETHER)
            if pool in pools if pool else set(pools) <= set(POOLS):
                found[name] = pid
        return found

    async def kill_server(self, name: str) -> None:
        """kill -9 of `redis` or `temporal`; nothing starts it again but `start_server`."""
        await (self.stack.kill_redis() if name == "redis" else self.stack.kill_temporal())

    async def start_server(self, name: str) -> None:
        """Start it again, on the same port and state.

        Raises:
            FleetError: it does not start.
        """
        try:
            await (self.stack.restart_redis() if name == "redis" else self.stack.restart_temporal())
        except EmbeddedError as error:
            raise FleetError(str(error)) from None

    async def kill_primary(self) -> str:
        """kill -9 of the limiter's primary; returns when another has taken over, and says which.

        Raises:
            FleetError: none has, or the plan has no Sentinels.
        """
        try:
            return await self._sentinels().kill_primary()
        except EmbeddedError as error:
            raise FleetError(str(error)) from None

    async def rejoin(self) -> None:
        """Start the primary that was killed again, as a replica.

        Raises:
            FleetError: it does not start, or the plan has no Sentinels.
        """
        try:
            await self._sentinels().rejoin()
        except EmbeddedError as error:
            raise FleetError(str(error)) from None

    def _sentinels(self) -> Failover:
        if self.failover is None:
            raise BadInput("there is no primary to kill: the plan needs sentinel=True")
        return self.failover

    async def deploy(self, told: Callable[[Deploy], None]) -> None:
        """Let the next version take over: its workers start, new runs begin on it, the old ones end.

        Args:
            told: is told how far it has come, each time it has come further.

        Raises:
            FleetError: a worker does not start, or Temporal refuses the version.
        """
        await deploying.next_version(self, told)

    def announce(self) -> None:
        """Tell other commands in this folder where the servers and the manifest are."""
        file = self.plan.folder / DEV_FILE
        told = json.loads(file.read_text(encoding="utf-8"))
        told |= {
            "manifest": str(self.manifest_path.absolute()),
            # the manifest here may be a copy: its schedules are those of the original
            "owner": self.plan.manifest.stem,
            "redis": self.endpoints.redis,
            "temporal": self.endpoints.temporal,
        }
        file.write_text(json.dumps(told), encoding="utf-8")

    async def watch(self) -> None:
        """Return only by raising: keep the servers running.

        Raises:
            FleetError: a server, a proxy or the simulators have died for good.
        """
        watching = [asyncio.create_task(self.stack.watch())]
        once = [*(["simulators"] if self.simulators else []), *(f"{name}-proxy" for name in self.networks)]
        watching += [asyncio.create_task(self._died(name)) for name in once]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except EmbeddedError as error:
            raise FleetError(str(error)) from None
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _died(self, name: str) -> None:
        code = await self.supervisor.died(name)
        raise FleetError(f"{name} died (exit code {code}): see {self._log(name)}")

    async def workers_ready(self) -> None:
        """Wait until every worker process has said that it is ready.

        Raises:
            FleetError: one did not within a minute; the text has its last words.
        """
        await self._ready([f"{pool}-{n}" for pool, count in self.groups().items() for n in range(1, count + 1)])

    async def _ready(self, names: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                for name in names:
                    while '"event": "ready"' not in self._said(name):  # noqa: ASYNC110 - another process writes it
                        await asyncio.sleep(0.1)
        except TimeoutError:
            last = self._said(name).strip().splitlines()[-1:] or ["nothing"]
            raise FleetError(
                f"worker {name} is not ready after {READY_TIMEOUT_S:g} s; it said: {last[0][:300]}"
            ) from None

    def _log(self, name: str) -> Path:
        return self.plan.folder / "logs" / f"{name}.log"

    def _said(self, name: str) -> str:
        try:
            with self._log(name).open(encoding="utf-8", errors="replace") as log:
                log.seek(self._log_began.get(name, 0))
                return log.read()
        except OSError:
            return ""


def _rules(manifest: Path) -> Path | None:
    """Prometheus' rules: those beside the manifest, else those of the checkout that this is."""
    folders = [manifest.parent, Path(__file__).parents[1] / "deploy"]
    found = (folder / "prometheus" / "rules" for folder in folders)
    return next((folder for folder in found if folder.is_dir()), None)
