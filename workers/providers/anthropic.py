"""Anthropic and everything that speaks its messages API."""

import json
from time import monotonic
from typing import Any

import anthropic

from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, ToolCall, Usage
from ratelimit.billing import codes, out_of_money
from ratelimit.profiles import PROFILES, Profile
from workers import tracing
from workers.providers import errors
from workers.providers.chat import Heard, not_heard

_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length"}


class AnthropicChat:
    """Messages. `max_retries=0`: the limiter and Temporal own waiting and retries."""

    def __init__(
        self,
        *,
        name: str,
        api_key: str,
        base_url: str | None,
        timeout_s: float,
        profile: Profile = PROFILES["anthropic"],
    ) -> None:
        self.profile = profile
        self._name = name
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            timeout=timeout_s,
            max_retries=0,
            # the call has a span already, and its trace is nobody else's business
            open_telemetry={"traces": False, "propagation": False},
        )

    def characters(self, request: ChatRequest) -> int:
        """Those of the body."""
        return len(json.dumps(_payload(request)))

    async def chat(self, request: ChatRequest, *, model: str, request_id: str, heard: Heard = not_heard) -> ChatResult:
        """One call of `/v1/messages`."""
        began = monotonic()
        try:
            raw = await self._client.messages.with_raw_response.create(
                model=model,
                max_tokens=request.max_output_tokens,
                extra_headers={"X-Client-Request-Id": request_id},
                **_payload(request),
            )
        except anthropic.APIStatusError as error:
            raise _translate(self._name, error) from None
        except anthropic.APIError as error:
            raise errors.unanswered(f"{self._name}: {error.message}", error.__cause__) from None
        heard(raw.headers)
        with errors.understood(self._name):
            answer = await _parsed(raw)
            tracing.identified(answer)
            used = answer.usage
            cached = used.cache_read_input_tokens or 0
            return ChatResult(
                message=Message(
                    role=Role.ASSISTANT,
                    content="".join(b.text for b in answer.content if b.type == "text"),
                    tool_calls=[
                        ToolCall(id=b.id, name=b.name, arguments=dict(b.input))
                        for b in answer.content
                        if b.type == "tool_use"
                    ],
                ),
                usage=Usage(
                    input_tokens=used.input_tokens + cached + (used.cache_creation_input_tokens or 0),
                    cached_tokens=cached,
                    output_tokens=used.output_tokens,
                ),
                finish_reason=_FINISH.get(answer.stop_reason or "", answer.stop_reason or ""),
                model=answer.model,
                request_id=raw.headers.get("request-id", ""),
                duration_s=monotonic() - began,
            )

    async def check(self) -> None:
        """List the models."""
        try:
            with errors.understood(self._name):
                await self._client.models.list()
        except anthropic.APIStatusError as error:
            raise _translate(self._name, error) from None
        except anthropic.APIError as error:
            raise errors.unanswered(f"{self._name}: {error.message}", error.__cause__) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


async def _parsed(raw: Any) -> Any:
    answer = raw.parse()
    return await answer if hasattr(answer, "__await__") else answer


def _payload(request: ChatRequest) -> dict[str, Any]:
    system = "\n\n".join(m.content for m in request.messages if m.role is Role.SYSTEM)
    payload: dict[str, Any] = {"messages": _turns(request.messages)}
    if system:
        payload["system"] = system
    if request.tools:
        payload["tools"] = [
            {"name": t.name, "description": t.description, "input_schema": t.parameters} for t in request.tools
        ]
    return payload


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role is Role.SYSTEM:
            continue
        if message.role is Role.TOOL:
            block = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.content}
            # results of one turn's calls travel in one user message
            if turns and turns[-1]["role"] == "user" and isinstance(turns[-1]["content"], list):
                turns[-1]["content"].append(block)
            else:
                turns.append({"role": "user", "content": [block]})
        elif message.role is Role.ASSISTANT:
            said = [{"type": "text", "text": message.content}] if message.content else []
            asked = [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in message.tool_calls]
            turns.append({"role": "assistant", "content": said + asked})
        else:
            turns.append({"role": "user", "content": message.content})
    return turns


def _translate(name: str, error: anthropic.APIStatusError) -> errors.ProviderError:
    if error.status_code == 401:
        return errors.Refused(f"{name}: the API key was refused (401)")
    message = f"{name}: {error.message}"
    if out_of_money("anthropic", error.status_code, codes(error.body)):
        return errors.Exhausted(message)
    return errors.from_status(error.status_code, message, error.response.headers, dialect="anthropic")
