"""`fleet approvals` as an approver meets it: a run that waits, its audit, a process for every command."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import activity

from fleet.cli import approvals
from fleet.cli.approvals import _instead, lines_of, standing
from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalRule, Ask, Decision, Vote
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState
from fleet.contracts.runs import Outcome
from fleet.contracts.tools import APPROVAL_RECORD
from fleet.errors import BadInput
from tests.fleet.fakes import Fakes, calls, says, start, started
from workers.database import Database
from workers.effects.book import Book

PAY = {"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "r"}
ANA, BO = "ana@example.com", "bo@example.com"


@dataclass
class Recording(Fakes):
    """Approvals are written into the database that the commands read."""

    book: Book | None = None
    opened: list[str] = field(default_factory=list)

    @activity.defn(name=APPROVAL_RECORD.name)
    async def record(self, event: ApprovalEvent) -> None:
        assert self.book is not None
        await self.book.record(event)
        if event.what == "opened":
            self.opened.append(event.approval.id)
        self.asked.set()


def paying(database: Database, **arguments: str) -> Recording:
    """A run that transfers once, then says so."""
    return Recording(script=[calls("transfer", **{**PAY, **arguments}), says("paid")], book=Book(database))


def open_approval(**fields: Any) -> Approval:
    now = datetime.now(UTC)
    return Approval(
        agent="a", tenant="t", ask=Ask.ALLOW, digest="d", why="w", goal="g", opened_at=now,
        **{"id": "r/1", "run_id": "r", "tool": "transfer", "arguments": PAY, "expires_at": now + timedelta(hours=1)}
        | fields,
    )  # fmt: skip


async def answered(found, said: str) -> str:
    """What a command that was done has said on stderr."""
    assert (found.returncode, found.stdout.strip()) == (0, said), found
    return found.stderr


def refused(found) -> str:
    assert (found.returncode, found.stdout) == (2, ""), found
    assert "Traceback" not in found.stderr
    return found.stderr.strip().splitlines()[-1]


async def test_an_approval_is_listed_shown_and_approved_by_two(operator, temporal, database):
    fakes = paying(database)
    rules = [ApprovalRule(tool="transfer", over={"EUR": "100"}, approvers=[ANA, BO], needed=2)]
    async with started(temporal, fakes, approvals=rules) as run:
        await asyncio.wait_for(fakes.asked.wait(), 20)
        (asked,) = fakes.opened
        listed = json.loads((await operator.aside("approvals", "ls", "--run", run.id, "--json")).stdout)
        assert [(one["id"], one["state"], one["arguments"]) for one in listed] == [(asked, "open", PAY)]
        table = (await operator.aside("approvals", "ls")).stdout
        for word in (
            "APPROVAL",
            "OPEN FOR",
            asked,
            "transfer(amount=120.50, currency=EUR, payee=DE1",
            "over 100 EUR",
            "open",
        ):
            assert word in table
        shown = (await operator.aside("approvals", "show", asked)).stdout
        digest = listed[0]["digest"]
        for word in ('argument  amount: "120.50"', f"digest    {digest}", "0 of 2 agree", ANA, "opened", "find out"):
            assert word in shown

        assert "another approver must" not in refused(await operator.aside("approvals", "approve", asked))
        one = await operator.aside("approvals", "approve", asked, "--by", ANA, "--comment", "as agreed")
        what = await answered(one, f"{asked}: 1 of 2: another approver must agree")
        assert 'argument  amount: "120.50"' in what
        assert digest in what
        again = refused(await operator.aside("approvals", "approve", asked, "--by", "ANA@example.com"))
        assert "has decided" in again
        other = refused(await operator.aside("approvals", "approve", asked, "--by", BO, "--digest", "0" * 16))
        assert "its arguments have changed" in other
        two = await operator.aside("approvals", "approve", asked, "--by", BO, "--digest", digest, "--json")
        decided = json.loads(two.stdout)
        assert (decided["state"], [vote["channel"] for vote in decided["votes"]]) == ("approved", ["cli", "cli"])
        assert (await run.result()).outcome is Outcome.COMPLETED
        assert [sent.arguments for sent in fakes.sent] == [PAY]

        too_late = refused(await operator.aside("approvals", "reject", asked, "--by", BO))
        assert "has ended already" in too_late
        after = (await operator.aside("approvals", "show", asked)).stdout
        for word in (f"approved by {ANA}, {BO}", "as agreed", "audit     ", f"voted by {ANA} (cli)", "approved by"):
            assert word in after
        assert (await operator.aside("approvals", "ls", "--run", run.id)).stdout == "no approvals that are open\n"
        assert asked in (await operator.aside("approvals", "ls", "--state", "approved")).stdout
        seen = (await operator.aside("show", run.id)).stdout
        assert "effect   transfer done: step " in seen
        assert f"approval transfer approved: by {ANA}, {BO}, comment as agreed, id {asked}" in seen


async def test_a_call_is_amended_within_the_policy_and_not_beyond(operator, temporal, database):
    fakes = paying(database)
    rules = [ApprovalRule(tool="transfer", approvers=["*@example.com"], amend="amount <= 500")]
    async with started(temporal, fakes, approvals=rules) as run:
        await asyncio.wait_for(fakes.asked.wait(), 20)
        (asked,) = fakes.opened
        status = (await operator.aside("show", run.id)).stdout
        assert f"phase    approval {asked}" in status
        assert f"asks     fleet approvals show {asked}" in status
        amend = ("approvals", "amend", asked, "--by", ANA)
        assert "amended beyond the policy" in refused(await operator.aside(*amend, "--set", "amount=501"))
        assert "no argument 'amuont'" in refused(await operator.aside(*amend, "--set", "amuont=5"))
        assert "skip answers only" in refused(await operator.aside("approvals", "skip", asked, "--by", ANA))
        (operator.folder / "less.json").write_text(json.dumps(PAY | {"amount": "90"}))
        found = await operator.aside(*amend, "--arguments", "@less.json")
        what = await answered(found, f"{asked}: approved")
        assert 'argument  amount: "120.50"' in what
        assert 'instead   amount: "90"' in what
        await run.result()
        assert [sent.arguments["amount"] for sent in fakes.sent] == ["90"]


async def test_a_rejected_call_is_not_made(operator, temporal, database):
    fakes = paying(database)
    async with started(temporal, fakes, approvals=[ApprovalRule(tool="transfer")]) as run:
        await asyncio.wait_for(fakes.asked.wait(), 20)
        (asked,) = fakes.opened
        await answered(await operator.aside("approvals", "reject", asked, "--comment", "no"), f"{asked}: rejected")
        await run.result()
        assert fakes.sent == []
    rows = json.loads((await operator.aside("audit", "--subject", asked, "--json")).stdout)
    assert [(row["what"], row["channel"], row["comment"]) for row in rows] == [
        ("rejected", "cli", "no"),
        ("opened", "", ""),
    ]


async def test_an_effect_that_nobody_knows_of_is_skipped(operator, temporal, database):
    def unknown(request: EffectRequest) -> EffectResult:
        return EffectResult(state=EffectState.UNKNOWN, reason="the relay hung up")

    fakes = paying(database)
    fakes.effect = unknown
    async with started(temporal, fakes) as run:
        await asyncio.wait_for(fakes.asked.wait(), 20)
        (asked,) = fakes.opened
        assert asked.endswith("/settle")
        assert "was it had? transfer(" in (await operator.aside("approvals", "ls")).stdout
        amend = await operator.aside("approvals", "amend", asked, "--set", "amount=1")
        assert "amend answers only the question whether a call may be made" in refused(amend)
        await answered(await operator.aside("approvals", "skip", asked), f"{asked}: skipped")
        await run.result()


async def test_without_a_worker_the_audit_answers_and_nothing_is_decided(operator, temporal, database, monkeypatch):
    monkeypatch.setattr(approvals, "WITHIN_S", 0.5)
    run = await start(temporal, "nobody-serves-this")
    asked = open_approval(id=f"{run.id}/1.1", run_id=run.id)
    await Book(database).record(ApprovalEvent(approval=asked, what="opened", at=asked.opened_at))
    found = await operator.aside("approvals", "show", asked.id)
    assert found.returncode == 0
    assert 'argument  amount: "120.50"' in found.stdout
    assert "this is what the audit says, the run does not answer: no worker" in found.stderr
    assert "audit     " in found.stdout
    assert "fleet worker agents" in refused(await operator.aside("approvals", "approve", asked.id))
    await run.terminate()
    assert "has ended already (terminated)" in refused(await operator.aside("approvals", "approve", asked.id))
    told = json.loads((await operator.aside("approvals", "show", asked.id, "--json")).stdout)
    assert (told["source"], told["approval"]["id"]) == ("audit", asked.id)


async def test_what_nobody_has_closed_in_time_is_overdue(operator, database):
    book, now = Book(database), datetime.now(UTC)
    for number, until in enumerate((now - timedelta(minutes=1), now + timedelta(hours=1))):
        asked = open_approval(id=f"r/{number}", expires_at=until)
        await book.record(ApprovalEvent(approval=asked, what="opened", at=asked.opened_at))
    lines = (await operator.aside("approvals", "ls")).stdout.splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:]] == [("r/0", "overdue"), ("r/1", "open")]
    listed = json.loads((await operator.aside("approvals", "ls", "--json")).stdout)
    assert [(one["state"], one["overdue"]) for one in listed] == [("open", True), ("open", False)]


async def test_a_verdict_that_is_refused_is_in_the_audit(operator, temporal, database, tmp_path):
    fakes = paying(database)
    async with started(temporal, fakes, approvals=[ApprovalRule(tool="transfer", approvers=[ANA])]) as run:
        await asyncio.wait_for(fakes.asked.wait(), 20)
        (asked,) = fakes.opened
        wrong = ("approvals", "approve", asked, "--by", BO, "--comment", "me too")
        why = refused(await operator.aside(*wrong)).removeprefix("fleet: ")
        rows = json.loads((await operator.aside("audit", "--run", run.id, "--json")).stdout)
        (row,) = [row for row in rows if row["what"] == "approval.refused"]
        assert (row["subject"], row["actor"], row["channel"], row["comment"]) == (asked, BO, "cli", why)
        assert (row["detail"]["decision"], row["detail"]["said"]) == ("approve", "me too")
        # without the database it is refused for the same reason
        operator.settings["FLEET_DATABASE_URL"] = f"sqlite+aiosqlite:///{tmp_path}/none.db"
        found = await operator.aside(*wrong)
        assert refused(found) == f"fleet: {why}"
        assert "the audit was not written" in found.stderr
        operator.settings.pop("FLEET_DATABASE_URL")
        await run.terminate()


def test_what_cannot_be_decided_is_one_line(operator):
    assert "no run 'nobody'" in operator.refused("approvals", "approve", "nobody/1")
    assert "'x' is not of the form RUN/STEP" in operator.refused("approvals", "reject", "x")
    assert "no approval 'nobody/1'" in operator.refused("approvals", "show", "nobody/1")
    assert "'closed' is not one of open" in operator.refused("approvals", "ls", "--state", "closed")
    for more in ([], ["--set", "a=1", "--arguments", "{}"]):
        assert "one of both" in operator.refused("approvals", "amend", "a/1", *more)


def test_approvals_need_the_database_to_be_listed(operator, tmp_path):
    none = f"sqlite+aiosqlite:///{tmp_path}/none.db"
    assert "fleet db upgrade" in operator.refused("approvals", "ls", FLEET_DATABASE_URL=none)
    assert not (tmp_path / "none.db").exists()


def test_single_arguments_are_json_unless_the_tool_wants_text():
    transfer = open_approval()
    assert _instead(transfer, ["amount=90", "reference=a=b"], None) == PAY | {"amount": "90", "reference": "a=b"}
    webhook = open_approval(tool="send_webhook", arguments={"endpoint": "e", "type": "t", "data": {}})
    assert _instead(webhook, ['data={"n": 1}', "type=5"], None) == {"endpoint": "e", "type": "5", "data": {"n": 1}}
    unheard_of = open_approval(tool="other", arguments={"text": "a", "count": 1})
    assert _instead(unheard_of, ["text=5", "count=6", "new=[1", "none=null", "nan=NaN"], None) == {
        "text": "5",
        "count": 6,
        "new": "[1",
        "none": None,
        "nan": "NaN",
    }


@pytest.mark.parametrize(
    ("amended", "arguments", "words"),
    [
        (["amount"], None, "amount=120.50"),
        (["=5"], None, "amount=120.50"),
        ([], "[1]", "not a JSON object"),
        ([], "nonsense", "not a JSON object"),
        ([], "@none.json", "cannot be read"),
    ],
)
def test_amendments_that_make_no_sense_are_refused(amended, arguments, words):
    with pytest.raises(BadInput, match=words):
        _instead(open_approval(), amended, arguments)


def test_what_a_terminal_would_hide_is_shown():
    hidden = open_approval(arguments={"payee": "DE1\x1b[2K\u202eEVIL", "amount": "1"})
    (line,) = [line for line in lines_of(hidden) if "payee" in line]
    assert line == 'argument  payee: "DE1\\u001b[2K\\u202eEVIL"'


def test_those_who_agree_are_counted():
    def vote(decision: Decision) -> Vote:
        return Vote(decision=decision, by="x", channel="cli", digest="d", at=datetime.now(UTC))

    three = open_approval(needed=3)
    votes = [vote(Decision.AMEND), vote(Decision.APPROVE)]
    assert standing(replace(three, votes=votes)) == "2 of 3: another approver must agree"
    split = [vote(Decision.APPROVE), vote(Decision.REJECT)]
    assert standing(replace(three, ask=Ask.SETTLE, votes=split)) == "1 of 3: another approver must agree"
