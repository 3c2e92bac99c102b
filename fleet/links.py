"""Signed links: one approver, one approval, the arguments that were shown, until it expires."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from itsdangerous import BadSignature, URLSafeSerializer

from fleet.contracts.approvals import Approval
from fleet.errors import BadInput

SHORTEST_KEY: Final = 32
NOBODY: Final = ""
"""The approver of a link that shows the question and decides nothing."""
_SALT: Final = "fleet.approval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a link lets somebody do: decide once. The run refuses a second verdict of the same approver."""

    approval_id: str
    approver: str
    digest: str
    expires_at: datetime


class Links:
    """Makes and reads links. Workers and console share the key."""

    def __init__(self, url: str, key: str) -> None:
        """Args:
        url: where the console is reached.
        key: secret, of 32 characters or more.

        Raises:
            BadInput: the key is too short.
        """
        if len(key) < SHORTEST_KEY:
            raise BadInput(
                f"approvals.link_key: has {len(key)} characters; {SHORTEST_KEY} are the least: make one with"
                " `openssl rand -hex 32`"
            )
        self._url = url.rstrip("/")
        self._signer = URLSafeSerializer(key, salt=_SALT)

    def link(self, approval: Approval, approver: str) -> str:
        """The address at which the approver may decide."""
        token = self._signer.dumps([approval.id, approver, approval.digest, int(approval.expires_at.timestamp())])
        return f"{self._url}/approvals/{token!s}"

    def read(self, token: str, now: datetime) -> Grant:
        """What a link grants.

        Raises:
            BadInput: it was not made by this fleet, or has expired.
        """
        try:
            approval_id, approver, digest, expires = self._signer.loads(token)
            expires_at = datetime.fromtimestamp(int(expires), tz=UTC)
        except (BadSignature, ValueError, TypeError):
            raise BadInput("the link is not whole, or not of this fleet: use it as it was sent") from None
        if now >= expires_at:
            raise BadInput(f"the link has expired at {expires_at:%Y-%m-%d %H:%M} UTC")
        return Grant(approval_id=str(approval_id), approver=str(approver), digest=str(digest), expires_at=expires_at)
