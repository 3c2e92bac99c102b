"""Somebody else who shares a key: spends the same quota, without a connection, and is written down as such."""

import asyncio
import random
from collections.abc import Iterator
from itertools import count
from time import monotonic

from load.simulators.ledger import Row, masked
from load.simulators.limits import QuotaOptions
from load.simulators.options import ModelApiOptions, OutsiderOptions
from load.simulators.quota import Account
from load.simulators.world import World

_AHEAD_S = 0.01
"""Calls that are due within this time are made together, so that fast outsiders cost few wake-ups."""
_UNLIMITED = QuotaOptions()


class Outsiders:
    """Those of the options in force. Must be started in a running event loop, and closed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: list[tuple[OutsiderOptions, asyncio.Task[None]]] = []
        world.on_change(self.adopt)

    def adopt(self) -> None:
        """Start those that are new, stop those that are gone; what stays the same goes on."""
        wanted = list(self._world.options.outsiders)
        kept = []
        for one, task in self._tasks:
            if one in wanted:
                wanted.remove(one)
                kept.append((one, task))
            else:
                task.cancel()
        self._tasks = kept + [(one, asyncio.create_task(self._spend(one))) for one in wanted]

    async def aclose(self) -> None:
        """Stop all."""
        for _, task in self._tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._tasks), return_exceptions=True)
        self._tasks = []

    async def _spend(self, one: OutsiderOptions) -> None:
        began = monotonic()
        for at in arrivals(one):
            wait = began + at - monotonic()
            if wait > _AHEAD_S:
                await asyncio.sleep(wait)
            call(self._world, one)


def arrivals(one: OutsiderOptions) -> Iterator[float]:
    """When its calls are made, in seconds from its start."""
    dice, at = random.Random(one.seed), one.from_s
    for number in count(1):
        # not a sum: fractions would drift
        regular = one.from_s + number / one.requests_per_s
        at = at + dice.expovariate(one.requests_per_s) if one.arrivals == "poisson" else regular
        if one.to_s is not None and at >= one.to_s:
            return
        yield at


def call(world: World, one: OutsiderOptions) -> Row:
    """Make one call: what the provider grants is spent, what it refuses is not. It holds its place for the latency."""
    api: ModelApiOptions = getattr(world.options, one.provider)
    key = one.key or next(iter(api.keys), "")
    quota = api.models.get(one.model, _UNLIMITED)
    account = world.account(one.provider, key, one.model, quota)
    row = Row(
        provider=one.provider, path="outsider", mono=monotonic(), wall=world.now(), key=masked(key), model=one.model,
        outsider=True,
    )  # fmt: skip
    cost, later, owing = _costs(one)
    row.asked = cost
    if account.take(cost, row.wall, owing=owing, spend_cap=api.spend_cap) is not None:
        counts = one.provider == "openai" if api.failed_calls_count is None else api.failed_calls_count
        if counts and (units := account.charge_if_left("requests", 1.0, row.wall)):
            row.charged = {"requests": units}
        world.close(row, "429", 429)
        return row
    row.charged, row.prompt_tokens, row.output_tokens = cost, one.tokens, one.output_tokens
    latency = world.latency(one.output_tokens, quota.latency)
    asyncio.get_running_loop().call_later(latency.first_s + latency.rest_s, _end, world, account, row, later)
    return row


def _costs(one: OutsiderOptions) -> tuple[dict[str, float], dict[str, float], tuple[str, ...]]:
    """On arrival, when it has ended, and what must not be in debt: as each provider counts."""
    tokens, output = float(one.tokens), float(one.output_tokens)
    if one.provider == "openai":
        return {"requests": 1.0, "tokens": tokens}, {}, ()
    arriving = {"requests": 1.0, "input_tokens": tokens, "tokens": tokens}
    return arriving, {"output_tokens": output, "tokens": output}, ("output_tokens", "tokens")


def _end(world: World, account: Account, row: Row, later: dict[str, float]) -> None:
    now = world.now()
    row.charged = dict(row.charged)
    for name, units in later.items():
        account.charge(name, units, now)
        row.charged[name] = row.charged.get(name, 0.0) + units
    if money := account.pay(row.prompt_tokens, 0, row.output_tokens):
        row.charged["money"] = money
    account.give_back()
    world.close(row, "ok", 200)
