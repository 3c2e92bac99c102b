"""Deliveries as a receiver sees them, and what its answers mean."""

import json
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.workers.providers.servers import BREAK, SILENT, page, unused_port, web
from workers.providers import errors
from workers.providers.outbound import Forbidden
from workers.providers.webhooks import Endpoint, WebhookClient, cloud_event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD = "whsec_c2VjcmV0LXRoYXQtd2FzLXVzZWQtYmVmb3Jl"
BODY = json.dumps({"what": "opened", "who": "Jürgen"}, ensure_ascii=False).encode()


def endpoint(url, **changes):
    return Endpoint(**{"name": "desk", "url": url, "secret": SECRET, "allow_private": True, "timeout_s": 5, **changes})


async def deliver(url, *, before=None, **changes):
    more = {} if before is None else {"before": before}
    return await WebhookClient().deliver(endpoint(url, **changes), message_id="run-1/3", body=BODY, **more)


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_delivery_is_verified_by_the_receivers_own_library(status):
    async with web(page(status)) as site:
        assert await deliver(f"{site.url}/hook?x=1") == str(status)
    (asked,) = site.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/hook?x=1", BODY)
    assert (asked.headers["content-type"], asked.headers["webhook-id"]) == ("application/json", "run-1/3")
    assert Webhook(SECRET).verify(asked.body, asked.headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(asked.body + b" ", asked.headers)


async def test_the_timestamp_is_the_attempts_and_the_id_stays():
    times = iter([datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 5, 6, tzinfo=UTC)])
    client = WebhookClient(now=lambda: next(times))
    async with web(page(500), page(204)) as site:
        with pytest.raises(errors.Unavailable):
            await client.deliver(endpoint(site.url), message_id="m", body=b"{}")
        await client.deliver(endpoint(site.url), message_id="m", body=b"{}")
    first, second = (asked.headers for asked in site.asked)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 61
    assert int(first["webhook-timestamp"]) == 1767323045


async def test_another_time_zone_is_the_same_instant():
    east = datetime.now(UTC).astimezone(tz=__import__("zoneinfo").ZoneInfo("Asia/Tokyo"))
    async with web(page(204)) as site:
        await WebhookClient(now=lambda: east).deliver(endpoint(site.url), message_id="m", body=b"{}")
    (asked,) = site.asked
    assert Webhook(SECRET).verify(asked.body, asked.headers) == {}


async def test_while_a_secret_is_changed_both_sign():
    async with web(page(204)) as site:
        await deliver(site.url, secret=f"{SECRET} {OLD}")
    (asked,) = site.asked
    for secret in (SECRET, OLD):
        assert Webhook(secret).verify(asked.body, asked.headers)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_ä", "whsec_a"])
async def test_a_secret_that_cannot_sign_is_refused_without_quoting_it(secret):
    with pytest.raises(errors.Refused, match="webhook desk: its secret is missing or not base64"):
        await deliver("http://127.0.0.1:1", secret=secret)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (page(410), errors.BadRequest, "wants no more"),
        (page(429, retry_after="7"), errors.RateLimited, "429"),
        (page(503, retry_after="7"), errors.Overloaded, "503"),
        (page(502, retry_after="7"), errors.Unavailable, "502"),
        (page(504, retry_after="7"), errors.Unavailable, "504"),
        (page(500), errors.Unavailable, "500"),
        (page(408), errors.Unavailable, "408"),
        (page(409), errors.Unavailable, "409"),
        (page(425), errors.Unavailable, "425"),
        (page(301, location="http://127.0.0.1:1/"), errors.BadRequest, "redirects are not followed"),
        (page(400, {"message": "no such field"}), errors.BadRequest, "no such field"),
        (page(401), errors.BadRequest, "401"),
        (page(404), errors.BadRequest, "404"),
        (BREAK, errors.Unavailable, "no answer after"),
    ],
)
async def test_each_answer_has_one_meaning(answer, kind, says):
    async with web(answer) as site:
        with pytest.raises(errors.ProviderError, match=says) as raised:
            await deliver(f"{site.url}/services/T0/B0/topsecret")
    assert type(raised.value) is kind
    assert len(site.asked) == 1
    assert str(raised.value).startswith("webhook desk: ")
    assert "topsecret" not in str(raised.value)
    if answer != BREAK and "retry-after" in answer[1]:
        assert raised.value.retry_after_s == 7


async def test_a_receiver_that_keeps_silent_has_its_time():
    async with web(SILENT) as site:
        with pytest.raises(errors.Unavailable, match="no answer after the request was sent"):
            await deliver(site.url, timeout_s=0.3)


async def test_nobody_there_was_never_told():
    with pytest.raises(errors.NotSent, match="webhook desk: no connection"):
        await deliver(f"http://127.0.0.1:{await unused_port()}/secret")


async def test_an_endpoint_in_our_own_network_must_be_allowed():
    async with web(page(204)) as site:
        with pytest.raises(Forbidden, match="webhook desk: localhost is not on the public internet"):
            await deliver(f"{site.url}/secret", allow_private=False)
    assert site.asked == []


async def test_a_url_that_is_none_is_not_repeated():
    with pytest.raises(errors.BadRequest, match="webhook desk: its URL is none") as raised:
        await deliver("hooks.example.com/secret")
    assert "secret" not in str(raised.value)


async def test_it_trusts_whom_it_is_told_to():
    authority = trustme.CA()
    server, trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trust)
    async with web(page(204), ssl=server) as site:
        told = {"message_id": "m", "body": b"{}"}
        assert await WebhookClient(verify=trust).deliver(endpoint(site.url), **told) == "204"
        with pytest.raises(errors.NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await WebhookClient().deliver(endpoint(site.url), **told)
    assert len(site.asked) == 1


async def test_a_stale_attempt_tells_nobody():
    async def before():
        return False

    async with web(page(204)) as site:
        with pytest.raises(errors.Fenced):
            await deliver(site.url, before=before)
    assert site.asked == []


async def test_slack_gets_text_and_blocks():
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*Grüße*"}}]
    async with web(page(200, b"ok")) as site:
        assert await WebhookClient().slack(endpoint(site.url), text="Grüße", blocks=blocks) == "200"
        assert await WebhookClient().slack(endpoint(site.url, secret=""), text="only text") == "200"
    assert site.asked[0].json() == {"text": "Grüße", "blocks": blocks}
    assert site.asked[1].json() == {"text": "only text"}
    assert site.asked[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (page(400, b"invalid_payload", content_type="text/plain"), errors.BadRequest, "400 invalid_payload"),
        (page(403, b"action_prohibited", content_type="text/plain"), errors.Refused, "403 action_prohibited"),
        (page(404, b"channel_not_found", content_type="text/plain"), errors.BadRequest, "channel_not_found"),
        (page(410, b"channel_is_archived", content_type="text/plain"), errors.BadRequest, "channel_is_archived"),
        (page(429, retry_after="30"), errors.RateLimited, "429"),
        (page(500, b"rollup_error", content_type="text/plain"), errors.Unavailable, "rollup_error"),
        (page(503), errors.Overloaded, "503"),
        (BREAK, errors.Lost, "no answer after"),
    ],
)
async def test_slacks_documented_answers_have_one_meaning_each(answer, kind, says):
    async with web(answer) as site:
        with pytest.raises(errors.ProviderError, match=says) as raised:
            await WebhookClient().slack(endpoint(f"{site.url}/services/T0/B0/topsecret"), text="hello")
    assert type(raised.value) is kind
    assert "topsecret" not in str(raised.value)


def test_an_endpoint_hides_its_url_and_secret():
    assert repr(endpoint("https://hooks.slack.com/services/T0/B0/topsecret")) == (
        "Endpoint(name='desk', allow_private=True, timeout_s=5)"
    )


def test_a_cloud_event_is_read_back_by_its_own_library():
    at = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    about = {"id": "e-1", "source": "/fleet", "type": "fleet.approval.opened", "subject": "run-1/3"}
    body, content_type = cloud_event(**about, time=at + timedelta(0), data={"amount": "12.50", "für": ["a", None]})
    found = from_structured_event(HTTPMessage({"content-type": content_type}, body))
    assert content_type == "application/cloudevents+json"
    assert json.loads(body) == about | {
        "specversion": "1.0",
        "time": "2026-03-04T05:06:07Z",
        "datacontenttype": "application/json",
        "data": {"amount": "12.50", "für": ["a", None]},
    }
    assert (found.get_id(), found.get_time()) == ("e-1", at)
