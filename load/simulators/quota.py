"""What one key may spend on one model, everything taken together: limits, calls at once, growth, money, the cache."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from load.simulators.bucket import Bucket, changed, new_bucket
from load.simulators.caching import PromptCache
from load.simulators.limits import LimitOptions, PriceOptions, QuotaOptions
from load.simulators.ramp import Ramp


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a call does not fit."""

    limit: str
    """Which limit: `requests`, `tokens`, …; `in_flight`, `money`."""
    kind: Literal["quota", "in_flight", "acceleration", "spend"] = "quota"
    granted: float
    """By the minute, or at once, or money."""
    used: float
    requested: float
    retry_after_s: float | None
    """Infinite: waiting does not help. None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One limit as headers tell it."""

    limit: float
    period_s: float
    remaining: float
    full_in_s: float


class Meter:
    """Counts units by limit."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def update(self, limits: Mapping[str, LimitOptions], now: float) -> None:
        """Adopt the limits in force."""
        for name in self._buckets.keys() - limits.keys():
            del self._buckets[name]
        for name, options in limits.items():
            bucket = self._buckets.get(name)
            self._buckets[name] = new_bucket(options, now) if bucket is None else changed(bucket, options, now)

    def refusal(self, cost: Mapping[str, float], now: float) -> Refusal | None:
        """Which limit is in the way of the cost: the one with the longest wait."""
        worst: tuple[float, str] | None = None
        for name, bucket in self._buckets.items():
            units = cost.get(name)
            if units is None:
                continue
            wait = bucket.wait(units, now)
            if wait > 0 and (worst is None or wait > worst[0]):
                worst = (wait, name)
        return None if worst is None else self._refused(worst[1], cost[worst[1]], worst[0], now)

    def admit(self, cost: Mapping[str, float], now: float) -> Refusal | None:
        """Charge every limit, or none and say which limit is in the way."""
        refusal = self.refusal(cost, now)
        if refusal is None:
            for name, units in cost.items():
                self.charge(name, units, now)
        return refusal

    def owing(self, names: tuple[str, ...], now: float) -> Refusal | None:
        """The first of the limits that has not one unit left."""
        for name in names:
            bucket = self._buckets.get(name)
            if bucket is not None and (wait := bucket.wait(1.0, now)) > 0:
                return self._refused(name, 1.0, wait, now)
        return None

    def charge(self, name: str, units: float, now: float) -> None:
        """Spend, into debt if need be. A limit that is not set counts nothing."""
        if bucket := self._buckets.get(name):
            bucket.spend(units, now)

    def charge_if_left(self, name: str, units: float, now: float) -> float:
        """Spend only what fits; returns what was spent. Refused calls count, but dig no debt."""
        bucket = self._buckets.get(name)
        if bucket is None or bucket.wait(units, now) > 0:
            return 0.0
        bucket.spend(units, now)
        return units

    def standing(self, now: float) -> dict[str, Standing]:
        """Every limit, as headers tell it."""
        return {
            name: Standing(
                limit=bucket.options.limit,
                period_s=bucket.options.period_s,
                remaining=max(0.0, math.floor(bucket.available(now) + 1e-6)),
                full_in_s=bucket.full_in(now),
            )
            for name, bucket in self._buckets.items()
        }

    def _refused(self, name: str, units: float, wait: float, now: float) -> Refusal:
        options, available = self._buckets[name].options, self._buckets[name].available(now)
        return Refusal(
            limit=name,
            granted=options.limit * 60 / options.period_s,
            used=max(0.0, options.at_once - available),
            requested=units,
            retry_after_s=wait,
        )


@dataclass(slots=True)
class Wallet:
    """What a key has spent on all models."""

    spent: float = 0.0


class Account(Meter):
    """Everything that is counted for a key on a model."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__()
        self.cache = PromptCache()
        self.running = 0
        """Calls that were admitted and have not ended."""
        self._wallet = wallet
        self._quota: QuotaOptions | None = None
        self._ramp: Ramp | None = None

    def adopt(self, quota: QuotaOptions, now: float) -> None:
        """What is granted from now on."""
        if quota is self._quota:
            return
        self._quota = quota
        self.update(quota.limits(), now)
        known = self._ramp.options if self._ramp else None
        if quota.acceleration != known:
            self._ramp = Ramp(quota.acceleration) if quota.acceleration else None

    def take(
        self,
        cost: Mapping[str, float],
        now: float,
        *,
        owing: tuple[str, ...] = (),
        spend_cap: float | None = None,
        charged: bool = True,
    ) -> Refusal | None:
        """Begin a call, to be ended by `give_back`; or say what is in the way of it, and change nothing.

        Args:
            cost: units by limit.
            now: wall-clock seconds.
            owing: limits that must not be in debt.
            spend_cap: money that the key may have spent.
            charged: False begins the call without counting its cost.
        """
        refusal = self._barred(cost, now, spend_cap) or self.owing(owing, now) or self.refusal(cost, now)
        if refusal is not None:
            return refusal
        self.running += 1
        if charged:
            for name, units in cost.items():
                self.charge(name, units, now)
            if self._ramp is not None:
                self._ramp.spend(cost.get(self._ramp.options.of, 0.0), now)
        return None

    def give_back(self) -> None:
        """The call has ended."""
        self.running -= 1

    def pay(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """Money for these tokens, which is spent now."""
        price: PriceOptions | None = self._quota.price if self._quota else None
        if price is None:
            return 0.0
        cached = price.input if price.cached is None else price.cached
        money = (prompt_tokens - cached_tokens) * price.input + cached_tokens * cached + output_tokens * price.output
        self._wallet.spent += money / 1e6
        return money / 1e6

    def _barred(self, cost: Mapping[str, float], now: float, spend_cap: float | None) -> Refusal | None:
        if spend_cap is not None and self._wallet.spent >= spend_cap:
            spent = self._wallet.spent
            return Refusal(
                limit="money", kind="spend", granted=spend_cap, used=spent, requested=0.0, retry_after_s=math.inf
            )
        most = self._quota.in_flight if self._quota else None
        if most is not None and self.running >= most:
            return Refusal(
                limit="in_flight",
                kind="in_flight",
                granted=float(most),
                used=float(self.running),
                requested=1.0,
                retry_after_s=None,
            )
        ramp = self._ramp
        if ramp is not None:
            units = cost.get(ramp.options.of, 0.0)
            if (wait := ramp.wait(units, now)) > 0:
                return Refusal(
                    limit=ramp.options.of,
                    kind="acceleration",
                    granted=ramp.granted(now) * 60 / ramp.options.period_s,
                    used=ramp.used(now),
                    requested=units,
                    retry_after_s=wait,
                )
        return None
