"""One attempt to have an effect: the ledger before, the provider once, the ledger after.

What an attempt finds in the ledger decides what it may do. Nothing begun: it goes on. Done: it answers with what is
recorded. Begun and not ended: it repeats under the provider's idempotency key, looks the effect up, or says that nobody
knows; never anything else. As long as an earlier end is open, no refusal makes the effect one that was not had.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from temporalio import activity
from temporalio.exceptions import ApplicationError

from fleet.contracts import metrics
from fleet.contracts.effects import POLICY, EffectRequest, EffectResult, EffectState, Mode
from fleet.contracts.names import FailureType
from fleet.tracing import EFFECT_KEY, EFFECT_STATE, TOOL_NAME
from workers import failures, tracing
from workers.admission import Admission, Admitted
from workers.database.engine import DatabaseLost
from workers.effects.ledger import Claim, Entry, KeyReused, Ledger
from workers.metrics import METRICS
from workers.providers import errors
from workers.providers.once import Before

DATABASE_RETRY: Final = timedelta(seconds=2)
"""How soon a call comes back while the database is away."""
RECORD_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between attempts to record what has happened: half a minute in all, then the next attempt finds it out."""
KEY_MARGIN: Final = 0.9
"""Share of a key's lifetime after which it is no longer relied upon."""
_BEGINNINGS: Final = 5
"""How often the fence is shown again to a database that is slow to look at it."""
_FROZEN_S: Final = 10.0
"""Without a heartbeat timeout: who has waited longer for the fence shows it again."""
_OPEN: Final = frozenset({EffectState.EXECUTING, EffectState.UNKNOWN})
_BY, _WORD = "settled_by", "settled_in"
"""Evidence of a human's word that it was not had: whose, and the workflow run that carried it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Had:
    """An effect that was had, as the provider tells it."""

    content: str
    """JSON text for the model."""
    evidence: dict[str, str] = field(default_factory=dict)


Find = Callable[[], Awaitable[Had | None]]
"""Asks the provider whether an effect was had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one effect is had, and how its provider helps to have it once."""

    have: Callable[[Before], Awaitable[Had]]
    """Has it. Asks its argument at the last moment at which nothing has happened. Raises `ProviderError`."""
    find: Find | None = None
    """None where the provider cannot be asked. Raises `ProviderError`."""
    honours_keys: bool = False
    """Having it again under its key has it once."""
    key_lifetime: timedelta = timedelta(0)
    """How long the provider remembers a key."""
    settles: timedelta = timedelta(0)
    """How long after its beginning an attempt of which nobody hears may still be taken: before that, `find` proves
    nothing by finding nothing."""
    barred: str = ""
    """Why it must not be had, for the model. What became of earlier attempts is found out all the same."""


@asynccontextmanager
async def database() -> AsyncIterator[None]:
    """A database that is away is waited for: a state of the call, not a failure."""
    try:
        yield
    except DatabaseLost as lost:
        raise failures.wait(FailureType.DATABASE_LOST, f"waits for the database: {lost}", DATABASE_RETRY) from None


class Attempts:
    """Makes the attempts of one pool."""

    def __init__(self, ledger: Ledger, admission: Admission, scope: str | None) -> None:
        """Args:
        ledger: of the fleet.
        admission: to the provider's quota.
        scope: what the provider counts by; None: it counts nothing.
        """
        self._ledger = ledger
        self._admission = admission
        self._scope = scope

    async def make(self, request: EffectRequest, recipe: Recipe, cost: Mapping[str, float]) -> EffectResult:
        """Have the effect, or find out what became of it.

        Raises:
            ApplicationError: a wait, a failure or a final failure. `EffectUnknown`: it may have been had, and nobody
                can say.
        """
        began = monotonic()
        async with database():
            try:
                entry = await self._ledger.intend(
                    request.key,
                    tool=request.tool,
                    digest=request.digest,
                    run_id=request.run_id,
                    agent=request.agent,
                    tenant=request.tenant,
                    arguments=request.arguments,
                )
            except KeyReused as reused:
                return _reused(request, reused.entry)
        if entry.state is EffectState.DONE:
            # no quota is waited for
            tracing.note({EFFECT_STATE: entry.state.value})
            return replace(_recorded(entry), duration_s=monotonic() - began)
        attempt = _Attempt(self._ledger, request, recipe, entry)
        # accounting calls no provider that counts
        counts = request.mode is Mode.EXECUTE and not recipe.barred
        scope, charged = (self._scope, cost) if counts else (None, {})
        try:
            async with (
                database(),
                self._admission.admitted(
                    scope, charged, max_failures=request.policy.max_failures, agent=request.agent
                ) as admitted,
            ):
                result = await attempt.run(admitted)
        except ApplicationError as error:
            if not (error.non_retryable and attempt.is_open):
                raise
            told = error.message
            if error.type != FailureType.EFFECT_UNKNOWN:
                told = f"{told}; an earlier attempt may have been taken"
            async with database():
                await attempt.record(EffectState.UNKNOWN, reason=told)
            tracing.note({EFFECT_STATE: EffectState.UNKNOWN.value})
            raise failures.final(FailureType.EFFECT_UNKNOWN, told) from None
        tracing.note({EFFECT_STATE: result.state.value})
        return replace(result, duration_s=monotonic() - began, quota=admitted.use())


class _Attempt:
    def __init__(self, ledger: Ledger, request: EffectRequest, recipe: Recipe, entry: Entry) -> None:
        self._ledger = ledger
        self._request = request
        self._recipe = recipe
        self._fence: int | None = None
        self._kept: dict[str, str] = {}
        self._touched = False
        """This attempt has shown its fence: the ledger may have it as executing."""
        self._begun = False
        self.is_open = entry.state in _OPEN
        """An attempt, this or an earlier one, may have been taken, and nobody has found out."""

    async def run(self, admitted: Admitted) -> EffectResult:
        claim = await self._claim()
        if claim.entry.state is EffectState.DONE:
            self.is_open = False
            return _recorded(claim.entry)
        if self._request.was_had is True:
            return await self._settled()
        if self.is_open:
            found = await self._recover(claim.entry)
            if found is not None:
                return found
        if self._request.mode is Mode.ACCOUNT:
            why = f"not done: {self._request.why}"
            await self.record(EffectState.FAILED, reason=why)
            return EffectResult(state=EffectState.FAILED, reason=why)
        if self._recipe.barred:
            await self.record(EffectState.FAILED, reason=self._recipe.barred)
            raise failures.final(FailureType.TOOL_FAILED, self._recipe.barred)
        return await self._finished(asyncio.ensure_future(self._have(claim.entry, admitted)))

    async def record(self, state: EffectState, *, had: Had | None = None, reason: str = "") -> None:
        """Write down how it ended, with patience. An attempt whose fence was taken writes nothing."""
        if self._fence is None:
            await self._claim()
        assert self._fence is not None
        for pause in (*RECORD_PAUSES_S, None):
            try:
                written = await self._ledger.record(
                    self._request.key,
                    self._fence,
                    state,
                    result=had.content if had else "",
                    evidence=had.evidence if had else self._kept,
                    reason=reason[:2000],
                )
                if written:
                    METRICS.of(metrics.EFFECTS).labels(self._request.tool, state.value).inc()
                return
            except DatabaseLost:
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _claim(self) -> Claim:
        claim = await self._ledger.claim(self._request.key)
        self._fence = claim.fence
        tracing.note({"fleet.effect.fence": claim.fence, "fleet.effect.found": claim.entry.state.value})
        self._kept = {name: text for name, text in claim.entry.evidence.items() if name in (_BY, _WORD)}
        self.is_open = claim.entry.state in _OPEN
        return claim

    async def _recover(self, entry: Entry) -> EffectResult | None:
        """What became of an earlier attempt that began and did not end; None: this one may be made."""
        request, recipe = self._request, self._recipe
        if self._is_told_not_had() and self._kept.get(_WORD) != activity.info().workflow_run_id:
            return await self._said_not_had()
        since = entry.executing_since or entry.updated_at
        fresh = datetime.now(UTC) - since < recipe.key_lifetime * KEY_MARGIN
        if recipe.honours_keys and fresh and request.mode is Mode.EXECUTE and not recipe.barred:
            return None
        if recipe.find is not None:
            return await self._looked_up(recipe.find, entry)
        raise failures.final(
            FailureType.EFFECT_UNKNOWN,
            f"{request.tool}: an attempt that began at {since:%Y-%m-%d %H:%M:%S} UTC has not told its end, and the"
            " provider cannot be asked",
        )

    async def _looked_up(self, find: Find, entry: Entry) -> EffectResult | None:
        try:
            with tracing.calling(f"find {self._request.tool}", {EFFECT_KEY: self._request.key}):
                had = await find()
        except (errors.RateLimited, errors.Overloaded):
            raise  # a wait
        except errors.ProviderError as error:
            # as long as it cannot be asked nobody knows
            raise errors.Lost(str(error), retry_after_s=error.retry_after_s) from None
        if had is not None:
            return await self._done(had)
        left = self._recipe.settles - (datetime.now(UTC) - entry.updated_at)
        if entry.state is EffectState.EXECUTING and left > timedelta(0):
            told = f"{self._request.tool}: not found, but an attempt of a moment ago may still be taken"
            raise errors.Lost(told, retry_after_s=left.total_seconds())
        self.is_open = False
        return None

    async def _settled(self) -> EffectResult:
        """A human has said that it was had."""
        by = self._request.by
        return await self._done(Had(content=_as_said(by), evidence={_BY: by}))

    def _is_told_not_had(self) -> bool:
        """A policy knows nothing: it only lets have again what nobody can find out."""
        request, recipe = self._request, self._recipe
        if request.by == POLICY and (recipe.find is not None or request.mode is Mode.ACCOUNT or recipe.barred):
            return False
        return request.was_had is False

    async def _said_not_had(self) -> EffectResult | None:
        """It was not had, one has said. The word is good for what was open when it was said, and only once."""
        if self._recipe.find is not None:
            with suppress(errors.ProviderError):
                had = await self._recipe.find()
                if had is not None:
                    return await self._done(had)
        self._kept = {_BY: self._request.by, _WORD: activity.info().workflow_run_id or ""}
        await self.record(EffectState.FAILED, reason=f"not had, says {self._request.by}")
        self.is_open = False
        return None

    async def _finished(self, having: "asyncio.Future[EffectResult]") -> EffectResult:
        """Its end, however often the call is cancelled: past the point of no return the caller is told which."""
        while True:
            try:
                return await asyncio.shield(having)
            except asyncio.CancelledError:
                if having.cancelled():
                    raise
                if not self._begun:
                    having.cancel()

    async def _have(self, entry: Entry, admitted: Admitted) -> EffectResult:
        repeats = self.is_open

        async def before() -> bool:
            self._touched = True
            self._begun = await self._begin()
            if self._begun:
                self.is_open = True
                admitted.sent()
            else:
                METRICS.of(metrics.EFFECTS_FENCED).labels(self._request.tool).inc()
            return self._begun

        told = {EFFECT_KEY: self._request.key, TOOL_NAME: self._request.tool}
        try:
            with tracing.calling(f"have {self._request.tool}", told):
                had = await self._recipe.have(before)
        except (errors.Fenced, errors.Lost):
            raise  # it stays as the ledger has it: the next attempt finds out
        except errors.ProviderError as error:
            return await (self._refused_again(error, entry) if repeats else self._refused(error))
        except (DatabaseLost, asyncio.CancelledError):
            # it has not gone further than to ask the ledger
            if self._touched and not self.is_open:
                await self.record(EffectState.FAILED, reason="withdrawn before anything was sent")
            raise
        return await self._done(had)

    async def _begin(self) -> bool:
        """Show the fence. Who was held up meanwhile, by a signal or a slow database, shows it again."""
        assert self._fence is not None
        heartbeat = activity.info().heartbeat_timeout
        longest_s = heartbeat.total_seconds() / 2 if heartbeat else _FROZEN_S
        for _ in range(_BEGINNINGS):
            asked = monotonic()
            if not await self._ledger.begin(self._request.key, self._fence):
                return False
            if monotonic() - asked < longest_s:
                return True
        raise DatabaseLost(f"it takes more than {longest_s:g} s to look at a fence")

    async def _refused(self, error: errors.ProviderError) -> EffectResult:
        """The provider has not taken it, and nobody has tried before."""
        self.is_open = False
        if self._touched or isinstance(error, errors.BadRequest):
            await self.record(EffectState.FAILED, reason=str(error))
        raise error

    async def _refused_again(self, error: errors.ProviderError, entry: Entry) -> EffectResult:
        """The provider has not taken this attempt. An earlier one it may have taken."""
        if isinstance(error, errors.Unavailable):
            raise errors.Lost(str(error), retry_after_s=error.retry_after_s) from None
        if isinstance(error, errors.BadRequest) and self._recipe.find is not None:
            found = await self._looked_up(self._recipe.find, entry)
            return found if found is not None else await self._refused(error)
        raise error

    async def _done(self, had: Had) -> EffectResult:
        await self.record(EffectState.DONE, had=had)
        self.is_open = False
        return EffectResult(state=EffectState.DONE, content=had.content, evidence=had.evidence)


def _recorded(entry: Entry) -> EffectResult:
    return EffectResult(state=EffectState.DONE, content=entry.result, evidence=entry.evidence)


def _reused(request: EffectRequest, entry: Entry) -> EffectResult:
    """What becomes of a call under a key that stands for another one, as after a reset: its row stays as it is.

    Raises:
        ApplicationError: `EffectUnknown`: what was recorded may be what is asked for, in other words.
    """
    told = (
        f"effect {request.key}: another call was recorded under this key: it is {entry.state.value} ({entry.tool}"
        f" {entry.digest}, asked for is {request.tool} {request.digest}); another call needs another key"
    )
    if request.was_had is None or request.by == POLICY:
        METRICS.of(metrics.EFFECTS).labels(request.tool, EffectState.UNKNOWN.value).inc()
        raise failures.final(FailureType.EFFECT_UNKNOWN, told)
    if request.was_had:
        return EffectResult(state=EffectState.DONE, content=_as_said(request.by), evidence={_BY: request.by})
    return EffectResult(state=EffectState.FAILED, reason=f"not had, says {request.by}: {told}")


def _as_said(by: str) -> str:
    return json.dumps({"done": True, "as_said_by": by}, ensure_ascii=False)
