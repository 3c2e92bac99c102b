"""The simulated receiver of webhooks: it checks signatures and counts repeats."""

import json
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
EVENT = json.dumps({"type": "approval.opened", "data": {"n": 1}})


def signed(event_id="msg_1", body=EVENT, at=None, secret=SECRET):
    at = at or datetime.now(UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, at, body),
        "content-type": "application/json",
    }


async def seen(http, path="/_hooks", **params):
    return (await http.get(path, params=params)).json()


async def test_a_signed_webhook_is_taken_and_listed(simulators):
    where = await simulators(hooks={"secrets": {"ops": SECRET}})
    async with httpx2.AsyncClient(base_url=where.http) as http:
        headers = signed()
        answer = await http.post("/hooks/ops", content=EVENT, headers=headers)
        again = await http.post("/hooks/ops", content=EVENT, headers=headers)
        assert (answer.status_code, again.status_code) == (204, 204)
        first, second = await seen(http, name="ops")
        assert await seen(http, name="other") == []
        assert await seen(http, "/_hooks/summary") == {
            "ops": {"deliveries": 2, "unique": 1, "duplicates": 1, "refused": 0}
        }
        rows = await seen(http, "/_ledger", provider="hooks")
    assert (first["id"], first["attempt"], first["verified"], first["body"]) == ("msg_1", 1, True, EVENT)
    assert first["headers"] == headers
    assert second["attempt"] == 2
    assert [(row["outcome"], row["message_id"]) for row in rows] == [("ok", "msg_1")] * 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**signed(), "webhook-signature": "v1,AAAA"},
        {**signed(), "webhook-signature": "nonsense"},
        signed(body="{}"),
        signed(secret="whsec_b3RoZXI="),
        signed(at=datetime.now(UTC) - timedelta(hours=1)),
    ],
)
async def test_a_webhook_with_a_bad_signature_is_refused(simulators, headers):
    where = await simulators(hooks={"secrets": {"ops": SECRET}})
    async with httpx2.AsyncClient(base_url=where.http) as http:
        answer = await http.post("/hooks/ops", content=EVENT, headers=headers)
        assert answer.status_code == 401
        (kept,) = await seen(http)
        assert kept["verified"] is False
        assert (await seen(http, "/_hooks/summary"))["ops"] == {
            "deliveries": 0, "unique": 0, "duplicates": 0, "refused": 1,
        }  # fmt: skip


async def test_a_name_without_secret_takes_everything(simulators):
    where = await simulators()
    async with httpx2.AsyncClient(base_url=where.http) as http:
        assert (await http.post("/hooks/any", content=b"\xff not json")).status_code == 204
        (kept,) = await seen(http)
    assert (kept["verified"], kept["id"]) == (None, None)


async def test_slack_takes_messages_that_have_text(simulators):
    where = await simulators()
    async with httpx2.AsyncClient(base_url=where.http) as http:
        answers = [
            await http.post("/slack/ops", json={"text": "Approve?", "blocks": []}),
            await http.post("/slack/ops", json={"text": "Approve?", "blocks": []}),
            await http.post("/slack/ops", json={"blocks": []}),
            await http.post("/slack/ops", content="nonsense"),
        ]
        kept = await seen(http, name="slack/ops")
        summary = await seen(http, "/_hooks/summary")
    assert [(a.status_code, a.text) for a in answers] == [(200, "ok")] * 2 + [(400, "invalid_payload")] * 2
    assert answers[0].headers["content-type"].startswith("text/plain")
    assert [json.loads(delivery["body"])["text"] for delivery in kept] == ["Approve?", "Approve?"]
    assert summary["slack/ops"]["duplicates"] == 1


async def test_faults_and_quota_befall_webhooks_too(simulators):
    where = await simulators(hooks={"requests": {"limit": 60, "burst": 3}})
    async with httpx2.AsyncClient(base_url=where.http) as http:
        await http.post("/_fault", json={"provider": "hooks", "status": 503})
        assert (await http.post("/hooks/ops", content=EVENT)).status_code == 503
        await http.post("/_fault", json={"provider": "hooks", "drop": True})
        with pytest.raises(httpx2.TransportError):
            await http.post("/hooks/ops", content=EVENT)
        assert (await http.post("/hooks/ops", content=EVENT)).status_code == 204
        refused = await http.post("/hooks/ops", content=EVENT)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await seen(http, "/_hooks/summary"))["ops"]["deliveries"] == 2


async def test_a_secret_that_is_none_is_refused_as_an_option(simulators):
    where = await simulators()
    async with httpx2.AsyncClient(base_url=where.http) as http:
        for wrong in ("whsec_", "whsec_ä"):
            answer = await http.post("/_control", json={"hooks": {"secrets": {"ops": wrong}}})
            assert answer.status_code == 422
            assert "hooks.secrets.ops" in answer.json()["error"]
