"""What all simulated providers share: options in force, meters, faults, the ledger."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, time

from load.simulators.ledger import Ledger, Row
from load.simulators.mailbox import Mailbox
from load.simulators.options import EffectApiOptions, FaultOrder, LimitOptions, Options
from load.simulators.quota import Meter


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


class World:
    """One per process."""

    def __init__(self, options: Options, ledger: Ledger, mailbox: Mailbox) -> None:
        self.options = options
        self.ledger = ledger
        self.mailbox = mailbox
        self._meters: dict[tuple[str, str, str], Meter] = {}
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

    def row(self, provider: str, path: str) -> Row:
        """A request has arrived; `close` must follow."""
        self.in_flight += 1
        return Row(provider=provider, path=path, mono=monotonic(), wall=self.now())

    def meter(self, provider: str, key: str, model: str, limits: Mapping[str, LimitOptions]) -> Meter:
        """What a key has spent on a model, under the limits in force."""
        meter = self._meters.setdefault((provider, key, model), Meter())
        meter.update(limits, self.now())
        return meter

    def order(self, order: FaultOrder) -> None:
        """Make calls fail."""
        if order.count == 0:
            self._orders = [(o, n) for o, n in self._orders if o.provider != order.provider]
        else:
            self._orders.append((order, order.count))

    def fault(self, provider: str, model: str) -> Fault | None:
        """What befalls this call: an order first, then chance."""
        for place, (order, left) in enumerate(self._orders):
            if order.provider == provider and order.model in (None, model):
                if left > 1:
                    self._orders[place] = (order, left - 1)
                else:
                    del self._orders[place]
                return Fault(
                    status=order.status,
                    drop=order.drop or (order.status is None and order.hang_s is None),
                    after=order.after,
                    hang_s=order.hang_s or 0.0,
                    retry_after=order.retry_after,
                    code=order.code,
                )
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
                return [
                    (relay.rate_451, Fault(status=451)),
                    (relay.rate_drop, Fault(drop=True, after=False)),
                    (relay.rate_lost, Fault(drop=True)),
                ]
            case "bank" | "mail_api" | "hooks":
                table: EffectApiOptions = getattr(options, provider)
                return [
                    (table.faults.rate_500, Fault(status=500)),
                    (table.faults.rate_drop, Fault(drop=True, after=False)),
                    (table.faults.rate_lost, Fault(drop=True)),
                    (table.faults.rate_hang, Fault(hang_s=table.faults.hang_s)),
                ]
            case _:
                rates = options.faults
                return [
                    (rates.rate_500, Fault(status=500)),
                    (rates.rate_503, Fault(status=503)),
                    (rates.rate_529, Fault(status=529)),
                    (rates.rate_drop, Fault(drop=True)),
                ]

    def latency(self, output_tokens: int) -> float:
        """Seconds that an answer of this size takes."""
        options = self.options.latency
        base = options.base_s + options.per_output_token_s * output_tokens
        return base * (1 + options.jitter * (2 * self._latency.random() - 1))

    async def take_time(self, output_tokens: int = 0) -> None:
        """Let that time pass."""
        await self.pause(self.latency(output_tokens))

    async def pause(self, seconds: float) -> None:
        """Let that time pass."""
        await asyncio.sleep(seconds)

    def close(self, row: Row, outcome: str, status: int) -> None:
        """The request has ended."""
        self.in_flight -= 1
        row.outcome, row.status = outcome, status
        row.latency_s = monotonic() - row.mono
        self.ledger.add(row)
