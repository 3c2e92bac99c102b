"""The simulated e-mail API: Resend's words, the relay's mailbox."""

import mailbox

import httpx2
import pytest

MAIL = {"from": "Fleet <fleet@example.com>", "to": ["a@example.com"], "subject": "Hello", "text": "One\nTwo\n"}


def api(where, api_key="re_good"):
    return httpx2.AsyncClient(base_url=where.http, headers={"authorization": f"Bearer {api_key}"} if api_key else {})


async def send(http, key=None, **changes):
    headers = {"idempotency-key": key} if key is not None else {}
    return await http.post("/emails", json={**MAIL, **changes}, headers=headers)


async def seen(http, path="/_mail", **params):
    return (await http.get(path, params=params)).json()


async def test_mail_lies_in_the_same_mailbox_as_the_relays(simulators, tmp_path):
    where = await simulators()
    async with api(where) as http:
        answer = await send(http, headers={"Message-ID": "<1@example.com>", "X-Run": "r1"})
        assert len(answer.json()["id"]) == 36
        (found,) = await seen(http, message_id="<1@example.com>")
        (row,) = await seen(http, "/_ledger", provider="mail_api")
    assert (found["sender"], found["recipients"], found["subject"]) == ("fleet@example.com", ["a@example.com"], "Hello")
    (kept,) = mailbox.Maildir(tmp_path / "mail" / "Maildir")
    assert kept["X-Run"] == "r1"
    assert kept.get_payload() == "One\nTwo\n"
    assert (row["message_id"], row["recipients"], row["outcome"]) == ("<1@example.com>", ["a@example.com"], "ok")


async def test_copies_reach_everybody_and_blind_ones_are_not_told(simulators, tmp_path):
    where = await simulators()
    async with api(where) as http:
        await send(http, cc=["C <c@example.com>"], bcc="d@example.com", reply_to="e@example.com")
        (found,) = await seen(http)
    assert found["recipients"] == ["a@example.com", "c@example.com", "d@example.com"]
    (kept,) = mailbox.Maildir(tmp_path / "mail" / "Maildir")
    assert (kept["Cc"], kept["Reply-To"], kept["Bcc"]) == ("C <c@example.com>", "e@example.com", None)


async def test_a_mail_without_message_id_gets_one(simulators):
    where = await simulators()
    async with api(where) as http:
        await send(http, to="b@example.com")
        await send(http, to="c@example.com")
        first, second = await seen(http)
    assert first["message_id"] != second["message_id"]
    assert first["message_id"].startswith("<")
    assert first["recipients"] == ["b@example.com"]


async def test_a_repeat_with_the_key_answers_the_same_and_sends_nothing(simulators):
    where = await simulators()
    async with api(where) as http:
        first, again = await send(http, "k1"), await send(http, "k1")
        other = await send(http, "k1", subject="Bye")
        long = await send(http, "k" * 257)
        assert (await seen(http, "/_mail/summary"))["delivered"] == 1
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")
    assert (long.status_code, long.json()["name"]) == (400, "invalid_idempotency_key")


async def test_without_a_key_a_repeat_sends_again(simulators):
    where = await simulators()
    async with api(where) as http:
        await send(http)
        await send(http)
        assert await seen(http, "/_mail/summary") == {"delivered": 2, "unique": 1, "duplicates": 1}


async def test_a_mail_whose_answer_was_lost_is_sent_once_by_its_key(simulators):
    where = await simulators()
    async with api(where) as http:
        for after in (True, False):
            await http.post("/_fault", json={"provider": "mail_api", "drop": True, "after": after})
            with pytest.raises(httpx2.TransportError):
                await send(http, "k1")
        assert (await send(http, "k1")).headers["idempotent-replayed"] == "true"
        assert (await seen(http, "/_mail/summary"))["delivered"] == 1


async def test_quota_keys_and_faults_speak_resends_words(simulators):
    where = await simulators(mail_api={"keys": ["re_good"], "requests": {"limit": 2, "period_s": 1, "window": "fixed"}})
    async with api(where, None) as http:
        missing = await send(http)
    async with api(where, "re_bad") as http:
        wrong = await send(http)
    assert (missing.status_code, missing.json()["name"]) == (401, "missing_api_key")
    assert (wrong.status_code, wrong.json()["name"]) == (403, "invalid_api_key")
    async with api(where) as http:
        await http.post("/_fault", json={"provider": "mail_api", "status": 500})
        failed = await send(http)
        answers = [await send(http) for _ in range(6)]
    assert (failed.status_code, failed.json()["name"]) == (500, "application_error")
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert (refused.status_code, refused.json()["name"]) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["ratelimit-limit"] == "2"
    assert refused.headers["ratelimit-remaining"] == "0"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"to": []}, "missing_required_field"),
        ({"subject": None}, "missing_required_field"),
        ({"to": "nobody"}, "validation_error"),
        ({"from": "nobody"}, "validation_error"),
        ({"html": "<p>One</p>"}, "validation_error"),
        ({"cc": ["d@example.com", "nobody"]}, "validation_error"),
        ({"headers": {"Subject": "twice"}}, "validation_error"),
        ({"subject": "a\nBcc: d@example.com"}, "validation_error"),
    ],
)
async def test_a_mail_that_cannot_be_sent_as_asked_is_refused(simulators, changes, name):
    where = await simulators()
    async with api(where) as http:
        refused = await send(http, **changes)
        assert await seen(http) == []
    assert (refused.status_code, refused.json()["name"]) == (422, name)
