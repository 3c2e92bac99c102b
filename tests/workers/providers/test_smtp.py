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

    done = asyncio.Event()

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
            if verb == "EHLO":
                await say("250-here\r\n250 AUTH PLAIN LOGIN")
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
    ],
)
async def test_each_reply_has_one_meaning(replies, kind):
    async with relay(**replies) as found:
        with pytest.raises(errors.ProviderError) as raised:
            await found.send(mail())
    assert type(raised.value) is kind


async def test_nobody_there_is_an_outage():
    found = Relay(host="127.0.0.1", port=9, tls="none", sender="a@b.c", timeout_s=2)
    with pytest.raises(errors.Unavailable):
        await found.send(mail())
    with pytest.raises(errors.Unavailable):
        await found.check()
