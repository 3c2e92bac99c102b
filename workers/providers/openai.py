"""OpenAI and everything that speaks its chat completions API."""

import json
import re
from time import monotonic
from typing import Any, cast

import openai

from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, ToolCall, Usage
from ratelimit.billing import out_of_money
from ratelimit.profiles import PROFILES, Profile
from workers import tracing
from workers.providers import errors
from workers.providers.chat import Heard, not_heard


class OpenAIChat:
    """Chat completions. `max_retries=0`: the limiter and Temporal own waiting and retries."""

    def __init__(
        self, *, name: str, api_key: str, base_url: str | None, timeout_s: float, profile: Profile = PROFILES["openai"]
    ) -> None:
        self.profile = profile
        self._name = name
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout_s, max_retries=0)

    def characters(self, request: ChatRequest) -> int:
        """Those of messages, calls and tools."""
        said = sum(
            len(m.content) + sum(len(c.name) + len(json.dumps(c.arguments)) for c in m.tool_calls)
            for m in request.messages
        )
        offered = sum(len(t.name) + len(t.description) + len(json.dumps(t.parameters)) for t in request.tools)
        return said + offered

    async def chat(self, request: ChatRequest, *, model: str, request_id: str, heard: Heard = not_heard) -> ChatResult:
        """One call of `/v1/chat/completions`."""
        tools: Any = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
            }
            for t in request.tools
        ]
        messages: Any = [_wire(m) for m in request.messages]
        began = monotonic()
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=model,
                messages=messages,
                tools=tools or openai.omit,
                max_completion_tokens=request.max_output_tokens,
                extra_headers={"X-Client-Request-Id": request_id},
            )
        except openai.APIStatusError as error:
            raise _translate(self._name, error) from None
        except openai.APIConnectionError as error:
            raise errors.unanswered(f"{self._name}: {_cause(error)}", error.__cause__) from None
        except openai.APIError as error:
            raise errors.Unavailable(f"{self._name}: {error.message}") from None
        heard(raw.headers)
        with errors.understood(self._name):
            answer = raw.parse()
            tracing.identified(answer)
            choice = answer.choices[0]
            used = answer.usage
            return ChatResult(
                message=Message(
                    role=Role.ASSISTANT,
                    content=choice.message.content or "",
                    tool_calls=[
                        ToolCall(id=c.id, name=c.function.name, arguments=_arguments(c.function.arguments))
                        for c in choice.message.tool_calls or []
                        if c.type == "function"
                    ],
                ),
                usage=Usage(
                    input_tokens=used.prompt_tokens if used else 0,
                    cached_tokens=(used.prompt_tokens_details.cached_tokens or 0)
                    if used and used.prompt_tokens_details
                    else 0,
                    output_tokens=used.completion_tokens if used else 0,
                ),
                finish_reason=cast("str | None", choice.finish_reason) or "",  # other servers leave it out
                model=answer.model,
                request_id=raw.headers.get("x-request-id", ""),
                duration_s=monotonic() - began,
            )

    async def check(self) -> None:
        """List the models."""
        try:
            with errors.understood(self._name):
                await self._client.models.list()
        except openai.APIStatusError as error:
            raise _translate(self._name, error) from None
        except openai.APIConnectionError as error:
            raise errors.unanswered(f"{self._name}: {_cause(error)}", error.__cause__) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _wire(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
            for c in message.tool_calls
        ]
    if message.role is Role.TOOL:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _arguments(text: str) -> dict[str, Any]:
    # a model may write broken JSON; the plan then answers that arguments are missing
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _translate(name: str, error: openai.APIStatusError) -> errors.ProviderError:
    if error.status_code == 401:
        # the provider's text repeats part of the key
        return errors.Refused(f"{name}: the API key was refused (401)")
    message = f"{name}: {error.message}"
    if out_of_money("openai", error.status_code, [error.code, error.type]):
        return errors.Exhausted(message)
    return errors.from_status(
        error.status_code, message, error.response.headers, dialect="openai", limit=_limit(error.type, error.message)
    )


def _limit(kind: str | None, message: str) -> str | None:
    """The limit that a 429 names: its `type`, and its text where that says that it is the day's."""
    if kind not in ("requests", "tokens", "input_tokens", "output_tokens"):
        return None
    return f"{kind}_per_day" if re.search(r"per day \((?:RPD|TPD)\)", message) else kind


def _cause(error: openai.APIConnectionError) -> str:
    # the cause's own text may quote a header, and so the key: its kind says enough
    return f"{error.message} ({type(error.__cause__).__name__})" if error.__cause__ else error.message
