"""Send an e-mail, once."""

import json
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parseaddr
from hashlib import sha256
from time import monotonic

from temporalio import activity

from fleet.contracts.names import FailureType, effect_key
from fleet.contracts.tools import EMAIL_SEND, ToolRequest, ToolResult
from workers import failures
from workers.admission import Admission, Admitted
from workers.effects.ledger import Ledger, LedgerLost, State
from workers.providers import errors
from workers.providers.smtp import Relay


class MailTools:
    """Serves `email.send`: an effect, so the ledger is asked before and told after."""

    def __init__(self, admission: Admission, relay: Relay, ledger: Ledger, scope: str) -> None:
        self._admission = admission
        self._relay = relay
        self._ledger = ledger
        self._scope = scope

    @activity.defn(name=EMAIL_SEND.name)
    async def send(self, request: ToolRequest) -> ToolResult:
        """Hand the message to the relay, unless an earlier attempt already has.

        An attempt that died while handing in leaves the question open; the relay is asked by Message-ID, and without
        an answer the message is not sent again: `EffectUnknown` says so.
        """
        began = monotonic()
        key = effect_key(activity.info().workflow_id or "", request.step)
        message = self._compose(key, request)
        async with self._admission.admitted(
            self._scope, {"messages": 1.0, "recipients": 1.0}, max_failures=request.max_failures
        ) as admitted:
            try:
                reply = await self._once(key, message, admitted)
            except LedgerLost as lost:
                raise errors.Unavailable(str(lost)) from None
        evidence = {"message_id": str(message["Message-ID"]), "to": str(message["To"]), "reply": reply}
        content = {"sent": True, "to": evidence["to"], "message_id": evidence["message_id"]}
        return ToolResult(
            content=json.dumps(content, ensure_ascii=False),
            duration_s=monotonic() - began,
            quota=admitted.use(),
            evidence=evidence,
        )

    async def _once(self, key: str, message: EmailMessage, admitted: Admitted) -> str:
        claim = await self._ledger.claim(key)
        if claim.state is State.DONE:
            return claim.evidence
        if not claim.mine:
            raise errors.Unavailable("email: another attempt is at it")
        if claim.state is State.EXECUTING:
            settled = await self._relay.accepted(str(message["Message-ID"]))
            if settled is None:
                raise failures.final(
                    FailureType.EFFECT_UNKNOWN,
                    f"email: an earlier attempt may have sent {message['Message-ID']}; it is not sent again",
                )
            if settled:
                reply = "accepted, found by Message-ID"
                await self._ledger.record(key, claim.fence, State.DONE, reply)
                return reply
        admitted.sent()
        try:
            reply = await self._relay.send(message)
        except errors.Lost:
            raise
        except errors.ProviderError:
            await self._ledger.record(key, claim.fence, State.FAILED)
            raise
        await self._ledger.record(key, claim.fence, State.DONE, reply)
        return reply

    def _compose(self, key: str, request: ToolRequest) -> EmailMessage:
        to = str(request.arguments.get("to", "")).strip()
        if len(getaddresses([to])) != 1 or "@" not in parseaddr(to)[1]:
            raise failures.final(FailureType.TOOL_FAILED, f"email: {to[:80]!r} is not one address")
        message = EmailMessage()
        try:
            message["From"] = self._relay.sender
            message["To"] = to
            message["Subject"] = " ".join(str(request.arguments.get("subject", "")).split())[:200]
            message.set_content(str(request.arguments.get("body", "")))
        except (ValueError, MessageError) as error:
            raise failures.final(FailureType.TOOL_FAILED, f"email: the text is not accepted: {error}") from None
        message["Date"] = format_datetime(datetime.now(UTC))
        # the same for every attempt of this effect, so that a relay can be asked for it
        domain = parseaddr(self._relay.sender)[1].partition("@")[2] or "localhost"
        message["Message-ID"] = f"<{sha256(key.encode()).hexdigest()[:32]}@{domain}>"
        return message
