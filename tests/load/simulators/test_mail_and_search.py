"""The simulated relay and the simulated search."""

import mailbox
from email.message import EmailMessage

import aiosmtplib
import httpx2
import pytest


def message(number=1, to="a@example.com", message_id=None):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "fleet@example.com", to, f"Number {number}"
    mail["Message-ID"] = message_id or f"<{number}@example.com>"
    mail.set_content(f"Body {number}\n.a line with a dot\n")
    return mail


async def send(where, mail):
    return await aiosmtplib.send(mail, hostname="127.0.0.1", port=where.smtp_port)


async def get(where, path, **params):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        return (await http.get(path, params=params)).json()


async def order(where, **fault):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        await http.post("/_fault", json={"provider": "smtp", **fault})


async def test_accepted_mail_is_filed_and_can_be_looked_up(simulators, tmp_path):
    where = await simulators()
    await send(where, message(1))
    await send(where, message(2))
    kept = [m["Subject"] for m in mailbox.Maildir(tmp_path / "mail" / "Maildir")]
    assert sorted(kept) == ["Number 1", "Number 2"]
    (found,) = await get(where, "/_mail", message_id="<2@example.com>")
    assert (found["recipients"], found["subject"]) == (["a@example.com"], "Number 2")
    assert await get(where, "/_mail", message_id="<3@example.com>") == []
    assert await get(where, "/_mail/summary") == {"delivered": 2, "unique": 2, "duplicates": 0}


async def test_a_copy_is_a_duplicate_even_under_another_message_id(simulators):
    where = await simulators()
    await send(where, message(1))
    await send(where, message(1, message_id="<other@example.com>"))
    assert await get(where, "/_mail/summary") == {"delivered": 2, "unique": 1, "duplicates": 1}


async def test_what_was_filed_is_known_after_a_restart(simulators):
    await send(await simulators(), message(1))
    again = await simulators()
    assert (await get(again, "/_mail/summary"))["delivered"] == 1
    assert len(await get(again, "/_mail", message_id="<1@example.com>")) == 1


async def test_over_quota_the_relay_says_451(simulators):
    where = await simulators(smtp={"messages": {"limit": 60, "burst": 1}})
    await send(where, message(1))
    with pytest.raises(aiosmtplib.SMTPResponseException) as caught:
        await send(where, message(2))
    assert caught.value.code == 451
    assert "Rate limit exceeded" in caught.value.message
    rows = await get(where, "/_ledger", provider="smtp")
    assert [row["outcome"] for row in rows] == ["ok", "429"]
    assert rows[0]["charged"] == {"messages": 1.0}
    assert rows[0]["message_id"] == "<1@example.com>"


async def test_a_connection_breaks_before_or_after_the_message_was_kept(simulators):
    where = await simulators()
    for number, after in enumerate((False, True)):
        await order(where, drop=True, after=after)
        with pytest.raises((aiosmtplib.SMTPException, OSError)):
            await send(where, message(number))
    (kept,) = await get(where, "/_mail")
    assert kept["subject"] == "Number 1"


async def test_a_message_can_be_refused_for_good(simulators):
    where = await simulators()
    await order(where, status=550)
    with pytest.raises(aiosmtplib.SMTPResponseException) as caught:
        await send(where, message(1))
    assert caught.value.code == 550
    assert await get(where, "/_mail") == []


async def test_search_answers_as_searxng_does(simulators):
    where = await simulators()
    found = await get(where, "/search", q="What is a token bucket?", format="json")
    best = found["results"][0]
    assert best["title"] == "Token bucket"
    assert {"url", "content", "engine", "score"} <= best.keys()
    async with httpx2.AsyncClient() as http:
        assert "admits work at a steady rate" in (await http.get(best["url"])).text


async def test_search_reads_the_folder_it_is_given(simulators, tmp_path):
    folder = tmp_path / "documents" / "deep"
    folder.mkdir(parents=True)
    (folder / "walrus.md").write_text("# Walruses\n\nA walrus has tusks.\n")
    where = await simulators(search={"documents_dir": str(tmp_path / "documents")})
    found = await get(where, "/search", q="walrus", format="json")
    assert [hit["title"] for hit in found["results"]] == ["Walruses"]
    assert (await get(where, "/search", q="token bucket", format="json"))["results"] == []


async def test_search_has_a_quota_and_wants_json(simulators):
    where = await simulators(search={"requests": {"limit": 60, "burst": 2}})
    async with httpx2.AsyncClient(base_url=where.http) as http:
        answers = [await http.get("/search", params={"q": "x", "format": f}) for f in ("json", "html", "json")]
    assert [answer.status_code for answer in answers] == [200, 403, 429]
    assert answers[2].headers["retry-after"] == "1"


async def test_a_search_whose_answer_was_lost_is_charged(simulators):
    where = await simulators()
    async with httpx2.AsyncClient(base_url=where.http) as http:
        for after in (True, False):
            await http.post("/_fault", json={"provider": "search", "drop": True, "after": after})
            with pytest.raises(httpx2.TransportError):
                await http.get("/search", params={"q": "x", "format": "json"})
    rows = await get(where, "/_ledger", provider="search")
    assert [(row["outcome"], row["charged"]) for row in rows] == [("dropped", {"requests": 1.0}), ("dropped", {})]
