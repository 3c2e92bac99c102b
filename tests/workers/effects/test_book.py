"""The book of approvals: events may come late, twice and in any order; a decision stands."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalState, Ask, Decision, Vote
from workers.effects.book import Book

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ARGUMENTS = {"to": "a@example.com", "n": [1, 2.5, None, True], "deep": {"ß": "☃ \x00 \ud800"}}
OPEN = Approval(
    id="run/3",
    run_id="run",
    agent="writer",
    tenant="acme",
    ask=Ask.ALLOW,
    tool="send_email",
    arguments=ARGUMENTS,
    digest="0123456789abcdef",
    why="outside example.org",
    goal="tell them",
    said="I shall",
    approvers=["ann@example.com", "bob@example.com"],
    needed=2,
    notify=["ops"],
    opened_at=NOON,
    expires_at=NOON + timedelta(days=7),
)
FIRST = Vote(
    decision=Decision.APPROVE, by="ann@example.com", channel="link", digest=OPEN.digest,
    at=NOON + timedelta(minutes=1), comment="fine",
)  # fmt: skip
SECOND = Vote(
    decision=Decision.AMEND, by="bob@example.com", channel="cli", digest=OPEN.digest,
    at=NOON + timedelta(minutes=2), arguments={"to": "b@example.com"},
)  # fmt: skip
VOTED = replace(OPEN, votes=[FIRST])
APPROVED = replace(OPEN, votes=[FIRST, SECOND], state=ApprovalState.APPROVED, decided_at=SECOND.at)
STORY = [
    ApprovalEvent(approval=OPEN, what="opened", at=NOON),
    ApprovalEvent(approval=VOTED, what="voted", at=FIRST.at, vote=FIRST),
    # both of one moment: the second vote decides
    ApprovalEvent(approval=replace(VOTED, votes=[FIRST, SECOND]), what="voted", at=SECOND.at, vote=SECOND),
    ApprovalEvent(approval=APPROVED, what="approved", at=SECOND.at, vote=SECOND),
]


@pytest.fixture
def book(database):
    return Book(database)


async def test_an_approval_comes_back_as_it_was_written(book):
    assert await book.get(OPEN.id) is None
    for event in STORY:
        await book.record(event)
        assert await book.get(OPEN.id) == event.approval


async def test_everything_that_befell_it_is_in_the_audit(book):
    for event in STORY:
        await book.record(event)
    rows = await book.audit(subject=OPEN.id)
    assert [(row.what, row.actor, row.channel, row.comment) for row in reversed(rows)] == [
        ("opened", "", "", ""),
        ("voted", "ann@example.com", "link", "fine"),
        ("voted", "bob@example.com", "cli", ""),
        ("approved", "bob@example.com", "cli", ""),
    ]
    assert {(row.subject, row.run_id, row.tenant) for row in rows} == {("run/3", "run", "acme")}
    assert [row.at for row in reversed(rows)] == [event.at for event in STORY]
    assert rows[0].detail == {
        "tool": "send_email", "digest": OPEN.digest, "state": "approved", "decision": "amend",
        "voted_on": OPEN.digest, "arguments": {"to": "b@example.com"},
    }  # fmt: skip


async def test_an_event_recorded_twice_is_one_row(book):
    for event in STORY + STORY:
        await book.record(event)
    assert len(await book.audit()) == len(STORY)
    # the same moment, said in another zone
    elsewhere = timezone(timedelta(hours=5))
    await book.record(replace(STORY[0], at=NOON.astimezone(elsewhere)))
    assert len(await book.audit()) == len(STORY)


async def test_in_whatever_order_events_come_the_decision_stands(book):
    for number, order in enumerate(itertools.permutations(STORY)):
        for event in order:
            await book.record(replace(event, approval=replace(event.approval, id=f"run/{number}")))
        assert await book.get(f"run/{number}") == replace(APPROVED, id=f"run/{number}")


async def test_events_that_come_at_once_are_all_written(book):
    await asyncio.gather(*(book.record(event) for event in STORY + STORY))
    assert await book.get(OPEN.id) == APPROVED
    assert len(await book.audit()) == len(STORY)


async def test_a_decided_approval_is_never_open_again_however_late_it_is_said(book):
    await book.record(STORY[-1])
    await book.record(ApprovalEvent(approval=OPEN, what="reminded", at=NOON + timedelta(days=1)))
    assert (await book.get(OPEN.id)).state is ApprovalState.APPROVED
    assert [row.what for row in await book.audit()] == ["reminded", "approved"]


async def test_an_older_end_does_not_replace_a_newer_one(book):
    withdrawn = replace(OPEN, state=ApprovalState.WITHDRAWN, reason="stopped", decided_at=NOON)
    await book.record(STORY[-1])
    await book.record(ApprovalEvent(approval=withdrawn, what="withdrawn", at=NOON))
    assert (await book.get(OPEN.id)).state is ApprovalState.APPROVED
    assert (await book.audit())[-1].detail["reason"] == "stopped"


async def test_a_newer_end_replaces_an_older_one(book):
    rejected = replace(OPEN, state=ApprovalState.REJECTED, decided_at=NOON + timedelta(hours=1))
    await book.record(STORY[-1])
    await book.record(ApprovalEvent(approval=rejected, what="rejected", at=NOON + timedelta(hours=1)))
    assert await book.get(OPEN.id) == rejected


async def test_open_approvals_come_first_by_their_end_then_the_newest(book):
    def told(name, state=ApprovalState.OPEN, *, opened=0, expires=1, run="run", tenant="acme"):
        approval = replace(
            OPEN, id=name, run_id=run, tenant=tenant, state=state,
            opened_at=NOON + timedelta(hours=opened), expires_at=NOON + timedelta(days=expires),
        )  # fmt: skip
        return book.record(ApprovalEvent(approval=approval, what="said", at=NOON))

    await told("old", ApprovalState.EXPIRED, opened=1)
    await told("new", ApprovalState.REJECTED, opened=2)
    await told("late", expires=9)
    await told("soon", expires=2, run="other", tenant="umbrella")
    assert [a.id for a in await book.approvals()] == ["soon", "late", "new", "old"]
    assert [a.id for a in await book.approvals(limit=2)] == ["soon", "late"]
    assert [a.id for a in await book.approvals(state=ApprovalState.OPEN)] == ["soon", "late"]
    assert [a.id for a in await book.approvals(run_id="other")] == ["soon"]
    assert [a.id for a in await book.approvals(tenant="acme", state=ApprovalState.EXPIRED)] == ["old"]


async def test_other_acts_are_noted_too(book):
    await book.note(
        what="stop", subject="run", run_id="run", tenant="acme", actor="ann", channel="cli", comment="enough",
        detail={"signal": 1},
    )  # fmt: skip
    for number in range(3):
        await book.note(what="cancel", subject=f"r{number}", at=NOON + timedelta(seconds=number))
        await book.note(what="cancel", subject=f"r{number}", at=NOON + timedelta(seconds=number))
    (row,) = await book.audit(run_id="run")
    assert (row.what, row.subject, row.tenant, row.actor, row.channel) == ("stop", "run", "acme", "ann", "cli")
    assert (row.comment, row.detail) == ("enough", {"signal": 1})
    assert [row.subject for row in await book.audit()] == ["run", "r2", "r1", "r0"]
    assert len(await book.audit(limit=2)) == 2
