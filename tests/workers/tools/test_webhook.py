"""Webhooks: signed, the same message however often it is tried, until its deadline."""

import asyncio
import json
from datetime import datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from fleet.contracts.effects import EffectState, Mode
from fleet.contracts.names import FailureType
from tests.workers.attempting import KEY, Outside, asked, content, environment
from workers.effects.ledger import Ledger
from workers.providers.webhooks import Endpoint, WebhookClient
from workers.tools.webhook import Target, WebhookTools

SECRET = "whsec_c2lnbmVkLWJ5LXRoZS1mbGVldC1mb3ItdGVzdHM="
FACTS = {"endpoint": "ops", "type": "order.checked", "data": {"order": 17, "ok": True, "name": "März ☃"}}
HOOK = asked("send_webhook", FACTS)


class Teller(Outside):
    """Tells one endpoint."""

    deadline = timedelta(days=3)
    path = "/hooks/ops"
    base = None
    timeout_s = 5.0

    async def tell(self, request=HOOK, *, ledger=None, where=None, targets=None):
        endpoint = Endpoint(
            name="ops",
            url=f"{self.base or self.where.http}{self.path}",
            secret=SECRET,
            allow_private=True,
            timeout_s=self.timeout_s,
        )
        if targets is None:
            targets = {"ops": Target(endpoint=endpoint, deadline=self.deadline)}
        ledger = ledger or self.ledger
        tools = WebhookTools(self.attempts(ledger), ledger, WebhookClient(), targets)
        return await (where or environment()).run(tools.send, request)

    async def refused(self, request=HOOK, **options):
        with pytest.raises(ApplicationError) as raised:
            await self.tell(request, **options)
        return raised.value

    async def deliveries(self):
        return await self.get("/_hooks", name="ops")


@pytest.fixture
async def teller(simulators, database):
    return Teller(await simulators(hooks={"secrets": {"ops": SECRET}}), database)


async def test_the_receiver_verifies_a_cloud_event_and_its_signature(teller):
    result = await teller.tell()
    assert content(result) == {"delivered": True, "endpoint": "ops"}
    assert result.evidence == {"endpoint": "ops", "status": "204"}
    (delivery,) = await teller.deliveries()
    assert (delivery["verified"], delivery["id"]) == (True, KEY)
    assert delivery["headers"]["content-type"].startswith("application/cloudevents+json")
    event = json.loads(delivery["body"])
    assert (event["id"], event["type"], event["source"], event["subject"]) == (
        KEY, "order.checked", "fleet/agent", "run-1",
    )  # fmt: skip
    assert event["data"] == FACTS["data"]
    assert datetime.fromisoformat(event["time"]) == (await teller.entry()).created_at


async def test_every_attempt_is_the_same_message_to_the_last_byte(teller):
    for order in ({"status": 500}, {"drop": True}, {"status": 503}, {"drop": True}):
        await teller.fault("hooks", **order)
        assert not (await teller.refused()).non_retryable
    await teller.tell()
    deliveries = await teller.deliveries()
    # both whose connection broke had arrived
    assert [delivery["attempt"] for delivery in deliveries] == [1, 2, 3]
    assert len({(delivery["id"], delivery["body"]) for delivery in deliveries}) == 1
    assert all(delivery["verified"] for delivery in deliveries)
    await teller.tell()
    assert len(await teller.deliveries()) == 3


async def test_another_call_is_another_message(teller):
    await teller.tell()
    await teller.tell(asked("send_webhook", FACTS, step="4.1"))
    assert len({delivery["id"] for delivery in await teller.deliveries()}) == 2


async def test_a_receiver_that_is_down_is_tried_often_at_first_and_then_ever_less(teller):
    pauses = []
    for age in (timedelta(0), timedelta(minutes=30), timedelta(hours=12)):
        if age:
            await teller.age(age)
        await teller.fault("hooks", status=500)
        pauses.append((await teller.refused()).next_retry_delay)
    assert pauses[0] <= timedelta(seconds=2)
    assert timedelta(minutes=2.9) < pauses[1] < timedelta(minutes=4)
    assert pauses[2] == timedelta(hours=1)


async def test_no_number_of_failures_ends_a_delivery_before_its_deadline(teller):
    where = environment(heartbeat_details=[{"failures": 500}])
    await teller.fault("hooks", status=500)
    assert not (await teller.refused(where=where)).non_retryable
    assert (await teller.tell()).state is EffectState.DONE


async def test_a_receiver_that_is_never_reached_makes_a_dead_letter(teller):
    teller.base = "http://127.0.0.1:9"
    assert not (await teller.refused()).non_retryable
    await teller.age(timedelta(days=3, seconds=1))
    error = await teller.refused()
    assert (error.type, error.non_retryable) == (FailureType.BAD_REQUEST, True)
    assert error.message == "webhook ops: a dead letter: not delivered within 3 days, 0:00:00"
    entry = await teller.entry()
    assert (entry.state, entry.reason) == (EffectState.FAILED, error.message)


async def test_a_receiver_that_turns_it_away_to_the_end_makes_a_dead_letter(teller):
    await teller.fault("hooks", status=429)
    assert (await teller.refused()).type == FailureType.RATE_LIMITED
    await teller.age(timedelta(days=3, seconds=1))
    assert (await teller.refused()).type == FailureType.BAD_REQUEST
    assert (await teller.entry()).state is EffectState.FAILED
    assert await teller.deliveries() == []


@pytest.mark.parametrize("order", [{"drop": True}, {"status": 502}])
async def test_a_dead_letter_that_may_have_arrived_is_not_called_failed(teller, order):
    await teller.fault("hooks", **order)
    await teller.refused()
    assert (await teller.entry()).state is EffectState.EXECUTING
    await teller.age(timedelta(days=3, seconds=1))
    error = await teller.refused()
    assert error.type == FailureType.EFFECT_UNKNOWN
    assert "a dead letter" in error.message
    assert "may have been taken" in error.message
    assert (await teller.entry()).state is EffectState.UNKNOWN


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_receiver_that_wants_none_has_failed_at_once(teller, status):
    await teller.fault("hooks", status=status)
    error = await teller.refused()
    assert (error.type, error.non_retryable) == (FailureType.BAD_REQUEST, True)
    assert str(status) in error.message
    assert (await teller.entry()).state is EffectState.FAILED


async def test_a_secret_that_is_not_the_receivers_is_refused_by_it(teller):
    await teller.control(hooks={"secrets": {"ops": "whsec_b3RoZXItc2VjcmV0LW9mLXNvbWVib2R5LWVsc2U="}})
    assert (await teller.refused()).type == FailureType.BAD_REQUEST
    assert [delivery["verified"] for delivery in await teller.deliveries()] == [False]


async def test_the_models_mistakes_are_told_to_the_model(teller):
    for wrong, told in (
        ({"endpoint": "nobody"}, "webhook: no endpoint 'nobody'; there are: ops"),
        ({"type": ""}, "webhook: `type` must be text that is not empty, `data` an object"),
        ({"data": "x"}, "webhook: `type` must be text that is not empty, `data` an object"),
    ):
        error = await teller.refused(asked("send_webhook", {**FACTS, **wrong}, step=str(wrong)))
        assert (error.type, error.non_retryable, error.message) == (FailureType.TOOL_FAILED, True, told)
    assert await teller.deliveries() == []


async def test_an_endpoint_that_was_taken_out_makes_nothing_undone(teller):
    done = await teller.tell()
    assert (await teller.tell(targets={})).content == done.content
    other = asked("send_webhook", FACTS, step="4.1")
    await teller.fault("hooks", drop=True)
    await teller.refused(other)
    error = await teller.refused(other, targets={})
    assert error.type == FailureType.EFFECT_UNKNOWN


class Overtaken(Ledger):
    """Another attempt claims the effect between this one's claim and its beginning."""

    async def begin(self, key, fence):
        await self.claim(key)
        return await super().begin(key, fence)


async def test_an_attempt_that_was_overtaken_delivers_nothing(teller):
    error = await teller.refused(ledger=Overtaken(teller.database))
    assert "nothing was sent" in error.message
    assert (await teller.deliveries(), (await teller.entry()).state) == ([], EffectState.INTENDED)


async def test_a_database_that_is_away_is_a_wait(teller):
    for step in range(3):
        teller.flaky.after, teller.flaky.away = step, 1
        error = await teller.refused(ledger=teller.flaky_ledger())
        assert (error.type, error.category) == (FailureType.DATABASE_LOST, ApplicationErrorCategory.BENIGN)
    assert (await teller.tell(ledger=teller.flaky_ledger())).state is EffectState.DONE
    assert len(await teller.deliveries()) == 1


async def test_a_cancellation_goes_to_the_end_once_it_is_under_way(teller):
    await teller.control(hooks={"faults": {"rate_hang": 1.0, "hang_s": 0.3}})
    where = environment()
    telling = asyncio.create_task(teller.tell(where=where))
    async with asyncio.timeout(5):
        while not await teller.deliveries():
            await asyncio.sleep(0.01)
    where.cancel()
    assert (await telling).state is EffectState.DONE


async def test_accounting_delivers_nothing(teller):
    account = asked("send_webhook", FACTS, mode=Mode.ACCOUNT, why="not had in time")
    assert (await teller.tell(account)).state is EffectState.FAILED
    assert await teller.deliveries() == []
