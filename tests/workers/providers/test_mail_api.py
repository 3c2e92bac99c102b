"""Mail through an API with keys: what is sent, and what its answers mean."""

from email.message import EmailMessage

import pytest

from tests.workers.providers.servers import BREAK, SILENT, page, unused_port, web
from workers.providers import errors
from workers.providers.mail import Mailer
from workers.providers.mail_api import MailApi
from workers.providers.smtp import Relay

KEY = "re_3141592653589793"


def api(url, **changes):
    return MailApi(**{"base_url": url, "key": KEY, "sender": "Fleet <fleet@example.com>", "timeout_s": 5, **changes})


def mail(**headers):
    message = EmailMessage()
    message["From"] = "Fleet <fleet@example.com>"
    message["To"] = headers.pop("to", "Ann Otter <ann@example.com>, bob@example.com")
    message["Subject"] = "Grüße"
    message["Message-ID"] = "<m1@example.com>"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content("It says:\n.dot\nfür dich\n")
    return message


async def send(url, *, before=None, **changes):
    more = {} if before is None else {"before": before}
    return await api(url, **changes).send(mail(), key="run-1/3", **more)


async def test_a_message_is_sent_under_its_key():
    async with web(page(200, {"id": "49a3999c"})) as site:
        assert await send(site.url) == "49a3999c"
    (asked,) = site.asked
    assert (asked.method, asked.path) == ("POST", "/emails")
    assert (asked.headers["authorization"], asked.headers["idempotency-key"]) == (f"Bearer {KEY}", "run-1/3")
    assert asked.json() == {
        "from": "Fleet <fleet@example.com>",
        "to": ["Ann Otter <ann@example.com>", "bob@example.com"],
        "subject": "Grüße",
        "text": "It says:\n.dot\nfür dich\n",
        "headers": {"Message-ID": "<m1@example.com>"},
    }


async def test_copies_and_replies_have_their_fields():
    async with web(page(200, {"id": "1"})) as site:
        await api(site.url).send(mail(Cc="c@x.com", Bcc="b@x.com", Reply_To="r@x.com"), key="k")
    found = site.asked[0].json()
    assert (found["cc"], found["bcc"], found["reply_to"]) == (["c@x.com"], ["b@x.com"], ["r@x.com"])


async def test_an_attachment_is_refused_before_anything_is_sent():
    message = mail()
    message.add_attachment(b"x", maintype="application", subtype="pdf", filename="x.pdf")
    with pytest.raises(errors.BadRequest, match="without attachments"):
        await api("http://127.0.0.1:1").send(message, key="k")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (page(400, {"name": "validation_error", "message": "bad"}), errors.BadRequest),
        (page(401, {"name": "missing_api_key"}), errors.Refused),
        (page(403, {"name": "invalid_api_key"}), errors.Refused),
        (page(404, {"name": "not_found"}), errors.BadRequest),
        (page(409, {"name": "invalid_idempotent_request", "message": "another payload"}), errors.BadRequest),
        (page(409, {"name": "concurrent_idempotent_requests"}), errors.Lost),
        (page(422, {"name": "missing_required_field"}), errors.BadRequest),
        (page(429, {"name": "rate_limit_exceeded"}, retry_after="2"), errors.RateLimited),
        (page(429, {"name": "daily_quota_exceeded"}, retry_after="2"), errors.RateLimited),
        (page(429, {"name": "monthly_quota_exceeded"}), errors.Exhausted),
        (page(500, {"name": "application_error"}), errors.Lost),
        (page(503), errors.Lost),
        (page(302, location="/"), errors.BadRequest),
        (page(200, b"<html>"), errors.Lost),
        (BREAK, errors.Lost),
    ],
)
async def test_each_answer_says_whether_it_may_have_been_sent(answer, kind):
    async with web(answer) as site:
        with pytest.raises(errors.ProviderError, match=r"^email: ") as raised:
            await send(site.url)
    assert type(raised.value) is kind
    if answer != BREAK and "retry-after" in answer[1]:
        assert raised.value.retry_after_s == 2


async def test_silence_may_have_sent_and_no_connection_has_not():
    async with web(SILENT) as site:
        with pytest.raises(errors.Lost):
            await send(site.url, timeout_s=0.3)
    with pytest.raises(errors.NotSent):
        await send(f"http://127.0.0.1:{await unused_port()}")


async def test_a_stale_attempt_sends_nothing():
    async def before():
        return False

    async with web(page(200, {"id": "1"})) as site:
        with pytest.raises(errors.Fenced):
            await send(site.url, before=before)
    assert site.asked == []


async def test_a_check_hands_in_nothing_that_could_be_sent():
    async with web(page(422, {"name": "missing_required_field"}), page(401, {"name": "x"}), page(404)) as site:
        await api(site.url).check()
        with pytest.raises(errors.Refused):
            await api(site.url).check()
        with pytest.raises(errors.BadRequest):
            await api(site.url).check()
    assert [asked.json() for asked in site.asked] == [{}, {}, {}]
    assert all("idempotency-key" not in asked.headers for asked in site.asked)


async def test_both_ways_to_send_mail_are_alike():
    relay: Mailer = Relay(host="127.0.0.1", port=9, tls="none", sender="a@b.c")
    http: Mailer = api("http://127.0.0.1:1")
    assert (relay.honours_keys, relay.looks_up) == (False, False)
    assert (http.honours_keys, http.looks_up) == (True, False)
    assert await relay.accepted("<m>", "k") is None
    assert await http.accepted("<m>", "k") is None
    assert KEY not in repr(http)
