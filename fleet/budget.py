"""What may still be spent? Pure."""

from dataclasses import dataclass, replace
from decimal import Decimal

from fleet.contracts.llm import Usage
from fleet.contracts.runs import Budget, Price

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has spent so far."""

    steps: int = 0
    tokens: int = 0
    money: Decimal = Decimal(0)

    def step(self, usage: Usage, price: Price | None) -> "Spent":
        """Add one call of the model."""
        return replace(self.more(usage, price), steps=self.steps + 1)

    def more(self, usage: Usage, price: Price | None) -> "Spent":
        """Add a call of a model that is no step."""
        return replace(self, tokens=self.tokens + usage.total_tokens, money=self.money + cost(price, usage))


def cost(price: Price | None, usage: Usage) -> Decimal:
    """What a call has cost, exactly; nothing where the model has no price."""
    if price is None:
        return Decimal(0)
    fresh = max(0, usage.input_tokens - usage.cached_tokens)
    return (
        fresh * Decimal(price.input)
        + usage.cached_tokens * Decimal(price.cached)
        + usage.output_tokens * Decimal(price.output)
    ) / _MILLION


def exhausted(budget: Budget, spent: Spent, elapsed_s: float) -> str | None:
    """Which part of the budget is used up, in words; None while all parts hold."""
    if spent.steps >= budget.steps:
        return f"used {spent.steps} of {budget.steps} steps"
    if spent.tokens >= budget.tokens:
        return f"used {spent.tokens} of {budget.tokens} tokens"
    if budget.money is not None and spent.money >= Decimal(budget.money):
        return f"used {spent.money.normalize():f} of {budget.money} of money"
    if elapsed_s >= budget.deadline_s:
        return f"the deadline of {budget.deadline_s:g} s has passed"
    return None
