"""The simulated bank: it books once per key, unless it is told not to."""

import asyncio
import time
from contextlib import asynccontextmanager

import httpx2
import pytest

RENT = {"payee": "DE02ACME", "amount": "120.50", "currency": "EUR", "reference": "invoice 17"}


@asynccontextmanager
async def bank_at(where, api_key="sk-bank"):
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    async with httpx2.AsyncClient(base_url=where.http, headers=headers) as http:
        yield http


async def pay(http, key=None, **changes):
    headers = {"idempotency-key": key} if key else {}
    return await http.post("/bank/transfers", json={**RENT, **changes}, headers=headers)


async def order(http, **fault):
    assert (await http.post("/_fault", json={"provider": "bank", **fault})).status_code == 200


async def seen(http, path="/_bank/summary", **params):
    return (await http.get(path, params=params)).json()


async def test_a_transfer_is_booked_and_written_down(simulators):
    where = await simulators()
    async with bank_at(where) as http:
        answer = await pay(http, "k1")
        assert answer.status_code == 201
        booked = answer.json()
        assert booked["id"].startswith("tr_")
        assert booked["created_at"].endswith("Z")
        assert RENT.items() <= booked.items()
        assert booked["status"] == "booked"
        (kept,) = await seen(http, "/_bank")
        assert booked.items() <= kept.items()
        assert kept["idempotency_key"] == "k1"
        (row,) = await seen(http, "/_ledger", provider="bank")
    assert (row["outcome"], row["status"], row["idempotency_key"]) == ("ok", 201, "k1")
    assert row["key"] == "…bank"
    assert row["charged"] == {"requests": 1.0}


async def test_a_repeat_answers_what_was_answered_and_books_nothing(simulators):
    where = await simulators()
    async with bank_at(where) as http:
        first = await pay(http, "k1")
        again = await pay(http, '"k1"')
        summary = await seen(http)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert summary == {"transfers": 1, "keys": 1, "duplicates": 0, "total": {"EUR": "120.50"}}


async def test_a_key_is_required_and_belongs_to_one_payload(simulators):
    where = await simulators()
    async with bank_at(where) as http:
        missing = await pay(http)
        await pay(http, "k1")
        other = await pay(http, "k1", amount="120.51")
        assert (await seen(http))["transfers"] == 1
    assert (missing.status_code, other.status_code) == (400, 422)
    for answer in (missing, other):
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Idempotency-Key" in answer.json()["title"]
        assert answer.json()["status"] == answer.status_code


async def test_while_a_request_is_carried_out_its_key_is_busy(simulators):
    where = await simulators(bank={"latency_s": 0.5})
    async with bank_at(where) as http, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(pay(http, "k1"))
        deadline = time.monotonic() + 5
        while (await seen(http, "/_ledger/summary"))["in_flight"] == 0:
            assert time.monotonic() < deadline
        busy = await pay(http, "k1")
        done = await first
        assert (busy.status_code, done.status_code) == (409, 201)
        assert (await pay(http, "k1")).content == done.content


async def test_a_transfer_whose_answer_was_lost_is_booked_once_by_its_key(simulators):
    where = await simulators()
    async with bank_at(where) as http:
        await order(http, drop=True)
        with pytest.raises(httpx2.TransportError):
            await pay(http, "k1")
        (found,) = await seen(http, "/bank/transfers", idempotency_key="k1")
        again = await pay(http, "k1")
        assert again.json() == found
        assert (await seen(http))["transfers"] == 1


async def test_a_connection_that_breaks_before_leaves_nothing_behind(simulators):
    where = await simulators()
    async with bank_at(where) as http:
        await order(http, drop=True, after=False)
        with pytest.raises(httpx2.TransportError):
            await pay(http, "k1")
        assert await seen(http, "/bank/transfers", idempotency_key="k1") == []
        await order(http, status=503, retry_after=2)
        refused = await pay(http, "k1")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert (await pay(http, "k1")).status_code == 201
        assert (await seen(http))["transfers"] == 1


async def test_an_answer_that_hangs_has_been_booked(simulators):
    where = await simulators()
    async with bank_at(where) as http, asyncio.TaskGroup() as tasks:
        await order(http, hang_s=0.3)
        first = tasks.create_task(pay(http, "k1"))
        deadline = time.monotonic() + 5
        while (await seen(http))["transfers"] == 0:
            assert time.monotonic() < deadline
        assert not first.done()
        again = await pay(http, "k1")
        assert again.headers["idempotent-replayed"] == "true"
        assert (await first).json() == again.json()


async def test_a_bank_that_ignores_keys_books_again_and_the_copies_are_counted(simulators):
    where = await simulators(bank={"honours_keys": False})
    async with bank_at(where) as http:
        ids = {(await pay(http, key)).json()["id"] for key in ("k1", "k1", None)}
        await pay(http, "k2", amount="1")
        assert len(ids) == 3
        assert await seen(http) == {"transfers": 4, "keys": 2, "duplicates": 2, "total": {"EUR": "362.50"}}
        assert len(await seen(http, "/bank/transfers", idempotency_key="k1")) == 2


async def test_the_same_payment_under_another_key_is_a_duplicate_too(simulators):
    where = await simulators()
    async with bank_at(where) as http:
        await pay(http, "k1")
        await pay(http, "k2", amount="120.5")
        await pay(http, "k3", reference="invoice 18")
        assert (await seen(http))["duplicates"] == 1


async def test_lookup_can_be_missing(simulators):
    where = await simulators(bank={"lookup": False})
    async with bank_at(where) as http:
        await pay(http, "k1")
        answer = await http.get("/bank/transfers", params={"idempotency_key": "k1"})
        rows = await seen(http, "/_ledger", provider="bank")
    assert answer.status_code == 404
    assert [row["path"] for row in rows] == ["/bank/transfers", "/bank/transfers?idempotency_key"]


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 120.5},
        {"amount": "0.00"},
        {"amount": "-1"},
        {"amount": "1.23456"},
        {"amount": "1e3"},
        {"currency": "eur"},
        {"currency": "USD"},
        {"payee": " "},
        {"reference": "x" * 141},
        {"reference": None},
    ],
)
async def test_a_transfer_that_is_not_valid_is_refused_and_may_be_corrected(simulators, changes):
    where = await simulators(bank={"accounts": {"EUR": "1000"}})
    async with bank_at(where) as http:
        refused = await pay(http, "k1", **changes)
        assert refused.status_code == 422
        assert next(iter(changes)) in refused.json()["detail"] or changes == {"currency": "USD"}
        assert (await pay(http, "k1")).status_code == 201


async def test_an_account_cannot_be_overdrawn(simulators):
    where = await simulators(bank={"accounts": {"EUR": "200.00"}})
    async with bank_at(where) as http:
        await pay(http, "k1")
        refused = await pay(http, "k2")
        assert refused.status_code == 402
        assert "79.50" in refused.json()["detail"]
        await http.post("/_control", json={"bank": {"accounts": {"EUR": "1000"}}})
        # what the key was answered stays its answer
        assert (await pay(http, "k2")).status_code == 402
        assert (await pay(http, "k3")).status_code == 201


async def test_only_known_keys_are_let_in(simulators):
    where = await simulators(bank={"keys": ["sk-bank"]})
    for key in ("sk-other", None):
        async with bank_at(where, key) as http:
            assert (await pay(http, "k1")).status_code == 401
            assert (await http.get("/bank/transfers", params={"idempotency_key": "k1"})).status_code == 401
    async with bank_at(where) as http:
        assert (await pay(http, "k1")).status_code == 201


async def test_the_bank_has_a_quota(simulators):
    where = await simulators(bank={"requests": {"limit": 60, "burst": 1}})
    async with bank_at(where) as http:
        await pay(http, "k1")
        refused = await pay(http, "k2")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await seen(http))["transfers"] == 1


async def test_chance_faults_lose_answers_but_a_repeat_with_the_key_books_once(simulators):
    faults = {"rate_500": 0.15, "rate_drop": 0.15, "rate_lost": 0.2, "rate_hang": 0.1, "hang_s": 0.01}
    where = await simulators(bank={"faults": faults})
    outcomes = []
    async with bank_at(where) as http:
        for number in range(20):
            for _ in range(50):
                try:
                    answer = await pay(http, f"k{number}", reference=str(number))
                except httpx2.TransportError:
                    outcomes.append("broken")
                    continue
                outcomes.append(answer.status_code)
                if answer.status_code == 201:
                    break
        summary = await seen(http)
    assert {"broken", 500, 201} == set(outcomes)
    assert (summary["transfers"], summary["duplicates"]) == (20, 0)
    assert summary["total"] == {"EUR": "2410.00"}
