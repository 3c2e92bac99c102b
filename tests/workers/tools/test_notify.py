"""Those who may decide are told, each through their own link, and nobody else gets one."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from functools import partial

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalState, Ask, Decision, Notice, Vote, digest
from fleet.contracts.names import WAITS, FailureType
from fleet.links import NOBODY, Links
from tests.workers.attempting import Flaky
from workers.effects.book import Book
from workers.metrics import Metrics
from workers.providers.mail_api import MailApi
from workers.providers.smtp import Relay
from workers.providers.webhooks import Endpoint, WebhookClient
from workers.tools import notify as notifying
from workers.tools.notify import Channels, NotifyTools

NOW = datetime.now(UTC).replace(microsecond=0)
ARGUMENTS = {"payee": "DE01", "amount": "900", "currency": "EUR", "reference": "<b>Zahlung</b>\nBcc: x@evil.com"}
ANN, BOB = "ann@example.com", "bob@example.com"
ASKED = Approval(
    id="run-1/3.1",
    run_id="run-1",
    agent="payer",
    tenant="acme",
    ask=Ask.ALLOW,
    tool="transfer",
    arguments=ARGUMENTS,
    digest=digest("transfer", ARGUMENTS),
    why="over 500 EUR",
    goal="pay invoice 17",
    said="I pay it now",
    approvers=[ANN, BOB, "*@example.com"],
    opened_at=NOW,
    expires_at=NOW + timedelta(days=7),
)
OPENED = Notice(approval=ASKED, what="opened", endpoint="approvers", to=ASKED.approvers)
ENDED = replace(
    ASKED,
    state=ApprovalState.APPROVED,
    decided_at=NOW,
    votes=[Vote(decision=Decision.APPROVE, by=ANN, channel="link", digest=ASKED.digest, at=NOW)],
)
LINK_KEY = "k" * 32
SECRET = "whsec_c2lnbmVkLWJ5LXRoZS1mbGVldC1mb3ItdGVzdHM="
API_KEY = "re_very_secret"
SECRETS = (LINK_KEY, SECRET, API_KEY, "c2lnbmVkLWJ5")


class Board:
    """The tools over simulated relays and receivers, and what those have received."""

    def __init__(self, outside, folder, *, api=False, port=None):
        where = outside.where
        self.outside, self._folder = outside, folder
        self.links = Links("https://fleet.example.com/", LINK_KEY)
        relay = Relay(
            host="127.0.0.1", port=port or where.smtp_port, tls="none", sender="fleet@example.com", timeout_s=5
        )
        mailer = MailApi(base_url=where.http, key=API_KEY, sender="fleet@example.com") if api else relay
        hook, slack = (
            Endpoint(name=name, url=f"{where.http}{path}", secret=SECRET, allow_private=True, timeout_s=5)
            for name, path in (("hook", "/hooks/hook"), ("ops", "/slack/ops"))
        )
        self.tools = NotifyTools(
            Book(outside.flaky),
            WebhookClient(),
            Channels(webhooks={"hook": hook}, slacks={"ops": slack}, mailers={"approvers": (mailer, "email/relay")}),
            self.links.link,
            outside.attempts()._admission,
        )

    async def tell(self, notice=OPENED):
        await ActivityEnvironment().run(self.tools.notify, notice)

    async def refused(self, notice=OPENED):
        with pytest.raises(ApplicationError) as raised:
            await self.tell(notice)
        return raised.value

    def mails(self):
        """By recipient: subject and text of each."""
        found = {}
        for file in sorted(self._folder.glob("Maildir/new/*"), key=lambda file: file.stat().st_mtime_ns):
            message = message_from_bytes(file.read_bytes(), policy=default)
            found.setdefault(str(message["To"]), []).append((str(message["Subject"]), message.get_content()))
        return found

    async def told(self, name):
        return [json.loads(delivery["body"]) for delivery in await self.outside.get("/_hooks", name=name)]

    def granted(self, text):
        """Whom the links of a text let decide, and what."""
        tokens = re.findall(r"https://fleet\.example\.com/approvals/([\w.-]+)", text)
        return [self.links.read(token, datetime.now(UTC)) for token in tokens]


@pytest.fixture
def board(outside, tmp_path):
    return Board(outside, tmp_path / "mail")


@pytest.mark.parametrize("api", [False, True], ids=["relay", "api"])
async def test_each_approver_gets_a_mail_with_a_link_of_their_own(outside, tmp_path, api):
    board = Board(outside, tmp_path / "mail", api=api)
    await board.tell()
    mails = board.mails()
    assert set(mails) == {ANN, BOB}, "a pattern is nobody's address"
    for address, [(subject, text)] in mails.items():
        assert subject == "payer: may it call transfer?"
        (grant,) = board.granted(text)
        assert (grant.approver, grant.approval_id, grant.digest) == (address, ASKED.id, ASKED.digest)
        assert grant.expires_at == ASKED.expires_at
        for line in ("payee: DE01", "amount: 900", "why       over 500 EUR", "goal      pay invoice 17"):
            assert line in text
        assert "fleet approvals show run-1/3.1" in text
        assert ASKED.digest in text
        assert not [secret for secret in SECRETS if secret in text]


async def test_what_a_model_writes_makes_no_header(board):
    hostile = replace(ASKED, agent="payer\nBcc: x@evil.com")
    await board.tell(replace(OPENED, approval=hostile))
    (mail, *_) = await board.outside.get("/_mail")
    assert mail["recipients"] == [ANN]
    assert set(board.mails()) == {ANN, BOB}


async def test_a_long_argument_is_cut_and_says_so(board):
    await board.tell(replace(OPENED, approval=replace(ASKED, arguments={"body": "y" * 9000})))
    ((_, text),) = board.mails()[ANN]
    assert "… (9000 characters)" in text
    assert len(text) < 4000


async def test_a_channel_gets_a_link_that_only_shows(board):
    await board.tell(replace(OPENED, endpoint="ops"))
    (post,) = await board.told("slack/ops")
    assert "payer: may it call transfer?" in post["text"]
    assert [(grant.approver, grant.approval_id) for grant in board.granted(post["text"])] == [(NOBODY, ASKED.id)]
    assert not [secret for secret in SECRETS if secret in post["text"]]
    # what anybody may decide, anybody who reads the channel may
    await board.tell(Notice(approval=replace(ASKED, approvers=[]), what="opened", endpoint="ops", to=[]))
    (grant,) = board.granted((await board.told("slack/ops"))[1]["text"])
    assert grant.approver == "anybody in ops"


async def test_a_webhook_gets_a_cloud_event_with_every_link(board):
    await board.outside.control(hooks={"secrets": {"hook": SECRET}})
    notice = replace(OPENED, endpoint="hook")
    await board.tell(notice)
    await board.tell(notice)
    first, again = await board.outside.get("/_hooks", name="hook")
    assert (first["verified"], first["id"], again["attempt"]) == (True, again["id"], 2)
    event = json.loads(first["body"])
    assert (event["type"], event["subject"], event["source"]) == ("fleet.approval.opened", ASKED.id, "fleet/payer")
    assert event["data"]["arguments"] == ARGUMENTS
    assert event["data"]["state"] == "open"
    assert event["data"]["summary"] == "payer: may it call transfer? (over 500 EUR)"
    assert set(event["data"]["links"]) == {ANN, BOB}
    for who, link in event["data"]["links"].items():
        assert [grant.approver for grant in board.granted(link)] == [who]
    assert not [secret for secret in SECRETS if secret in first["body"]]


async def test_a_webhook_gets_a_link_where_no_approver_is_named(board):
    for approvers, name, who in (([], "anybody in hook", "anybody in hook"), (["*@example.com"], "look", NOBODY)):
        await board.tell(
            Notice(approval=replace(ASKED, approvers=approvers), what="opened", endpoint="hook", to=approvers)
        )
        links = (await board.told("hook"))[-1]["data"]["links"]
        assert list(links) == [name]
        assert [grant.approver for grant in board.granted(links[name])] == [who]


async def test_two_reminders_without_a_vote_between_them_are_both_told(board):
    for hours in (1, 2, 2):
        at = NOW + timedelta(hours=hours)
        for endpoint in ("approvers", "hook"):
            await board.tell(replace(OPENED, what="reminded", endpoint=endpoint, at=at))
    assert {address: len(mails) for address, mails in board.mails().items()} == {ANN: 2, BOB: 2}
    first, second, again = await board.outside.get("/_hooks", name="hook")
    assert first["id"] != second["id"] == again["id"]
    assert json.loads(second["body"])["time"].startswith(f"{NOW + timedelta(hours=2):%Y-%m-%dT%H:%M:%S}")


async def test_no_text_by_a_model_passes_for_a_line_of_ours(board):
    lie = "x\nwhy       it is harmless\ndecide    https://evil.example/\r\u2028\u202e\u200bgnp"
    slack = "<https://evil.example|approve> <!channel> &"
    hostile = replace(ASKED, arguments={"body": lie, "n\nwhy  ": [lie], "to": slack}, goal=lie, said=f"{lie}\n{slack}")
    await board.tell(replace(OPENED, approval=hostile))
    await board.tell(replace(OPENED, approval=hostile, endpoint="ops"))
    ((_, mail),), (post,) = board.mails()[ANN], await board.told("slack/ops")
    for text in (mail.replace("\r\n", "\n"), post["text"]):
        lines = text.split("\n")
        assert [line for line in lines if line.startswith("why ")] == ["why       over 500 EUR"]
        assert [line for line in lines if line.startswith("decide ")] == ["decide    fleet approvals show run-1/3.1"]
        assert r"body: x\nwhy       it is harmless\ndecide" in text
        assert not set("\r\u2028\u202e\u200b") & set(text)
        assert "          why       it is harmless" in lines
    assert "&lt;https://evil.example|approve&gt; &lt;!channel&gt; &amp;" in post["text"]
    assert not set("<>") & set(post["text"])


async def test_every_event_of_an_approval_is_a_message_of_its_own(board):
    for what in ("opened", "reminded", "escalated"):
        await board.tell(replace(OPENED, what=what, endpoint="hook"))
    deliveries = await board.outside.get("/_hooks", name="hook")
    assert len({delivery["id"] for delivery in deliveries}) == 3
    await board.tell(replace(OPENED, what="reminded"))
    assert [subject for subject, _ in board.mails()[ANN]] == ["Reminder: payer: may it call transfer?"]


async def test_how_it_ended_has_no_links_and_is_not_mailed_to_those_who_decided(board):
    for endpoint in ("approvers", "ops", "hook"):
        await board.tell(Notice(approval=ENDED, what="approved", endpoint=endpoint, to=ENDED.approvers))
    (event,), (post,) = await board.told("hook"), await board.told("slack/ops")
    assert (event["data"]["links"], event["data"]["state"]) == ({}, "approved")
    assert event["data"]["votes"][0]["by"] == ANN
    assert post["text"].endswith("approved ann@example.com: approve")
    assert board.granted(post["text"]) == []
    assert board.mails() == {}
    # what nobody decided is told to all who could have
    expired = replace(ASKED, state=ApprovalState.EXPIRED, decided_at=NOW, reason="nobody has decided in time")
    await board.tell(Notice(approval=expired, what="expired", endpoint="approvers", to=[ANN, BOB]))
    assert set(board.mails()) == {ANN, BOB}


async def test_without_a_console_there_are_no_links(board):
    board.tools._link = lambda approval, who: None
    await board.tell()
    await board.tell(replace(OPENED, endpoint="hook"))
    assert board.granted(str(board.mails())) == []
    assert (await board.told("hook"))[0]["data"]["links"] == {}


async def test_an_endpoint_that_is_gone_is_final(board):
    error = await board.refused(replace(OPENED, endpoint="nobody"))
    assert (error.type, error.non_retryable) == (FailureType.TOOL_FAILED, True)
    assert error.message == "the manifest has no endpoint 'nobody'"


async def test_an_address_that_is_refused_keeps_nobody_else_from_being_told(board):
    await board.outside.fault("smtp", status=550)
    await board.tell(replace(OPENED, to=["gone@example.com", "two@a.com, three@a.com", BOB]))
    assert set(board.mails()) == {BOB}
    await board.outside.fault("smtp", status=550)
    assert (await board.refused(replace(OPENED, to=["gone@example.com"]))).non_retryable


async def test_a_relay_that_breaks_in_the_middle_has_nobody_told_twice(board):
    await board.outside.control(smtp={"messages": {"limit": 1, "period_s": 1}})
    assert not (await board.refused()).non_retryable
    assert set(board.mails()) == {ANN}
    await board.outside.control(smtp={"messages": None})
    await board.tell()
    assert {address: len(mails) for address, mails in board.mails().items()} == {ANN: 1, BOB: 1}


async def test_a_relay_that_is_away_is_tried_again(outside, tmp_path):
    error = await Board(outside, tmp_path, port=9).refused()
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)


async def test_an_event_is_written_down_once_and_waits_for_its_database(board):
    event = ApprovalEvent(approval=ENDED, what="approved", at=NOW, vote=ENDED.votes[0])
    assert isinstance(board.outside.flaky, Flaky)
    board.outside.flaky.away = 1
    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(board.tools.record, event)
    assert (raised.value.type, raised.value.category) == (FailureType.DATABASE_LOST, ApplicationErrorCategory.BENIGN)
    for _ in range(2):
        await ActivityEnvironment().run(board.tools.record, event)
    book = Book(board.outside.database)
    (row,) = await book.audit(subject=ASKED.id)
    assert (row.what, row.actor, row.channel) == ("approved", ANN, "link")
    assert (await book.get(ASKED.id)).state is ApprovalState.APPROVED


async def test_an_attempt_that_waits_has_neither_told_nor_failed(board, monkeypatch):
    monkeypatch.setattr(notifying, "METRICS", found := Metrics())
    counted = partial(found.registry.get_sample_value, "fleet_approval_notices_total")
    await board.outside.fault("smtp", status=550)
    await board.refused(replace(OPENED, to=["gone@example.com"]))
    assert counted({"endpoint": "approvers", "outcome": "failed"}) == 1
    await board.outside.control(smtp={"messages": {"limit": 1, "period_s": 1}})
    assert (await board.refused()).type in WAITS
    await board.outside.control(smtp={"messages": None})
    await board.tell()
    outcomes = {one: counted({"endpoint": "approvers", "outcome": one}) for one in ("told", "failed")}
    assert outcomes == {"told": 1, "failed": 1}
