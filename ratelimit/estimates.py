"""What a call will use, learnt from what calls have used: for each model and role, shared by the fleet.

Input is proportional to its characters. Of the output a high quantile is followed, so that most calls get no debt; it
moves up by much where a call has written more, and down by little where one has written less. The twin of
`lua/learn.lua`.
"""

import math
from dataclasses import dataclass

QUANTILE = 0.9
"""So many calls write no more than is estimated."""
FIRST_PER_CHARACTER = 0.25
FIRST_OUTPUT = 256.0
SLOWEST = 0.05
"""Weight of one call among many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What the provider says that a call has used, in tokens."""

    input_tokens: int
    """Those that were cached included."""
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call will use, in tokens."""

    input_tokens: float
    output_tokens: float
    characters: int = 0
    """Of the request: some providers charge by them."""


@dataclass(slots=True)
class Learnt:
    """What is known of one role."""

    calls: int = 0
    per_character: float = FIRST_PER_CHARACTER
    """Input tokens."""
    output: float = FIRST_OUTPUT
    """The quantile, in tokens."""
    spread: float = 0.0
    """How far outputs lie from it, on average."""

    def estimate(self, characters: int, max_output_tokens: int) -> Estimate:
        """A call of so many characters that may write so much."""
        return Estimate(
            input_tokens=float(math.ceil(characters * self.per_character)),
            output_tokens=min(float(max_output_tokens), self.output),
            characters=characters,
        )

    def learn(self, characters: float, input_tokens: float, output_tokens: float) -> None:
        """Take note of one call."""
        self.calls += 1
        weight = max(SLOWEST, 1 / self.calls)
        if characters >= 1:
            self.per_character = self.per_character + weight * (input_tokens / characters - self.per_character)
        if self.calls == 1:
            self.output = output_tokens
            return
        away = output_tokens - self.output
        self.spread = self.spread + weight * (abs(away) - self.spread)
        step = max(1.0, self.spread) / 2
        self.output = max(1.0, self.output + step * (QUANTILE if away > 0 else QUANTILE - 1))
