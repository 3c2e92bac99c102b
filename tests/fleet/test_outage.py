"""A provider that is away for an hour, in skipped time: nobody fails, and hardly anybody asks meanwhile."""

import asyncio
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client

from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.names import FailureType
from fleet.contracts.runs import Outcome
from fleet.contracts.tools import LLM_CHAT
from ratelimit.model import Model
from ratelimit.places import Rejection
from ratelimit.quota import Limit, Quota
from tests.fleet.fakes import Fakes, says, serving, skip, start, time_skipping
from workers.failures import failure, wait
from workers.providers import errors

RUNS = 10
OUTAGE_S = 3600.0


@pytest.fixture
def skipping():
    with time_skipping() as address:
        yield address


class Away(Fakes):
    """A model behind the limiter's own arithmetic, and a provider that is away for the first hour."""

    def __init__(self):
        super().__init__(script=[says("done")])
        self.limiter = Model()
        quota = Quota(scope="openai/m", limits={"requests": Limit(capacity=600, period=timedelta(minutes=1))})
        self.limiter.configure(quota, full=True, seed=True, now=0.0)
        self.began: datetime | None = None
        self.asked_at: list[float] = []

    @activity.defn(name=LLM_CHAT.name)
    async def chat(self, request: ChatRequest) -> ChatResult:
        at = activity.info().current_attempt_scheduled_time
        self.began = self.began or at
        now = (at - self.began).total_seconds()
        closed = self.limiter.inspect("openai/m", now=now).closed_for
        if closed > timedelta(0):
            raise wait(FailureType.QUOTA_WAIT, "closed", closed)
        self.asked_at.append(now)
        if now >= OUTAGE_S:
            return await super().chat(request)
        epoch = self.limiter.inspect("openai/m", now=now).epoch
        self.limiter.cool_down("openai/m", Rejection(for_s=None, epoch=epoch, jitter=0.5), now=now)
        raise failure(errors.Overloaded("m: 503"), failures=1, max_failures=10, cooled=True)


@pytest.mark.timeout(60)
async def test_an_outage_of_an_hour_is_waited_out(skipping):
    client = await Client.connect(skipping)
    away, queue = Away(), f"q-{uuid4().hex}"
    async with serving(client, away, queue):
        runs = [await start(client, queue, deadline_s=86_400.0) for _ in range(RUNS)]
        results = asyncio.gather(*(run.result() for run in runs))
        while not results.done():
            await skip(client, seconds=20)
        assert [result.outcome for result in await results] == [Outcome.COMPLETED] * RUNS
    early = [at for at in away.asked_at if at < OUTAGE_S]
    # the cooldown grows to a minute: an hour of it is some sixty questions of the whole fleet, not of each run
    assert 30 < len(early) < 60 * 3
    assert len(away.asked_at) - len(early) == RUNS
    assert max(away.asked_at) < OUTAGE_S + 180
