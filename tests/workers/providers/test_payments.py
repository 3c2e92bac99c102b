"""Money moves once: what a bank's answers mean."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest

from tests.workers.providers.servers import BREAK, SILENT, page, unused_port, web
from workers.providers import errors
from workers.providers.payments import Bank, Transfer

KEY = "sk-bank-3141592653589793"
PROBLEM = {"content_type": "application/problem+json"}


def bank(url, **changes):
    return Bank(**{"base_url": f"{url}/v1/", "key": KEY, "timeout_s": 5, **changes})


async def transfer(url, *, key="run-1/3", amount="12.50", before=None, **changes):
    more = {} if before is None else {"before": before}
    return await bank(url, **changes).transfer(
        key, payee="DE02", amount=Decimal(amount), currency="EUR", reference="Rechnung 7 für März", **more
    )


async def test_a_transfer_is_booked_under_its_key():
    async with web(page(201, {"id": "tr_1", "status": "pending"})) as site:
        assert await transfer(site.url) == Transfer(id="tr_1", status="pending", replayed=False)
    (asked,) = site.asked
    assert (asked.method, asked.path) == ("POST", "/v1/transfers")
    assert asked.headers["idempotency-key"] == "run-1/3"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.json() == {"payee": "DE02", "amount": "12.50", "currency": "EUR", "reference": "Rechnung 7 für März"}


@pytest.mark.parametrize(
    ("amount", "sent"),
    [("0.1", "0.1"), ("12.50", "12.50"), ("1E+3", "1000"), ("1E-7", "0.0000001"),
     ("12345678901234567890.12", "12345678901234567890.12")],
)  # fmt: skip
async def test_an_amount_is_sent_to_the_last_digit(amount, sent):
    async with web(page(201, {"id": "tr_1"})) as site:
        await transfer(site.url, amount=amount)
    assert site.asked[0].json()["amount"] == sent


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity"])
async def test_no_other_amount_is_sent(amount):
    async with web(page(201, {"id": "tr_1"})) as site:
        with pytest.raises(errors.BadRequest, match=f"the amount is {amount}: must be above 0"):
            await transfer(site.url, amount=amount)
    assert site.asked == []


async def test_what_was_booked_before_is_told_apart():
    async with web(page(201, {"id": "tr_1", "status": "booked"}, idempotent_replayed="true")) as site:
        assert (await transfer(site.url)).replayed


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (
            page(400, {"title": "Idempotency-Key is missing"}, **PROBLEM),
            errors.BadRequest,
            "Idempotency-Key is missing",
        ),
        (page(401), errors.Refused, "401"),
        (page(403), errors.Refused, "403"),
        (
            page(402, {"title": "Insufficient funds", "detail": "balance 3 EUR"}, **PROBLEM),
            errors.BadRequest,
            "402, not booked: Insufficient funds: balance 3 EUR",
        ),
        (page(404), errors.BadRequest, "404"),
        (page(302, location="/elsewhere"), errors.Lost, "may have been booked: redirects are not followed"),
        (page(303, location="/transfers/tr_1"), errors.Lost, "is base_url right"),
        (page(408), errors.Lost, "may have been booked"),
        (page(409, {"title": "in progress"}, retry_after="3"), errors.Lost, "in progress"),
        (
            page(422, {"title": "Idempotency-Key is already used", "detail": f"with {KEY}"}, **PROBLEM),
            errors.BadRequest,
            "already used",
        ),
        (page(425), errors.Unavailable, "too early"),
        (page(429, retry_after="3"), errors.RateLimited, "429"),
        (page(500), errors.Lost, "may have been booked"),
        (page(503, retry_after="3"), errors.Lost, "may have been booked"),
        (page(201, b"<html>log in</html>"), errors.Lost, "not what this API sends"),
        (page(201, {"id": ""}), errors.Lost, "not what this API sends"),
        (BREAK, errors.Lost, "no answer after"),
    ],
)
async def test_each_answer_says_whether_money_may_have_moved(answer, kind, says):
    async with web(answer) as site:
        with pytest.raises(errors.ProviderError, match=says) as raised:
            await transfer(site.url)
    assert type(raised.value) is kind
    assert len(site.asked) == 1
    assert KEY not in str(raised.value)
    if answer != BREAK and "retry-after" in answer[1]:
        assert raised.value.retry_after_s == 3


async def test_a_bank_that_keeps_silent_may_have_booked():
    async with web(SILENT) as site:
        with pytest.raises(errors.Lost):
            await transfer(site.url, timeout_s=0.3)


async def test_without_a_connection_no_money_moved():
    with pytest.raises(errors.NotSent, match="payments: no connection"):
        await transfer(f"http://127.0.0.1:{await unused_port()}")


async def test_a_stale_attempt_moves_no_money():
    asked = asyncio.Event()

    async def before():
        asked.set()
        return False

    async with web(page(201, {"id": "tr_1"})) as site:
        with pytest.raises(errors.Fenced):
            await transfer(site.url, before=before)
    assert asked.is_set()
    assert site.asked == []


async def test_an_attempt_that_is_cancelled_at_the_fence_moves_no_money():
    reached, never = asyncio.Event(), asyncio.Event()

    async def before():
        reached.set()
        return await never.wait()

    async with web(page(201, {"id": "tr_1"})) as site:
        attempt = asyncio.create_task(transfer(site.url, before=before))
        await reached.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    assert site.asked == []


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": "tr_1", "status": "booked"}]},
        {"transfers": [{"id": "tr_1", "status": "booked"}]},
        [{"id": "tr_1", "status": "booked"}],
    ],
)
async def test_what_was_booked_is_found_by_its_key(body):
    async with web(page(200, body)) as site:
        assert await bank(site.url).find("run-1/3") == Transfer(id="tr_1", status="booked", replayed=True)
    assert (site.asked[0].method, site.asked[0].path) == ("GET", "/v1/transfers?idempotency_key=run-1%2F3")


@pytest.mark.parametrize("answer", [page(200, {"data": []}), page(200, [])])
async def test_what_was_not_booked_is_not_found(answer):
    async with web(answer) as site:
        assert await bank(site.url).find("run-1/3") is None


async def test_a_bank_that_knows_no_such_question_has_not_said_no():
    async with web(page(404)) as site:
        with pytest.raises(errors.BadRequest):
            await bank(site.url).find("run-1/3")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (page(200, b"<html>"), errors.Unavailable),
        (page(200, {"other": 1}), errors.Unavailable),
        (page(500), errors.Unavailable),
        (page(401), errors.Refused),
        (BREAK, errors.Unavailable),
    ],
)
async def test_not_being_told_is_not_the_same_as_nothing(answer, kind):
    async with web(answer) as site:
        with pytest.raises(errors.ProviderError) as raised:
            await bank(site.url).find("run-1/3")
    assert type(raised.value) is kind


async def test_a_bank_that_cannot_be_asked_is_not():
    with pytest.raises(errors.BadRequest, match="looks_up"):
        await bank("http://127.0.0.1:1", looks_up=False).find("k")


async def test_a_check_proves_the_key_and_moves_nothing():
    async with web(page(200, {"data": []}), page(404), page(401)) as site:
        await bank(site.url).check()
        await bank(site.url, looks_up=False).check()
        with pytest.raises(errors.Refused):
            await bank(site.url).check()
    assert {asked.method for asked in site.asked} == {"GET"}


async def test_a_base_url_that_is_none_is_told():
    with pytest.raises(errors.ProviderError, match="payments"):
        await transfer("bank.example.com")
    with pytest.raises(errors.BadRequest, match="is base_url right"):
        await transfer("http://[::1")


def test_what_a_bank_says_of_itself():
    found = bank("http://x", honours_keys=False, key_lifetime=timedelta(days=7))
    assert (found.honours_keys, found.looks_up, found.key_lifetime) == (False, True, timedelta(days=7))
    assert bank("http://x").key_lifetime == timedelta(hours=24)
    assert KEY not in repr(found)
