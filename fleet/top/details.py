"""What is said of one quota, pool, run or approval, line by line."""

import json
from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

from fleet.cli.output import moment, seconds, shorten, visible
from fleet.contracts.effects import EffectRequest
from fleet.contracts.llm import ChatResult
from fleet.contracts.tools import ToolRequest
from fleet.history import Step
from fleet.pools import PoolView, Slots
from fleet.top.layout import bar
from fleet.top.picture import ApprovalDetail, QuotaDetail, RunDetail
from fleet.top.telling import BAD, DIM, WARN, pool_remark, quota_state

_BAR = 20
_SHORT = 110
_MOST_PLACES = 50


def quota(found: QuotaDetail) -> Text:
    """A scope: its limits, who stands in line, who has changed it."""
    one = found.quota
    state, style = quota_state(one)
    text = Text()
    _field(text, "state", state, style)
    _field(text, "pace", f"{one.pace:.0%} of the rate", WARN if one.pace < 1 else "")
    if one.within:
        _field(text, "within", one.within)
    lately = f", {one.lately} of them in the last minute" if one.lately else ""
    _field(text, "429s", f"{one.rejections:,} rejections by the provider{lately}", WARN if one.lately else "")
    rate = "-" if one.calls_per_s is None else f"{one.calls_per_s:.1f}/s, booked to wait {seconds(one.wait_s)}"
    _field(text, "calls", f"{one.grants:,} so far, now {rate}")
    line = "until somebody opens it" if one.closed else seconds(one.line_s)
    _field(text, "line", f"{line} until a call that asks now may start")
    _field(text, "version", f"{one.version}")
    _head(text, "LIMITS")
    for limit in one.limits:
        left = f"{limit.level:,.0f} of {limit.burst:,.0f} left" if limit.level >= 0 else f"{-limit.level:,.0f} owed"
        aside = [f"rate {limit.rate}"]
        aside += [f"closed for {seconds(limit.closed_s)}"] if limit.closed_s else []
        aside += [f"would have refused {limit.shadowed}"] if limit.shadow else []
        aside += [f"the provider says {limit.said}"] if limit.said else []
        text.append(f"  {visible(limit.name):<16}{bar(limit.used, _BAR)} {limit.used:>4.0%}  ")
        text.append(f"{left}, {', '.join(map(visible, aside))}\n", BAD if limit.level < 0 else "")
    if not one.limits:
        text.append("  not set yet: the first call sets what the manifest says\n", DIM)
    _head(text, f"IN LINE  {len(found.line)}")
    for number, place in enumerate(found.line[:_MOST_PLACES], 1):
        back = ", comes back for it" if place.held else ""
        text.append(
            f"  {number:>3}  {visible(place.key)}: in {seconds(place.wait_s)} by {visible(place.limit)}{back}\n"
        )
    if len(found.line) > _MOST_PLACES:
        text.append(f"  and more: fleet quota show {one.scope} --line 1000\n", DIM)
    if not found.line:
        text.append("  nobody stands in line under a key\n", DIM)
    _head(text, "HISTORY")
    for change in found.changes:
        why = f": {visible(change.reason)}" if change.reason else ""
        text.append(f"  {moment(change.at)}  {change.action} by {visible(change.by) or '-'}{why}")
        text.append(f"  {visible(change.limits)}\n", DIM)
    if not found.changes:
        text.append("  never set\n", DIM)
    return text


def pool(found: PoolView, now: datetime) -> Text:
    """A pool: its queue and its workers."""
    text = Text()
    remark, style = pool_remark(found)
    _field(text, "queue", found.task_queue)
    _field(text, "live", f"{found.live} of {len(found.workers)} workers take new work")
    if remark:
        _field(text, "trouble", remark, style)
    _field(text, "new work", f"goes to {found.current or 'any worker'}")
    for kind, backlog in zip(("steps", "calls"), (found.workflows, found.activities), strict=True):
        if backlog is not None:
            oldest = f", the oldest for {seconds(backlog.oldest_s)}" if backlog.count else ""
            limited = ", held back by a rate limit of the queue" if backlog.limited else ""
            rates = f"{backlog.added_per_s:.1f}/s in, {backlog.dispatched_per_s:.1f}/s out"
            _field(text, kind, f"{backlog.count:,} wait{oldest}; {rates}{limited}")
    _head(text, f"WORKERS  {len(found.workers)}")
    for worker in sorted(found.workers, key=lambda w: (w.state == "running", w.build, w.identity)):
        style = {"silent": BAD, "stopping": WARN}.get(worker.state, "")
        up = f", up {seconds((now - worker.started_at).total_seconds())}" if worker.started_at else ""
        seen = seconds(max(0.0, (now - worker.seen_at).total_seconds()))
        text.append(f"  {worker.state:<9}", style)
        text.append(f"{visible(worker.identity)}", "bold")
        text.append(f"  build {visible(worker.build) or '-'}, seen {seen} ago{up}")
        text.append(f"; steps {_slots(worker.workflows)}, calls {_slots(worker.activities)}\n")
    if not found.workers:
        text.append(f"  nobody: fleet worker {found.name}\n", BAD)
    return text


def run(found: RunDetail) -> Text:
    """A run: where it stands, what it waits for, and its last steps."""
    info, status = found.info, found.status
    text = Text()
    _field(text, "agent", f"{info.agent} on {info.model or '?'}, for tenant {info.tenant}")
    _field(text, "goal", shorten(info.goal, 600))
    _field(text, "state", f"{info.state}{f' ({info.status})' if info.status else ''}, for {seconds(info.duration_s)}")
    if status is not None:
        stopping = ", asked to stop" if status.stop_requested else ""
        _field(text, "phase", f"{status.phase.value} {status.doing}{stopping}".rstrip())
        if status.paused is not None:
            _field(text, "paused", shorten(status.paused, 200), WARN)
        waited = seconds(status.quota_wait_s)
        spent = f"{status.steps} steps, {status.tokens:,} tokens, cost {status.cost}, {waited} in line for quota"
        _field(text, "spent", spent)
        for asked in status.approvals:
            _field(text, "asks", f"approval {asked}", WARN)
    elif info.closed_at is None:
        _field(text, "phase", "unknown: no worker of the agents' pool answers: fleet worker agents", WARN)
    _head(text, "WHY")
    for wait in found.waits:
        text.append(f"  {visible(wait)}\n")
    _head(text, "STEPS  of its newest execution")
    for step in found.steps:
        _step(text, step, found)
    if found.note:
        text.append(f"  {visible(found.note)}\n", DIM)
    return text


def approval(found: ApprovalDetail) -> Text:
    """An approval: exactly what is decided, and who has said what."""
    text = Text()
    if found.note:
        text.append(f"{visible(found.note)}\n\n", WARN)
    for line in found.lines:
        text.append(f"{line}\n")
    return text


def _step(text: Text, step: Step, found: RunDetail) -> None:
    attempts = f", {step.attempts} attempts" if step.attempts > 1 else ""
    since = seconds(max(0.0, (step.scheduled_at - found.info.started_at).total_seconds()))
    style = BAD if step.outcome in ("failed", "timed out") else WARN if step.outcome == "pending" else ""
    text.append(f"  {step.name:>5}  +{since:<8}{visible(step.what)}: ")
    text.append(visible(step.outcome), style)
    text.append(f", {seconds(step.duration_s)}{attempts}\n")
    for line in _content(step):
        text.append(f"         {line}\n", DIM)


def _content(step: Step) -> Iterator[str]:
    if isinstance(step.request, ToolRequest | EffectRequest):
        arguments = json.dumps(step.request.arguments, ensure_ascii=False)
        yield f"{visible(step.request.tool)}({shorten(arguments, _SHORT)})"
    if isinstance(step.result, ChatResult):
        calls = ", ".join(visible(call.name) for call in step.result.message.tool_calls)
        yield f"chose {calls}" if calls else f"said {shorten(step.result.message.content, _SHORT)}"
    if step.failure:
        yield f"because {shorten(step.failure, _SHORT)}"


def _slots(slots: Slots | None) -> str:
    return f"{slots.used} of {slots.used + slots.free}" if slots else "-"


def _field(text: Text, name: str, value: str, style: str = "") -> None:
    text.append(f"{name:<10}", DIM)
    text.append(f"{visible(value)}\n", style)


def _head(text: Text, words: str) -> None:
    text.append(f"\n{words}\n", "bold")
