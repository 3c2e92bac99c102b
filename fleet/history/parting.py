"""Where two runs of the same goal parted.

Two runs are on the same path while their models ask for the same calls with the same arguments, the same calls are
allowed, and they end alike. What differs before that (a prompt, the words beside a call, what a tool has answered) is
told as what came before, and judged by nobody: it may have been the reason.
"""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import Any

from fleet.contracts.effects import EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult, Message
from fleet.contracts.tools import ToolResult
from fleet.history.model import Question, Step, Story

_FENCE = re.compile(r'(<(/?)(found|remembered) id=)"[0-9a-f]+"')
"""Strangers' text is fenced with a word that is drawn for each run."""


class Differs(StrEnum):
    """What is not the same."""

    AGENT = "agent"
    GOAL = "goal"
    INSTRUCTIONS = "instructions"
    MODEL = "model"
    TOOLS_OFFERED = "tools offered"
    MESSAGES = "messages"
    """What the model was given, but for what is told as another difference before."""
    WORDS = "words"
    """What the model said."""
    TOOLS = "tools"
    """Which tools the model asked for."""
    ARGUMENTS = "arguments"
    VERDICT = "verdict"
    """What humans decided."""
    RESULT = "result"
    OUTCOME = "outcome"
    """How the run ended."""
    LENGTH = "length"
    """One run has gone on, the other has not."""


_PARTING = frozenset({Differs.TOOLS, Differs.ARGUMENTS, Differs.VERDICT, Differs.OUTCOME, Differs.LENGTH})
"""Differences by which two runs are on different paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not the same in both."""

    step: str
    """Name of the step; empty: of the whole run."""
    what: Differs
    first: str
    second: str

    @property
    def parts(self) -> bool:
        """From here on the runs are on different paths."""
        return self.what in _PARTING


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """How two runs compare."""

    same_goal: bool
    same_agent: bool
    """The same definition: instructions, model, tools, rules."""
    parted: Difference | None
    """Where they parted; None: they went the same path."""
    before: list[Difference] = field(default_factory=list)
    """What differed before that, in order."""
    common: list[str] = field(default_factory=list)
    """Names of the model's calls whose decisions are the same in both."""


@dataclass(slots=True)
class _Turn:
    """One call of the model and what came of it."""

    step: Step
    acts: dict[str, list[Step]] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)


def compare(first: Story, second: Story) -> Parting:
    """Find where two runs parted."""
    differences = _of_runs(first, second)
    common: list[str] = []
    parted: Difference | None = None
    for one, other in zip_longest(_turns(first), _turns(second)):
        found = _of_turns(one, other, first, second)
        at = next((i for i, difference in enumerate(found) if difference.parts), None)
        if at is not None:
            differences += found[:at]
            parted = found[at]
            break
        differences += found
        if one is not None:
            common.append(one.step.name)
    else:
        parted = _of_ends(first, second)
    return Parting(
        same_goal=_goal(first) == _goal(second),
        same_agent=first.run is not None and second.run is not None and first.run.agent == second.run.agent,
        parted=parted,
        before=differences,
        common=common,
    )


def _goal(told: Story) -> str | None:
    return told.run.goal if told.run else None


def _of_runs(first: Story, second: Story) -> list[Difference]:
    if first.run is None or second.run is None:
        return []
    one, other = first.run.agent, second.run.agent
    told = [
        (Differs.GOAL, first.run.goal, second.run.goal),
        (Differs.AGENT, one.name, other.name),
        (Differs.MODEL, one.model, other.model),
        (Differs.INSTRUCTIONS, one.instructions, other.instructions),
        (Differs.TOOLS_OFFERED, _offered(one.tools), _offered(other.tools)),
    ]
    return [Difference(step="", what=what, first=a, second=b) for what, a, b in told if a != b]


def _offered(tools: Any) -> str:
    return ", ".join(tool.spec.name for tool in tools)


def _turns(told: Story) -> list[_Turn]:
    turns: dict[str, _Turn] = {}
    for step in told.steps:
        if step.is_model:
            turns[step.name] = _Turn(step)
        elif (turn := turns.get(step.base.partition(".")[0])) is not None:
            turn.acts.setdefault(step.base, []).append(step)
    for question in told.questions:
        if (turn := turns.get(question.step.partition(".")[0])) is not None:
            turn.asked.append(question)
    return list(turns.values())


def _of_turns(one: _Turn | None, other: _Turn | None, first: Story, second: Story) -> list[Difference]:
    if one is None or other is None:
        there = one or other
        name = there.step.name if there else ""
        return [Difference(step=name, what=Differs.LENGTH, first=_went(one, first), second=_went(other, second))]
    name = one.step.name
    found = _of_requests(name, one.step.request, other.step.request, starts=name == "1")
    a, b = one.step.result, other.step.result
    if not isinstance(a, ChatResult) or not isinstance(b, ChatResult):
        if isinstance(a, ChatResult) != isinstance(b, ChatResult):
            ends = (f"{s.outcome} {s.failure}".strip() for s in (one.step, other.step))
            found.append(Difference(step=name, what=Differs.LENGTH, first=next(ends), second=next(ends)))
        return found
    if a.message.content != b.message.content:
        found.append(Difference(step=name, what=Differs.WORDS, first=a.message.content, second=b.message.content))
    found += _of_calls(name, a.message, b.message)
    found += _of_verdicts(one, other)
    for act in sorted({*one.acts, *other.acts}, key=_order):
        texts = [_results(turn.acts.get(act, [])) for turn in (one, other)]
        if texts[0] != texts[1]:
            found.append(Difference(step=act, what=Differs.RESULT, first=texts[0], second=texts[1]))
    return found


def _order(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name)]


def _of_requests(name: str, one: Any, other: Any, *, starts: bool) -> list[Difference]:
    if not isinstance(one, ChatRequest) or not isinstance(other, ChatRequest):
        return []
    if not starts:
        # the others grow out of what is told as differences of earlier steps, and of what was said to the run
        a, b = ([m.content for m in r.messages if m.role == "user"] for r in (one, other))
    else:
        a, b = ([m.content for m in r.messages[1:]] for r in (one, other))
    texts = [_unfenced("\n".join(each)) for each in (a, b)]
    if texts[0] == texts[1] or _said_once(one) != _said_once(other):
        return []
    return [Difference(step=name, what=Differs.MESSAGES, first=texts[0], second=texts[1])]


def _said_once(request: ChatRequest) -> bool:
    """Whether the goal is all that the user has said."""
    return sum(m.role == "user" for m in request.messages) == 1


def _of_calls(name: str, one: Message, other: Message) -> list[Difference]:
    tools = [", ".join(call.name for call in m.tool_calls) or "none: the end" for m in (one, other)]
    if tools[0] != tools[1]:
        return [Difference(step=name, what=Differs.TOOLS, first=tools[0], second=tools[1])]
    return [
        Difference(
            step=name,
            what=Differs.ARGUMENTS,
            first=f"{a.name}({_json(a.arguments)})",
            second=f"{b.name}({_json(b.arguments)})",
        )
        for a, b in zip(one.tool_calls, other.tool_calls, strict=True)
        if a.arguments != b.arguments
    ]


def _of_verdicts(one: _Turn, other: _Turn) -> list[Difference]:
    found = []
    for a, b in zip_longest(one.asked, other.asked):
        said = [_verdict(question) for question in (a, b)]
        if said[0] != said[1]:
            step = (a or b).step
            found.append(Difference(step=step, what=Differs.VERDICT, first=said[0], second=said[1]))
    return found


def _verdict(question: Question | None) -> str:
    if question is None:
        return "nobody was asked"
    approval = question.approval
    amended = [vote.arguments for vote in approval.votes if vote.arguments is not None]
    return f"{approval.state.value}{f', amended to {_json(amended[-1])}' if amended else ''}"


def _results(steps: list[Step]) -> str:
    return "; ".join(_result(step) for step in steps) or "not made"


def _result(step: Step) -> str:
    match step.result:
        case ToolResult(content=content):
            return content
        case EffectResult(state=state, reason=reason):
            # what proves it (an id of the provider) is never the same
            return f"{state.value}{f': {reason}' if reason else ''}"
        case _:
            return f"{step.outcome} {step.failure}".strip()


def _of_ends(first: Story, second: Story) -> Difference | None:
    if first.state == second.state:
        return None
    ends = [f"{told.state}{f' ({_reason(told)})' if _reason(told) else ''}" for told in (first, second)]
    return Difference(step="", what=Differs.OUTCOME, first=ends[0], second=ends[1])


def _reason(told: Story) -> str:
    return told.result.reason if told.result else told.failure


def _went(turn: _Turn | None, told: Story) -> str:
    return "asks the model again" if turn is not None else f"has ended: {told.state}"


def _unfenced(text: str) -> str:
    return _FENCE.sub(r'\1""', text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
