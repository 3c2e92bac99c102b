"""One model call from arrival to answer, the same for every API: only words and headers differ."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from load.simulators.ledger import Row, digest, masked
from load.simulators.options import ModelApiOptions
from load.simulators.quota import Meter, Refusal, Standing
from load.simulators.world import Fault, World

ABORT = "fleet.abort"
"""Key of the scope's function that breaks the connection (`server.py` puts it there)."""


class Invalid(Exception):
    """The request's body is not accepted."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(slots=True, kw_only=True)
class Work:
    """A request that was understood."""

    model: str
    cost: dict[str, float]
    """Charged on arrival, by limit."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    later: dict[str, float] = field(default_factory=dict)
    """Charged when the answer is made, into debt if need be."""
    owing: tuple[str, ...] = ()
    """Limits that must not be in debt, though nothing is charged on arrival."""
    document: Callable[[], Any]
    """The answer."""
    events: Callable[[], list[str]] | None = None
    """The answer as server-sent events; None if no stream was asked for."""


class Dialect(Protocol):
    """How an API says things."""

    provider: str

    def error(self, status: int, message: str, *, request_id: str, code: str | None, param: str | None) -> Any:
        """The body of an error."""

    def refusal(self, refusal: Refusal, model: str, *, request_id: str) -> Any:
        """The body of a 429."""

    def headers(self, standing: Mapping[str, Standing], now: float, request_id: str) -> dict[str, str]:
        """The headers of every answer."""

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """When to come back."""

    def failed_call_counts(self) -> bool:
        """Whether a refused call is charged as a request."""


def key_of(request: Request) -> str:
    """The API key, wherever the SDK puts it."""
    bearer = request.headers.get("authorization", "")
    if bearer.lower().startswith("bearer "):
        return bearer[7:].strip()
    return request.headers.get("x-api-key", "")


def accepted(key: str, options: ModelApiOptions) -> bool:
    """Whether the key is one of ours."""
    return key in options.keys if options.keys else bool(key) and not key.startswith("sk-wrong")


def arrived(world: World, provider: str, request: Request, raw: bytes) -> Row:
    """A row for the ledger that says who asks for what."""
    row = world.row(provider, request.url.path)
    row.key = masked(key_of(request))
    row.digest = digest(raw) if raw else ""
    row.idempotency_key = request.headers.get("idempotency-key")
    row.client_request_id = request.headers.get("x-client-request-id")
    return row


def broken(world: World, row: Row, request: Request) -> Response:
    """Break the connection instead of answering."""
    world.close(row, "dropped", 0)
    request.scope[ABORT]()
    return Response(status_code=204)


class Desk:
    """Serves the calls of one API."""

    def __init__(self, world: World, dialect: Dialect, options: Callable[[], ModelApiOptions]) -> None:
        self._world = world
        self._say = dialect
        self._options = options

    async def serve(self, request: Request, understand: Callable[[dict[str, Any]], Work]) -> Response:
        """Check, charge, work, answer; write it down."""
        raw = await request.body()
        row = arrived(self._world, self._say.provider, request, raw)
        request_id = f"req_{uuid4().hex[:24]}"
        key = key_of(request)
        if not accepted(key, self._options()):
            return self._error(row, 401, _WRONG_KEY.format(masked(key) or "none"), request_id, "invalid_api_key")
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise Invalid("the body must be a JSON object")
            work = understand(body)
        except Invalid as error:
            return self._error(row, 400, str(error), request_id, None, error.param)
        except ValueError:
            return self._error(row, 400, "We could not parse the JSON body of your request.", request_id, None)
        row.model = work.model
        row.stream = work.events is not None
        models = self._options().models
        if models and work.model not in models:
            message = f"The model `{work.model}` does not exist or you do not have access to it."
            return self._error(row, 404, message, request_id, "model_not_found")
        fault = self._world.fault(self._say.provider, work.model)
        if fault and fault.drop and not fault.after:
            return broken(self._world, row, request)
        limits = models[work.model].limits() if models else {}
        meter = self._world.meter(self._say.provider, key, work.model, limits)
        return await self._admit(request, row, work, meter, fault, request_id)

    async def _admit(
        self, request: Request, row: Row, work: Work, meter: Meter, fault: Fault | None, request_id: str
    ) -> Response:
        now = row.wall = self._world.now()
        refusal = meter.owing(work.owing, now) or meter.admit(work.cost, now)
        if refusal:
            if self._say.failed_call_counts() and (units := meter.charge_if_left("requests", 1.0, now)):
                row.charged = {"requests": units}
            headers = self._say.headers(meter.standing(now), now, request_id)
            headers |= self._say.retry_headers(refusal.retry_after_s)
            return self._close(row, 429, self._say.refusal(refusal, work.model, request_id=request_id), headers)
        row.charged, row.prompt_tokens = dict(work.cost), work.prompt_tokens
        headers = self._say.headers(meter.standing(now), now, request_id)
        if fault and fault.status:
            await self._world.take_time()
            if fault.retry_after is not None:
                headers |= self._say.retry_headers(fault.retry_after)
            return self._error(row, fault.status, _FAULT, request_id, fault.code, headers=headers)
        if work.events is not None:
            return StreamingResponse(
                self._stream(request, row, work, meter, fault), headers=headers, media_type="text/event-stream"
            )
        await self._world.take_time(work.output_tokens)
        self._finish(row, work, meter)
        if fault and fault.drop:
            return broken(self._world, row, request)
        await self._world.pause(fault.hang_s if fault else 0.0)
        return self._close(row, 200, work.document(), headers)

    async def _stream(
        self, request: Request, row: Row, work: Work, meter: Meter, fault: Fault | None
    ) -> AsyncIterator[str]:
        events = work.events() if work.events else []
        pause = self._world.latency(work.output_tokens) / max(1, len(events))
        outcome = "dropped"
        try:
            await self._world.pause(fault.hang_s if fault else 0.0)
            for number, event in enumerate(events):
                if fault and fault.drop and number >= len(events) // 2:
                    request.scope[ABORT]()
                    return
                yield event
                await self._world.pause(pause)
            outcome = "ok"
        finally:
            # also when the client has left: what was generated is charged
            self._finish(row, work, meter)
            self._world.close(row, outcome, 200)

    def _finish(self, row: Row, work: Work, meter: Meter) -> None:
        for name, units in work.later.items():
            meter.charge(name, units, self._world.now())
            row.charged[name] = row.charged.get(name, 0.0) + units
        row.output_tokens = work.output_tokens

    def _error(
        self, row: Row, status: int, message: str, request_id: str, code: str | None, param: str | None = None, *,
        headers: dict[str, str] | None = None,
    ) -> Response:  # fmt: skip
        body = self._say.error(status, message, request_id=request_id, code=code, param=param)
        return self._close(row, status, body, headers or self._say.headers({}, row.wall, request_id))

    def _close(self, row: Row, status: int, body: Any, headers: dict[str, str]) -> Response:
        self._world.close(row, "ok" if status == 200 else str(status), status)
        return Response(json.dumps(body), status, headers, media_type="application/json")


_WRONG_KEY = "Incorrect API key provided: {}. You can find your API key in your account's settings."
_FAULT = "The server had an error while processing your request. Sorry about that!"


def server_event(data: Any, event: str | None = None) -> str:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def pieces(said: str, characters: int = 24) -> list[str]:
    """A text cut as streams cut it."""
    return [said[n : n + characters] for n in range(0, len(said), characters)]


def require(body: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """A required field.

    Raises:
        Invalid: it is missing or of another type.
    """
    if name not in body:
        raise Invalid(f"Missing required parameter: '{name}'.", name)
    if not isinstance(body[name], kind):
        raise Invalid(f"Invalid type for '{name}'.", name)
    return body[name]
