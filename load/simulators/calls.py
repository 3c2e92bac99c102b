"""One call of an API that is no model's, the same from arrival to answer: key, quota, faults, the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from load.simulators.ledger import Row
from load.simulators.options import LimitOptions
from load.simulators.quota import Standing
from load.simulators.serving import arrived, broken, key_of
from load.simulators.world import Fault, World


class Words(Protocol):
    """How an API says things."""

    provider: str
    wrong_key: int
    """Status for a key that is not known; without any key it is 401."""

    def error(self, status: int, detail: str) -> Response:
        """An error that is not about the request's content: 401, 403, 429, or a fault."""

    def headers(self, standing: Mapping[str, Standing]) -> dict[str, str]:
        """The headers of every admitted call and every 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that was admitted."""

    request: Request
    row: Row
    raw: bytes
    """The request's body."""
    fault: Fault | None
    """What is still to befall it, once the work is done."""
    standing: Mapping[str, Standing]
    latency_s: float


class Reception:
    """Admits the calls of one API and sends them off."""

    def __init__(self, world: World, words: Words) -> None:
        self._world = world
        self._words = words

    async def admit(
        self, request: Request, limits: Mapping[str, LimitOptions], latency_s: float, keys: Sequence[str] = ()
    ) -> Call | Response:
        """The call, to be worked on and given to `answer`; or what it is refused with.

        All clients share the limits. No `keys`: everybody is let in.
        """
        raw = await request.body()
        words = self._words
        row = arrived(self._world, words.provider, request, raw)
        if keys and (key := key_of(request)) not in keys:
            status, detail = (words.wrong_key, "API key is invalid") if key else (401, "API key is missing")
            return self.close(row, words.error(status, detail))
        fault = self._world.fault(words.provider, "")
        if fault and fault.drop and not fault.after:
            return broken(self._world, row, request)
        meter = self._world.meter(words.provider, "", "", limits)
        row.asked = {"requests": 1.0}
        refusal = meter.admit(row.asked, row.wall)
        standing = meter.standing(row.wall)
        if refusal:
            response = words.error(429, "Too Many Requests")
            response.headers.update(words.headers(standing))
            _come_back(response, refusal.retry_after_s)
            return self.close(row, response)
        row.charged = row.asked
        if fault and fault.status:
            await self._world.pause(latency_s)
            response = words.error(fault.status, "this failure was ordered")
            if fault.retry_after is not None:
                _come_back(response, fault.retry_after)
            return self.close(row, response)
        return Call(request=request, row=row, raw=raw, fault=fault, standing=standing, latency_s=latency_s)

    async def take_time(self, call: Call) -> None:
        """Let the call's latency pass."""
        await self._world.pause(call.latency_s)

    async def answer(self, call: Call, response: Response) -> Response:
        """Send the answer, late or never if a fault is to befall it."""
        if call.fault and call.fault.drop:
            return broken(self._world, call.row, call.request)
        if call.fault:
            await self._world.pause(call.fault.hang_s)
        response.headers.update(self._words.headers(call.standing))
        return self.close(call.row, response)

    def close(self, row: Row, response: Response) -> Response:
        """Write the call down."""
        status = response.status_code
        self._world.close(row, "ok" if status < 400 else str(status), status)
        return response


def _come_back(response: Response, wait_s: float | None) -> None:
    if wait_s is not None and math.isfinite(wait_s):
        response.headers["retry-after"] = str(math.ceil(wait_s))
