"""A batch: the same work for each of many inputs, a window of them in flight, each result written once.

Inputs and results are in the database, not in the history. What has no result is to do: so a batch goes on where it
was after any crash, and one that was stopped when it is started again.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

from fleet.contracts import names
from fleet.contracts.batch import (
    AGAIN_SIGNAL,
    BATCH_COUNT,
    BATCH_READ,
    BATCH_WRITE,
    MOST_WINDOW,
    RESULTS_QUERY,
    WINDOW_SIGNAL,
    BatchCarried,
    BatchInput,
    BatchItem,
    BatchState,
    BatchStatus,
    Count,
    Counted,
    ItemOutcome,
    ItemResult,
    OnFailure,
    Page,
    Read,
    Write,
)
from fleet.workflows.batch_items import Ends, Items, Tried, Withdrawn

R = TypeVar("R")

GROUP: Final = 100
"""Results that are written together."""
GROUP_BYTES: Final = 512 * 1024
FLUSH: Final = timedelta(seconds=1)
"""A result waits no longer for others before it is written."""
READ_AHEAD: Final = 200
"""Items that are read together."""
MOST_EVENTS: Final = 8_000
MOST_BYTES: Final = 6_000_000
"""History of one execution before what is in flight comes home: Temporal warns from 10,240 events and 10 MB on."""
EVENTS_PER_ITEM: Final = 4
"""What an item in flight still adds to the history."""
LATEST: Final = 20
"""Results that the query `results` answers."""
_SHOWN: Final = 200
_RATE_OVER: Final = timedelta(seconds=60)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_RETRY: Final = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30))


# the sandbox wraps every `isinstance`, of which writing a payload has hundreds: half of what an item costs here
@workflow.defn(name=names.BATCH_WORKFLOW, sandboxed=False)
class BatchWorkflow:
    """One batch."""

    @workflow.init
    def __init__(self, batch: BatchInput) -> None:
        carried = batch.carried or BatchCarried(window=batch.window)
        self._batch = batch
        self._executions = carried.executions + 1
        self._after = carried.after
        self._total = carried.total
        self._counts: dict[str, int] = dict(carried.counts)
        self._failed_lately = carried.failed_lately
        self._paused = carried.paused
        self._window = carried.window
        self._latest: deque[ItemResult] = deque(carried.latest, maxlen=LATEST)
        self._stop: str | None = None
        self._ends = Ends(batch)
        self._items = Items(batch, self._ends, lambda: self._stop)
        self._queue: deque[BatchItem] = deque()
        self._flying: dict[int, int] = {int(number): attempt for number, attempt in carried.flying.items()}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unwritten: deque[ItemResult] = deque()
        self._writing: list[ItemResult] = []
        self._begun = 0
        self._read_all = False
        self._over = False
        self._recount = batch.carried is None
        self._beginnings = 0
        self._services: list[asyncio.Task[None]] = []
        self._defect: Exception | None = None
        self._renewing = False
        self._seen: deque[tuple[datetime, int]] = deque()

    @workflow.run
    async def run(self, batch: BatchInput) -> BatchStatus:
        """Work until every item has a result, or somebody stops it."""
        self._note()
        self._services = [
            asyncio.create_task(self._kept(service))
            for service in (self._read_ahead(), self._write_down(), self._ends.watch())
        ]
        for number, attempt in self._flying.items():
            self._fly(number, self._rejoin(number, attempt))
        try:
            while not await self._step():
                pass
        except asyncio.CancelledError:
            self._stop = self._stop or "the batch was cancelled"
            await asyncio.shield(asyncio.ensure_future(self._come_home()))
            raise
        if self._stop is not None:
            await self._come_home()
        for service in self._services:
            service.cancel()
        if self._renewing and self._stop is None:
            self._renew()
        return self.status()

    @workflow.query(name=names.STATUS_QUERY)
    def status(self) -> BatchStatus:
        """Where the batch stands."""
        over = self._over or (self._stop is not None and not self._flying)
        going = BatchState.FINISHED if over else BatchState.RUNNING if self._stop is None else BatchState.STOPPING
        paused = going is BatchState.RUNNING and self._paused is not None
        return BatchStatus(
            state=BatchState.PAUSED if paused else going,
            reason=self._stop or self._paused or "",
            total=self._total,
            counts=dict(sorted(self._counts.items())),
            in_flight=len(self._flying),
            window=self._window,
            per_s=round(self._per_s(), 3),
            executions=self._executions,
        )

    @workflow.query(name=RESULTS_QUERY)
    def results(self) -> list[ItemResult]:
        """The last results, newest first, shortened."""
        return list(reversed(self._latest))

    @workflow.signal(name=names.PAUSE_SIGNAL)
    def pause(self, reason: str) -> None:
        """Begin nothing new until `resume`. What is in flight goes on."""
        self._paused = self._paused or reason or "paused"

    @workflow.signal(name=names.RESUME_SIGNAL)
    def resume(self, reason: str = "") -> None:
        """Go on. Failed items are counted anew."""
        del reason  # for the history
        self._paused = None
        self._failed_lately = 0

    @workflow.signal(name=names.STOP_SIGNAL)
    def stop(self, reason: str) -> None:
        """End soon: what is in flight is stopped or cancelled. What has no result then is to do at the next start."""
        self._stop = self._stop or reason or "stopped"

    @workflow.signal(name=WINDOW_SIGNAL)
    def window(self, items: int) -> None:
        """Let so many items be in flight."""
        self._window = min(max(1, items), MOST_WINDOW)

    @workflow.signal(name=AGAIN_SIGNAL)
    def again(self) -> None:
        """Read what is to do from the beginning."""
        self._after, self._read_all, self._over, self._recount = -1, False, False, True
        self._beginnings += 1

    # ---- the window

    async def _step(self) -> bool:
        """Begin what may begin; whether the batch, or this execution, is at its end."""
        await workflow.wait_condition(self._has_news)
        if self._defect is not None:
            raise self._defect
        if self._stop is not None:
            return True
        while self._may_begin():
            item = self._queue.popleft()
            self._begun += 1
            self._items.starting.add(item.number)
            self._flying[item.number] = item.tried + 1
            self._fly(item.number, self._have(item))
            self._renewing = self._renewing or self._is_due()
        return self._is_home()

    def _has_news(self) -> bool:
        return self._may_begin() or self._is_home() or self._stop is not None or self._defect is not None

    def _may_begin(self) -> bool:
        return (
            bool(self._queue)
            and self._paused is None
            and not self._renewing
            and self._stop is None
            and len(self._flying) < self._window
        )

    def _is_home(self) -> bool:
        """Nothing is left that this execution must wait for."""
        written = not self._unwritten and not self._writing and not self._recount
        if self._renewing:
            # runs of their own go on without it, once they have begun
            flying = bool(self._items.starting if self._items.apart else self._flying)
            return written and not flying
        return written and self._over and not self._flying

    def _is_due(self) -> bool:
        info = workflow.info()
        ahead = 0 if self._items.apart else EVENTS_PER_ITEM * len(self._flying)
        return (
            self._begun >= self._batch.per_execution
            or info.get_current_history_length() + ahead >= MOST_EVENTS
            or info.get_current_history_size() >= MOST_BYTES
            # what it starts is on its own version, and would be on the old one for thousands of items
            or info.is_target_worker_deployment_version_changed()
        )

    def _fly(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[number] = asyncio.create_task(self._kept(work))

    async def _kept(self, work: Coroutine[Any, Any, None]) -> None:
        """What goes wrong beside the main task goes wrong in it."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self._defect = self._defect or error

    async def _come_home(self) -> None:
        """Stop what is in flight, and write down what has ended."""
        assert self._stop is not None
        self._queue.clear()
        if self._items.apart:
            await workflow.wait_condition(lambda: not self._items.starting)
            flying = list(self._flying.items())
            await asyncio.gather(*(self._items.stop(number, attempt, self._stop) for number, attempt in flying))
        else:
            for task in list(self._tasks.values()):
                task.cancel()
        await workflow.wait_condition(lambda: not self._flying and not self._unwritten and not self._writing)

    def _renew(self) -> None:
        """Go on in a new execution, with a short history."""
        pending = min([*(item.number for item in self._queue), self._after + 1])
        carried = BatchCarried(
            executions=self._executions,
            after=pending - 1,
            flying={str(number): attempt for number, attempt in self._flying.items()},
            counts=self._counts,
            total=self._total,
            failed_lately=self._failed_lately,
            paused=self._paused,
            window=self._window,
            latest=list(self._latest),
        )
        workflow.continue_as_new(
            replace(self._batch, carried=carried),
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
        )

    # ---- one item

    async def _have(self, item: BatchItem) -> None:
        attempt = item.tried
        try:
            while True:
                attempt += 1
                self._flying[item.number] = attempt
                self._items.starting.add(item.number)
                tried = await self._items.have(item, attempt)
                if not self._tries_again(tried, attempt - item.tried):
                    self._ended(tried.ended(item.number, attempt))
                    return
                await self._wait_before(attempt - item.tried)
        except Withdrawn as withdrawn:
            self._withdraw(item, withdrawn)
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            self._withdraw(item, Withdrawn())

    async def _rejoin(self, number: int, attempt: int) -> None:
        """An item whose run an earlier execution has begun."""
        try:
            tried = await self._items.end_of(number, attempt)
        except Withdrawn:
            self._withdraw(None, Withdrawn(), number)
            return
        if not self._tries_again(tried, attempt):
            self._ended(tried.ended(number, attempt))
            return
        await self._wait_before(attempt)
        page = await self._ask(BATCH_READ.name, Read(batch=self._batch.batch, after=-1, limit=1, only=[number]), Page)
        for item in page.items:
            await self._have(replace(item, tried=attempt))
            return
        self._withdraw(None, Withdrawn(), number)

    def _tries_again(self, tried: Tried, attempts: int) -> bool:
        return (
            tried.outcome is ItemOutcome.FAILED
            and not tried.hopeless
            and attempts <= self._batch.failures.retries
            and self._stop is None
        )

    async def _wait_before(self, attempts: int) -> None:
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 16))
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._stop is not None, timeout=timedelta(seconds=pause))
        if self._stop is not None:
            raise Withdrawn

    def _ended(self, result: ItemResult) -> None:
        self._land(result.number)
        self._unwritten.append(result)
        self._counts[result.outcome.value] = self._counts.get(result.outcome.value, 0) + 1
        self._latest.append(replace(result, result=_shortened(result.result), error=result.error[:_SHOWN]))
        if result.outcome is ItemOutcome.DONE or self._stop is not None:
            return
        self._failed_lately += 1
        failures = self._batch.failures
        if failures.then is OnFailure.STOP:
            self._stop = f"item {result.number} {result.outcome.value}: {result.error[:_SHOWN]}"
        elif failures.most is not None and self._failed_lately > failures.most:
            told = f"{self._failed_lately} items failed, more than {failures.most}"
            self.pause(f"{told}; the last, {result.number}: {result.error[:_SHOWN]}")

    def _withdraw(self, item: BatchItem | None, why: Withdrawn, number: int = 0) -> None:
        """It is still to do."""
        self._land(number if item is None else item.number)
        if self._stop is not None:
            return
        if why.pause:
            self.pause(why.pause)
        if item is not None:
            self._queue.appendleft(item)

    def _land(self, number: int) -> None:
        self._flying.pop(number, None)
        self._tasks.pop(number, None)

    # ---- the database

    async def _read_ahead(self) -> None:
        while True:
            await workflow.wait_condition(self._wants_items)
            if self._read_all:
                # nothing is in flight and everything is written: what has no result by now was overlooked
                self._after, self._read_all = -1, False
            # what has ended meanwhile may be on a page that was read before it was written
            busy = self._taken()
            whole = not busy and self._after < 0
            beginnings = self._beginnings
            asked = Read(batch=self._batch.batch, after=self._after, limit=max(READ_AHEAD, self._window))
            page = await self._ask(BATCH_READ.name, asked, Page)
            if self._beginnings != beginnings:
                continue
            busy |= self._taken()
            self._queue.extend(item for item in page.items if item.number not in busy)
            if page.items:
                self._after = page.items[-1].number
            else:
                self._read_all, self._over = True, whole

    def _wants_items(self) -> bool:
        if self._stop is not None or self._renewing or self._over:
            return False
        if self._read_all:
            return not (self._flying or self._queue or self._unwritten or self._writing)
        return len(self._queue) < max(READ_AHEAD, self._window) / 2

    def _taken(self) -> set[int]:
        ended = {one.number for one in (*self._unwritten, *self._writing)}
        return ended | set(self._flying) | {item.number for item in self._queue}

    async def _write_down(self) -> None:
        while True:
            await workflow.wait_condition(lambda: bool(self._unwritten) or self._recount)
            if self._recount:
                await self._count()
                continue
            with suppress(TimeoutError):
                await workflow.wait_condition(self._is_group, timeout=FLUSH)
            self._writing = self._group()
            await self._ask(BATCH_WRITE.name, Write(batch=self._batch.batch, results=self._writing), type(None))
            self._writing = []
            self._note()

    async def _count(self) -> None:
        self._recount = False
        found = await self._ask(BATCH_COUNT.name, Count(batch=self._batch.batch), Counted)
        self._total, self._counts = found.total, dict(found.counts)
        for result in self._unwritten:
            self._counts[result.outcome.value] = self._counts.get(result.outcome.value, 0) + 1
        self._note()

    def _is_group(self) -> bool:
        last = not self._flying and not self._may_begin()
        return len(self._unwritten) >= GROUP or last

    def _group(self) -> list[ItemResult]:
        group: list[ItemResult] = []
        size = 0
        while self._unwritten and len(group) < GROUP and size < GROUP_BYTES:
            group.append(self._unwritten.popleft())
            size += len(str(group[-1].result))
        return group

    def _note(self) -> None:
        """How far it has come by now, for its rate."""
        now = workflow.now()
        self._seen.append((now, sum(self._counts.values())))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_OVER:
            self._seen.popleft()

    def _per_s(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        elapsed = (ended - began).total_seconds()
        return max(0, last - first) / elapsed if elapsed > 0 else 0.0

    async def _ask(self, activity: str, request: Any, result: type[R]) -> R:
        answer: R = await workflow.execute_activity(
            activity,
            request,
            result_type=result,
            task_queue=self._batch.task_queue,
            start_to_close_timeout=timedelta(minutes=2),
            heartbeat_timeout=timedelta(seconds=10),
            retry_policy=_RETRY,
            priority=Priority(
                priority_key=self._batch.priority,
                fairness_key=self._batch.tenant,
                fairness_weight=self._batch.weight,
            ),
            summary=activity,
        )
        return answer


def _shortened(value: Any) -> Any:
    """The value, with long texts cut: what a query answers must not be a history of its own."""
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"
    if isinstance(value, Mapping):
        return {key: _shortened(one) for key, one in list(value.items())[:10]}
    if isinstance(value, list):
        return [_shortened(one) for one in value[:5]]
    return value
