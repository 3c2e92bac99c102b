"""The page where approvers decide, over real runs."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from fleet import manifest
from fleet.client import FleetClient
from fleet.console import app as console
from fleet.contracts.approvals import Approval, ApprovalRule, ApprovalState, Ask, Decision, digest
from fleet.contracts.effects import EffectResult, EffectState
from fleet.contracts.names import APPROVALS_QUERY
from fleet.errors import Unreachable
from fleet.links import NOBODY, Links
from tests.fleet.fakes import Fakes, calls, decided, opened, pays, says, started, verdict

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"
RULE = ApprovalRule(tool="transfer", approvers=[ANN, BOB], amend="amount <= 200")
LINKS = Links("https://fleet.example.com", "k" * 32)
MANIFEST = manifest.load(Path(__file__).parents[3] / "deploy" / "fleet.toml")
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Visitor:
    """Somebody with a link."""

    def __init__(self, http, run, approval):
        self.http, self.run, self.approval = http, run, approval

    def path(self, who=ANN, approval=None, links=LINKS):
        return links.link(approval or self.approval, who).removeprefix("https://fleet.example.com")

    async def look(self, path=None, **headers):
        return await self.http.get(path or self.path(), headers=headers)

    async def say(self, decision, *, path=None, **fields):
        """As the form does."""
        return await self.http.post(path or self.path(), data={"decision": decision, **fields})

    async def tell(self, decision, *, path=None, **fields):
        """As a program does."""
        return await self.http.post(path or self.path(), json={"decision": decision, **fields})

    async def now(self):
        """The approvals as the run has them."""
        return await self.run.query(APPROVALS_QUERY, result_type=list[Approval])


@asynccontextmanager
async def visiting(look, client, note=None):
    async def nowhere(grant, why):
        pass

    transport = httpx2.ASGITransport(console.app(client, LINKS, look, note or nowhere), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://console") as http:
        yield http


@asynccontextmanager
async def asking(temporal, fakes, *rules, note=None, **wanted):
    """A run that has asked, and a visitor."""

    async def look(approval_id):
        return next((e.approval for e in reversed(fakes.events) if e.approval.id == approval_id), None)

    async with (
        visiting(look, FleetClient(temporal, MANIFEST), note) as http,
        started(temporal, fakes, approvals=list(rules or (RULE,)), **wanted) as run,
    ):
        yield Visitor(http, run, await opened(run))


def script(**changes):
    return Fakes(script=[pays(**changes), says("done")])


def error(answer):
    return answer.json()["error"]


async def test_looking_shows_what_is_asked_and_changes_nothing(temporal):
    fakes = script()
    async with asking(temporal, fakes) as visitor:
        for _ in range(3):
            page = await visitor.look()
            assert page.status_code == 200
        # as mail filters do
        assert (await visitor.http.head(visitor.path())).status_code == 200
        for shown in ("DE1", "120.50", "every transfer needs a human", visitor.approval.digest, f"You are {ANN}"):
            assert shown in page.text
        assert 'value="approve"' in page.text
        told = (await visitor.look(accept="application/json")).json()
        assert (told["you"], told["approval"]["id"], told["approval"]["state"]) == (ANN, visitor.approval.id, "open")
        assert await visitor.now() == [visitor.approval]
        assert [event.what for event in fakes.events] == ["opened"]


@pytest.mark.parametrize("how", ["say", "tell"])
async def test_an_approver_approves(temporal, how):
    fakes = script()
    async with asking(temporal, fakes) as visitor:
        answer = await getattr(visitor, how)("approve", comment="fine")
        assert answer.status_code == 200
        result = await visitor.run.result()
    (vote,) = fakes.events[-1].approval.votes
    assert (vote.by, vote.channel, vote.comment, vote.digest) == (ANN, "link", "fine", visitor.approval.digest)
    assert len(fakes.sent) == 1
    assert result.approvals[0]["state"] == "approved"
    if how == "say":
        assert "Taken: approve." in answer.text
        assert "<form" not in answer.text
    else:
        assert answer.json()["approval"]["state"] == "approved"


@pytest.mark.parametrize("how", ["say", "tell"])
async def test_an_approver_rejects(temporal, how):
    fakes = script()
    async with asking(temporal, fakes) as visitor:
        assert (await getattr(visitor, how)("reject", comment="not him")).status_code == 200
        result = await visitor.run.result()
    assert (fakes.sent, result.approvals[0]["state"], result.approvals[0]["comment"]) == ([], "rejected", "not him")


@pytest.mark.parametrize("how", ["say", "tell"])
async def test_an_approver_amends_within_the_policy(temporal, how):
    fakes = script()
    async with asking(temporal, fakes) as visitor:

        async def amend(arguments):
            given = json.dumps(arguments) if how == "say" else arguments
            return await getattr(visitor, how)("amend", arguments=given)

        wanted = visitor.approval.arguments
        for beyond, told in (
            ({**wanted, "amount": "201"}, "amended beyond the policy"),
            ({**wanted, "more": "x"}, "more"),
            ({}, "arguments"),
            ([1], "arguments must be a JSON object"),
        ):
            answer = await amend(beyond)
            assert (answer.status_code, told in answer.text) == (409, True)
        assert (await amend({**wanted, "amount": "20.00"})).status_code == 200
        await visitor.run.result()
    assert [request.arguments["amount"] for request in fakes.sent] == ["20.00"]


async def test_an_effect_nobody_knows_of_is_settled_or_left(temporal):
    fakes = script()
    fakes.effect = lambda request: EffectResult(state=EffectState.UNKNOWN, reason="nobody knows")
    async with asking(temporal, fakes, replace(RULE, over={"EUR": "500"}), agent={"on_unknown": "ask"}) as visitor:
        assert visitor.approval.ask is Ask.SETTLE
        page = await visitor.look()
        for shown in ("Was this transfer done?", 'value="skip"', "nobody knows"):
            assert shown in page.text
        assert 'value="amend"' not in page.text
        assert (await visitor.say("amend", arguments="{}")).status_code == 409
        assert (await visitor.say("skip")).status_code == 200
        result = await visitor.run.result()
    assert (result.effects[0]["state"], fakes.sent) == ("unknown", [])


async def test_a_link_decides_once(temporal):
    fakes = script()
    async with asking(temporal, fakes, replace(RULE, needed=2)) as visitor:
        assert "Another approver must agree" in (await visitor.say("approve")).text
        again = await visitor.tell("reject")
        assert (again.status_code, f"{ANN} has decided" in error(again)) == (409, True)
        page = await visitor.look()
        assert "You have decided" in page.text
        assert "<form" not in page.text
        (asked,) = await visitor.now()
        assert [vote.decision for vote in asked.votes] == [Decision.APPROVE]
        assert (await visitor.say("approve", path=visitor.path(BOB))).status_code == 200
        late = await visitor.tell("reject", path=visitor.path(BOB))
        assert late.status_code == 409
        assert "too late" in error(late)
        await visitor.run.result()
    assert len(fakes.sent) == 1


async def test_what_has_ended_is_shown_from_the_audit_and_decides_nothing(temporal):
    fakes = script()
    async with asking(temporal, fakes) as visitor:
        await decided(visitor.run, verdict(visitor.approval, Decision.REJECT, by=BOB))
        await visitor.run.result()
        page = await visitor.look(visitor.path())
        assert f"rejected by {BOB}" in page.text
        assert "<form" not in page.text
        late = await visitor.tell("approve")
        assert (late.status_code, "has ended already" in error(late)) == (409, True)
    assert fakes.sent == []


async def test_a_link_for_other_arguments_decides_nothing(temporal):
    fakes = script()
    async with asking(temporal, fakes) as visitor:
        shown = replace(visitor.approval, digest=digest("transfer", {"payee": "DE2"}))
        path = visitor.path(approval=shown)
        page = await visitor.look(path)
        assert "The arguments have been changed" in page.text
        assert "<form" not in page.text
        answer = await visitor.tell("approve", path=path)
        assert (answer.status_code, "other arguments" in error(answer)) == (409, True)
        assert (await visitor.now())[0].votes == []
        await visitor.say("reject")
        await visitor.run.result()


async def test_who_is_no_approver_of_it_is_refused_also_with_a_signed_link(temporal):
    async with asking(temporal, script()) as visitor:
        answer = await visitor.tell("approve", path=visitor.path(EVE))
        assert (answer.status_code, "may not decide" in error(answer)) == (409, True)
        # the approver is the link's, whatever the body says
        answer = await visitor.tell("approve", by=EVE, digest="x", approval_id="another")
        assert answer.json()["approval"]["votes"][0]["by"] == ANN
        await visitor.run.result()


async def test_a_link_for_nobody_shows_and_decides_nothing(temporal):
    async with asking(temporal, script(), replace(RULE, approvers=[])) as visitor:
        path = visitor.path(NOBODY)
        page = await visitor.look(path)
        assert "This link only shows" in page.text
        assert "120.50" in page.text
        assert "<form" not in page.text
        answer = await visitor.tell("approve", path=path)
        assert (answer.status_code, error(answer)) == (409, "who decides? name yourself")
        assert (await visitor.now())[0].votes == []
        await visitor.say("reject", path=visitor.path("anybody in ops"))
        await visitor.run.result()


async def test_a_link_that_is_not_whole_or_not_ours_shows_nothing(temporal):
    async with asking(temporal, script()) as visitor:
        path = visitor.path()
        head, _, token = path.rpartition("/")
        # a compressed token begins with a dot
        payload, _, signature = token.rpartition(".")
        others = [
            f"{head}/{payload}.{signature[:-2]}",
            f"{head}/{payload[:-3]}AAA.{signature}",
            f"{head}/{payload}",
            f"{head}/%FF%00",
            f"{head}/" + "A" * 5000,
            visitor.path(links=Links("https://fleet.example.com", "x" * 32)),
        ]
        for other in others:
            looked, said = (
                await visitor.look(other, accept="application/json"),
                await visitor.tell("approve", path=other),
            )
            assert (looked.status_code, said.status_code) == (404, 409)
            told = "the link is not whole, or not of this fleet: use it as it was sent"
            assert error(looked) == error(said) == told
            assert "transfer" not in looked.text
        expired = visitor.path(approval=replace(visitor.approval, expires_at=datetime.now(UTC) - timedelta(minutes=1)))
        assert "the link has expired at" in error(await visitor.look(expired, accept="application/json"))
        assert "the link has expired at" in error(await visitor.tell("approve", path=expired))
        assert (await visitor.look(others[0])).headers["content-type"].startswith("text/html")
        assert (await visitor.now())[0].votes == []
        await visitor.say("reject")
        await visitor.run.result()


async def test_what_is_no_verdict_is_refused_with_the_reason(temporal):
    async with asking(temporal, script()) as visitor:

        async def told(body, **headers):
            answer = await visitor.http.post(visitor.path(), content=body, headers=headers)
            assert answer.status_code == 409
            return re.sub("<[^>]+>", "", answer.text)

        json_body = {"content-type": "application/json"}
        assert "decision must be one of approve" in await told(b"")
        assert "decision must be one of approve" in await told(b"decision=maybe", **FORM)
        assert "the form is not UTF-8" in await told(b"decision=\xff", **FORM)
        assert "the amended arguments are not JSON" in await told(b"decision=amend&arguments=%7B", **FORM)
        assert "the body is not JSON" in await told(b"{", **json_body)
        assert "the body is not JSON" in await told(b"[" * 200_000, **json_body)
        assert "not JSON" in await told(b"decision=amend&arguments=" + b"[" * 200_000, **FORM)
        assert "the body must be an object" in await told(b"[]", **json_body)
        assert "characters" in await told(b"decision=reject&comment=" + b"x" * 5000, **FORM)
        assert (await visitor.now())[0].votes == []
        await visitor.say("reject")
        await visitor.run.result()


@pytest.mark.parametrize("how", ["say", "tell"])
async def test_nobody_is_listened_to_for_ever(temporal, how):
    async with asking(temporal, script()) as visitor:
        answer = await getattr(visitor, how)("approve", comment="x" * (console.MOST_BYTES + 1))
        assert (answer.status_code, "more than 262144 bytes" in answer.text) == (413, True)
        assert (await visitor.now())[0].votes == []
        await visitor.say("reject")
        await visitor.run.result()


async def test_a_verdict_that_is_refused_is_noted_and_the_note_holds_up_nobody(temporal, monkeypatch):
    monkeypatch.setattr(console, "NOTE_WITHIN_S", 0.1)
    noted = []

    async def note(grant, why):
        noted.append((grant.approver, grant.approval_id, why))
        if len(noted) == 2:
            raise Unreachable("the database does not answer")
        if len(noted) == 3:
            await asyncio.Event().wait()

    async with asking(temporal, script(), note=note) as visitor:
        for _ in range(3):
            answer = await visitor.tell("approve", path=visitor.path(EVE))
            assert answer.status_code == 409
            assert noted[-1] == (EVE, visitor.approval.id, error(answer))
        assert (await visitor.say("maybe")).status_code == 409
        assert "decision must be one of" in noted[-1][2]
        # whose a forged link is nobody knows
        assert (await visitor.say("approve", path=visitor.path() + "x")).status_code == 409
        assert (await visitor.say("reject")).status_code == 200
        assert len(noted) == 4
        await visitor.run.result()


HIDDEN = "DE1\u202eEVIL\u200b\x07"


async def test_what_a_browser_would_hide_is_shown_and_amended_as_it_is(temporal):
    async with asking(temporal, script(reference=HIDDEN + "\nline 2"), goal=HIDDEN) as visitor:
        page = (await visitor.look()).text
        told = (await visitor.look(accept="application/json")).json()
        shown, _, form = page.partition("<textarea class")
        assert shown.count(r"DE1\u202eEVIL\u200b\x07") == 2
        assert not set(HIDDEN) & set(shown) - set("DE1VIL")
        assert r"\x07" + "\nline 2</td>" in shown
        assert "DE1\u202eEVIL\u200b\\u0007\\nline 2" in form
        assert told["approval"]["arguments"]["reference"] == HIDDEN + "\nline 2"
        await visitor.say("reject")
        await visitor.run.result()


HOSTILE = '</textarea><script>alert("x")</script><img src=x onerror=alert(1)>'


async def test_what_a_model_writes_is_text_and_nothing_else(temporal):
    fakes = Fakes(
        script=[
            calls("send_email", to="a@b.c", subject=HOSTILE, body="{{ 7*7 }} {% for x in y %}" + HOSTILE),
            says("done"),
        ]
    )
    rule = ApprovalRule(tool="send_email", approvers=[ANN])
    async with asking(temporal, fakes, rule, goal=HOSTILE) as visitor:
        await visitor.tell("maybe", comment=HOSTILE)
        page = await visitor.look()
        for text in (page.text, (await visitor.say("approve", comment=HOSTILE)).text):
            assert "<script" not in text
            assert "<img" not in text
            assert text.count("</textarea>") in (0, 2)
            assert "&lt;script&gt;" in text
            assert "{{ 7*7 }}" in text
        await visitor.run.result()


@pytest.mark.parametrize("path", ["/live", "/approvals/x", "/nowhere"])
async def test_no_page_is_kept_framed_or_told_to_others(temporal, path):
    async with visiting(None, FleetClient(temporal, MANIFEST)) as http:
        headers = (await http.get(path)).headers
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy


async def test_other_methods_are_not_heard(temporal):
    async with asking(temporal, script()) as visitor:
        for method in ("PUT", "DELETE", "PATCH"):
            assert (await visitor.http.request(method, visitor.path())).status_code == 405
        assert (await visitor.http.get("/live")).text == "ok"
        await visitor.say("reject")
        await visitor.run.result()


@pytest.mark.parametrize("found", [True, False])
async def test_a_run_that_temporal_has_forgotten_is_shown_from_the_audit(temporal, found):
    now = datetime.now(UTC)
    gone = Approval(
        id="run-gone/1.1", run_id="run-gone", agent="a", tenant="t", ask=Ask.ALLOW, tool="transfer", arguments={"n": 1},
        digest="d", why="w", goal="g", opened_at=now, expires_at=now + timedelta(days=1), state=ApprovalState.WITHDRAWN,
        reason="the run was stopped",
    )  # fmt: skip

    async def look(approval_id):
        return gone if found else None

    async with visiting(look, FleetClient(temporal, MANIFEST)) as http:
        path = LINKS.link(gone, ANN).removeprefix("https://fleet.example.com")
        answer = await http.get(path)
        if found:
            assert (answer.status_code, "withdrawn (the run was stopped)" in answer.text) == (200, True)
        else:
            assert (answer.status_code, "there is no approval" in answer.text) == (404, True)
        assert (await http.post(path, json={"decision": "approve"})).status_code == 409


async def test_who_gets_no_answer_is_not_told_that_it_was_not_taken(temporal):
    class Silent(FleetClient):
        async def decide(self, said):
            raise Unreachable("no worker has answered: look before deciding again")

    async with visiting(None, Silent(temporal, MANIFEST)) as http:
        now = datetime.now(UTC)
        asked = Approval(
            id="run/1.1", run_id="run", agent="a", tenant="t", ask=Ask.ALLOW, tool="transfer", arguments={}, digest="d",
            why="w", goal="g", opened_at=now, expires_at=now + timedelta(days=1),
        )  # fmt: skip
        answer = await http.post(
            LINKS.link(asked, ANN).removeprefix("https://fleet.example.com"), data={"decision": "approve"}
        )
    assert answer.status_code == 503
    assert "No answer" in answer.text
    assert "Not taken" not in answer.text
