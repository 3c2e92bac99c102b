"""An e-mail is sent once, whatever happens in between."""

import json
from dataclasses import replace
from datetime import timedelta

import httpx2
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from fleet.contracts.names import FailureType, effect_key
from fleet.contracts.tools import ToolRequest
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from workers.admission import Admission
from workers.effects.ledger import Ledger, State
from workers.providers.smtp import Relay
from workers.tools.mail import MailTools

ARGUMENTS = {"to": "reader@example.com", "subject": "A brief", "body": "It says:\n.dot\n"}


class Desk:
    """A mail tool, its relay and its ledger."""

    def __init__(self, where, ledger, *, can_ask=True):
        self.where, self.ledger = where, ledger
        self.relay = Relay(
            host="127.0.0.1",
            port=where.smtp_port,
            tls="none",
            sender="fleet@example.com",
            lookup_url=f"{where.http}/_mail" if can_ask else None,
            timeout_s=5,
        )
        self.tools = MailTools(
            Admission(Limiter(MemoryStore(), {}), timedelta(seconds=1)), self.relay, ledger, "email/relay"
        )

    async def send(self, *, step="3.1", run="run-1", arguments=ARGUMENTS, max_failures=5):
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_id=run)
        request = ToolRequest(tool="send_email", call_id="c", arguments=arguments, step=step, max_failures=max_failures)
        return await environment.run(self.tools.send, request)

    async def fault(self, **order):
        async with httpx2.AsyncClient(base_url=self.where.http) as http:
            await http.post("/_fault", json={"provider": "smtp", **order})

    async def delivered(self):
        async with httpx2.AsyncClient(base_url=self.where.http) as http:
            return (await http.get("/_mail")).json()


@pytest.fixture
async def ledger(tmp_path):
    found = Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db")
    await found.open()
    yield found
    await found.aclose()


@pytest.fixture
async def desk(simulators, ledger):
    return Desk(await simulators(), ledger)


async def test_a_message_is_handed_in_with_its_evidence(desk):
    result = await desk.send()
    (mail,) = await desk.delivered()
    assert (mail["recipients"], mail["subject"]) == (["reader@example.com"], "A brief")
    assert result.evidence["message_id"] == mail["message_id"]
    assert json.loads(result.content)["sent"] is True


async def test_the_same_effect_again_sends_nothing_and_answers_the_same(desk):
    first = await desk.send()
    again = await desk.send()
    assert again.evidence == first.evidence
    assert len(await desk.delivered()) == 1


async def test_another_step_or_run_is_another_effect(desk):
    await desk.send(step="3.1")
    await desk.send(step="4.1")
    await desk.send(run="run-2")
    assert len({mail["message_id"] for mail in await desk.delivered()}) == 3


async def test_a_connection_that_broke_after_the_message_was_kept_sends_no_second(desk):
    await desk.fault(drop=True, after=True)
    with pytest.raises(ApplicationError) as raised:
        await desk.send()
    assert raised.value.type == FailureType.PROVIDER_FAILED
    assert not raised.value.non_retryable
    result = await desk.send()
    assert result.evidence["reply"] == "accepted, found by Message-ID"
    assert len(await desk.delivered()) == 1


async def test_a_connection_that_broke_before_is_made_up_for(desk):
    await desk.fault(drop=True, after=False)
    with pytest.raises(ApplicationError):
        await desk.send()
    await desk.send()
    assert len(await desk.delivered()) == 1


async def test_an_attempt_that_died_while_sending_is_looked_up(desk):
    await desk.ledger.claim(effect_key("run-1", "3.1"))
    await desk.send()
    assert len(await desk.delivered()) == 1


async def test_where_nobody_can_say_it_is_not_sent_again(desk):
    blind = Desk(desk.where, desk.ledger, can_ask=False)
    await desk.ledger.claim(effect_key("run-1", "3.1"))
    with pytest.raises(ApplicationError) as raised:
        await blind.send()
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.EFFECT_UNKNOWN, True)
    assert await desk.delivered() == []


async def test_a_later_is_a_wait_and_a_never_is_final(desk):
    await desk.fault(status=451)
    with pytest.raises(ApplicationError) as raised:
        await desk.send()
    assert raised.value.type == FailureType.RATE_LIMITED
    await desk.fault(status=550)
    with pytest.raises(ApplicationError) as raised:
        await desk.send()
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.BAD_REQUEST, True)
    # the relay has said no: the way is free for another attempt
    claim = await desk.ledger.claim(effect_key("run-1", "3.1"))
    assert claim.state is State.FAILED


async def test_what_cannot_be_written_is_told_to_the_model(desk):
    with pytest.raises(ApplicationError) as raised:
        await desk.send(arguments={**ARGUMENTS, "body": "half a \ud83d pair"})
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.TOOL_FAILED, True)


@pytest.mark.parametrize("to", ["", "nobody", "a@b.com\nBcc: all@b.com", "a@b.com, c@d.com"])
async def test_what_is_no_address_is_told_to_the_model(desk, to):
    with pytest.raises(ApplicationError) as raised:
        await desk.send(arguments={**ARGUMENTS, "to": to})
    assert raised.value.type == FailureType.TOOL_FAILED
    assert await desk.delivered() == []
