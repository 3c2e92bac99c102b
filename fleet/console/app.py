"""Where approvers decide: one page for each signed link, for people and for programs.

Looking changes nothing (mail filters open links); deciding is a POST. A link names its approver, the approval and the
arguments that were shown; the run refuses a second verdict by the same approver, so a link decides once.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.client import FleetClient
from fleet.consent import ended
from fleet.contracts.approvals import Approval, ApprovalState, Ask, Decision, Verdict, run_of
from fleet.documents import plain, visible, visible_lines
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.links import NOBODY, Grant, Links

MOST_BYTES: Final = 256 * 1024
"""Of a verdict with amended arguments."""
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)
_HEADERS: Final = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
}

Look = Callable[[str], Awaitable[Approval | None]]
"""Finds an approval in the audit, where the run itself does not answer."""
Note = Callable[[Grant, str], Awaitable[None]]
"""Writes into the audit that a verdict was refused: of which link, and why. Nothing depends on it."""
NOTE_WITHIN_S: Final = 5.0
"""How long the answer waits for that."""
log = structlog.get_logger("fleet.console")


class TooLarge(BadInput):
    """Nobody says so much."""


def app(client: FleetClient, links: Links, look: Look, note: Note) -> Starlette:
    """The application.

    Args:
        client: to the runs.
        links: that were sent to approvers.
        look: into the audit.
        note: into the audit.
    """
    pages = _Approvals(client, links, look, note)
    return Starlette(
        routes=[
            Route("/live", _live),
            Route("/approvals/{token}", pages.show, methods=["GET"]),
            Route("/approvals/{token}", pages.decide, methods=["POST"]),
        ],
        middleware=[Middleware(_Headers)],
    )


async def _live(request: Request) -> Response:
    del request
    return PlainTextResponse("ok")


class _Approvals:
    def __init__(self, client: FleetClient, links: Links, look: Look, note: Note) -> None:
        self._client = client
        self._links = links
        self._look = look
        self._note = note

    async def show(self, request: Request) -> Response:
        as_json = "application/json" in request.headers.get("accept", "")
        try:
            grant = self._grant(request)
            approval = await self._approval(grant)
        except FleetError as error:
            return _problem("Not found", error, 404, as_json=as_json)
        if as_json:
            return JSONResponse({"approval": plain(approval), "you": grant.approver})
        return _page(approval, grant, said="")

    async def decide(self, request: Request) -> Response:
        as_json = request.headers.get("content-type", "").startswith("application/json")
        grant = None
        try:
            grant = self._grant(request)
            verdict = await self._verdict(request, grant, as_json=as_json)
            approval = await self._client.decide(verdict)
        except Unreachable as error:
            # it may have been taken
            log.warning("verdict not answered", why=str(error))
            return _problem("No answer", error, 503, as_json=as_json)
        except FleetError as error:
            await self._refused(grant, str(error))
            return _problem("Not taken", error, 413 if isinstance(error, TooLarge) else 409, as_json=as_json)
        log.info("verdict taken", approval=approval.id, state=approval.state.value, by=grant.approver)
        if as_json:
            return JSONResponse({"approval": plain(approval), "you": grant.approver})
        return _page(approval, grant, said=f"Taken: {verdict.decision.value}.")

    async def _refused(self, grant: Grant | None, why: str) -> None:
        log.info("verdict refused", approval=grant.approval_id if grant else None, why=why)
        if grant is None:
            return  # of a link that is not ours nobody knows whose it is
        try:
            async with asyncio.timeout(NOTE_WITHIN_S):
                await self._note(grant, why)
        except (FleetError, TimeoutError) as error:
            log.warning("the audit was not written", approval=grant.approval_id, why=str(error) or "no answer in time")

    def _grant(self, request: Request) -> Grant:
        return self._links.read(request.path_params["token"], datetime.now(UTC))

    async def _approval(self, grant: Grant) -> Approval:
        run_id = run_of(grant.approval_id)
        try:
            for approval in await self._client.approvals(run_id):
                if approval.id == grant.approval_id:
                    return approval
        except FleetError:
            pass  # no worker answers, or the run is long gone: the audit knows
        found = await self._look(grant.approval_id)
        if found is None:
            raise BadInput(f"there is no approval {grant.approval_id!r}")
        return found

    async def _verdict(self, request: Request, grant: Grant, *, as_json: bool) -> Verdict:
        body = await _body(request)
        said = _from_json(body) if as_json else _from_form(body)
        try:
            decision = Decision(str(said.get("decision", "")))
        except ValueError:
            raise BadInput(f"decision must be one of {', '.join(Decision)}") from None
        arguments = said.get("arguments") if decision is Decision.AMEND else None
        if decision is Decision.AMEND and not isinstance(arguments, dict):
            raise BadInput("arguments must be a JSON object: all arguments of the call to make instead")
        return Verdict(
            approval_id=grant.approval_id,
            decision=decision,
            by=grant.approver,
            digest=grant.digest,
            channel="link",
            comment=str(said.get("comment", "")),
            arguments=arguments,
        )


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLarge(f"the verdict has more than {MOST_BYTES} bytes")
    return body


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise BadInput("the body is not JSON") from None
    if not isinstance(said, dict):
        raise BadInput('the body must be an object such as {"decision": "approve"}')
    return said


def _from_form(body: bytes) -> dict[str, Any]:
    try:
        said: dict[str, Any] = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    except UnicodeDecodeError:
        raise BadInput("the form is not UTF-8") from None
    if said.get("decision") == Decision.AMEND:
        try:
            said["arguments"] = json.loads(said.get("arguments", ""))
        except (ValueError, RecursionError):
            raise BadInput("the amended arguments are not JSON") from None
    return said


def _page(approval: Approval, grant: Grant, *, said: str) -> Response:
    voted = any(vote.by.lower() == grant.approver.lower() for vote in approval.votes)
    is_open = approval.state is ApprovalState.OPEN
    changed = is_open and approval.digest != grant.digest
    page = _PAGES.get_template("approval.html").render(
        approval=approval,
        settle=approval.ask is Ask.SETTLE,
        arguments=[(visible(name), _shown(value)) for name, value in approval.arguments.items()],
        as_json=json.dumps(approval.arguments, indent=2, ensure_ascii=False),
        you=grant.approver,
        may_decide=is_open and not voted and not changed and grant.approver != NOBODY,
        looks=grant.approver == NOBODY,
        voted=voted,
        changed=changed,
        is_open=is_open,
        ended=ended(approval),
        said=said,
    )
    return HTMLResponse(page)


def _shown(value: Any) -> str:
    """As it is read: nothing hidden, in its lines, which its cell of the table holds together."""
    return "\n".join(visible_lines(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


_PAGES.filters["shown"] = _shown


def _problem(title: str, error: FleetError, status: int, *, as_json: bool) -> Response:
    if isinstance(error, Unreachable):
        status = 503
    if as_json:
        return JSONResponse({"error": str(error)}, status_code=status)
    page = _PAGES.get_template("problem.html").render(title=title, text=str(error))
    return HTMLResponse(page, status_code=status)


class _Headers:
    """Nothing of these pages is kept, framed, or told to others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            await send(message)

        await self._app(scope, receive, with_headers)
