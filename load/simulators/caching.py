"""A provider's cache of prompts, by what they begin with. Pure: every call is told the time.

Sources: OpenAI's guide "Prompt caching" (by itself from 1,024 tokens on, in steps of 128; forgotten after minutes);
Anthropic's "Prompt caching" (up to a block marked with `cache_control`, looked up at no more than 20 blocks before it,
for five minutes since the last use).
"""

from collections import OrderedDict
from dataclasses import dataclass, field

KEPT_S = 300.0
MOST = 10_000
"""Beginnings remembered for each key and model; those not used for longest are forgotten first."""
LEAST_TOKENS = 1024
"""Shorter beginnings are not cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a prompt begins with."""

    digest: bytes
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginnings:
    """Those of one prompt."""

    read: list[Beginning] = field(default_factory=list)
    """Looked up, longest first."""
    written: list[Beginning] = field(default_factory=list)
    """Remembered once the call is answered."""
    billed: bool = False
    """Whether what is written is told and counted apart from other input."""


NONE = Beginnings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """How much of a prompt was in the cache."""

    read: int = 0
    written: int = 0
    """Tokens that are in it from now on, if the provider tells them apart."""


NOTHING = Cached()


class PromptCache:
    """The cache of one key and model."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def find(self, prompt: Beginnings, now: float) -> Cached:
        """How much of the prompt is known."""
        read = next((one.tokens for one in prompt.read if self._until.get(one.digest, 0.0) > now), 0)
        longest = max((one.tokens for one in prompt.written), default=0) if prompt.billed else 0
        return Cached(read=read, written=max(0, longest - read)) if read or longest else NOTHING

    def keep(self, prompt: Beginnings, now: float) -> None:
        """Remember the prompt; what was read of it lives on."""
        known = (one for one in prompt.read if self._until.get(one.digest, 0.0) > now)
        for one in (*known, *prompt.written):
            self._until[one.digest] = now + KEPT_S
            self._until.move_to_end(one.digest)
        while len(self._until) > MOST:
            self._until.popitem(last=False)
