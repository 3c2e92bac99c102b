"""Attempts to have effects, as Temporal would make them: real activities over a real ledger."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import httpx2
from sqlalchemy import update
from temporalio.testing import ActivityEnvironment

from fleet.contracts.approvals import digest
from fleet.contracts.effects import EffectRequest
from fleet.contracts.names import effect_key
from fleet.contracts.runs import CallPolicy
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from workers.admission import Admission
from workers.database import DatabaseLost
from workers.database.tables import effects
from workers.effects.attempts import Attempts
from workers.effects.ledger import Ledger

KEY = effect_key("run-1", "3.1")


def asked(tool, arguments, *, step="3.1", run="run-1", **fields):
    """The request of one effect of one run."""
    policy = CallPolicy(max_failures=fields.pop("max_failures", 5))
    return EffectRequest(
        key=effect_key(run, step),
        tool=tool,
        activity="",
        arguments=arguments,
        digest=digest(tool, arguments),
        run_id=run,
        agent="agent",
        tenant="acme",
        policy=policy,
        **fields,
    )


def environment(*, carried_by="child-1", **info):
    """Where an activity of that workflow run lives."""
    found = ActivityEnvironment()
    found.info = replace(found.info, workflow_id="run-1", workflow_run_id=carried_by, **info)
    return found


class Flaky:
    """A database that is away when told to, as `Database` is."""

    def __init__(self, database):
        self._database = database
        self.sqlite = database.sqlite
        self.insert = database.insert
        self.reading = database.reading
        self.after = 0
        """Transactions that are let through first."""
        self.away = 0
        """How many of the next transactions fail."""
        self.committed = False
        """Those that fail are committed all the same: only the answer is lost."""
        self.slow_s = 0.0
        self.slow = 0
        """How many of the next transactions take `slow_s`."""

    @asynccontextmanager
    async def begin(self):
        if self.after:
            self.after -= 1
            fails = False
        else:
            fails = self.away > 0
            self.away -= fails
            if self.slow:
                self.slow -= 1
                await asyncio.sleep(self.slow_s)
        if fails and not self.committed:
            raise DatabaseLost("the database does not answer: ordered")
        async with self._database.begin() as connection:
            yield connection
        if fails:
            raise DatabaseLost("the database does not answer: ordered")


class Outside:
    """The simulated world, the ledger, and what makes attempts over it."""

    def __init__(self, where, database):
        self.where = where
        self.database = database
        self.ledger = Ledger(database)
        self.flaky = Flaky(database)
        self.limiter = Limiter(MemoryStore(), {})

    def attempts(self, ledger=None, scope=None):
        return Attempts(ledger or self.ledger, Admission(self.limiter, timedelta(seconds=1)), scope)

    def flaky_ledger(self):
        return Ledger(self.flaky)

    async def fault(self, provider, **order):
        async with httpx2.AsyncClient(base_url=self.where.http) as http:
            (await http.post("/_fault", json={"provider": provider, **order})).raise_for_status()

    async def control(self, **patch):
        async with httpx2.AsyncClient(base_url=self.where.http) as http:
            (await http.post("/_control", json=patch)).raise_for_status()

    async def get(self, path, **params):
        async with httpx2.AsyncClient(base_url=self.where.http) as http:
            return (await http.get(path, params=params)).json()

    async def entry(self, key=KEY):
        return await self.ledger.get(key)

    async def begun(self, request):
        """As an attempt leaves it that died after its beginning."""
        await self.ledger.intend(
            request.key, tool=request.tool, digest=request.digest, run_id=request.run_id, agent=request.agent,
            tenant=request.tenant,
        )  # fmt: skip
        claim = await self.ledger.claim(request.key)
        assert await self.ledger.begin(request.key, claim.fence)

    async def age(self, by, key=KEY):
        """Everything that was written of the effect was written so much earlier."""
        entry = await self.entry(key)
        earlier = {
            name: getattr(entry, name) - by for name in ("created_at", "executing_since", "updated_at")
            if getattr(entry, name) is not None
        }  # fmt: skip
        async with self.database.begin() as connection:
            await connection.execute(update(effects).where(effects.c.key == key).values(earlier))


def content(result):
    return json.loads(result.content)
