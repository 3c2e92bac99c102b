"""A run's story as one page: a file that asks nothing of any network and works without scripts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult, Message
from fleet.contracts.tools import ToolRequest, ToolResult
from fleet.documents import visible, visible_lines
from fleet.history import clocks, timeline
from fleet.history.deciding import new_messages
from fleet.history.model import Cause, Question, Step, Story
from fleet.history.reading import write_whole

LONG: Final = 400
"""Characters beyond which a text is folded."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A step or a question, as the page tells it."""

    at: datetime
    title: str
    outcome: str
    good: bool
    took: str
    anchor: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Short ones: what, and its value."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Longer ones."""
    folded: list[tuple[str, str]] = field(default_factory=list)
    """What is there for those who look."""
    spent: dict[Cause, float] = field(default_factory=dict)


def write(told: Story, file: Path) -> None:
    """Write the page, whole or not at all; only its user may read it.

    Raises:
        BadInput: the file cannot be written.
    """
    write_whole(file, render(told))


def render(told: Story) -> str:
    """The page. Whatever models and strangers have written is text on it, never markup."""
    totals = told.totals()
    return _PAGES.get_template("story.html").render(
        told=told,
        totals=totals,
        cost=f"{totals.cost:f} {totals.currency}".rstrip(),
        causes=[(cause, told.time[cause]) for cause in Cause if cause in told.time],
        meanings=_MEANINGS,
        picture=timeline.picture(told),
        entries=_entries(told),
        long=LONG,
    )


def _entries(told: Story) -> list[_Entry]:
    end = told.ended_at or told.read_at
    last = next((step for step in reversed(told.steps) if step.is_model), None)
    entries = [_of_step(step, told, last) for step in told.steps]
    entries += [_of_question(question, end) for question in told.questions]
    return sorted(entries, key=lambda entry: entry.at)


def _of_step(step: Step, told: Story, last: Step | None) -> _Entry:
    entry = _Entry(
        at=step.scheduled_at,
        title=f"{step.name} {step.what}",
        outcome=step.outcome,
        good=step.outcome in ("completed", "done"),
        took=timeline.clock(step.duration_s) if step.duration_s is not None else "not ended",
        anchor=timeline.anchor(step),
        spent=clocks.by_cause(step.spans),
    )
    entry.facts += [("task queue", step.task_queue), ("attempts", str(step.attempts))]
    if step.worker:
        entry.facts.append(("worker", step.worker))
    if step.failure:
        entry.texts.append(("failed before with" if entry.good else "because", step.failure))
    match step.request:
        case ChatRequest():
            entry.texts += list(_asked(step, step.request, told))
            entry.folded += list(_given(step.request, whole=step is last))
        case ToolRequest() | EffectRequest():
            entry.texts.append((f"called {step.request.tool}", _json(step.request.arguments)))
    match step.result:
        case ChatResult():
            entry.facts += list(_used(step, step.result, told))
            entry.texts += [(f"chose {c.name}", _json(c.arguments)) for c in step.result.message.tool_calls]
            if step.result.message.content:
                entry.texts.append(("said", step.result.message.content))
        case ToolResult():
            entry.texts.append(("answered", step.result.content))
        case EffectResult():
            entry.texts.append(("answered", step.result.content or step.result.reason))
            entry.facts += list(step.result.evidence.items())
    return entry


def _asked(step: Step, request: ChatRequest, told: Story) -> Iterator[tuple[str, str]]:
    new = new_messages(told, step) if step.is_model else request.messages
    for message in new:
        yield f"was given, by {message.role.value}", _text(message)


def _given(request: ChatRequest, *, whole: bool) -> Iterator[tuple[str, str]]:
    if whole:
        # of each call it would make the page grow with the square of the steps
        messages = "\n\n".join(f"[{message.role.value}] {_text(message)}" for message in request.messages)
        yield f"all {len(request.messages)} messages", messages
    if request.tools:
        offered = "\n".join(f"{tool.name}: {tool.description}" for tool in request.tools)
        yield f"could choose from {len(request.tools)} tools", offered


def _used(step: Step, result: ChatResult, told: Story) -> Iterator[tuple[str, str]]:
    usage = result.usage
    yield "tokens", f"{usage.input_tokens} in ({usage.cached_tokens} cached), {usage.output_tokens} out"
    if told.price:
        yield "cost", f"{step.cost} {told.price.currency}"
    yield "finished", result.finish_reason
    if result.model:
        yield "model", result.model
    if result.request_id:
        yield "request", result.request_id


def _of_question(question: Question, end: datetime | None) -> _Entry:
    approval = question.approval
    spans = clocks.of_question(question, end)
    asks = "was it had?" if question.settles else "may it be called?"
    return _Entry(
        at=approval.opened_at,
        title=f"{question.step} asks {', '.join(approval.approvers) or 'anybody'}: {asks}",
        outcome=approval.state.value,
        good=approval.state.value == "approved",
        took=timeline.clock(sum(span.seconds for span in spans)),
        spent=clocks.by_cause(spans),
        facts=[("rule", approval.why), ("needs", str(approval.needed))],
        texts=[
            (f"about {approval.tool}", _json(approval.arguments)),
            *((f"{vote.by} says {vote.decision.value} by {vote.channel}", vote.comment) for vote in approval.votes),
        ],
    )


def _text(message: Message) -> str:
    calls = "\n".join(f"calls {call.name}({_json(call.arguments)})" for call in message.tool_calls)
    return "\n".join(filter(None, (message.content, calls)))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2 if len(str(value)) > LONG else None)


_MEANINGS: Final = {
    Cause.PROVIDER: "the provider or the tool worked",
    Cause.QUOTA: "in line for quota",
    Cause.RETRIES: "attempts that failed, and their delays",
    Cause.QUEUE: "no worker had a free slot",
    Cause.HUMAN: "people were asked, or the run was paused",
    Cause.ENGINE: "workflow tasks and what remains",
    Cause.RESET: "thrown away by a reset",
    Cause.UNTOLD: "not told: not ended, or its history is gone",
}

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters |= {
    "clock": lambda value: "-" if value is None else timeline.clock(value),
    "moment": lambda at: f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else "-",
    "share": lambda part, whole: f"{part / whole:.0%}" if whole else "-",
    "visible": lambda text: visible(str(text)),
    "lines": lambda text: "\n".join(visible_lines(str(text))),
}
