"""Runs and their histories, as people read them."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import typer

from fleet.cli.output import seconds, shorten, table, visible
from fleet.client import RunInfo
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult, Message
from fleet.contracts.runs import RunResult, RunStatus
from fleet.contracts.tools import ToolRequest, ToolResult
from fleet.documents import plain, visible_lines
from fleet.history import Cause, Question, Step, Story, clocks
from fleet.history.deciding import Choice, Decision
from fleet.history.parting import Difference, Parting

_SHORT = 160
LEAST_S = 0.05
"""Shorter times are left out for people."""


def print_run(info: RunInfo, status: RunStatus | None, waits: list[dict[str, Any]], result: RunResult | None) -> None:
    """Where one run stands."""
    typer.echo(f"run      {info.id}")
    typer.echo(f"agent    {info.agent}")
    typer.echo(f"goal     {shorten(info.goal, 200)}")
    typer.echo(f"state    {info.state}, for {seconds(info.duration_s)}")
    if status:
        typer.echo(f"phase    {status.phase.value} {status.doing}".rstrip())
        if status.paused is not None:
            typer.echo(f"paused   {shorten(status.paused, 200)}; fleet resume {info.id}")
        waited = seconds(status.quota_wait_s)
        typer.echo(
            f"spent    {status.steps} steps, {status.tokens} tokens, cost {status.cost}, {waited} in line for quota"
        )
        for approval in status.approvals:
            typer.echo(f"asks     fleet approvals show {approval}")
    elif info.closed_at is None:
        typer.echo("phase    unknown: no worker of the agents' pool answers; start one with `fleet worker agents`")
    for wait in waits:
        typer.echo(f"waits    {wait['activity']} (attempt {wait['attempt']}): {wait['why']}")
    if result:
        typer.echo(f"outcome  {result.outcome.value}{f': {result.reason}' if result.reason else ''}")
        waited = seconds(sum(result.quota_waits_s))
        cost = f"cost {result.cost} {result.currency}".rstrip()
        typer.echo(f"spent    {result.steps} steps, {result.tokens} tokens, {cost}, {waited} in line for quota")
        if result.recalled:
            typer.echo(f"recalled {result.recalled} memories")
        for effect in result.effects:
            typer.echo(f"effect   {_told(effect)}")
        for asked in result.approvals:
            typer.echo(f"approval {_told(asked)}")
        if result.answer:
            typer.echo(f"\n{result.answer}")


def _told(what: dict[str, str]) -> str:
    """An effect or an approval of the result: the tool, where it stands, and all else that is known."""
    aside = ", ".join(f"{k} {visible(v)}" for k, v in what.items() if v and k not in ("tool", "state"))
    return f"{what.get('tool', '')} {what.get('state', '')}{f': {aside}' if aside else ''}"


def _whole(text: str) -> str:
    """All of it, its lines below each other."""
    return f"\n{' ' * 17}".join(visible_lines(text))


def as_json(told: Story) -> dict[str, Any]:
    """The story as one document, nothing shortened."""
    totals = told.totals()
    return {
        "run": told.run_id,
        "state": told.state,
        "failure": told.failure,
        "started_at": plain(told.started_at),
        "ended_at": plain(told.ended_at),
        "duration_s": told.duration_s,
        "time_s": {cause.value: round(spent, 6) for cause, spent in told.time.items()},
        "executions": plain(told.executions),
        "input": plain(told.run),
        "steps": [step_as_json(step) for step in told.steps],
        "questions": plain(told.questions),
        "notes": [{"at": plain(at), "what": what} for at, what in told.notes],
        "totals": {**plain(totals), "cost": f"{totals.cost:f}"},
        "result": plain(told.result),
    }


def step_as_json(step: Step) -> dict[str, Any]:
    """One step, with where its time went."""
    spent = clocks.by_cause([*step.spans, *(span for q in step.asked for span in clocks.of_question(q, None))])
    # plain() of a step would tell its questions twice
    document = {field: value for field, value in plain(step).items() if field not in ("asked", "spans", "calls")}
    return {
        **document,
        "duration_s": step.duration_s,
        "quota_wait_s": step.quota_wait_s,
        "time_s": {cause.value: round(seconds, 6) for cause, seconds in spent.items()},
        "asked": [question.approval.id for question in step.asked],
        "spans": plain(step.spans),
        "calls": [step_as_json(call) for call in step.calls],
    }


def print_story(told: Story, *, full: bool) -> None:
    """The story, a paragraph a step."""
    for line in _lines(told, full=full):
        typer.echo(line)


def _lines(told: Story, *, full: bool) -> Iterator[str]:
    def cut(text: str) -> str:
        return _whole(text) if full else shorten(text, _SHORT)

    yield f"{told.run_id}: {told.state}{f': {visible(told.failure)}' if told.failure else ''}"
    if told.run:
        agent = told.run.agent
        yield f"  agent         {agent.name} on {agent.model}, for tenant {told.run.tenant}"
        yield f"  instructions  {cut(agent.instructions)}"
        yield f"  goal          {cut(told.run.goal)}"
        yield f"  tools         {', '.join(t.spec.name for t in agent.tools) or 'none'}"
    if len(told.executions) > 1:
        gone = sum(link.gone for link in told.executions)
        left = f", {gone} of them gone: retention has removed what came before" if gone else ""
        yield f"  executions    {len(told.executions)}{left}"
    entries = [(step.scheduled_at, list(_step(step, told, cut))) for step in told.steps]
    entries += [(q.approval.opened_at, list(_question(q, told, cut))) for q in told.questions]
    for _, lines in sorted(entries, key=lambda entry: entry[0]):
        yield ""
        yield from lines
    for at, what in told.notes:
        yield f"\n{at:%H:%M:%S} {visible(what)}"
    yield ""
    yield from _ending(told)
    if told.result:
        yield "\n".join(visible_lines(told.result.answer)) if full else cut(told.result.answer)


def _ending(told: Story) -> Iterator[str]:
    totals = told.totals()
    why = f" ({visible(told.result.reason)})" if told.result and told.result.reason else ""
    yield f"{told.state} after {seconds(told.duration_s)}{why}"
    spent = f"{totals.steps} steps, {totals.tokens} tokens ({totals.input_tokens} in, of them {totals.cached_tokens}"
    before = f", {totals.untold_tokens} of executions that are gone" if totals.untold_tokens else ""
    money = f"cost {totals.cost:f} {totals.currency}".rstrip()
    yield f"  spent     {spent} cached, {totals.output_tokens} out{before}), {money}"
    if told.time:
        yield f"  time      {_times(told.time)}"


def _times(spent: Mapping[Cause, float]) -> str:
    return ", ".join(f"{cause.value} {seconds(spent[cause])}" for cause in Cause if spent.get(cause, 0.0) >= LEAST_S)


def _since(at: datetime, told: Story) -> str:
    return seconds((at - told.started_at).total_seconds() if told.started_at else 0.0)


def _step(step: Step, told: Story, cut: Any) -> Iterator[str]:
    attempts = f", {step.attempts} attempts" if step.attempts > 1 else ""
    where = _times(clocks.by_cause(step.spans))
    yield (
        f"{step.name:>5}  +{_since(step.scheduled_at, told)} {step.what} on {step.task_queue}: {step.outcome},"
        f" {seconds(step.duration_s)}{f' ({where})' if where else ''}{attempts}"
    )
    if isinstance(step.request, ChatRequest):
        new = _new_messages(step.request)
        yield f"       asked     {step.request.model}, {len(step.request.messages)} messages; last: {cut(new)}"
    elif isinstance(step.request, ToolRequest | EffectRequest):
        arguments = json.dumps(step.request.arguments, ensure_ascii=False)
        yield f"       called    {step.request.tool}({cut(arguments)})"
    if isinstance(step.result, ChatResult):
        yield from _answer(step.result, step.cost, told, cut)
    elif isinstance(step.result, ToolResult | EffectResult) and step.result.content:
        yield f"       answered  {cut(step.result.content)}"
    if isinstance(step.result, EffectResult) and step.result.evidence:
        yield f"       proof     {cut(', '.join(f'{k} {v}' for k, v in step.result.evidence.items()))}"
    if step.failure:
        earlier = "earlier  " if step.outcome == "completed" else "because  "
        yield f"       {earlier} {cut(step.failure)}"


def _question(question: Question, told: Story, cut: Any) -> Iterator[str]:
    approval = question.approval
    spent = [span.seconds for span in clocks.of_question(question, told.ended_at or told.read_at)]
    who = ", ".join(approval.approvers) or "anybody"
    asked = "whether it was had" if question.settles else "for leave"
    yield (
        f"{question.step:>5}  +{_since(approval.opened_at, told)} asks {visible(who)} {asked}:"
        f" {approval.state.value}, human {seconds(spent[0] if spent else 0.0)}"
    )
    yield f"       about     {approval.tool}({cut(json.dumps(approval.arguments, ensure_ascii=False))})"
    yield f"       rule      {cut(approval.why)}"
    for vote in approval.votes:
        said = f": {vote.comment}" if vote.comment else ""
        yield f"       vote      {cut(f'{vote.by} says {vote.decision.value} ({vote.channel}){said}')}"


def _new_messages(request: ChatRequest) -> str:
    if not request.messages:
        return "nothing"
    last: Message = request.messages[-1]
    return f"{last.role.value}: {last.content}"


def _answer(result: ChatResult, cost: str, told: Story, cut: Any) -> Iterator[str]:
    usage = result.usage
    for call in result.message.tool_calls:
        yield f"       chose     {visible(call.name)}({cut(json.dumps(call.arguments, ensure_ascii=False))})"
    if result.message.content:
        yield f"       said      {cut(result.message.content)}"
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    money = f", cost {cost} {told.price.currency}" if told.price else ""
    spent = f"{usage.input_tokens} tokens in{cached}, {usage.output_tokens} out{money}"
    yield f"       used      {spent} ({result.finish_reason})"


def decision_as_json(decided: Decision) -> dict[str, Any]:
    """A decision as one document."""
    return plain(decided)  # type: ignore[no-any-return]  # a dataclass becomes a document


def print_decision(decided: Decision, *, full: bool) -> None:
    """A decision, as it was recorded."""

    def cut(text: str) -> str:
        return _whole(text) if full else shorten(text, _SHORT)

    typer.echo(f"{decided.run_id}, step {decided.about}: decided by call {decided.step} of {decided.model}")
    typer.echo(f"  was given   {decided.messages} messages; what was new, the last {len(decided.saw_last)}:")
    for message in decided.saw_last:
        called = ", ".join(call.name for call in message.tool_calls)
        typer.echo(f"    {message.role.value:<9} {cut(message.content or (f'calls {called}' if called else ''))}")
    typer.echo("  could take")
    chosen = {choice.tool for choice in decided.choices}
    for tool in decided.offered:
        mark = "*" if tool.name in chosen else " "
        typer.echo(f"    {mark} {tool.name:<14} {cut(tool.description)}")
    if not decided.offered:
        typer.echo("    no tool")
    typer.echo(f"  said        {cut(decided.said) if decided.said else 'nothing'}")
    for choice in decided.choices:
        _print_choice(choice, cut)
    if decided.not_chosen:
        typer.echo(f"  left        {', '.join(decided.not_chosen)}: offered, not asked for; the history has no reason")
    typer.echo(f"  led to      {decided.led_to}")


def _print_choice(choice: Choice, cut: Any) -> None:
    arguments = cut(json.dumps(choice.arguments, ensure_ascii=False))
    typer.echo(f"  chose       {visible(choice.tool)}({arguments}){f' as step {choice.step}' if choice.step else ''}")
    if choice.refused:
        typer.echo(f"    refused   {cut(choice.refused)}")
    if choice.rule:
        typer.echo(f"    rule      {cut(choice.rule)}")
    for question in choice.asked:
        typer.echo(f"    asked     {', '.join(map(visible, question.approval.approvers)) or 'anybody'}")
        for vote in question.approval.votes:
            said = f": {vote.comment}" if vote.comment else ""
            typer.echo(f"    decided   {cut(f'{vote.by} says {vote.decision.value} ({vote.channel}){said}')}")
    if choice.amended is not None:
        typer.echo(f"    amended   {cut(json.dumps(choice.amended, ensure_ascii=False))}")
    typer.echo(f"    became    {cut(choice.fate)}")


def parting_as_json(found: Parting, first: Story, second: Story) -> dict[str, Any]:
    """A comparison as one document."""
    return {
        "runs": [first.run_id, second.run_id],
        "same_path": found.parted is None,
        "same_goal": found.same_goal,
        "same_agent": found.same_agent,
        "common": found.common,
        "parted": plain(found.parted),
        "before": plain(found.before),
        "summary": {told.run_id: _summary(told) for told in (first, second)},
    }


def _summary(told: Story) -> dict[str, Any]:
    totals = told.totals()
    return {
        "state": told.state,
        "steps": totals.steps,
        "calls": len(told.steps) - totals.steps,
        "tokens": totals.tokens,
        "cost": f"{totals.cost:f} {totals.currency}".rstrip(),
        "duration_s": told.duration_s,
        "time_s": {cause.value: round(spent, 6) for cause, spent in told.time.items()},
    }


def print_parting(found: Parting, first: Story, second: Story, *, full: bool) -> None:
    """Where two runs parted, what differed before, and both side by side."""

    def cut(text: str) -> str:
        return _whole(text) if full else shorten(text, _SHORT)

    if not found.same_goal:
        typer.echo("these are runs of two different goals: what follows compares their steps all the same")
    if not found.same_agent:
        typer.echo("their agents are not the same: another definition, or another agent")
    for difference in found.before:
        _print_difference(difference, "differs", cut)
    if found.parted is None:
        typer.echo(f"they went the same path: {len(found.common)} decisions are the same")
    else:
        _print_difference(found.parted, "parted", cut)
    rows: list[tuple[str, ...]] = []
    for name, one in _summary(first).items():
        other = _summary(second)[name]
        if name == "duration_s":
            rows.append(("took", seconds(one), seconds(other)))
        elif name == "time_s":
            for cause in Cause:
                if one.get(cause.value, 0.0) >= LEAST_S or other.get(cause.value, 0.0) >= LEAST_S:
                    spent = [seconds(each.get(cause.value, 0.0)) for each in (one, other)]
                    rows.append((f"  {cause.value}", *spent))
        else:
            rows.append((name, str(one), str(other)))
    typer.echo("")
    table(("", first.run_id, second.run_id), rows, empty="")


def _print_difference(difference: Difference, verb: str, cut: Any) -> None:
    where = f" at step {difference.step}" if difference.step else ""
    typer.echo(f"{verb}{where}: {difference.what.value}")
    typer.echo(f"  first   {cut(difference.first)}")
    typer.echo(f"  second  {cut(difference.second)}")
