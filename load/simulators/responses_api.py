"""`/v1/responses` of the OpenAI-compatible API: its own words for the same conversation."""

import json
from time import time
from typing import Any

from load.simulators import text
from load.simulators.conversation import Call, Prompt, Reply, Tool, Turn
from load.simulators.serving import Invalid, pieces, server_event


def prompt_of(body: dict[str, Any], model: str, asked: Any) -> Prompt:
    """What the model sees.

    Raises:
        Invalid: the body is not accepted.
    """
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise Invalid("Invalid 'max_output_tokens': integer below minimum value.", "max_output_tokens")
    given = body.get("input")
    if not given:
        raise Invalid("Missing required parameter: 'input'.", "input")
    turns = [Turn(role="system", text=body["instructions"])] if body.get("instructions") else []
    turns += [Turn(role="user", text=given)] if isinstance(given, str) else [_turn(item) for item in given]
    tools = [
        Tool(name=t["name"], description=t.get("description") or "", schema=t.get("parameters") or {})
        for t in body.get("tools") or []
        if t.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    force = choice.get("name") if isinstance(choice, dict) else {"required": "*", "none": "-"}.get(str(choice))
    shape = (body.get("text") or {}).get("format") or {}
    return Prompt(
        model=model,
        turns=turns,
        tools=tools,
        max_tokens=asked or 4096,
        force=force,
        parallel=body.get("parallel_tool_calls") is not False,
        schema=shape.get("schema") if shape.get("type") == "json_schema" else None,
    )


def _turn(item: Any) -> Turn:
    if not isinstance(item, dict):
        raise Invalid("Invalid type for 'input[]'.", "input")
    match item.get("type", "message"):
        case "function_call":
            arguments = json.loads(item.get("arguments") or "{}")
            call = Call(id=item.get("call_id", ""), name=item.get("name", ""), arguments=arguments)
            return Turn(role="assistant", calls=[call])
        case "function_call_output":
            return Turn(role="tool", text=text.said(item.get("output")), call_id=item.get("call_id", ""))
        case _:
            role = item.get("role", "user")
            return Turn(role="system" if role == "developer" else role, text=text.said(item.get("content")))


def response(body: dict[str, Any], identity: str, reply: Reply, used: int, cached: int) -> dict[str, Any]:
    """The finished response."""
    cut = reply.finish == "length"
    output: list[dict[str, Any]] = []
    if reply.text:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        output.append(
            {
                "type": "message",
                "id": f"msg_{identity}",
                "role": "assistant",
                "status": "incomplete" if cut else "completed",
                "content": [part],
            }
        )
    output += [
        {
            "type": "function_call",
            "id": f"fc_{call.id}",
            "call_id": f"call_{call.id}",
            "name": call.name,
            "arguments": json.dumps(call.arguments),
            "status": "completed",
        }
        for call in reply.calls
    ]
    return {
        "id": f"resp_{identity}",
        "object": "response",
        "created_at": int(time()),
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": used,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used + reply.output_tokens,
        },
    }


def events(done: dict[str, Any]) -> list[str]:
    """The response as a stream."""
    begun = {**done, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    found: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(done["output"]):
        message = item["type"] == "message"
        empty = {**item, "status": "in_progress", **({"content": []} if message else {"arguments": ""})}
        found.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        found += _message_events(index, item) if message else _call_events(index, item)
        found.append({"type": "response.output_item.done", "output_index": index, "item": item})
    found.append({"type": f"response.{done['status']}", "response": done})
    return [server_event({**event, "sequence_number": n}, event["type"]) for n, event in enumerate(found)]


def _message_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    kind = "response.output_text"
    return [
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *({"type": f"{kind}.delta", **where, "delta": p, "logprobs": []} for p in pieces(part["text"])),
        {"type": f"{kind}.done", **where, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
    ]


def _call_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    where = {"item_id": item["id"], "output_index": index}
    kind = "response.function_call_arguments"
    return [
        *({"type": f"{kind}.delta", **where, "delta": piece} for piece in pieces(item["arguments"])),
        {"type": f"{kind}.done", **where, "name": item["name"], "arguments": item["arguments"]},
    ]
