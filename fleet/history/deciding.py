"""Why a step was taken: the decision as it was recorded.

What the model was given, what it could have chosen, what it said and chose, what was refused, which rule asked whom.
Nothing is guessed about motives: the only ones are the model's own words.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from fleet import consent, planning
from fleet.contracts.effects import EffectRequest
from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, ToolCall, ToolSpec
from fleet.contracts.runs import AgentDefinition
from fleet.contracts.tools import MEMORY_RECALL, ToolRequest
from fleet.errors import BadInput
from fleet.history.model import Question, Step, Story

LAST: Final = 4
"""Most messages that are shown as what the model saw last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One call that the model has asked for, and what became of it."""

    tool: str
    arguments: dict[str, Any]
    step: str
    """The step that it became; empty for a call that was refused."""
    fate: str
    """In words: what became of it."""
    refused: str = ""
    """Why planning did not make it."""
    rule: str = ""
    """Why a human was asked, as it was recorded; empty if nobody was."""
    asked: list[Question] = field(default_factory=list)
    amended: dict[str, Any] | None = None
    """The arguments of the call that was made, where a human has changed them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answer of the model, and all that is recorded of it."""

    run_id: str
    step: str
    """The call of the model."""
    about: str
    """The step that was asked about: this one, or one that it has led to."""
    model: str
    answered_by: str
    """The model as the provider names it."""
    instructions: str
    messages: int
    """How many messages the model was given."""
    saw_last: list[Message]
    """Those that it had not been given with its call before; the last ones."""
    offered: list[ToolSpec]
    said: str
    """Its own words."""
    finish_reason: str
    choices: list[Choice]
    not_chosen: list[str]
    """Tools that were offered and that it did not ask for."""
    led_to: str
    """What planning made of the answer."""
    pending: bool = False
    """It has not answered yet, or its call has failed."""


def why(told: Story, name: str) -> Decision:
    """The decision that has led to a step.

    Args:
        told: the run's story.
        name: `3` for the third call of the model itself, `3.1` for what it has led to.

    Raises:
        BadInput: there is no such step, or no call of the model has led to it.
    """
    if told.run is None:
        raise BadInput(f"the history of {told.run_id} has no beginning that can be read")
    names = [step.name for step in told.steps] + [f"{q.step}" for q in told.questions if not told.step(q.step)]
    if name not in names:
        raise BadInput(f"run {told.run_id} has no step {name!r}; it has: {', '.join(dict.fromkeys(names)) or 'none'}")
    thought = name.partition(".")[0].partition("-")[0]
    step = next((s for s in reversed(told.steps) if s.is_model and s.name == thought), None)
    if step is None:
        raise BadInput(
            f"no call of the model has led to step {name!r} of {told.run_id}: the run itself does it, or the execution"
            " that has decided it is gone"
        )
    return _decision(told, told.run.agent, step, name)


def _decision(told: Story, agent: AgentDefinition, step: Step, about: str) -> Decision:
    request = step.request
    if not isinstance(request, ChatRequest):
        raise BadInput(f"step {step.name!r} is no call of a model")
    result = step.result if isinstance(step.result, ChatResult) else None
    chosen = {call.name for call in result.message.tool_calls} if result else set()
    return Decision(
        run_id=told.run_id,
        step=step.name,
        about=about,
        model=request.model,
        answered_by=result.model if result else "",
        instructions=next((m.content for m in request.messages if m.role is Role.SYSTEM), ""),
        messages=len(request.messages),
        saw_last=new_messages(told, step)[-LAST:],
        offered=list(request.tools),
        said=result.message.content if result else "",
        finish_reason=result.finish_reason if result else "",
        choices=_choices(told, agent, step, result) if result else [],
        not_chosen=[tool.name for tool in request.tools if tool.name not in chosen],
        led_to=_led_to(agent, result) if result else f"nothing: the call is {step.outcome} {step.failure}".rstrip(),
        pending=result is None,
    )


def new_messages(told: Story, step: Step) -> list[Message]:
    """What a call of the model was given that the call before it was not, instructions left out.

    After a compaction, or where the call before is gone, that is the whole conversation.
    """
    request = step.request
    if not isinstance(request, ChatRequest):
        return []
    before = [s for s in told.steps if s.is_model and s.number < step.number and isinstance(s.request, ChatRequest)]
    known = before[-1].request.messages if before and isinstance(before[-1].request, ChatRequest) else []
    messages = request.messages
    if known and messages[: len(known)] == known:
        messages = messages[len(known) :]
    return [m for m in messages if m.role is not Role.SYSTEM]


def _led_to(agent: AgentDefinition, result: ChatResult) -> str:
    match planning.decide(agent, result):
        case planning.Finish():
            return "the end: it has called no tool"
        case planning.Withheld(reason=reason):
            return f"the end of the run: {reason}"
        case planning.Act(calls=calls, refused=refused):
            told = f"{len(calls)} of {len(calls) + len(refused)} calls were made"
            return f"{told}; the others were answered with why not" if refused else told


def _choices(told: Story, agent: AgentDefinition, step: Step, result: ChatResult) -> list[Choice]:
    match planning.decide(agent, result):
        case planning.Act(calls=calls, refused=refused):
            made = {id(call): f"{step.name}.{i}" for i, (call, _) in enumerate(calls, start=1)}
            reasons = {id(call): reason for call, reason in refused}
        case _:
            return []
    bindings = {id(call): binding for call, binding in calls}
    found = _found(told, step)
    choices = []
    for call in result.message.tool_calls:
        if id(call) in reasons:
            choices.append(
                Choice(
                    tool=call.name,
                    arguments=call.arguments,
                    step="",
                    fate="refused before it was made",
                    refused=reasons[id(call)],
                )
            )
            continue
        name = made[id(call)]
        asked = [q for q in told.questions if q.step.partition("-")[0] == name]
        wanted = consent.needed(
            agent, bindings[id(call)], call.arguments, tenant=told.run.tenant if told.run else "", found=found
        )
        # what was recorded wins: the rules are told again only where nothing was
        rule = next((q.approval.why for q in asked if not q.settles), wanted[1] if wanted and not asked else "")
        choices.append(_made(told, call, name, asked, rule))
    return choices


def _made(told: Story, call: ToolCall, name: str, asked: list[Question], rule: str) -> Choice:
    steps = [step for step in told.steps if step.base == name]
    request = steps[0].request if steps else None
    arguments = request.arguments if isinstance(request, ToolRequest | EffectRequest) else None
    if steps:
        fate = ", then ".join(
            f"{step.outcome}{f' ({step.failure})' if step.failure and step.outcome != 'completed' else ''}"
            for step in steps
        )
    else:
        before = [q for q in asked if not q.settles]
        fate = f"not made: {consent.ended(before[-1].approval)}" if before else "not made: the run has ended before"
        if before and before[-1].ended_at is None:
            fate = "not made yet: nobody has decided"
    return Choice(
        tool=call.name,
        arguments=call.arguments,
        step=name,
        fate=fate,
        rule=rule,
        asked=asked,
        amended=arguments if arguments is not None and arguments != call.arguments else None,
    )


def _found(told: Story, step: Step) -> bool:
    """Whether the run had read strangers' text before."""
    if told.run is None:
        return False
    if told.run.carried is not None and told.run.carried.found:
        return True
    finding = {tool.activity for tool in told.run.agent.tools if tool.finds}
    for earlier in told.steps:
        if earlier.number >= step.number or earlier.ended_at is None or earlier.ended_at > step.scheduled_at:
            continue
        if earlier.what in finding and (earlier.base != "0.1" or earlier.what != MEMORY_RECALL.name):
            return True
    request = step.request
    remembered = "\n<remembered id="
    return isinstance(request, ChatRequest) and any(
        m.role is Role.USER and m.content.startswith("From earlier runs:") and remembered in m.content
        for m in request.messages
    )
