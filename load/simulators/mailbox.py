"""What the simulated relay has accepted: a Maildir, and an index of it."""

import mailbox
from collections import Counter
from dataclasses import asdict, dataclass
from email import message_from_bytes
from email.policy import default
from hashlib import blake2b
from pathlib import Path
from time import time
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One accepted message."""

    message_id: str
    sender: str
    recipients: list[str]
    subject: str
    digest: str
    """Of recipients and body, so that a copy under another Message-ID is found too."""
    at: float
    """Wall-clock seconds."""


class Mailbox:
    """Files messages, remembers all of them."""

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._maildir = mailbox.Maildir(folder, create=True)
        self._mails: list[Mail] = []
        self._ids: Counter[str] = Counter()
        self._contents: Counter[str] = Counter()
        for key in self._maildir.keys():  # noqa: SIM118 - a Maildir is not a dict
            self._note(_read(self._maildir.get_bytes(key), None, None))

    def file(self, content: bytes, sender: str, recipients: list[str]) -> Mail:
        """Keep a message, on disk before it is acknowledged."""
        self._maildir.add(content)
        mail = _read(content, sender, recipients)
        self._note(mail)
        return mail

    def find(self, message_id: str | None = None) -> list[dict[str, Any]]:
        """Accepted messages, oldest first; only those with the Message-ID, if one is given."""
        if message_id is not None and not self._ids[message_id]:
            return []
        return [asdict(mail) for mail in self._mails if message_id in (None, mail.message_id)]

    def summary(self) -> dict[str, int]:
        """How many were delivered, how many of those differ, how many are copies by Message-ID or by content."""
        unique = min(len(self._ids), len(self._contents))
        return {"delivered": len(self._mails), "unique": unique, "duplicates": len(self._mails) - unique}

    def _note(self, mail: Mail) -> None:
        self._mails.append(mail)
        self._ids[mail.message_id] += 1
        self._contents[mail.digest] += 1


def _read(content: bytes, sender: str | None, recipients: list[str] | None) -> Mail:
    message = message_from_bytes(content, policy=default)
    to = recipients if recipients is not None else [str(message["To"])]
    part = message.get_body(("plain", "html"))
    body = part.get_content() if part is not None else ""
    basis = "\n".join([*sorted(to), str(body)])
    return Mail(
        message_id=str(message["Message-ID"] or "").strip(),
        sender=sender if sender is not None else str(message["From"]),
        recipients=to,
        subject=str(message["Subject"] or ""),
        digest=blake2b(basis.encode(), digest_size=12).hexdigest(),
        at=time(),
    )
