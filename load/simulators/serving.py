"""One model call from arrival to answer, the same for every API: only words and headers differ."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from load.simulators import telling
from load.simulators.caching import NONE, NOTHING, Beginnings, Cached
from load.simulators.ledger import Row, digest, masked
from load.simulators.limits import LatencyOptions, QuotaOptions
from load.simulators.line import LINE, Line
from load.simulators.options import ModelApiOptions
from load.simulators.quota import Account, Refusal, Standing
from load.simulators.world import Fault, World


class Invalid(Exception):
    """The request's body is not accepted."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(slots=True, kw_only=True)
class Work:
    """A request that was understood."""

    model: str
    cost: Callable[[int], dict[str, float]]
    """Charged on arrival, by limit. It is told how many tokens of the prompt do not count."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    later: dict[str, float] = field(default_factory=dict)
    """Charged when the answer is made, into debt if need be."""
    owing: tuple[str, ...] = ()
    """Limits that must not be in debt, though nothing is charged on arrival."""
    beginnings: Beginnings = NONE
    document: Callable[[Cached], Any]
    """The answer."""
    events: Callable[[Cached], list[str]] | None = None
    """The answer as server-sent events; None if no stream was asked for."""


class Dialect(Protocol):
    """How an API says things."""

    provider: str
    failed_calls_count: bool
    """Whether a call that was refused, or that failed, is charged."""
    cached_tokens_count: bool
    """Whether input that was read from the cache counts."""

    def error(self, status: int, message: str, *, request_id: str, code: str | None, param: str | None) -> Any:
        """The body of an error."""

    def refusal(self, refusal: Refusal, model: str, *, request_id: str) -> Any:
        """The body of a 429."""

    def headers(self, standing: Mapping[str, Standing], now: float, request_id: str) -> dict[str, str]:
        """The headers of every answer."""

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """When to come back; infinite: never."""


def key_of(request: Request) -> str:
    """The API key, wherever the SDK puts it."""
    return _key(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))


def _key(authorization: str, api_key: str) -> str:
    return authorization[7:].strip() if authorization[:7].lower() == "bearer " else api_key


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
    request.scope[LINE].abort()
    return Response(status_code=204)


Understand = Callable[[dict[str, Any], bytes], Work]
"""Reads a request's body, parsed and as it came."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """A request on its way."""

    line: Line
    send: Send
    row: Row
    request_id: str
    work: Work
    account: Account
    quota: QuotaOptions
    cached: Cached = NOTHING
    fault: Fault | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Desk:
    """Serves the calls of one API, beside Starlette: this is the way that must be fast."""

    def __init__(self, world: World, dialect: Dialect, options: Callable[[], ModelApiOptions]) -> None:
        self._world = world
        self._say = dialect
        self._options = options
        self._names = random.Random()

    async def serve(self, scope: Scope, receive: Receive, send: Send, understand: Understand) -> None:
        """Check, charge, work, answer; write it down."""
        message = await receive()
        raw = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            raw += message.get("body", b"")
        if message["type"] == "http.disconnect":
            return None
        line: Line = scope[LINE]
        key, row = self._arrived(scope, raw)
        request_id = f"req_{self._names.getrandbits(96):024x}"
        options = self._options()
        if not accepted(key, options):
            said = _WRONG_KEY.format(masked(key) or "none")
            return self._error(line, row, 401, said, request_id, "invalid_api_key")
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise Invalid("the body must be a JSON object")
            work = understand(body, raw)
        except Invalid as error:
            return self._error(line, row, 400, str(error), request_id, None, error.param)
        except (KeyError, TypeError, AttributeError):
            said = "The body does not follow the API's schema."
            return self._error(line, row, 400, said, request_id, None)
        except ValueError:
            said = "We could not parse the JSON body of your request."
            return self._error(line, row, 400, said, request_id, None)
        row.model = work.model
        row.stream = work.events is not None
        quota = options.models.get(work.model) if options.models else _UNLIMITED
        if quota is None:
            said = f"The model `{work.model}` does not exist or you do not have access to it."
            return self._error(line, row, 404, said, request_id, "model_not_found")
        account = self._world.account(self._say.provider, key, work.model, quota)
        call = _Call(
            line=line, send=send, row=row, request_id=request_id, work=work, account=account, quota=quota,
            fault=self._world.fault(self._say.provider, work.model),
        )  # fmt: skip
        if call.fault and call.fault.drop and not call.fault.after:
            return self._broken(call)
        if not self._admitted(call, options):
            return None
        try:
            await self._work(call)
        finally:
            account.give_back()
        return None

    def _arrived(self, scope: Scope, raw: bytes) -> tuple[str, Row]:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        key = _key(headers.get(b"authorization", ""), headers.get(b"x-api-key", ""))
        row = self._world.row(self._say.provider, scope["path"])
        row.key = masked(key)
        row.digest = digest(raw) if raw else ""
        row.idempotency_key = headers.get(b"idempotency-key")
        row.client_request_id = headers.get(b"x-client-request-id")
        return key, row

    def _admitted(self, call: _Call, options: ModelApiOptions) -> bool:
        """Charge the call, or refuse it."""
        say, row, work, account = self._say, call.row, call.work, call.account
        now = row.wall = self._world.now()
        if options.caching and work.beginnings is not NONE:
            call.cached = account.cache.find(work.beginnings, now)
        counts = _first(options.cached_tokens_count, say.cached_tokens_count)
        cost = row.asked = work.cost(0 if counts else call.cached.read)
        failed_counts = _first(options.failed_calls_count, say.failed_calls_count)
        fails = call.fault is not None and call.fault.status is not None
        charged = failed_counts or not fails
        refusal = account.take(cost, now, owing=work.owing, spend_cap=options.spend_cap, charged=charged)
        if refusal is None:
            row.charged = cost if charged else {}
            row.prompt_tokens, row.cached_tokens = work.prompt_tokens, call.cached.read
            call.headers = self._headers(options, account.standing(now), now, call.request_id)
            return True
        if failed_counts and (units := account.charge_if_left("requests", 1.0, now)):
            row.charged = {"requests": units}
        headers = self._headers(options, account.standing(now), now, call.request_id)
        if refusal.kind != "spend" and refusal.retry_after_s is not None:
            headers |= self._retry_headers(options, refusal.retry_after_s)
        body = say.refusal(refusal, work.model, request_id=call.request_id)
        self._close(call.line, row, 429, body, headers)
        return False

    async def _work(self, call: _Call) -> None:
        world, work, fault, line = self._world, call.work, call.fault, call.line
        override: LatencyOptions | None = call.quota.latency
        if fault and fault.status:
            await line.pass_time(world.latency(0, override).first_s)
            if fault.retry_after is not None:
                call.headers |= self._retry_headers(self._options(), fault.retry_after)
            return self._error(line, call.row, fault.status, _FAULT, call.request_id, fault.code, headers=call.headers)
        latency = world.latency(work.output_tokens, override)
        if work.events is not None:
            return await self._stream(call, work.events(call.cached), latency.first_s, latency.rest_s)
        await line.pass_time(latency.first_s + latency.rest_s)
        self._finish(call)
        if fault and fault.drop:
            return self._broken(call)
        if fault and fault.hang_s:
            await line.pass_time(fault.hang_s)
        if line.gone():
            return world.close(call.row, "dropped", 0)
        return self._close(line, call.row, 200, work.document(call.cached), call.headers)

    async def _stream(self, call: _Call, events: list[str], first_s: float, rest_s: float) -> None:
        fault, line = call.fault, call.line
        outcome, status = "dropped", 0
        try:
            await line.pass_time((fault.hang_s if fault else 0.0) + first_s)
            if line.gone():
                return
            status = 200
            headers = [(name.encode(), value.encode("latin-1")) for name, value in call.headers.items()]
            headers.append((b"content-type", b"text/event-stream; charset=utf-8"))
            await call.send({"type": "http.response.start", "status": 200, "headers": headers})
            for number, event in enumerate(events):
                if fault and fault.drop and number >= len(events) // 2:
                    line.abort()
                if line.gone():
                    return
                await call.send({"type": "http.response.body", "body": event.encode(), "more_body": True})
                await line.pass_time(rest_s / len(events))
            await call.send({"type": "http.response.body", "body": b""})
            outcome = "dropped" if line.gone() else "ok"
        finally:
            # also when the client has left: what was generated is charged
            self._finish(call)
            self._world.close(call.row, outcome, status)

    def _finish(self, call: _Call) -> None:
        row, work, account, now = call.row, call.work, call.account, self._world.now()
        if work.later:
            row.charged = dict(row.charged)
        for name, units in work.later.items():
            account.charge(name, units, now)
            row.charged[name] = row.charged.get(name, 0.0) + units
        if money := account.pay(work.prompt_tokens, call.cached.read, work.output_tokens):
            row.charged = {**row.charged, "money": money}
        if work.beginnings is not NONE:
            account.cache.keep(work.beginnings, now)
        row.output_tokens = work.output_tokens

    def _broken(self, call: _Call) -> None:
        self._world.close(call.row, "dropped", 0)
        call.line.abort()

    def _headers(
        self, options: ModelApiOptions, standing: Mapping[str, Standing], now: float, request_id: str
    ) -> dict[str, str]:
        if options.headers == "native":
            return self._say.headers(standing, now, request_id)
        return self._say.headers({}, now, request_id) | telling.headers(options.headers, standing)

    def _retry_headers(self, options: ModelApiOptions, wait_s: float) -> dict[str, str]:
        if options.headers == "native":
            return self._say.retry_headers(wait_s)
        return telling.retry_headers(options.headers, wait_s)

    def _error(
        self, line: Line, row: Row, status: int, message: str, request_id: str, code: str | None,
        param: str | None = None, *, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        body = self._say.error(status, message, request_id=request_id, code=code, param=param)
        self._close(line, row, status, body, headers or self._say.headers({}, row.wall, request_id))

    def _close(self, line: Line, row: Row, status: int, body: Any, headers: dict[str, str]) -> None:
        headers["content-type"] = "application/json"
        line.answer(status, headers, json.dumps(body).encode())
        self._world.close(row, "ok" if status == 200 else str(status), status)


def _first(value: bool | None, default: bool) -> bool:
    return default if value is None else value


_UNLIMITED = QuotaOptions()
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
