"""What all simulated providers share: options in force, accounts, faults, the ledger."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from load.simulators.ledger import Ledger, Row
from load.simulators.limits import LatencyOptions, LimitOptions, QuotaOptions
from load.simulators.mailbox import Mailbox
from load.simulators.options import EffectApiOptions, FaultOptions, Options
from load.simulators.orders import Failing, FaultOrder, FaultSpell
from load.simulators.quota import Account, Meter, Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What befalls a call."""

    status: int | None = None
    drop: bool = False
    after: bool = True
    hang_s: float = 0.0
    """Seconds between the work and the answer."""
    retry_after: float | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long an answer takes."""

    first_s: float
    """Until its first token."""
    rest_s: float
    """From there to the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """Calls fail for a time."""

    provider: str
    model: str | None
    fault: FaultSpell


class World:
    """One per process."""

    def __init__(self, options: Options, ledger: Ledger, mailbox: Mailbox) -> None:
        self.options = options
        """In force: what was given, and the patches on it."""
        self.ledger = ledger
        self.mailbox = mailbox
        self.spells: list[Spell] = []
        """In force, by a script."""
        self._given = options
        self._patches: list[Any] = []
        self._changed: list[Callable[[], None]] = []
        self._meters: dict[tuple[str, str, str], Meter] = {}
        self._accounts: dict[tuple[str, str, str], Account] = {}
        self._wallets: dict[tuple[str, str], Wallet] = {}
        self._orders: list[tuple[FaultOrder, int]] = []
        self._latency = random.Random(options.latency.seed)
        self._chance = random.Random(options.faults.seed)
        self._last = 0.0
        self.in_flight = 0
        """Requests that have arrived and not ended."""

    def now(self) -> float:
        """Wall-clock seconds that never go back."""
        self._last = max(self._last, time())
        return self._last

    def give(self, change: Any) -> None:
        """Change the options by a merge patch. What a script has changed for a time stays so.

        Raises:
            OptionsError: they are not accepted; nothing changes.
        """
        given = self._given.patched(change)
        self.options = _patched(given, self._patches)
        self._given = given
        self._tell()

    def patch(self, change: Any) -> None:
        """Put a merge patch on the options, until `unpatch`.

        Raises:
            OptionsError: they are not accepted; nothing changes.
        """
        self.options = _patched(self._given, [*self._patches, change])
        self._patches.append(change)
        self._tell()

    def unpatch(self, change: Any) -> None:
        """Take the patch, this very object, away."""
        self._patches = [one for one in self._patches if one is not change]
        self.options = _patched(self._given, self._patches)
        self._tell()

    def on_change(self, told: Callable[[], None]) -> None:
        """Call this after every change of the options."""
        self._changed.append(told)

    def _tell(self) -> None:
        for told in self._changed:
            told()

    def row(self, provider: str, path: str) -> Row:
        """A request has arrived; `close` must follow."""
        self.in_flight += 1
        return Row(provider=provider, path=path, mono=monotonic(), wall=self.now())

    def meter(self, provider: str, key: str, model: str, limits: Mapping[str, LimitOptions]) -> Meter:
        """What has been spent, under the limits in force."""
        meter = self._meters.setdefault((provider, key, model), Meter())
        meter.update(limits, self.now())
        return meter

    def account(self, provider: str, key: str, model: str, quota: QuotaOptions) -> Account:
        """What a key has spent on a model, under what is granted now."""
        place = (provider, key, model)
        account = self._accounts.get(place)
        if account is None:
            wallet = self._wallets.setdefault((provider, key), Wallet())
            account = self._accounts[place] = Account(wallet)
        account.adopt(quota, self.now())
        return account

    def order(self, order: FaultOrder) -> None:
        """Make calls fail."""
        if order.count == 0:
            self._orders = [(o, n) for o, n in self._orders if o.provider != order.provider]
        else:
            self._orders.append((order, order.count))

    def fault(self, provider: str, model: str) -> Fault | None:
        """What befalls this call: an order first, then a spell of a script, then chance."""
        for place, (order, left) in enumerate(self._orders):
            if order.provider == provider and order.model in (None, model):
                if left > 1:
                    self._orders[place] = (order, left - 1)
                else:
                    del self._orders[place]
                return _fault(order)
        for spell in self.spells:
            fits = spell.provider == provider and spell.model in (None, model)
            if fits and self._chance.random() < spell.fault.rate:
                return _fault(spell.fault)
        dice = self._chance.random()
        for rate, fault in self._chances(provider):
            if dice < rate:
                return fault
            dice -= rate
        return None

    def _chances(self, provider: str) -> list[tuple[float, Fault]]:
        options = self.options
        match provider:
            case "smtp":
                relay = options.smtp.faults
                return [(relay.rate_451, Fault(status=451)), (relay.rate_drop, _UNDONE), (relay.rate_lost, _LOST)]
            case "bank" | "mail_api" | "hooks":
                table: EffectApiOptions = getattr(options, provider)
                return [
                    (table.faults.rate_500, _FAILED),
                    (table.faults.rate_drop, _UNDONE),
                    (table.faults.rate_lost, _LOST),
                    (table.faults.rate_hang, Fault(hang_s=table.faults.hang_s)),
                ]
            case _:
                return _rates(options.faults)

    def latency(self, output_tokens: int, override: LatencyOptions | None = None) -> Latency:
        """How long an answer of this size takes, where a model may have a table of its own."""
        options = self.options.latency.but(override)
        match options.distribution:
            case "uniform":
                times = 1 + options.jitter * (2 * self._latency.random() - 1)
            case "lognormal":
                times = self._latency.lognormvariate(0.0, options.sigma)
            case "constant":
                times = 1.0
        times *= options.factor
        return Latency(first_s=options.base_s * times, rest_s=options.per_output_token_s * output_tokens * times)

    async def pause(self, seconds: float) -> None:
        """Let that time pass."""
        await asyncio.sleep(seconds)

    def close(self, row: Row, outcome: str, status: int) -> None:
        """The request has ended."""
        if not row.outsider:
            self.in_flight -= 1
        row.outcome, row.status = outcome, status
        row.latency_s = monotonic() - row.mono
        row.ended = self.now()
        self.ledger.add(row)


_FAILED, _UNDONE, _LOST = Fault(status=500), Fault(drop=True, after=False), Fault(drop=True)
_UNAVAILABLE, _OVERLOADED = Fault(status=503), Fault(status=529)


def _rates(options: FaultOptions) -> list[tuple[float, Fault]]:
    return [
        (options.rate_500, _FAILED),
        (options.rate_503, _UNAVAILABLE),
        (options.rate_529, _OVERLOADED),
        (options.rate_drop, _LOST),
    ]


def _fault(how: Failing) -> Fault:
    return Fault(
        status=how.status,
        drop=how.drop or (how.status is None and how.hang_s is None),
        after=how.after,
        hang_s=how.hang_s or 0.0,
        retry_after=how.retry_after,
        code=how.code,
    )


def _patched(options: Options, changes: list[Any]) -> Options:
    for change in changes:
        options = options.patched(change)
    return options
