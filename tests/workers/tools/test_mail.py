"""An e-mail is sent once, through a relay or an API, whatever happens in between."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError

from fleet.contracts.effects import EffectState, Mode
from fleet.contracts.names import FailureType
from tests.workers.attempting import Outside, asked, content, environment
from workers.effects.ledger import Ledger
from workers.providers.mail_api import MailApi
from workers.providers.smtp import Relay
from workers.tools.mail import MailTools, compose

ARGUMENTS = {"to": "reader@example.com", "subject": "A brief", "body": "It says:\n.dot\n"}
MAIL = asked("send_email", ARGUMENTS)


class Writer(Outside):
    """Writes through one mailer."""

    provider = "smtp"

    def by_relay(self, *, looks_up=True, port=None):
        self.provider = "smtp"
        self.mailer = Relay(
            host="127.0.0.1",
            port=port or self.where.smtp_port,
            tls="none",
            sender="fleet@example.com",
            lookup_url=f"{self.where.http}/_mail" if looks_up else None,
            timeout_s=5,
        )
        return self

    def by_api(self):
        self.provider = "mail_api"
        self.mailer = MailApi(base_url=self.where.http, key="re_1", sender="fleet@example.com", timeout_s=5)
        return self

    async def send(self, request=MAIL, *, ledger=None, where=None, recipients=(), mailer=None):
        tools = MailTools(self.attempts(ledger), mailer or self.mailer, list(recipients))
        return await (where or environment()).run(tools.send, request)

    async def refused(self, request=MAIL, **options):
        with pytest.raises(ApplicationError) as raised:
            await self.send(request, **options)
        return raised.value

    async def delivered(self):
        return await self.get("/_mail")


@pytest.fixture
async def writer(simulators, database):
    return Writer(await simulators(), database).by_relay()


@pytest.fixture(params=["relay", "api"])
def any_writer(writer, request):
    return writer if request.param == "relay" else writer.by_api()


async def test_a_message_is_handed_in_with_its_evidence(any_writer):
    result = await any_writer.send()
    (mail,) = await any_writer.delivered()
    assert (mail["recipients"], mail["subject"]) == (["reader@example.com"], "A brief")
    assert result.evidence["message_id"] == mail["message_id"]
    assert content(result) == {"sent": True, "to": "reader@example.com", "message_id": mail["message_id"]}
    assert (await any_writer.entry()).evidence == result.evidence


async def test_the_same_effect_again_sends_nothing_and_answers_the_same(any_writer):
    first = await any_writer.send()
    again = await any_writer.send()
    assert (again.content, again.evidence) == (first.content, first.evidence)
    assert len(await any_writer.delivered()) == 1


async def test_another_step_or_run_is_another_effect(any_writer):
    for step, run in (("3.1", "run-1"), ("4.1", "run-1"), ("3.1", "run-2")):
        await any_writer.send(asked("send_email", ARGUMENTS, step=step, run=run))
    assert len({mail["message_id"] for mail in await any_writer.delivered()}) == 3


async def test_a_connection_that_broke_after_the_message_was_kept_sends_no_second(any_writer):
    await any_writer.fault(any_writer.provider, drop=True, after=True)
    error = await any_writer.refused()
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)
    assert error.next_retry_delay >= timedelta(seconds=10)
    assert (await any_writer.entry()).state is EffectState.EXECUTING
    result = await any_writer.send()
    assert result.state is EffectState.DONE
    if any_writer.provider == "smtp":
        assert result.evidence["reply"] == "accepted, found by Message-ID"
    assert len(await any_writer.delivered()) == 1


async def test_a_connection_that_broke_before_is_made_up_for(any_writer):
    await any_writer.fault(any_writer.provider, drop=True, after=False)
    await any_writer.refused()
    if any_writer.provider == "smtp":
        # a relay may take its time with what it was given: not found is not yet not accepted
        assert "may still be taken" in (await any_writer.refused()).message
        assert await any_writer.delivered() == []
    await any_writer.age(timedelta(minutes=1))
    await any_writer.send()
    assert len(await any_writer.delivered()) == 1


async def test_an_attempt_that_died_while_sending_is_looked_up(writer):
    await writer.send(mailer=writer.mailer, ledger=Forgetful(writer.database))
    assert (await writer.entry()).state is EffectState.EXECUTING
    await writer.send()
    assert len(await writer.delivered()) == 1


class Forgetful(Ledger):
    """Its process dies before anything is recorded."""

    async def record(self, *arguments, **fields):
        return False


async def test_where_nobody_can_say_it_is_not_sent_again(writer):
    writer.by_relay(looks_up=False)
    await writer.begun(MAIL)
    error = await writer.refused()
    assert (error.type, error.non_retryable) == (FailureType.EFFECT_UNKNOWN, True)
    assert (await writer.entry()).state is EffectState.UNKNOWN
    assert await writer.delivered() == []
    settled = asked("send_email", ARGUMENTS, was_had=False, by="ann")
    assert (await writer.send(settled)).state is EffectState.DONE
    assert len(await writer.delivered()) == 1


async def test_an_api_that_may_have_forgotten_the_key_is_not_asked_again(writer):
    writer.by_api()
    await writer.fault("mail_api", drop=True)
    await writer.refused()
    await writer.age(timedelta(hours=22))
    assert (await writer.refused()).type == FailureType.EFFECT_UNKNOWN
    assert len(await writer.delivered()) == 1


async def test_a_sender_that_was_changed_between_attempts_leaves_it_open_not_failed(writer):
    writer.by_api()
    await writer.fault("mail_api", drop=True)
    await writer.refused()
    other = MailApi(base_url=writer.where.http, key="re_1", sender="other@example.com", timeout_s=5)
    # 409: the key was used for another message, which is this one
    assert (await writer.refused(mailer=other)).type == FailureType.EFFECT_UNKNOWN
    assert (await writer.send()).state is EffectState.DONE
    assert len(await writer.delivered()) == 1


async def test_a_later_is_a_wait_and_a_never_is_final(writer):
    await writer.fault("smtp", status=451)
    assert (await writer.refused()).type == FailureType.RATE_LIMITED
    assert (await writer.entry()).state is EffectState.FAILED
    await writer.fault("smtp", status=550)
    error = await writer.refused()
    assert (error.type, error.non_retryable) == (FailureType.BAD_REQUEST, True)
    # the relay has said no: the way is free for another attempt
    assert (await writer.entry()).state is EffectState.FAILED
    assert (await writer.send()).state is EffectState.DONE


async def test_a_relay_that_is_away_leaves_nothing_behind(writer):
    writer.by_relay(port=9)
    error = await writer.refused()
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)
    assert (await writer.entry()).state is EffectState.INTENDED


async def test_a_look_up_that_fails_is_no_answer(writer):
    await writer.begun(MAIL)
    await writer.age(timedelta(minutes=1))
    blind = Relay(
        host="127.0.0.1", port=writer.where.smtp_port, tls="none", sender="fleet@example.com",
        lookup_url="http://127.0.0.1:9/", timeout_s=5,
    )  # fmt: skip
    error = await writer.refused(mailer=blind)
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)
    assert (await writer.entry()).state is EffectState.EXECUTING
    assert await writer.delivered() == []


class Overtaken(Ledger):
    """Another attempt claims the effect between this one's claim and its beginning."""

    async def begin(self, key, fence):
        await self.claim(key)
        return await super().begin(key, fence)


async def test_an_attempt_that_was_overtaken_hands_nothing_in(any_writer):
    error = await any_writer.refused(ledger=Overtaken(any_writer.database))
    assert "a later attempt is at it" in error.message
    assert (await any_writer.delivered(), error.non_retryable) == ([], False)
    assert (await any_writer.entry()).state is EffectState.INTENDED


async def test_the_fence_stands_right_before_data(writer):
    heard = []

    class Listening(Ledger):
        async def begin(self, key, fence):
            heard.append("fence")
            return await super().begin(key, fence)

    async with listening(heard) as port:
        await writer.send(ledger=Listening(writer.database), mailer=writer.by_relay(port=port).mailer)
    assert [said.split()[0] for said in heard] == ["EHLO", "MAIL", "RCPT", "fence", "DATA", "QUIT"]


@asynccontextmanager
async def listening(heard):
    """A relay that takes everything and notes what was said to it."""

    async def serve(reader, writer):
        async def say(text):
            writer.write(f"{text}\r\n".encode())
            await writer.drain()

        await say("220 here")
        while line := (await reader.readline()).decode().strip():
            heard.append(line)
            if line == "DATA":
                await say("354 go on")
                await reader.readuntil(b"\r\n.\r\n")
            await say("250 fine")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_cancellation_goes_to_the_end_once_the_message_is_under_way(writer):
    await writer.control(smtp={"latency_s": 0.3})
    where = environment()
    sending = asyncio.create_task(writer.send(where=where))
    async with asyncio.timeout(5):
        while (entry := await writer.entry()) is None or entry.state is not EffectState.EXECUTING:
            await asyncio.sleep(0.01)
    where.cancel()
    assert (await sending).state is EffectState.DONE
    assert len(await writer.delivered()) == 1


async def test_accounting_finds_what_was_accepted(writer):
    await writer.send(ledger=Forgetful(writer.database))
    account = asked("send_email", ARGUMENTS, mode=Mode.ACCOUNT, why="the run was stopped")
    assert (await writer.send(account)).state is EffectState.DONE
    other = asked("send_email", ARGUMENTS, step="4.1", mode=Mode.ACCOUNT, why="the run was stopped")
    assert (await writer.send(other)).reason == "not done: the run was stopped"
    assert len(await writer.delivered()) == 1


async def test_what_cannot_be_written_is_told_to_the_model(writer):
    error = await writer.refused(asked("send_email", {**ARGUMENTS, "body": "half a \ud83d pair"}))
    assert (error.type, error.non_retryable) == (FailureType.TOOL_FAILED, True)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "nobody",
        "a@b.com\nBcc: all@b.com",
        "a@b.com, c@d.com",
        "Group: a@b.com, c@d.com;",
        "a@[b.com",
        "=?utf-8?q?evil=40evil=2Ecom=2C?= x@example.com",
    ],
)
async def test_what_is_not_one_address_is_told_to_the_model(writer, to):
    error = await writer.refused(asked("send_email", {**ARGUMENTS, "to": to}), recipients=["*@example.com"])
    assert (error.type, error.non_retryable) == (FailureType.TOOL_FAILED, True)
    assert await writer.delivered() == []


@pytest.mark.parametrize(
    "to",
    [
        "reader@evil.com",
        "reader@example.com.evil.com",
        "reader@notexample.com",
        '"reader@example.com" <reader@evil.com>',
        "reader@evil.com (@example.com)",
    ],
)
async def test_who_is_not_on_the_fleets_list_is_not_written_to(writer, to):
    error = await writer.refused(asked("send_email", {**ARGUMENTS, "to": to}), recipients=["*@example.com"])
    assert (error.type, error.non_retryable) == (FailureType.TOOL_FAILED, True)
    assert "may not be written to by this fleet" in error.message
    assert (await writer.entry()).state is EffectState.FAILED
    assert await writer.delivered() == []


@pytest.mark.parametrize("to", ["reader@example.com", "Reader@EXAMPLE.com", "boss@partner.org"])
async def test_who_is_on_it_is_written_to(writer, to):
    await writer.send(asked("send_email", {**ARGUMENTS, "to": to}), recipients=["*@example.com", "boss@partner.org"])
    assert [mail["recipients"] for mail in await writer.delivered()] == [[to]]


def test_a_message_id_tells_the_key_and_nothing_else():
    first = compose("f@example.com", "run/1", to="a@b.com", subject="s", body="b")
    again = compose("f@example.com", "run/1", to="a@b.com", subject="s", body="b")
    other = compose("f@example.com", "run/2", to="a@b.com", subject="s", body="b")
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert "run" not in first["Message-ID"]
    long = compose("f@example.com", "k", to="a@b.com", subject="one\n two " + "x" * 500, body="b")
    assert str(long["Subject"]).startswith("one two xxx")
    assert len(str(long["Subject"])) == 200
