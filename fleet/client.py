"""The one client: start, watch, stop runs. What the CLI and other programs use."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.runtime import Runtime
from temporalio.service import KeepAliveConfig, RPCError, RPCStatusCode

from fleet import attributes, deciding, starting, tracing
from fleet.codec import data_converter
from fleet.contracts import names
from fleet.contracts.approvals import Approval, Verdict, run_of
from fleet.contracts.runs import Outcome, RunResult, RunStatus
from fleet.errors import BadInput, PayloadLost, UnknownRun, Unreachable
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.tables import AGENTS_POOL

T = TypeVar("T")

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
"""What a run may be called: it becomes part of the keys of its effects."""

LONGEST_MESSAGE = 10_000
"""Characters of what is said to a run."""

UNREADABLE = "(cannot be read here: its key or its store is missing)"

STATES = {
    "running": "Running",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
    "terminated": "Terminated",
    "timedout": "TimedOut",
}
"""Temporal's names of the states of a run."""

PATIENCE_S = 120.0
"""How long the end of a run is waited for while Temporal is away."""
_SDK_PATIENCE_S = 10.0

ALIVE = KeepAliveConfig(interval_millis=11_000, timeout_millis=4_000)
"""A server that is silent is asked whether it is there, and given up for a new connection: within 15 s, and not after
the minutes of TCP. A server hangs up on those who ask more often than every 10 s by default:
https://github.com/temporalio/temporal/pull/1334"""
CONNECT_WITHIN = timedelta(seconds=5)
"""Then it is tried again: TCP by itself would, of a server that was away for a while, wait ever longer."""


async def connect(settings: Settings, *, address: str | None = None, runtime: Runtime | None = None) -> Client:
    """Connect to Temporal: `TEMPORAL_*` and `temporal.toml`, else the embedded stack, else localhost:7233.

    Payloads are compressed, encrypted and stored as the settings say (`fleet.codec`).

    Args:
        settings: where am I?
        address: host and port of a server, whatever the environment says.
        runtime: of the SDK. Default: the process's own; workers have one that tells Temporal that they live.

    Raises:
        Unreachable: nobody answers there.
        BadInput: what Temporal's configuration, the keys or the store are set to cannot be.
    """
    config: dict[str, Any] = target(settings) if address is None else {"target_host": address}
    config["data_converter"] = data_converter(settings, embedded=is_embedded(settings, config))
    config |= {"keep_alive_config": ALIVE, "connect_timeout": CONNECT_WITHIN}
    try:
        return await Client.connect(**config, runtime=runtime, interceptors=tracing.interceptors())
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise BadInput(f"Temporal's configuration: {said}: see TEMPORAL_ADDRESS and TEMPORAL_TLS_*") from None
    except (RuntimeError, RPCError) as error:
        raise Unreachable(
            f"Temporal does not answer at {config['target_host']}{refusal(error)}:"
            " start one with `fleet dev` or set TEMPORAL_ADDRESS"
        ) from None


def refusal(error: Exception) -> str:
    """Why a connection was not made, in brackets; empty where nobody answers. The SDK's words are nested types."""
    text = str(error).splitlines()[0]
    if found := re.search(r"InvalidCertificate\((\w+)", text):
        return f" (its certificate is not trusted: {found[1]})"
    if "transport error" in text and ("close_notify" in text or "alert" in text.lower()):
        return " (it has closed the encrypted connection: it may ask for another client certificate)"
    return "" if "Connect" in text else f" ({text[:120]})"


def target(settings: Settings) -> dict[str, Any]:
    """What the SDK is told of where Temporal is: arguments of `Client.connect`.

    Raises:
        BadInput: the configuration cannot be read.
    """
    try:
        config: dict[str, Any] = dict(ClientConfig.load_client_connect_config())
    except (RuntimeError, ValueError, OSError) as error:
        # the lines after the first quote the file, which may hold a key
        raise BadInput(f"Temporal's configuration cannot be read: {str(error).splitlines()[0]}") from None
    if key := settings.temporal_key():
        # with a key the SDK encrypts, as it does by itself where the key is in the environment
        config = {"tls": True, **config, "api_key": key}
    if not config.get("target_host"):
        config["target_host"] = settings.dev().get("temporal") or "localhost:7233"
    return config


def is_embedded(settings: Settings, config: dict[str, Any] | None = None) -> bool:
    """Whether that is the embedded stack of the state folder. Default: what `target` finds.

    Raises:
        BadInput: the configuration cannot be read.
    """
    return bool((config or target(settings))["target_host"] == settings.dev().get("temporal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run in a listing."""

    id: str
    agent: str
    goal: str
    tenant: str
    state: str
    """`running` or how it closed, in Temporal's words."""
    started_at: datetime
    closed_at: datetime | None
    status: str = ""
    """`working`, `approval`, `paused`, or its outcome; empty where the run began before that was told."""
    waiting_for: str = ""
    """`approval` or `resume`."""
    model: str = ""
    cost: float = 0.0
    """Money spent on models, in the currency of the prices: as it was told last."""

    @property
    def duration_s(self) -> float:
        """Seconds from start to end, or until now."""
        end = self.closed_at or datetime.now(self.started_at.tzinfo)
        return (end - self.started_at).total_seconds()


class FleetClient:
    """Runs of agents, over one Temporal connection."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self.temporal = client
        self._manifest = manifest

    async def start(
        self,
        agent: str,
        goal: str,
        *,
        run_id: str | None = None,
        tenant: str = "default",
        priority: int = 3,
        tell: Sequence[str] = (),
    ) -> str:
        """Start a run and return its id. The agent's definition is snapshotted into it.

        Args:
            agent: of the manifest.
            goal: what it is to do.
            run_id: its id. Default: made up.
            tenant: whose run it is.
            priority: 1 (first) to 4.
            tell: webhook endpoints of the manifest that are told, as a CloudEvent, how the run has ended.

        Raises:
            BadInput: unknown agent or endpoint, empty goal, or the id is taken.
        """
        run = starting.run_input(
            self._manifest,
            agent,
            goal,
            tenant=tenant,
            priority=priority,
            tell=[starting.listener(self._manifest, e) for e in dict.fromkeys(tell)],
        )
        if run_id is not None and not RUN_ID.fullmatch(run_id):
            raise BadInput(f"run id {run_id[:80]!r}: must be letters, digits, _ . : -, at most 200")
        workflow_id = run_id or f"{agent}-{secrets.token_hex(5)}"
        try:
            await self.temporal.start_workflow(
                names.AGENT_WORKFLOW,
                run,
                id=workflow_id,
                # the id is part of the key of every effect: another run under it would find them done
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                task_queue=self._manifest.task_queue(AGENTS_POOL),
                **starting.told(run),
                search_attributes=attributes.of_run(run),
            )
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT and "earch attribute" in error.message:
                raise BadInput(f"Temporal: {error.message}: run `fleet init` once for this namespace") from None
            raise _unreachable(error) from None
        except Exception as error:
            if type(error).__name__ == "WorkflowAlreadyStartedError":
                raise BadInput(f"run {workflow_id!r} exists already: choose another id") from None
            raise
        return workflow_id

    def handle(self, run_id: str) -> WorkflowHandle[Any, RunResult]:
        """Temporal's handle of the run."""
        return self.temporal.get_workflow_handle(run_id, result_type=RunResult)

    async def runs(self, *, state: str | None = None, query: str = "", limit: int = 100) -> AsyncIterator[RunInfo]:
        """Runs, newest first; `state` is a key of `STATES`, `query` a visibility query.

        Raises:
            BadInput: Temporal does not understand the query.
        """
        asked = query
        # of a run that has continued as new, or was reset, only the last execution
        query = f"WorkflowType = '{names.AGENT_WORKFLOW}' AND ExecutionStatus != 'ContinuedAsNew'"
        if state:
            query += f" AND ExecutionStatus = '{STATES[state]}'"
        if asked:
            query += f" AND ({asked})"
        try:
            seen: set[str] = set()
            async for execution in self.temporal.list_workflows(query):
                if execution.id in seen:
                    continue
                seen.add(execution.id)
                yield await _info(execution)
                if len(seen) >= limit:
                    break
        except RPCError as error:
            raise _of_query(asked, error) from None

    async def info(self, run_id: str) -> RunInfo:
        """One run.

        Raises:
            UnknownRun: there is none of that id.
        """
        try:
            return await _info(await self.handle(run_id).describe())
        except RPCError as error:
            raise _about(run_id, error) from None

    async def status(self, run_id: str) -> RunStatus:
        """Where the run stands. Needs a live worker of the agents' pool."""
        handle = self.temporal.get_workflow_handle(run_id)
        try:
            status: RunStatus = await handle.query(names.STATUS_QUERY, result_type=RunStatus)
        except RPCError as error:
            raise _about(run_id, error) from None
        return status

    async def result(self, run_id: str) -> RunResult:
        """Wait for the end. A failed run is a result too: outcome `failed`, with the reason.

        A Temporal that is away for less than two minutes is waited for.

        Raises:
            UnknownRun: there is none of that id.
            Unreachable: Temporal does not answer.
        """
        try:
            return await _patiently(lambda: self.handle(run_id).result())
        except WorkflowFailureError as error:
            cause = error.cause
            if isinstance(cause, CancelledError):
                return RunResult(outcome=Outcome.STOPPED, answer="", reason="the run was cancelled")
            reason = cause.message if isinstance(cause, ApplicationError) else str(cause)
            kind = cause.type if isinstance(cause, ApplicationError) else type(cause).__name__
            return RunResult(outcome=Outcome.FAILED, answer="", reason=f"{kind}: {reason}")
        except RPCError as error:
            raise _about(run_id, error) from None

    async def stop(self, run_id: str, reason: str) -> None:
        """Ask the run to finish soon: what is under way is cancelled, an effect is accounted for.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already.
        """
        await self._signal(run_id, names.STOP_SIGNAL, reason)

    async def tell(self, run_id: str, message: str) -> None:
        """Say something to the agent: its model reads it before its next step.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already, or the message is empty or too long.
        """
        if not message.strip():
            raise BadInput("the message is empty: say something")
        if len(message) > LONGEST_MESSAGE:
            raise BadInput(f"the message has {len(message)} characters; {LONGEST_MESSAGE} are the most")
        await self._signal(run_id, names.TELL_SIGNAL, message)

    async def pause(self, run_id: str, reason: str) -> None:
        """Let the run begin nothing new until it is resumed.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already.
        """
        await self._signal(run_id, names.PAUSE_SIGNAL, reason)

    async def resume(self, run_id: str, reason: str = "") -> None:
        """Let a paused run go on.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already.
        """
        await self._signal(run_id, names.RESUME_SIGNAL, reason)

    async def cancel(self, run_id: str) -> None:
        """Cancel the run: it ends without a result as soon as its effect under way is accounted for.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already.
        """
        await self._running(run_id)
        await self._about(run_id, self.temporal.get_workflow_handle(run_id).cancel())

    async def terminate(self, run_id: str, reason: str) -> None:
        """End the run at once, wherever it is. An effect under way is cancelled and accounts for itself in the ledger.

        Raises:
            UnknownRun: there is none of that id.
            BadInput: it has ended already.
        """
        await self._running(run_id)
        await self._about(run_id, self.temporal.get_workflow_handle(run_id).terminate(reason=reason))

    async def approvals(self, run_id: str) -> list[Approval]:
        """Everything the run has asked of humans, as it knows it. Needs a live worker of the agents' pool."""
        handle = self.temporal.get_workflow_handle(run_id)
        asked: list[Approval] = await self._about(
            run_id, handle.query(names.APPROVALS_QUERY, result_type=list[Approval])
        )
        return asked

    async def decide(self, verdict: Verdict) -> Approval:
        """Give a verdict. Answers how the approval stands then.

        Raises:
            UnknownRun: there is no such run.
            BadInput: the verdict cannot be taken: the text says why.
            Unreachable: nobody answers in time; it may still be taken.
        """
        run_id = run_of(verdict.approval_id)
        try:
            return await deciding.decide(self.temporal, verdict)
        except deciding.Ended:
            info = await self.info(run_id)
            raise BadInput(f"run {run_id!r} has ended already ({info.state}): too late") from None
        except RPCError as error:
            raise _about(run_id, error) from None

    async def running(self, query: str) -> list[str]:
        """Ids of running runs that a visibility query names, as `Agent="payer" AND Tenant="acme"`.

        Raises:
            BadInput: Temporal does not understand the query.
        """
        if not query.strip():
            raise BadInput('the query is empty: write as in Agent="payer" AND Tenant="acme"')
        whole = f"{names.RUNNING_RUNS} AND ({query})"
        try:
            return [execution.id async for execution in self.temporal.list_workflows(whole)]
        except RPCError as error:
            raise _of_query(query, error) from None

    async def _running(self, run_id: str) -> None:
        info = await self.info(run_id)
        if info.closed_at is not None:
            raise BadInput(f"run {run_id!r} has ended already ({info.state})")

    async def _signal(self, run_id: str, signal: str, argument: Any) -> None:
        await self._running(run_id)
        await self._about(run_id, self.temporal.get_workflow_handle(run_id).signal(signal, argument))

    async def _about(self, run_id: str, call: Awaitable[T]) -> T:
        try:
            return await call
        except RPCError as error:
            raise _about(run_id, error) from None


async def _info(execution: WorkflowExecution) -> RunInfo:
    try:
        memo = await execution.memo()
    except PayloadLost:
        # it can be stopped all the same
        memo = {names.GOAL_MEMO: UNREADABLE}
    shown = execution.typed_search_attributes
    began = memo.get(names.BEGAN_MEMO)
    return RunInfo(
        id=execution.id,
        agent=str(memo.get(names.AGENT_MEMO) or shown.get(attributes.AGENT, "")),
        goal=str(memo.get(names.GOAL_MEMO, "")),
        tenant=str(memo.get(names.TENANT_MEMO) or shown.get(attributes.TENANT, "")),
        state=execution.status.name.lower() if isinstance(execution.status, WorkflowExecutionStatus) else "unknown",
        started_at=datetime.fromisoformat(began) if isinstance(began, str) else execution.start_time,
        closed_at=execution.close_time,
        status=shown.get(attributes.STATUS, ""),
        waiting_for=shown.get(attributes.WAITING, ""),
        model=shown.get(attributes.MODEL, ""),
        cost=shown.get(attributes.COST, 0.0),
    )


async def _patiently(call: Callable[[], Awaitable[RunResult]]) -> RunResult:
    """Repeat a call that waits for long while Temporal is away."""
    loop = asyncio.get_running_loop()
    lost_at: float | None = None
    while True:
        began = loop.time()
        try:
            return await call()
        except RPCError as error:
            if not _away(error):
                raise
            failed_at = loop.time()
            # the SDK itself tries for ten seconds: a call that took longer had been answered
            if lost_at is None or failed_at - began > 2 * _SDK_PATIENCE_S:
                lost_at = failed_at
            if failed_at - lost_at > PATIENCE_S:
                raise
            await asyncio.sleep(1)


def _away(error: RPCError) -> bool:
    # a connection that breaks while an answer is waited for has no better name
    broken = error.status is RPCStatusCode.UNKNOWN and "transport error" in error.message
    return error.status is RPCStatusCode.UNAVAILABLE or broken


def _about(run_id: str, error: RPCError) -> Exception:
    if error.status is RPCStatusCode.NOT_FOUND:
        return UnknownRun(f"no run {run_id!r}: `fleet ps` lists them")
    return _unreachable(error)


def _of_query(query: str, error: RPCError) -> Exception:
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return BadInput(f"query {query!r}: {error.message}")
    return _unreachable(error)


def _unreachable(error: RPCError) -> Unreachable:
    return Unreachable(f"Temporal: {error.message}")
