"""An OpenAI-compatible API: chat completions, responses, embeddings, models.

Counting and headers follow OpenAI's guide "Rate limits"; bodies follow its API reference.
"""

import base64
import json
import math
import struct
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b
from time import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from load.simulators import text
from load.simulators.beginnings import of_text
from load.simulators.caching import Cached
from load.simulators.conversation import Call, Prompt, Reply, Tool, Turn
from load.simulators.options import ModelApiOptions
from load.simulators.quota import Refusal, Standing
from load.simulators.responses_api import events as response_events
from load.simulators.responses_api import prompt_of, response
from load.simulators.serving import Desk, Invalid, Work, accepted, key_of, pieces, require, server_event
from load.simulators.thinking import answer
from load.simulators.world import World

_DIMENSIONS = 256
_NO_MONEY = "You exceeded your current quota, please check your plan and billing details."
_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error"}
_NAMES = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


class OpenAIDialect:
    """OpenAI's words."""

    provider = "openai"
    failed_calls_count = True
    """An unsuccessful request contributes to the per-minute limit."""
    cached_tokens_count = True
    """The guide "Prompt caching": caching does not affect rate limits."""

    def error(self, status: int, message: str, *, request_id: str, code: str | None, param: str | None) -> Any:
        """`{"error": …}`."""
        del request_id
        kind = "insufficient_quota" if code == "insufficient_quota" else _TYPES.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def refusal(self, refusal: Refusal, model: str, *, request_id: str) -> Any:
        """Which limit, how much of it is used, when to try again."""
        del request_id
        match refusal.kind:
            case "spend":
                return self.error(429, _NO_MONEY, request_id="", code="insufficient_quota", param=None)
            case "acceleration":
                message = (
                    f"Traffic for {model} grew too fast: slow down to {refusal.granted:.0f} {_plain(refusal.limit)} per"
                    " minute, and grow from there."
                )
                return {"error": {"message": message, "type": "requests", "param": None, "code": "slow_down"}}
            case "in_flight":
                on, kind, then = "concurrent requests", "concurrent_requests", "Please try again later."
            case "quota":
                on, kind = _NAMES.get(refusal.limit, refusal.limit), _plain(refusal.limit)
                then = "The input or output tokens must be reduced in order to run successfully."
                if refusal.retry_after_s is not None and not math.isinf(refusal.retry_after_s):
                    then = f"Please try again in {_duration(refusal.retry_after_s)}."
        message = (
            f"Rate limit reached for {model} in organization org-sim on {on}: Limit {refusal.granted:.0f},"
            f" Used {refusal.used:.0f}, Requested {refusal.requested:.0f}. {then}"
        )
        return {"error": {"message": message, "type": kind, "param": None, "code": "rate_limit_exceeded"}}

    def headers(self, standing: Mapping[str, Standing], now: float, request_id: str) -> dict[str, str]:
        """`x-ratelimit-*`; a reset is the time until the limit is full again."""
        del now
        found = {"x-request-id": request_id, "openai-organization": "org-sim", "openai-version": "2020-10-01"}
        for name, one in standing.items():
            found[f"x-ratelimit-limit-{name}"] = f"{one.limit:.0f}"
            found[f"x-ratelimit-remaining-{name}"] = f"{one.remaining:.0f}"
            found[f"x-ratelimit-reset-{name}"] = _duration(one.full_in_s)
        return found

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """In seconds and in milliseconds, rounded up."""
        if math.isinf(wait_s):
            return {"x-should-retry": "false"}
        return {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}


class OpenAIApi:
    """The routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._desk = Desk(world, OpenAIDialect(), self._options)

    def routes(self) -> list[Route]:
        """What is not posted, but for the list of models: `server.py` chooses whose it is."""
        return [
            Route("/v1/models/{model:path}", self._model),
        ]

    def calls(self) -> dict[str, ASGIApp]:
        """What is posted, by path."""
        return {
            "/v1/chat/completions": partial(self._desk.serve, understand=_understand_chat),
            "/v1/responses": partial(self._desk.serve, understand=_understand_response),
            "/v1/embeddings": partial(self._desk.serve, understand=_understand_embeddings),
        }

    def _options(self) -> ModelApiOptions:
        return self._world.options.openai

    async def models(self, request: Request) -> Response:
        """The list of models."""
        if not accepted(key_of(request), self._options()):
            return self._refuse(401, "Incorrect API key provided.", "invalid_api_key")
        return JSONResponse({"object": "list", "data": [_model(name) for name in self._options().models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if not accepted(key_of(request), self._options()):
            return self._refuse(401, "Incorrect API key provided.", "invalid_api_key")
        if self._options().models and name not in self._options().models:
            return self._refuse(404, f"The model '{name}' does not exist", "model_not_found")
        return JSONResponse(_model(name))

    def _refuse(self, status: int, message: str, code: str) -> Response:
        body = OpenAIDialect().error(status, message, request_id="", code=code, param=None)
        return JSONResponse(body, status)


def _duration(seconds: float) -> str:
    """As Go writes it: `120ms`, `1.2s`, `6m0s`, `1h2m3s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    hours, rest = divmod(math.ceil(seconds * 1000) / 1000, 3600)
    minutes, left = divmod(rest, 60)
    head = f"{hours:.0f}h{minutes:.0f}m" if hours else f"{minutes:.0f}m" if minutes else ""
    return f"{head}{left:.3f}".rstrip("0").rstrip(".") + "s"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}


def _plain(limit: str) -> str:
    return "requests" if limit == "requests" else "tokens"


def _cost(used: int, asked: int | None, free: int) -> dict[str, float]:
    """Charged at admission: the higher of the output limit asked for and an estimate from the characters."""
    return {"requests": 1.0, "tokens": float(max(asked or 0, used - free))}


def _understand_chat(body: dict[str, Any], raw: bytes) -> Work:
    model, asked = require(body, "model", str), _output_limit(body)
    prompt = _chat_prompt(body, model, asked)
    reply = answer(prompt)
    choices = body.get("n") or 1
    identity = f"chatcmpl-{blake2b(raw, digest_size=12).hexdigest()}"
    used = text.tokens(prompt.characters)

    def usage(cached: Cached) -> dict[str, Any]:
        return {
            "prompt_tokens": used,
            "completion_tokens": reply.output_tokens * choices,
            "total_tokens": used + reply.output_tokens * choices,
            "prompt_tokens_details": {"cached_tokens": cached.read, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    head = {"id": identity, "created": int(time()), "model": model, "system_fingerprint": "fp_sim"}
    return Work(
        model=model,
        cost=lambda free: _cost(used, asked, free),
        prompt_tokens=used,
        output_tokens=reply.output_tokens * choices,
        beginnings=of_text(prompt),
        document=lambda cached: {
            **head,
            "object": "chat.completion",
            "choices": [_choice(reply, n) for n in range(choices)],
            "usage": usage(cached),
        },
        events=(lambda cached: _chunks(head, reply, usage(cached), body)) if body.get("stream") else None,
    )


def _output_limit(body: dict[str, Any]) -> int | None:
    asked = body.get("max_completion_tokens", body.get("max_tokens"))
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise Invalid("Invalid 'max_completion_tokens': integer below minimum value.", "max_completion_tokens")
    return asked


def _chat_prompt(body: dict[str, Any], model: str, asked: int | None) -> Prompt:
    turns = []
    for message in require(body, "messages", list):
        if not isinstance(message, dict) or "role" not in message:
            raise Invalid("Missing required parameter: 'messages[].role'.", "messages")
        calls = [
            Call(id=c.get("id", ""), name=c["function"]["name"], arguments=_arguments(c["function"].get("arguments")))
            for c in message.get("tool_calls") or []
            if c.get("type", "function") == "function"
        ]
        role = "system" if message["role"] == "developer" else message["role"]
        turns.append(
            Turn(
                role=role, text=text.said(message.get("content")), calls=calls, call_id=message.get("tool_call_id", "")
            )
        )
    if not turns:
        raise Invalid("Invalid 'messages': empty array.", "messages")
    tools = [
        Tool(
            name=t["function"]["name"],
            description=t["function"].get("description", ""),
            schema=t["function"].get("parameters") or {},
        )
        for t in body.get("tools") or []
        if t.get("type") == "function"
    ]
    shape = body.get("response_format") or {}
    return Prompt(
        model=model,
        turns=turns,
        tools=tools,
        max_tokens=asked or 4096,
        force=_forced(body.get("tool_choice")),
        parallel=body.get("parallel_tool_calls") is not False,
        schema=shape.get("json_schema", {}).get("schema") if shape.get("type") == "json_schema" else None,
    )


def _forced(choice: Any) -> str | None:
    if isinstance(choice, dict):
        return str(choice.get("function", choice).get("name"))
    return {"required": "*", "none": "-"}.get(choice) if isinstance(choice, str) else None


def _arguments(value: Any) -> dict[str, Any]:
    try:
        found = json.loads(value or "{}")
    except ValueError:
        return {"_": value}
    return found if isinstance(found, dict) else {"_": found}


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{c.id}", "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
        for c in reply.calls
    ]


def _choice(reply: Reply, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None, "annotations": []}
    if reply.calls:
        message["tool_calls"] = _tool_calls(reply)
    return {"index": number, "message": message, "logprobs": None, "finish_reason": reply.finish}


def _chunks(head: dict[str, Any], reply: Reply, usage: dict[str, Any], body: dict[str, Any]) -> list[str]:
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        document = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        return server_event(document | ({"usage": None} if with_usage else {}))

    found = [chunk({"role": "assistant", "content": ""})]
    found += [chunk({"content": piece}) for piece in pieces(reply.text)]
    for number, call in enumerate(_tool_calls(reply)):
        function = call["function"]
        found.append(chunk({"tool_calls": [{"index": number, **call, "function": {**function, "arguments": ""}}]}))
        for piece in pieces(function["arguments"]):
            found.append(chunk({"tool_calls": [{"index": number, "function": {"arguments": piece}}]}))
    found.append(chunk({}, reply.finish))
    if with_usage:
        found.append(server_event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}))
    return [*found, server_event("[DONE]")]


def _understand_response(body: dict[str, Any], raw: bytes) -> Work:
    model = require(body, "model", str)
    asked = body.get("max_output_tokens")
    prompt = prompt_of(body, model, asked)
    reply = answer(prompt)
    used = text.tokens(prompt.characters)
    identity = blake2b(raw, digest_size=16).hexdigest()
    return Work(
        model=model,
        cost=lambda free: _cost(used, asked, free),
        prompt_tokens=used,
        output_tokens=reply.output_tokens,
        beginnings=of_text(prompt),
        document=lambda cached: response(body, identity, reply, used, cached.read),
        events=(lambda cached: response_events(response(body, identity, reply, used, cached.read)))
        if body.get("stream")
        else None,
    )


def _understand_embeddings(body: dict[str, Any], raw: bytes) -> Work:
    del raw
    model, given = require(body, "model", str), require(body, "input", (str, list))
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if not all(isinstance(i, str | list) and i for i in inputs):
        raise Invalid("'$.input' is invalid. Please check the API reference.", "input")
    dimensions = body.get("dimensions") or _DIMENSIONS
    used = sum(len(i) if isinstance(i, list) else text.tokens(len(i)) for i in inputs)

    def vectors(cached: Cached) -> Any:
        del cached
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": n,
                    "embedding": _encoded(_embedding(i, dimensions), body.get("encoding_format")),
                }
                for n, i in enumerate(inputs)
            ],
            "model": model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }

    cost = {"requests": 1.0, "tokens": float(used)}
    return Work(model=model, cost=lambda _: cost, prompt_tokens=used, document=vectors)


def _embedding(value: str | list[int], dimensions: int) -> list[float]:
    """A bag of hashed words, of length 1: texts that share words lie near each other."""
    found = [0.0] * dimensions
    for word in text.words(value) if isinstance(value, str) else map(str, value):
        hashed = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
        found[hashed % dimensions] += 1.0 if hashed >> 63 else -1.0
    length = math.sqrt(sum(v * v for v in found)) or 1.0
    return [v / length for v in found]


def _encoded(vector: list[float], how: str | None) -> list[float] | str:
    if how == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector
