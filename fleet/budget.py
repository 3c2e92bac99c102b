"""What may still be spent? Pure."""

from dataclasses import dataclass, replace

from fleet.contracts.llm import Usage
from fleet.contracts.runs import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has spent so far."""

    steps: int = 0
    tokens: int = 0

    def step(self, usage: Usage) -> "Spent":
        """Add one call of the model."""
        return replace(self, steps=self.steps + 1, tokens=self.tokens + usage.total_tokens)


def exhausted(budget: Budget, spent: Spent, elapsed_s: float) -> str | None:
    """Which part of the budget is used up, in words; None while all parts hold."""
    if spent.steps >= budget.steps:
        return f"used {spent.steps} of {budget.steps} steps"
    if spent.tokens >= budget.tokens:
        return f"used {spent.tokens} of {budget.tokens} tokens"
    if elapsed_s >= budget.deadline_s:
        return f"the deadline of {budget.deadline_s:g} s has passed"
    return None
