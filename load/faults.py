"""What goes wrong in a trial: processes, servers, networks and providers are struck, and whatever lasts is undone."""

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from random import Random
from time import time
from typing import Any, Protocol, get_args

import httpx2
import psutil
from pydantic import ValidationError

from fleet.errors import BadInput, FleetError
from load import restarting
from load.finishing import finished
from load.local import TOGETHER, Plan
from load.proxy import LONGEST_DELAY_S
from load.simulators.options import Options, OptionsError
from load.simulators.orders import Step
from load.trial import Deploy, Fault, FaultKind, Mark

INSTANTS = ("kill", "redis_failover", "deploy", "restart")
"""Faults that last as long as they last: `for_s` is 0."""
LASTING = ("freeze", "redis_delay", "temporal_delay", "provider")
"""Faults that are none unless they last."""
NAMES = {"redis": "Redis", "temporal": "Temporal"}


class Script(Protocol):
    """Who makes providers fail (`docs/simulators.md`)."""

    async def play(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Play these from now on."""

    async def stop(self) -> None:
        """End whatever is played."""


class Network(Protocol):
    """What carries the connections to a server (`load/proxy.py`)."""

    async def cut(self, *, silent: bool = False) -> None:
        """Carry nothing."""

    async def delay(self, seconds: float) -> None:
        """Carry everything so much later."""

    async def heal(self) -> None:
        """Carry everything again."""


class Struck(restarting.Restarted, Protocol):
    """What faults strike: a local fleet."""

    @property
    def plan(self) -> Plan:
        """What it runs."""

    @property
    def networks(self) -> Mapping[str, Network]:
        """Between the workers and `redis` and `temporal`, if it is proxied."""

    @property
    def simulators(self) -> Mapping[str, Any]:
        """Where they are: `http`."""

    def groups(self) -> dict[str, int]:
        """Worker processes by pools."""

    async def kill_server(self, name: str) -> None:
        """kill -9 of `redis` or `temporal`."""

    async def start_server(self, name: str) -> None:
        """Start it again."""

    async def kill_primary(self) -> str:
        """kill -9 of the limiter's primary; answers who has taken over."""

    async def rejoin(self) -> None:
        """Start the primary that was killed again."""

    async def deploy(self, told: Callable[[Deploy], None]) -> None:
        """Let another version of the workers take over."""


class Simulators:
    """The script of the simulators."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/_script"

    async def play(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Play these from now on.

        Raises:
            FleetError: the simulators do not answer, or refuse a step.
        """
        await self._ask("POST", steps)

    async def stop(self) -> None:
        """End what runs, forget what is to come.

        Raises:
            FleetError: the simulators do not answer.
        """
        await self._ask("DELETE", None)

    async def _ask(self, method: str, body: Any) -> None:
        try:
            async with httpx2.AsyncClient(timeout=10) as http:
                answer = await http.request(method, self._url, json=body)
        except httpx2.HTTPError as error:
            raise FleetError(f"the simulators at {self._url} do not answer ({type(error).__name__})") from None
        if answer.is_error:
            raise FleetError(f"the simulators refuse the script ({answer.status_code}): {answer.text[:300]}")


def check(faults: Sequence[Fault], fleet: Struck, for_s: float) -> None:
    """Refuse what cannot strike this fleet.

    Args:
        faults: the timeline.
        fleet: it need not run.
        for_s: how long load is offered.

    Raises:
        BadInput: a fault has an impossible time, target or option, or needs a plan of another kind. One line.
    """
    last: dict[str, tuple[float, str]] = {}
    for fault in sorted(faults, key=lambda one: one.at_s):
        told = f"{fault.kind} at {fault.at_s:g} s"
        if problem := _times(fault, for_s) or _ground(fault, fleet) or _target(fault, fleet) or _more(fault):
            raise BadInput(f"{told}: {problem}")
        exclusive = _exclusive(fault)
        until, before = last.get(exclusive, (0.0, ""))
        if exclusive and before and fault.at_s < until:
            raise BadInput(f"{told}: {before} lasts until {until:g} s: let it begin then, or make that one shorter")
        last[exclusive] = (fault.at_s + fault.for_s, told)


def _times(fault: Fault, for_s: float) -> str | None:
    if fault.kind not in get_args(FaultKind):
        return f"there is no such fault: {', '.join(get_args(FaultKind))}"
    if not (math.isfinite(fault.at_s) and math.isfinite(fault.for_s)) or fault.at_s < 0 or fault.for_s < 0:
        return f"at_s={fault.at_s:g} and for_s={fault.for_s:g} must not be negative"
    if fault.at_s > for_s:
        return f"the load lasts {for_s:g} s: let it strike earlier"
    if fault.kind in INSTANTS and fault.for_s:
        return f"for_s={fault.for_s:g}: it is an instant, leave for_s out"
    if fault.kind in LASTING and not fault.for_s:
        return "for_s=0: say how many seconds it lasts"
    return None


def _ground(fault: Fault, fleet: Struck) -> str | None:
    plan, (server, _, what) = fleet.plan, fault.kind.partition("_")
    if fault.kind == "redis_failover":
        return None if plan.sentinel else "there are no Sentinels: the plan needs sentinel=True"
    if server == "redis" and plan.sentinel:
        return "Redis is a primary and a replica under Sentinels, which name the servers themselves: use redis_failover"
    if what in ("cut", "delay") and not plan.proxied:
        return "there is no network to break: the plan needs proxied=True"
    if fault.kind == "deploy" and not plan.build:
        return "the workers have no version that another could follow: the plan needs a build"
    if fault.kind == "provider" and not plan.simulate:
        return "the providers are not simulated: the plan needs simulate=True"
    return None


def _target(fault: Fault, fleet: Struck) -> str | None:
    if fault.kind in ("kill", "freeze", "restart"):
        pools = sorted({pool for group in fleet.groups() for pool in group.split(TOGETHER)})
        if not pools:
            return "there are no workers"
        if not fault.target and fault.kind == "restart":
            return f"target='': say whose processes are restarted: {', '.join(pools)}"
        unknown = fault.target not in {"", *pools}
        return f"unknown pool {fault.target!r}; there are: {', '.join(pools)}" if unknown else None
    if fault.target and fault.kind != "provider":
        return f"target={fault.target!r} means nothing here: leave it out"
    return None


def _more(fault: Fault) -> str | None:
    more = dict(fault.more)
    if fault.kind == "provider":
        try:
            step = Step.model_validate(_step(fault))
            Options().patched(step.options or {})
        except ValidationError as error:
            return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
        except OptionsError as error:
            return str(error)
        return None
    if fault.kind.endswith("_delay"):
        delay = more.pop("delay_s", None)
        if not isinstance(delay, int | float) or not 0 < delay <= LONGEST_DELAY_S:
            return f"delay_s={delay!r}: must be seconds above 0, at most {LONGEST_DELAY_S:g}"
    if fault.kind.endswith("_cut") and not isinstance(silent := more.pop("silent", False), bool):
        return f"silent={silent!r}: must be true or false"
    if fault.kind == "restart" and not isinstance(surge := more.pop("surge", True), bool):
        return f"surge={surge!r}: must be true or false"
    return f"unknown option: {', '.join(more)}" if more else None


def _exclusive(fault: Fault) -> str:
    """What can be in one such state at a time, or done by one after the other."""
    if fault.kind.endswith(("_down", "_failover")) or fault.kind == "restart":
        return fault.kind
    return f"network {fault.kind.partition('_')[0]}" if fault.kind.endswith(("_cut", "_delay")) else ""


def _step(fault: Fault) -> dict[str, Any]:
    named = {"provider": fault.target} if fault.target else {}
    return {"at_s": 0, "for_s": fault.for_s, **named, **fault.more}


class Faults:
    """Strikes by the timeline. The same seed draws the same processes from the same fleet."""

    def __init__(
        self,
        fleet: Struck,
        faults: Sequence[Fault],
        *,
        seed: int = 0,
        on_mark: Callable[[Mark], None] | None = None,
        script: Script | None = None,
    ) -> None:
        """Args:
        fleet: runs while `strike` does.
        faults: the timeline, which `check` has accepted.
        seed: draws pools and processes.
        on_mark: told of every fault once, when it strikes; its `until` is when it is meant to be over.
        script: default: that of the fleet's simulators.
        """
        self.marks: list[Mark] = []
        """What has struck, in that order. `until` is what is meant while it lasts, and what was when it is over."""
        self.deploys: list[Deploy] = []
        """Versions that were deployed, as far as they have come."""
        self.deploying = False
        """New runs are led to another version, and the old ones have not all ended."""
        self._fleet = fleet
        self._faults = list(faults)
        self._seed = seed
        self._on_mark = on_mark
        self._given = script
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._frozen: set[int] = set()

    async def strike(self, began: float) -> None:
        """Let everything strike; return when the last fault is over. Undo what lasts, also when cancelled or failing.

        Args:
            began: wall-clock seconds at which the load begins or has begun.

        Raises:
            FleetError: something could not be struck or undone; the rest was undone.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time() - time() + began
        try:
            async with asyncio.TaskGroup() as group:
                for number, fault in enumerate(self._faults):
                    group.create_task(self._one(number, fault, begin + fault.at_s))
        except BaseExceptionGroup as found:
            raise _first(found) from None

    async def _one(self, number: int, fault: Fault, at: float) -> None:
        await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
        # the one before it may take a while to be undone
        async with self._locks[_exclusive(fault) or str(number)]:
            blow = _Blow(fault, self.marks, self._on_mark)
            try:
                async with AsyncExitStack() as undo:
                    await self._hit(number, blow, undo)
                    if blow.struck:
                        await asyncio.sleep(fault.for_s)
            finally:
                blow.over()

    async def _hit(self, number: int, blow: "_Blow", undo: AsyncExitStack) -> None:
        fault, fleet = blow.fault, self._fleet
        server, _, what = fault.kind.partition("_")

        def afterwards(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
            undo.push_async_callback(lambda: finished(work()))

        match what or server:
            case "kill" | "freeze":
                self._signal(number, blow, undo)
            case "down":
                blow.strikes(f"kill -9 of {NAMES[server]}")
                afterwards(lambda: fleet.start_server(server))
                await finished(fleet.kill_server(server))
            case "cut":
                silent = bool(fault.more.get("silent"))
                blow.strikes(f"network to {NAMES[server]} {'swallows everything' if silent else 'cut'}")
                afterwards(fleet.networks[server].heal)
                await finished(fleet.networks[server].cut(silent=silent))
            case "delay":
                delay = float(fault.more["delay_s"])
                blow.strikes(f"network to {NAMES[server]} slower by {delay:g} s each way")
                afterwards(fleet.networks[server].heal)
                await finished(fleet.networks[server].delay(delay))
            case "failover":
                blow.strikes("kill -9 of Redis's primary")
                afterwards(fleet.rejoin)
                blow.adds(f": {await fleet.kill_primary()}")
                # the fleet has a store again; that the set is whole again is of no concern to it
                blow.over()
            case "deploy":
                blow.strikes("workers of another version take over")
                known = len(self.deploys)

                def note(deploy: Deploy) -> None:
                    self.deploys[known:] = [deploy]
                    self.deploying = deploy.drained_at is None

                await fleet.deploy(note)
                self.deploying = False
                blow.adds(f": {self.deploys[-1].after} instead of {self.deploys[-1].before}")
                blow.over()
            case "restart":
                surge, names = bool(fault.more.get("surge", True)), sorted(fleet.pids(fault.target))
                how = "its replacement ready first" if surge else "stopped first"
                blow.strikes(f"{', '.join(names)} restarted one after the other, each with {how}")
                await restarting.rolling(fleet, fault.target, surge=surge)
                blow.over()
            case "provider":
                step = _step(fault)
                told = {name: value for name, value in step.items() if name not in ("at_s", "for_s", "provider")}
                blow.strikes(f"{fault.target or 'simulators'}: {json.dumps(told)}")
                script = self._script()
                undo.push_async_exit(_unless_over(script))
                await finished(script.play([step]))

    def _signal(self, number: int, blow: "_Blow", undo: AsyncExitStack) -> None:
        fault, draw = blow.fault, Random(f"{self._seed}/{number}")
        running = {name: pid for name, pid in self._fleet.pids(fault.target).items() if pid not in self._frozen}
        groups = sorted({name.rpartition("-")[0] for name in running})
        if not groups:
            blow.misses(f"no process of {fault.target or 'any pool'} runs")
            return
        group = draw.choice(groups)
        name = draw.choice(sorted(name for name in running if name.rpartition("-")[0] == group))
        pid = running[name]
        try:
            process = psutil.Process(pid)
            if fault.kind == "kill":
                blow.strikes(f"kill -9 of {name} (pid {pid})")
                process.kill()
                return
            blow.strikes(f"SIGSTOP of {name} (pid {pid})")
            undo.callback(self._thaw, process, blow)
            self._frozen.add(pid)
            process.suspend()
        except psutil.NoSuchProcess:
            blow.misses(f"{name} (pid {pid}) had just ended")

    def _thaw(self, process: psutil.Process, blow: "_Blow") -> None:
        self._frozen.discard(process.pid)
        try:
            process.resume()
        except psutil.NoSuchProcess:
            blow.adds("; it ended meanwhile")

    def _script(self) -> Script:
        return self._given or Simulators(self._fleet.simulators["http"])


class _Blow:
    """One fault as it strikes, and its mark."""

    def __init__(self, fault: Fault, marks: list[Mark], on_mark: Callable[[Mark], None] | None) -> None:
        self.fault = fault
        self._marks = marks
        self._on_mark = on_mark
        self._index: int | None = None
        self._lasts = fault.kind != "kill"

    @property
    def _scope(self) -> str:
        """Whose provider fails."""
        return self.fault.target if self.fault.kind == "provider" else ""

    @property
    def struck(self) -> bool:
        """There was something to hit, and it is not over."""
        return self._lasts and self._index is not None

    def strikes(self, what: str) -> None:
        """Now."""
        self._note(self._mark(what, self.fault.for_s))

    def misses(self, why: str) -> None:
        """There was nothing to hit."""
        self._lasts = False
        if self._index is None:
            self._note(self._mark(why, 0.0))
        else:
            mark = self._marks[self._index]
            self._marks[self._index] = replace(mark, what=why, until=mark.at)

    def _mark(self, what: str, for_s: float) -> Mark:
        fault, now = self.fault, time()
        return Mark(kind=fault.kind, what=what, at=now, until=now + for_s, scope=self._scope, target=fault.target)

    def adds(self, more: str) -> None:
        """What became of it."""
        if self._index is not None:
            mark = self._marks[self._index]
            self._marks[self._index] = replace(mark, what=mark.what + more)

    def over(self) -> None:
        """Now; only the first time counts."""
        if self._lasts and self._index is not None:
            self._marks[self._index] = replace(self._marks[self._index], until=time())
        self._lasts = False

    def _note(self, mark: Mark) -> None:
        self._index = len(self._marks)
        self._marks.append(mark)
        if self._on_mark is not None:
            self._on_mark(mark)


def rss_mb(fleet: Struck) -> dict[str, float]:
    """Resident memory of each worker process in MiB, by name and pid: `llm-1/4711`."""
    found = {}
    for name, pid in fleet.pids().items():
        with suppress(psutil.Error):
            found[f"{name}/{pid}"] = psutil.Process(pid).memory_info().rss / 2**20
    return found


def _unless_over(script: Script) -> Callable[..., Coroutine[Any, Any, None]]:
    """Stops the script when its step has not come to its end, which it finds by itself."""

    async def stop(kind: Any, *_: Any) -> None:
        if kind is not None:
            await finished(script.stop())

    return stop


def _first(found: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that people are told: one line of ours, if there is one."""
    ours, _ = found.split(FleetError)
    one: BaseException = ours or found
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one
