"""What every model provider can do, whoever it is."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from fleet.contracts.llm import ChatRequest, ChatResult
from ratelimit.profiles import Profile

Heard = Callable[[Mapping[str, str]], None]
"""Takes the headers of an answer."""


def not_heard(headers: Mapping[str, str]) -> None:
    """Nobody wants the headers."""


class ChatProvider(Protocol):
    """A client of one provider, shared by all calls of the process."""

    profile: Profile
    """How it counts."""

    def characters(self, request: ChatRequest) -> int:
        """How long the call is: what its input is estimated from."""
        ...

    async def chat(self, request: ChatRequest, *, model: str, request_id: str, heard: Heard = not_heard) -> ChatResult:
        """Make the call, once.

        Args:
            request: what to say.
            model: the model's name without the provider.
            request_id: our id of this attempt, sent along for the provider's log.
            heard: told the headers of the answer.

        Raises:
            ProviderError: anything but an answer.
        """
        ...

    async def check(self) -> None:
        """Make the cheapest call that proves reachability and key. Raises as `chat` does."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class LaterChat:
    """A provider whose client is made when it is first needed: its SDK alone takes seconds to import."""

    def __init__(self, make: Callable[[], ChatProvider]) -> None:
        """Args:
        make: the client; called once, in a thread.
        """
        self._make = make
        self._making = asyncio.Lock()
        self._made: ChatProvider | None = None

    async def made(self) -> ChatProvider:
        """The client."""
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(self._make)
            return self._made

    async def aclose(self) -> None:
        """Close its connections, if there is one."""
        if self._made is not None:
            await self._made.aclose()
