"""What every way to send mail can do, be it a relay or an API."""

from datetime import timedelta
from email.message import EmailMessage
from typing import Protocol

from workers.providers.once import Before, always


class Mailer(Protocol):
    """Takes messages, one by one. None of them retries: Temporal does."""

    @property
    def sender(self) -> str:
        """The From of every message."""

    @property
    def honours_keys(self) -> bool:
        """A message under a key that it knows is not sent again, and answered as the first was."""

    @property
    def key_lifetime(self) -> timedelta:
        """How long it knows a key."""

    @property
    def looks_up(self) -> bool:
        """It can be asked whether it has accepted a message."""

    async def send(self, message: EmailMessage, *, key: str, before: Before = always) -> str:
        """Hand in one message, once. Returns what proves it: the relay's reply, the API's id.

        Args:
            message: with From, To, Subject, Message-ID and one text.
            key: of the effect; the same for every attempt.
            before: asked once, at the last moment at which nothing has been handed in.

        Raises:
            Fenced: `before` has said no.
            Lost: it may have been accepted.
            ProviderError: it has not.
        """

    async def accepted(self, message_id: str, key: str) -> bool | None:
        """Whether it has accepted the message; None if it cannot be asked. Raises ProviderError."""

    async def check(self) -> None:
        """Prove reachability and credentials, and send nothing. Raises ProviderError."""
