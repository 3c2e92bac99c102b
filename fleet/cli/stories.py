"""Runs and their histories, as people read them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import typer
from temporalio.service import RPCError

from fleet.cli.output import seconds, shorten, visible
from fleet.client import FleetClient, RunInfo
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult, Message
from fleet.contracts.runs import RunResult, RunStatus
from fleet.contracts.tools import ToolRequest, ToolResult
from fleet.documents import plain
from fleet.history import Step, Story

_SHORT = 160


async def pending(client: FleetClient, run_id: str) -> list[dict[str, Any]]:
    """Calls of a run that have not ended: which, on what attempt, and what they wait for."""
    return [
        {
            "activity": p.activity_type.name,
            "attempt": p.attempt,
            "why": p.last_failure.message or ("under way" if p.HasField("last_started_time") else "waits for a worker"),
        }
        for _, p in await pending_calls(client, run_id)
    ]


async def pending_calls(client: FleetClient, run_id: str) -> list[tuple[str, Any]]:
    """Activities that have not ended, of the run and of its effects, each with the workflow that it is of."""
    described = (await client.handle(run_id).describe()).raw_description
    found = [(run_id, one) for one in described.pending_activities]
    for child in described.pending_children:
        # one that ended meanwhile has none
        with suppress(RPCError):
            effect = (await client.handle(child.workflow_id).describe()).raw_description
            found += [(child.workflow_id, one) for one in effect.pending_activities]
    return found


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


def as_json(told: Story) -> dict[str, Any]:
    """The story as one document, nothing shortened."""
    return {
        "run": told.run_id,
        "state": told.state,
        "failure": told.failure,
        "started_at": plain(told.started_at),
        "ended_at": plain(told.ended_at),
        "input": plain(told.run),
        "steps": [
            {**plain(step), "duration_s": step.duration_s, "quota_wait_s": step.quota_wait_s} for step in told.steps
        ],
        "notes": [{"at": plain(at), "what": what} for at, what in told.notes],
        "result": plain(told.result),
    }


def print_story(told: Story, *, full: bool) -> None:
    """The story, a paragraph a step."""
    for line in _lines(told, full=full):
        typer.echo(line)


def _lines(told: Story, *, full: bool) -> Iterator[str]:
    def cut(text: str) -> str:
        return text if full else shorten(text, _SHORT)

    yield f"{told.run_id}: {told.state}{f': {told.failure}' if told.failure else ''}"
    if told.run:
        agent = told.run.agent
        yield f"  agent         {agent.name} on {agent.model}, for tenant {told.run.tenant}"
        yield f"  instructions  {cut(agent.instructions)}"
        yield f"  goal          {cut(told.run.goal)}"
        yield f"  tools         {', '.join(t.spec.name for t in agent.tools) or 'none'}"
    for step in told.steps:
        yield ""
        yield from _step(step, told, cut)
    for at, what in told.notes:
        yield f"\n{at:%H:%M:%S} {what}"
    if told.result:
        waited = sum(told.result.quota_waits_s)
        took = (told.ended_at - told.started_at).total_seconds() if told.ended_at and told.started_at else None
        yield ""
        spent = f"{told.result.steps} steps, {told.result.tokens} tokens, {seconds(waited)} in line for quota"
        why = f" ({told.result.reason})" if told.result.reason else ""
        yield f"{told.result.outcome.value} after {seconds(took)}: {spent}{why}"
        yield cut(told.result.answer)


def _step(step: Step, told: Story, cut: Any) -> Iterator[str]:
    offset = (step.scheduled_at - told.started_at).total_seconds() if told.started_at else 0.0
    attempts = f", {step.attempts} attempts" if step.attempts > 1 else ""
    quota = f", of it {seconds(step.quota_wait_s)} in line for quota" if step.quota_wait_s >= 0.05 else ""
    took = f"{seconds(step.duration_s)}{quota}{attempts}"
    yield f"{step.number:>3}. +{seconds(offset)} {step.what} on {step.task_queue}: {step.outcome}, {took}"
    if isinstance(step.request, ChatRequest):
        new = _new_messages(step.request)
        yield f"     asked     {step.request.model}, {len(step.request.messages)} messages; last: {cut(new)}"
    elif isinstance(step.request, ToolRequest | EffectRequest):
        yield f"     called    {step.request.tool}({cut(json.dumps(step.request.arguments, ensure_ascii=False))})"
    if isinstance(step.result, ChatResult):
        yield from _answer(step.result, cut)
    elif isinstance(step.result, ToolResult | EffectResult) and step.result.content:
        yield f"     answered  {cut(step.result.content)}"
    if step.failure:
        earlier = "earlier  " if step.outcome == "completed" else "because  "
        yield f"     {earlier} {cut(step.failure)}"


def _new_messages(request: ChatRequest) -> str:
    last: Message = request.messages[-1]
    return f"{last.role.value}: {last.content}"


def _answer(result: ChatResult, cut: Any) -> Iterator[str]:
    usage = result.usage
    for call in result.message.tool_calls:
        yield f"     chose     {call.name}({cut(json.dumps(call.arguments, ensure_ascii=False))})"
    if result.message.content:
        yield f"     said      {cut(result.message.content)}"
    yield f"     used      {usage.input_tokens} tokens in, {usage.output_tokens} out ({result.finish_reason})"
