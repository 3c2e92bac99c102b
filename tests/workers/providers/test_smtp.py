"""What a relay's replies mean, from a server that says them."""

import asyncio
from contextlib import asynccontextmanager
from email.message import EmailMessage

import pytest

from workers.providers import errors
from workers.providers.smtp import Relay


@asynccontextmanager
async def relay(**replies):
    """A relay that answers each command as told, and says yes to the rest."""

    done, heard = asyncio.Event(), replies.pop("heard", [])

    async def serve(reader, writer):
        try:
            await talk(reader, writer)
        finally:
            writer.transport.abort()
            done.set()

    async def talk(reader, writer):
        async def say(text):
            writer.write(f"{text}\r\n".encode())
            await writer.drain()

        await say(replies.get("greeting", "220 here"))
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            heard.append(line)
            if verb == "EHLO":
                await say("250-here\r\n250 AUTH PLAIN LOGIN")
            elif verb == replies.get("break"):
                return
            elif verb == "QUIT":
                await say("221 bye")
                return
            elif verb == "DATA" and "DATA" not in replies:
                await say("354 go on")
                await reader.readuntil(b"\r\n.\r\n")
                if replies.get("end") == "break":
                    return
                await say(replies.get("end", "250 queued"))
            else:
                await say(replies.get(verb, "250 fine"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Relay(
            host="127.0.0.1",
            port=server.sockets[0].getsockname()[1],
            tls="none",
            sender="fleet@example.com",
            username="u" if "AUTH" in replies else None,
            password="p" if "AUTH" in replies else None,
            timeout_s=5,
        )
        await done.wait()


def mail():
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "fleet@example.com", "a@example.com", "s"
    message.set_content("body")
    return message


async def test_what_it_accepts_is_answered_with_its_reply():
    async with relay() as found:
        assert await found.send(mail()) == "queued"


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ({"greeting": "421 too busy"}, errors.RateLimited),
        ({"greeting": "554 not you"}, errors.BadRequest),
        ({"AUTH": "535 wrong"}, errors.Refused),
        ({"AUTH": "454 not now"}, errors.RateLimited),
        ({"MAIL": "451 later"}, errors.RateLimited),
        ({"RCPT": "450 greylisted"}, errors.Unavailable),
        ({"RCPT": "550 nobody"}, errors.BadRequest),
        ({"DATA": "451 later"}, errors.RateLimited),
        ({"end": "452 full"}, errors.RateLimited),
        ({"end": "554 no"}, errors.BadRequest),
        ({"end": "break"}, errors.Lost),
        ({"end": "whatever"}, errors.Lost),
        ({"break": "DATA"}, errors.Lost),
        ({"break": "RCPT"}, errors.Unavailable),
        ({"break": "MAIL"}, errors.Unavailable),
        ({"greeting": "whatever"}, errors.NotSent),
    ],
)
async def test_each_reply_has_one_meaning(replies, kind):
    async with relay(**replies) as found:
        with pytest.raises(errors.ProviderError) as raised:
            await found.send(mail())
    assert type(raised.value) is kind


async def test_nobody_there_is_an_outage_and_nothing_was_sent():
    found = Relay(host="127.0.0.1", port=9, tls="none", sender="a@b.c", timeout_s=2)
    with pytest.raises(errors.NotSent):
        await found.send(mail())
    with pytest.raises(errors.NotSent):
        await found.check()


async def test_any_positive_reply_to_a_message_is_a_yes():
    async with relay(end="252 taken") as found:
        assert await found.send(mail()) == "taken"


async def test_the_fence_is_asked_after_the_recipients_and_before_data():
    heard, at = [], []

    async def before():
        at.append([line.split()[0] for line in heard])
        return True

    async with relay(heard=heard) as found:
        await found.send(mail(), key="k", before=before)
    assert at == [["EHLO", "MAIL", "RCPT"]]
    assert [line.split()[0] for line in heard] == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_a_stale_attempt_takes_its_envelope_back():
    heard = []

    async def before():
        return False

    async with relay(heard=heard) as found:
        with pytest.raises(errors.Fenced, match="a later attempt"):
            await found.send(mail(), key="k", before=before)
    assert [line.split()[0] for line in heard] == ["EHLO", "MAIL", "RCPT", "RSET", "QUIT"]


async def test_the_fence_is_not_asked_where_a_recipient_is_refused():
    async def before():
        raise AssertionError

    async with relay(RCPT="550 nobody") as found:
        with pytest.raises(errors.BadRequest, match="550 nobody"):
            await found.send(mail(), key="k", before=before)


async def test_what_the_fence_itself_raises_leaves_nothing_behind():
    heard = []

    async def before():
        raise LookupError

    async with relay(heard=heard) as found:
        with pytest.raises(LookupError):
            await found.send(mail(), key="k", before=before)
    assert "DATA" not in heard


async def test_all_recipients_or_none():
    heard = []
    message = mail()
    message["Bcc"] = "hidden@example.com"
    async with relay(heard=heard) as found:
        await found.send(message)
    assert [line for line in heard if line.startswith("RCPT")] == [
        "RCPT TO:<a@example.com>",
        "RCPT TO:<hidden@example.com>",
    ]


@pytest.mark.parametrize("to", ["jürgen@example.com", ""])
async def test_what_cannot_be_written_on_an_envelope_is_refused(to):
    message = mail()
    del message["To"]
    if to:
        message["To"] = to
    async with relay() as found:
        with pytest.raises(errors.BadRequest, match=r"SMTPUTF8|no To"):
            await found.send(message)


async def test_a_check_hands_in_nothing():
    heard = []
    async with relay(heard=heard) as found:
        await found.check()
    assert [line.split()[0] for line in heard] == ["EHLO", "NOOP", "QUIT"]


def test_a_relay_hides_its_password():
    found = Relay(host="h", port=25, tls="none", sender="a@b.c", username="u", password="hunter22")
    assert "hunter22" not in repr(found)
