"""An Anthropic-compatible API: messages, token counts, models.

Counting and headers follow Anthropic's "Rate limits": input counts at arrival, output as generated, `max_tokens` never;
resets are instants at which a limit is full again.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from load.simulators import text
from load.simulators.beginnings import of_blocks
from load.simulators.caching import NONE, Cached
from load.simulators.conversation import Call, Prompt, Reply, Tool, Turn
from load.simulators.options import AnthropicOptions
from load.simulators.quota import Refusal, Standing
from load.simulators.serving import Desk, Invalid, Work, accepted, key_of, pieces, require, server_event
from load.simulators.thinking import answer
from load.simulators.world import World

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_STOPS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
_WORDS = {"input_tokens": "input tokens", "output_tokens": "output tokens"}


class AnthropicDialect:
    """Anthropic's words."""

    provider = "anthropic"
    failed_calls_count = False
    """Refused calls are free."""
    cached_tokens_count = False
    """What is read from the cache does not count towards the input limit."""

    def __init__(self, world: World) -> None:
        self._world = world

    def error(self, status: int, message: str, *, request_id: str, code: str | None, param: str | None) -> Any:
        """`{"type": "error", …}`."""
        del param
        said = {401: "invalid x-api-key", 529: "Overloaded", 500: "Internal server error"}.get(status, message)
        error: dict[str, Any] = {"type": _KINDS.get(status, "api_error"), "message": said}
        if code is not None and status == 429:
            error["details"] = {"error_code": code}
        return {"type": "error", "error": error, "request_id": request_id}

    def refusal(self, refusal: Refusal, model: str, *, request_id: str) -> Any:
        """Which limit."""
        what, code = _WORDS.get(refusal.limit, refusal.limit), None
        match refusal.kind:
            case "spend":
                message, code = "Your organization has reached its spend limit.", "enforced_spend_limit_reached"
            case "in_flight":
                message = "Number of concurrent connections has exceeded your rate limit. Please try again later."
            case "acceleration":
                code = "ramp_limit_exceeded"
                message = (
                    f"This request would exceed your organization's maximum usage increase rate for {what} per minute"
                    f" (model: {model}). Please scale up more gradually."
                )
            case "quota":
                message = (
                    f"This request would exceed your organization's rate limit of {refusal.granted:,.0f} {what} per"
                    f" minute (model: {model}). Please reduce the prompt length or the maximum tokens requested, or try"
                    " again later."
                )
        return self.error(429, message, request_id=request_id, code=code, param=None)

    def headers(self, standing: Mapping[str, Standing], now: float, request_id: str) -> dict[str, str]:
        """`anthropic-ratelimit-*`; `tokens` is the most restrictive in force."""
        found = {"request-id": request_id, "anthropic-organization-id": "00000000-0000-0000-0000-000000000000"}
        seen = dict(standing)
        counted = [seen[n] for n in ("input_tokens", "output_tokens") if n in seen]
        if counted and "tokens" not in seen:
            seen["tokens"] = min(counted, key=lambda s: s.remaining / s.limit)
        step = self._world.options.anthropic.round_tokens_to
        for name, one in seen.items():
            head = f"anthropic-ratelimit-{name.replace('_', '-')}"
            remaining = one.remaining if name == "requests" else one.remaining // step * step
            found[f"{head}-limit"] = f"{one.limit:.0f}"
            found[f"{head}-remaining"] = f"{remaining:.0f}"
            found[f"{head}-reset"] = _instant(math.ceil(now + one.full_in_s))
        return found

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """In whole seconds, rounded up: earlier retries fail."""
        if math.isinf(wait_s):
            return {"x-should-retry": "false"}
        return {"retry-after": str(max(1, math.ceil(wait_s))), "x-should-retry": "true"}


@lru_cache(maxsize=256)
def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class AnthropicApi:
    """The routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._say = AnthropicDialect(world)
        self._desk = Desk(world, self._say, self._options)

    def routes(self) -> list[Route]:
        """What costs nothing, but for the list of models: `server.py` chooses whose it is."""
        return [Route("/v1/messages/count_tokens", self._count, methods=["POST"])]

    def calls(self) -> dict[str, ASGIApp]:
        """What is posted, by path."""
        return {"/v1/messages": partial(self._desk.serve, understand=_understand)}

    def _options(self) -> AnthropicOptions:
        return self._world.options.anthropic

    async def _count(self, request: Request) -> Response:
        # free of charge, with a limit of its own that is out of reach here
        if not accepted(key_of(request), self._options()):
            return self._refuse(401, "invalid x-api-key")
        try:
            body = json.loads(await request.body())
            prompt = _prompt(body, require(body, "model", str), 1)
        except (Invalid, ValueError) as error:
            return self._refuse(400, str(error))
        if self._options().models and prompt.model not in self._options().models:
            return self._refuse(404, f"model: {prompt.model}")
        return JSONResponse({"input_tokens": text.tokens(prompt.characters)})

    def models(self, request: Request) -> Response:
        """`/v1/models` as Anthropic's SDK wants it; the path is OpenAI's too, so `server.py` chooses."""
        if not accepted(key_of(request), self._options()):
            return self._refuse(401, "invalid x-api-key")
        data = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}
            for name in self._options().models
        ]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return JSONResponse({"data": data, "has_more": False, **ends})

    def _refuse(self, status: int, message: str) -> Response:
        return JSONResponse(self._say.error(status, message, request_id="req_sim", code=None, param=None), status)


def _understand(body: dict[str, Any], raw: bytes) -> Work:
    model = require(body, "model", str)
    most = require(body, "max_tokens", int)
    if most < 1:
        raise Invalid("max_tokens: must be greater than or equal to 1", "max_tokens")
    prompt = _prompt(body, model, most)
    reply = answer(prompt)
    used = text.tokens(prompt.characters)
    identity = blake2b(raw, digest_size=12).hexdigest()

    def cost(free: int) -> dict[str, float]:
        return {"requests": 1.0, "input_tokens": float(used - free), "tokens": float(used - free)}

    def document(cached: Cached) -> dict[str, Any]:
        return _message(identity, model, reply, used, cached)

    return Work(
        model=model,
        cost=cost,
        prompt_tokens=used,
        output_tokens=reply.output_tokens,
        later={"output_tokens": float(reply.output_tokens), "tokens": float(reply.output_tokens)},
        owing=("output_tokens", "tokens"),
        beginnings=of_blocks(body) if b'"cache_control"' in raw else NONE,
        document=document,
        events=(lambda cached: _events(document(cached))) if body.get("stream") else None,
    )


def _prompt(body: dict[str, Any], model: str, most: int) -> Prompt:
    turns = [Turn(role="system", text=_said(body["system"]))] if body.get("system") else []
    messages = require(body, "messages", list)
    if not messages:
        raise Invalid("messages: at least one message is required", "messages")
    for message in messages:
        turns += _turns(message)
    tools = [
        Tool(name=t["name"], description=t.get("description") or "", schema=t["input_schema"])
        for t in body.get("tools") or []
        if "input_schema" in t
    ]
    choice = body.get("tool_choice") or {}
    force = {"any": "*", "none": "-", "tool": choice.get("name")}.get(choice.get("type", ""))
    return Prompt(
        model=model,
        turns=turns,
        tools=tools,
        max_tokens=most,
        force=force,
        parallel=not choice.get("disable_parallel_tool_use"),
    )


def _turns(message: Any) -> list[Turn]:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
        raise Invalid("messages: role must be 'user' or 'assistant'", "messages")
    role, content = message["role"], message.get("content")
    if isinstance(content, str):
        return [Turn(role=role, text=content)]
    blocks = content or []
    found = [
        Turn(role="tool", text=_said(b.get("content")), call_id=b.get("tool_use_id", ""))
        for b in blocks
        if b.get("type") == "tool_result"
    ]
    calls = [Call(id=b["id"], name=b["name"], arguments=b["input"]) for b in blocks if b.get("type") == "tool_use"]
    said = _said(blocks)
    return [*found, Turn(role=role, text=said, calls=calls)] if said or calls else found


def _said(content: Any) -> str:
    if isinstance(content, list):
        return "".join(b.get("text", "") for b in content if isinstance(b, dict) and b.get("type") == "text")
    return content or ""


def _message(identity: str, model: str, reply: Reply, used: int, cached: Cached) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
    content += [{"type": "tool_use", "id": f"toolu_{c.id}", "name": c.name, "input": c.arguments} for c in reply.calls]
    return {
        "id": f"msg_{identity}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": _STOPS[reply.finish],
        "stop_sequence": None,
        "usage": {
            # the three add up to the prompt
            "input_tokens": used - cached.read - cached.written,
            "cache_creation_input_tokens": cached.written,
            "cache_read_input_tokens": cached.read,
            "output_tokens": reply.output_tokens,
            "service_tier": "standard",
        },
    }


def _events(done: dict[str, Any]) -> list[str]:
    usage = done["usage"]
    begun = {**done, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(done["content"]):
        spoken = block["type"] == "text"
        empty = {**block, "text": ""} if spoken else {**block, "input": {}}
        found.append({"type": "content_block_start", "index": index, "content_block": empty})
        for piece in pieces(block["text"] if spoken else json.dumps(block["input"])):
            delta = {"type": "text_delta", "text": piece}
            if not spoken:
                delta = {"type": "input_json_delta", "partial_json": piece}
            found.append({"type": "content_block_delta", "index": index, "delta": delta})
        found.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": done["stop_reason"], "stop_sequence": None}
    found.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": usage["output_tokens"]}})
    found.append({"type": "message_stop"})
    return [server_event(event, event["type"]) for event in found]
