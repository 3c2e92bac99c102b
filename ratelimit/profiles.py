"""How each provider counts a call of a model. Data, and the two sums that follow from it.

Sources: OpenAI's guide "Rate limits" ("the maximum of max_tokens and the estimated number of tokens based on the
character count"; failed calls count) and "Prompt caching" (caching does not affect rate limits); Azure OpenAI's quota
pages (prompt and `max_tokens` together; requests are enforced in slices of ten seconds); Anthropic's "Rate limits"
(`max_tokens` is not counted, output is as it is generated, reads of the cache are free, sharp rises are turned away);
Groq's "Rate limits" (cached tokens do not count); Cerebras's (input and `max_completion_tokens`, before the call).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ratelimit.estimates import Estimate, Used


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider's way to count."""

    dialect: str
    """How its rate-limit headers are read: a key of `ratelimit.headers.DIALECTS`."""
    charges: Literal["larger", "sum", "generated"]
    """What a call's `tokens` are at admission: the larger of its output limit and a quarter of its characters; input
    and output limit together; or its input and what it will really generate."""
    gives_back: bool
    """Whether what was charged and not used comes back. If not, an estimate is settled with itself."""
    cached_counts: bool
    """Whether input that was read from the provider's cache counts."""
    refused_counts: bool = True
    """Whether a call that was turned away (429, overload) is charged all the same."""
    slice: timedelta | None = None
    """Requests per minute are enforced over windows as short as this."""
    recovery: timedelta = timedelta(minutes=1)
    """How long the pace takes from 0 back to 1: longer where sharp rises are turned away."""

    def cost(self, estimate: Estimate, max_output_tokens: int) -> dict[str, float]:
        """What a call is charged at admission, by what is counted."""
        read = estimate.input_tokens
        written = estimate.output_tokens if self.charges == "generated" else float(max_output_tokens)
        tokens = max(math.ceil(estimate.characters / 4), written) if self.charges == "larger" else read + written
        return {"requests": 1.0, "tokens": float(tokens), "input_tokens": read, "output_tokens": written}

    def actual(self, charged: Mapping[str, float], used: Used) -> dict[str, float]:
        """What a call was charged in the end.

        Args:
            charged: what `cost` said.
            used: what the provider says was used.
        """
        read = float(used.input_tokens - (0 if self.cached_counts else used.cached_tokens))
        written = float(used.output_tokens)
        tokens = read + written if self.gives_back else charged["tokens"]
        return {"requests": 1.0, "tokens": tokens, "input_tokens": read, "output_tokens": written}


PROFILES: Mapping[str, Profile] = {
    "openai": Profile(dialect="openai", charges="larger", gives_back=False, cached_counts=True),
    "azure": Profile(
        dialect="openai", charges="sum", gives_back=False, cached_counts=True, slice=timedelta(seconds=10)
    ),
    "anthropic": Profile(
        dialect="anthropic",
        charges="generated",
        gives_back=True,
        cached_counts=False,
        refused_counts=False,
        recovery=timedelta(minutes=2),
    ),
    "groq": Profile(dialect="openai", charges="sum", gives_back=True, cached_counts=False, refused_counts=False),
    "cerebras": Profile(dialect="openai", charges="sum", gives_back=True, cached_counts=True, refused_counts=False),
}
