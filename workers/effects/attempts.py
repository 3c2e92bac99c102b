"""One attempt to have an effect: the ledger before, the provider once, the ledger after.

What an attempt finds in the ledger decides what it may do. Nothing begun: it goes on. Done: it answers with what is
recorded. Begun and not ended: it repeats under the provider's idempotency key, looks the effect up, or says that nobody
knows; never anything else.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from temporalio.exceptions import ApplicationError

from fleet.contracts.effects import EffectRequest, EffectResult, EffectState, Mode
from fleet.contracts.names import FailureType
from workers import failures
from workers.admission import Admission, Admitted
from workers.database.engine import DatabaseLost
from workers.effects.ledger import Claim, KeyReused, Ledger
from workers.providers import errors
from workers.providers.once import Before
from workers.telemetry import METRICS

DATABASE_RETRY: Final = timedelta(seconds=2)
"""How soon a call comes back while the database is away."""
RECORD_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between attempts to record what has happened: half a minute in all, then the next attempt finds it out."""
KEY_MARGIN: Final = 0.9
"""Share of a key's lifetime after which it is no longer relied upon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Had:
    """An effect that was had, as the provider tells it."""

    content: str
    """JSON text for the model."""
    evidence: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one effect is had, and how its provider helps to have it once."""

    have: Callable[[Before], Awaitable[Had]]
    """Has it. Asks its argument at the last moment at which nothing has happened. Raises `ProviderError`."""
    find: Callable[[], Awaitable[Had | None]] | None = None
    """Asks the provider whether it was had; None where it cannot be asked."""
    honours_keys: bool = False
    """Having it again under its key has it once."""
    key_lifetime: timedelta = timedelta(0)
    """How long the provider remembers a key."""


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
                await self._ledger.intend(
                    request.key,
                    tool=request.tool,
                    digest=request.digest,
                    run_id=request.run_id,
                    agent=request.agent,
                    tenant=request.tenant,
                )
            except KeyReused as reused:
                raise failures.final(FailureType.BAD_REQUEST, str(reused)) from None
        attempt = _Attempt(self._ledger, request, recipe)
        # accounting calls no provider that counts
        scope, charged = (self._scope, cost) if request.mode is Mode.EXECUTE else (None, {})
        try:
            async with (
                database(),
                self._admission.admitted(scope, charged, max_failures=request.policy.max_failures) as admitted,
            ):
                result = await attempt.run(admitted)
        except ApplicationError as error:
            if error.type == FailureType.EFFECT_UNKNOWN:
                await attempt.record(EffectState.UNKNOWN, reason=error.message)
                METRICS.effects.labels(request.tool, EffectState.UNKNOWN.value).inc()
            raise
        METRICS.effects.labels(request.tool, result.state.value).inc()
        return EffectResult(
            state=result.state,
            content=result.content,
            evidence=result.evidence,
            reason=result.reason,
            duration_s=monotonic() - began,
            quota=admitted.use(),
        )


class _Attempt:
    def __init__(self, ledger: Ledger, request: EffectRequest, recipe: Recipe) -> None:
        self._ledger = ledger
        self._request = request
        self._recipe = recipe
        self._fence: int | None = None
        self._begun = False

    async def run(self, admitted: Admitted) -> EffectResult:
        claim = await self._ledger.claim(self._request.key)
        if claim.entry.state is EffectState.DONE:
            return EffectResult(state=EffectState.DONE, content=claim.entry.result, evidence=claim.entry.evidence)
        self._fence = claim.fence
        repeats = False
        if claim.entry.state in (EffectState.EXECUTING, EffectState.UNKNOWN):
            found, repeats = await self._recover(claim)
            if found is not None:
                return found
        if self._request.mode is Mode.ACCOUNT:
            why = f"not done: {self._request.why}"
            await self.record(EffectState.FAILED, reason=why)
            return EffectResult(state=EffectState.FAILED, reason=why)
        return await self._have(admitted, repeats=repeats)

    async def record(
        self, state: EffectState, *, had: Had | None = None, reason: str = "", patient: bool = False
    ) -> None:
        """Write down how it ended. An attempt whose fence was taken writes nothing."""
        if self._fence is None:
            return
        for pause in (*(RECORD_PAUSES_S if patient else ()), None):
            try:
                await self._ledger.record(
                    self._request.key,
                    self._fence,
                    state,
                    result=had.content if had else "",
                    evidence=had.evidence if had else {},
                    reason=reason[:2000],
                )
                return
            except DatabaseLost:
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _recover(self, claim: Claim) -> tuple[EffectResult | None, bool]:
        """What became of an earlier attempt that began and did not end. True: it may be repeated under its key."""
        request, recipe, entry = self._request, self._recipe, claim.entry
        if request.was_had is not None and entry.state is EffectState.UNKNOWN:
            return await self._settled(request.was_had), False
        since = entry.executing_since or entry.updated_at
        fresh = datetime.now(UTC) - since < recipe.key_lifetime * KEY_MARGIN
        if recipe.honours_keys and fresh and request.mode is Mode.EXECUTE:
            return None, True
        if recipe.find is not None:
            try:
                had = await recipe.find()
            except errors.ProviderError as error:
                # as long as it cannot be asked nobody knows
                raise errors.Lost(str(error), retry_after_s=error.retry_after_s) from None
            return (None if had is None else await self._done(had)), False
        raise failures.final(
            FailureType.EFFECT_UNKNOWN,
            f"{request.tool}: an attempt that began at {since:%Y-%m-%d %H:%M:%S} UTC has not told its end, and the"
            " provider cannot be asked",
        )

    async def _settled(self, was_had: bool) -> EffectResult | None:
        """A human has said what became of it."""
        by = self._request.by
        if was_had:
            content = json.dumps({"done": True, "as_said_by": by}, ensure_ascii=False)
            return await self._done(Had(content=content, evidence={"settled_by": by}))
        await self.record(EffectState.FAILED, reason=f"not had, says {by}")
        return None

    async def _have(self, admitted: Admitted, *, repeats: bool) -> EffectResult:
        async def before() -> bool:
            assert self._fence is not None
            self._begun = await self._ledger.begin(self._request.key, self._fence)
            if self._begun:
                admitted.sent()
            else:
                METRICS.effects_fenced.labels(self._request.tool).inc()
            return self._begun

        having = asyncio.ensure_future(self._recipe.have(before))
        try:
            try:
                had = await asyncio.shield(having)
            except asyncio.CancelledError:
                # past the point of no return it goes to its end; the caller is told which
                if not self._begun:
                    having.cancel()
                had = await asyncio.shield(having)
        except (errors.Fenced, errors.Lost):
            raise  # it stays as the ledger has it: the next attempt finds out
        except errors.ProviderError as error:
            await self._refused(error, repeats=repeats)
            if repeats and isinstance(error, errors.Unavailable):
                # not this attempt, but an earlier one may have been taken
                raise errors.Lost(str(error), retry_after_s=error.retry_after_s) from None
            raise
        return await self._done(had)

    async def _refused(self, error: errors.ProviderError, *, repeats: bool) -> None:
        """The provider has not taken this attempt. An earlier one it may have taken."""
        if repeats and not isinstance(error, errors.BadRequest):
            if isinstance(error, errors.Refused | errors.Exhausted):
                raise failures.final(
                    FailureType.EFFECT_UNKNOWN, f"{error}; an earlier attempt may have been taken"
                ) from None
            return
        if self._begun or isinstance(error, errors.BadRequest):
            await self.record(EffectState.FAILED, reason=str(error))

    async def _done(self, had: Had) -> EffectResult:
        await self.record(EffectState.DONE, had=had, patient=True)
        return EffectResult(state=EffectState.DONE, content=had.content, evidence=had.evidence)
