"""An e-mail API after Resend's: `POST /emails`. What it accepts lies in the same mailbox as the relay's.

Bodies, headers and errors follow Resend's API reference ("Send Email", "Errors", "Rate Limit", "Idempotency Keys").
"""

import json
import math
from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from load.simulators.calls import Call, Reception
from load.simulators.idempotency import Answers, Busy, Reused
from load.simulators.quota import Standing
from load.simulators.serving import Invalid
from load.simulators.world import World

_DAY_S = 86_400.0
_MOST_RECIPIENTS = 50
_LONGEST_KEY = 256
_FIELDS = {"from", "to", "cc", "bcc", "reply_to", "subject", "text", "headers"}
_NAMES = {401: "missing_api_key", 403: "invalid_api_key", 429: "rate_limit_exceeded", 500: "application_error"}


class _MailWords:
    """Resend's words."""

    provider = "mail_api"
    wrong_key = 403

    def error(self, status: int, detail: str) -> Response:
        """By status alone."""
        return _error(status, _NAMES.get(status, "internal_server_error"), detail)

    def headers(self, standing: Mapping[str, Standing]) -> dict[str, str]:
        """`ratelimit-*`, as in the sixth draft of the IETF's RateLimit fields; a reset is in seconds."""
        requests = standing.get("requests")
        if requests is None:
            return {}
        return {
            "ratelimit-limit": f"{requests.limit:.0f}",
            "ratelimit-remaining": f"{requests.remaining:.0f}",
            "ratelimit-reset": str(math.ceil(requests.full_in_s)),
        }


class MailApi:
    """The routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reception = Reception(world, _MailWords())
        self._answers = Answers(expires_s=_DAY_S)

    def routes(self) -> list[Route]:
        """As Resend has them."""
        return [Route("/emails", self._send, methods=["POST"])]

    async def _send(self, request: Request) -> Response:
        options = self._world.options.mail_api
        call = await self._reception.admit(request, options.limits(), options.latency_s, options.keys)
        if isinstance(call, Response):
            return call
        return await self._reception.answer(call, await self._carried_out(call))

    async def _carried_out(self, call: Call) -> Response:
        key = call.row.idempotency_key
        if key is not None and not 1 <= len(key) <= _LONGEST_KEY:
            return _error(400, "invalid_idempotency_key", f"The key must be between 1-{_LONGEST_KEY} chars.")
        try:
            body = json.loads(call.raw)
        except ValueError:
            return _error(400, "validation_error", "The body is not JSON.")
        try:
            mail, recipients = _understood(body)
        except Invalid as error:
            return _error(422, error.param or "validation_error", str(error))
        if key is None:
            await self._reception.take_time(call)
            return self._file(call, mail, recipients)
        try:
            recorded = self._answers.begin(key, body, self._world.now())
        except Reused:
            return _error(409, "invalid_idempotent_request", "This key was used with a different payload.")
        except Busy:
            return _error(409, "concurrent_idempotent_requests", "A request with this key is in progress.")
        if recorded is not None:
            return recorded
        await self._reception.take_time(call)
        answer = self._file(call, mail, recipients)
        self._answers.finish(key, answer)
        return answer

    def _file(self, call: Call, mail: EmailMessage, recipients: list[str]) -> Response:
        sender = parseaddr(str(mail["From"]))[1]
        filed = self._world.mailbox.file(mail.as_bytes(), sender, recipients)
        call.row.message_id, call.row.sender, call.row.recipients = filed.message_id, sender, recipients
        return JSONResponse({"id": str(uuid4())})


def _understood(body: Any) -> tuple[EmailMessage, list[str]]:
    """The message, and who is to have it.

    Raises:
        Invalid: the body is not accepted; `param` is Resend's name of the error.
    """
    if not isinstance(body, dict):
        raise Invalid("The body must be a JSON object.")
    for name in ("from", "to", "subject", "text"):
        if not body.get(name):
            raise Invalid(f"Missing `{name}` field.", "missing_required_field")
    if unknown := sorted(body.keys() - _FIELDS):
        # better refused than accepted and sent without it
        raise Invalid(f"This simulator has no field {', '.join(unknown)}: send {', '.join(sorted(_FIELDS))}.")
    headers = body.get("headers") or {}
    if not isinstance(headers, dict):
        raise Invalid("Invalid `headers` field: an object.")
    to, cc, bcc, reply_to = (_listed(name, body.get(name)) for name in ("to", "cc", "bcc", "reply_to"))
    mail = EmailMessage(policy=SMTP)
    try:
        mail.set_content(str(body["text"]))
        mail["From"], mail["Subject"] = str(body["from"]), str(body["subject"])
        for name, value in {"To": to, "Cc": cc, "Reply-To": reply_to}.items():
            if value:
                mail[name] = ", ".join(value)
        for name, value in headers.items():
            mail[name] = str(value)
    except ValueError as error:
        raise Invalid(f"A header is not accepted: {error}.") from None
    _complete(mail)
    return mail, [parseaddr(one)[1] for one in (*to, *cc, *bcc)]


def _listed(name: str, value: Any) -> list[str]:
    """An address, or a list of them."""
    listed = value if isinstance(value, list) else [value] if value else []
    if len(listed) > _MOST_RECIPIENTS:
        raise Invalid(f"Invalid `{name}` field: {len(listed)} addresses, at most {_MOST_RECIPIENTS}.")
    for one in listed:
        _check(name, one)
    return [str(one) for one in listed]


def _complete(mail: EmailMessage) -> None:
    _check("from", mail["From"])
    if "Message-ID" not in mail:
        mail["Message-ID"] = f"<{uuid4()}@mail-api.invalid>"
    if "Date" not in mail:
        mail["Date"] = formatdate(usegmt=True)


def _check(name: str, value: Any) -> None:
    if "@" not in parseaddr(str(value))[1]:
        raise Invalid(f"Invalid `{name}` field: {value!r} is not `email@example.com` or `Name <email@example.com>`.")


def _error(status: int, name: str, message: str) -> Response:
    return JSONResponse({"statusCode": status, "name": name, "message": message}, status)
