"""Humans are asked: approvals are written down, and those who may decide are told."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from fleet.conditions import is_pattern
from fleet.contracts import metrics
from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalState, Ask, Notice
from fleet.contracts.names import WAITS, FailureType
from fleet.contracts.tools import APPROVAL_NOTIFY, APPROVAL_RECORD
from fleet.documents import visible, visible_lines
from fleet.links import NOBODY
from workers import failures, tracing
from workers.admission import Admission
from workers.effects.attempts import database
from workers.effects.book import Book
from workers.heartbeat import beating
from workers.metrics import METRICS
from workers.providers import errors
from workers.providers.mail import Mailer
from workers.providers.webhooks import Endpoint, WebhookClient, cloud_event
from workers.tools.mail import compose

Link = Callable[[Approval, str], str | None]
"""The link by which one approver may decide one approval; None where there are no links."""
_MOST_FAILURES = 100
_LONGEST_ARGUMENT = 2_000
_LONGEST_WORDS = 500
_INDENT = " " * 10
LOOK = "look"
"""Name of a webhook's link that only shows."""
_MAILED = 10_000

log = structlog.get_logger("fleet.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """How people are reached: each endpoint of the manifest is in one of these."""

    webhooks: Mapping[str, Endpoint]
    slacks: Mapping[str, Endpoint]
    mailers: Mapping[str, tuple[Mailer, str]]
    """With the scope that the mailer's quota is of."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Those that lack something, and what."""


class NotifyTools:
    """Serves `approval.record` and `approval.notify`."""

    def __init__(self, book: Book, client: WebhookClient, channels: Channels, link: Link, admission: Admission) -> None:
        self._book = book
        self._admission = admission
        self._client = client
        self._channels = channels
        self._link = link
        self._mailed: deque[str] = deque(maxlen=_MAILED)
        """Keys of what this process has sent: one address that fails has the others written to once."""

    @activity.defn(name=APPROVAL_RECORD.name)
    async def record(self, event: ApprovalEvent) -> None:
        """Write an event of an approval into the audit."""
        async with beating(), database():
            await self._book.record(event)

    @activity.defn(name=APPROVAL_NOTIFY.name)
    async def notify(self, notice: Notice) -> None:
        """Tell people of an approval through one endpoint."""
        mailer = self._channels.mailers.get(notice.endpoint)
        addresses = [who for who in _addresses(notice) if _mail_key(notice, who) not in self._mailed] if mailer else []
        scope = mailer[1] if mailer and addresses else None
        cost = {"messages": float(len(addresses)), "recipients": float(len(addresses))}
        outcome: str | None = "failed"
        try:
            async with self._admission.admitted(
                scope, cost, max_failures=_MOST_FAILURES, agent=notice.approval.agent
            ) as admitted:
                admitted.sent()
                with tracing.calling(f"tell {notice.endpoint}", {"fleet.approval.id": notice.approval.id}):
                    await self._tell(notice, addresses)
            outcome = "told"
        except ApplicationError as error:
            if error.type in WAITS:
                # a state: nobody has been asked to take it yet, or it is to come back later
                outcome = None
            raise
        finally:
            if outcome is not None:
                METRICS.of(metrics.APPROVAL_NOTICES).labels(notice.endpoint, outcome).inc()

    async def _tell(self, notice: Notice, addresses: list[str]) -> None:
        name = notice.endpoint
        if name in self._channels.webhooks:
            await self._webhook(notice, self._channels.webhooks[name])
        elif name in self._channels.slacks:
            # many read a channel: nobody's own link is posted there, only one to look by
            text = _escaped(self._text(notice, [_anybody(notice)]))
            await self._client.slack(self._channels.slacks[name], text=text)
        elif name in self._channels.mailers:
            await self._mails(notice, addresses, self._channels.mailers[name][0])
        else:
            why = self._channels.unusable.get(name) or f"the manifest has no endpoint {name!r}"
            raise failures.final(FailureType.TOOL_FAILED, why)

    async def _webhook(self, notice: Notice, endpoint: Endpoint) -> None:
        approval = notice.approval
        body, content_type = cloud_event(
            id=_id(notice),
            source=f"fleet/{approval.agent}",
            type=f"fleet.approval.{notice.what}",
            subject=approval.id,
            time=notice.at or approval.decided_at or approval.opened_at,
            data={
                **document(approval),
                "summary": f"{_summary(notice)} ({visible(approval.why)})",
                "links": self._links(notice),
            },
        )
        await self._client.deliver(endpoint, message_id=_id(notice), body=body, content_type=content_type)

    async def _mails(self, notice: Notice, addresses: list[str], mailer: Mailer) -> None:
        refused: list[BaseException] = []
        for address in addresses:
            key = _mail_key(notice, address)
            try:
                message = compose(
                    mailer.sender, key, to=address, subject=_summary(notice), body=self._text(notice, [address])
                )
                await mailer.send(message, key=key)
            except (errors.BadRequest, ApplicationError) as error:
                # an address that is refused keeps nobody else from being told
                refused.append(error)
                log.warning("approver is not told", approval=notice.approval.id, to=address, why=str(error))
            else:
                self._mailed.append(key)
        if refused and len(refused) == len(addresses):
            raise refused[0]

    def _links(self, notice: Notice) -> dict[str, str]:
        """By approver; where none is named, the one that a channel gets."""
        if notice.approval.state is not ApprovalState.OPEN:
            return {}
        people = {who: who for who in notice.to if not is_pattern(who)}
        named = people or {_anybody(notice) or LOOK: _anybody(notice)}
        links = {name: self._link(notice.approval, who) for name, who in named.items()}
        return {name: link for name, link in links.items() if link is not None}

    def _text(self, notice: Notice, to: list[str]) -> str:
        approval = notice.approval
        lines = [_summary(notice), ""]
        lines += [f"{visible(name)}: {_shown(value)}" for name, value in approval.arguments.items()]
        lines += ["", f"why       {visible(approval.why)}", f"goal      {_indented(approval.goal)}"]
        if approval.said:
            lines.append(f"it says   {_indented(approval.said)}")
        lines += [visible(f"run       {approval.run_id} (agent {approval.agent}, tenant {approval.tenant})")]
        lines += [f"approval  {approval.id}, arguments {approval.digest}"]
        if approval.state is ApprovalState.OPEN:
            lines += [f"until     {approval.expires_at:%Y-%m-%d %H:%M} UTC", ""]
            lines += [f"decide    fleet approvals show {approval.id}"]
            lines += [f"or        {link}" for who in to if (link := self._link(approval, who)) is not None]
        else:
            votes = ", ".join(f"{vote.by}: {vote.decision.value}" for vote in approval.votes)
            lines += ["", visible(f"{approval.state.value} {votes or approval.reason}")]
        return "\n".join(lines)


def _addresses(notice: Notice) -> list[str]:
    """Who is written to: patterns are nobody, and those who have decided know it."""
    if notice.approval.state is not ApprovalState.OPEN and not notice.approval.reason:
        return []
    return [who for who in notice.to if "@" in who and not is_pattern(who)]


def document(approval: Approval) -> dict[str, Any]:
    """An approval as JSON for others."""
    return {
        "id": approval.id,
        "run": approval.run_id,
        "agent": approval.agent,
        "tenant": approval.tenant,
        "ask": approval.ask.value,
        "tool": approval.tool,
        "arguments": approval.arguments,
        "digest": approval.digest,
        "why": approval.why,
        "goal": approval.goal,
        "said": approval.said,
        "approvers": approval.approvers,
        "needed": approval.needed,
        "state": approval.state.value,
        "opened_at": approval.opened_at.isoformat(),
        "expires_at": approval.expires_at.isoformat(),
        "votes": [
            {"by": v.by, "decision": v.decision.value, "at": v.at.isoformat(), "comment": v.comment}
            for v in approval.votes
        ],
    }


def _summary(notice: Notice) -> str:
    approval = notice.approval
    asked = f"may it call {approval.tool}?" if approval.ask is Ask.ALLOW else f"was {approval.tool} done?"
    prefix = {"opened": "", "reminded": "Reminder: ", "escalated": "Escalated: "}.get(notice.what, f"{notice.what}: ")
    return visible(f"{prefix}{approval.agent}: {asked}")


def _shown(value: Any) -> str:
    """On one line: what a value says cannot pass for a line of ours."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    cut = f"… ({len(text)} characters)" if len(text) > _LONGEST_ARGUMENT else ""
    return f"{visible(text[:_LONGEST_ARGUMENT])}{cut}"


def _indented(text: str) -> str:
    return f"\n{_INDENT}".join(visible_lines(text[:_LONGEST_WORDS]))


def _escaped(text: str) -> str:
    """For Slack, where `<` begins links and mentions: https://docs.slack.dev/messaging/formatting-message-text"""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _anybody(notice: Notice) -> str:
    """Whom a link is for that many read."""
    return NOBODY if notice.approval.approvers else f"anybody in {notice.endpoint}"


def _mail_key(notice: Notice, address: str) -> str:
    return f"{_id(notice)}/{address}"


def _id(notice: Notice) -> str:
    """The same for every attempt to tell this."""
    approval = notice.approval
    # two reminders without a vote between them differ in nothing but their time
    told = [str(len(approval.votes))] if notice.at is None else [notice.at.isoformat(), approval.digest]
    about = "/".join([approval.id, notice.what, *told, *notice.to])
    return f"{notice.what}-{sha256(about.encode()).hexdigest()[:24]}"
