"""The codec server: shows decrypted payloads in Temporal's Web UI and CLI to those who may see them.

It speaks Temporal's protocol (https://docs.temporal.io/codec-server): POST of `{"payloads": [...]}` as proto JSON to
a path that ends in `/decode`, `/encode` or `/download`, with the header X-Namespace. The Web UI asks for
`/decode?preserveStorageRefs=true`, which leaves claims of external storage as they are; `/download` fetches them. What
cannot be decoded comes back as it was, so that one lost key does not hide the rest. Every request of a caller with a
token leaves a line in the log: who, which namespace, how many payloads; never their content.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import DataConverter

from fleet.codec import TooLarge
from fleet.console.access import ANYBODY, Access, Caller, Denied
from fleet.errors import BadInput, FleetError, PayloadLost, Unreachable
from fleet.storage.places import Places
from fleet.storage.shelf import Shelf

MOST_BYTES: Final = 32 * 1024 * 1024
"""Of a request's body."""
MOST_ANSWERED: Final = 64 * 1024 * 1024
"""Bytes of payloads in one answer. What would be more comes back as it was: as a claim, or compressed."""
HEADERS: Final = ("authorization", "authorization-extras", "content-type", "x-namespace")
"""What Temporal's Web UI sends."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

log = structlog.get_logger("fleet.codec")


class Refused(FleetError):
    """An answer with a status of HTTP."""

    def __init__(self, status: int, why: str) -> None:
        """Args:
        status: of HTTP.
        why: for the caller.
        """
        super().__init__(why)
        self.status = status


def app(converter: DataConverter, found: Places, access: Access | None, origins: Sequence[str]) -> Starlette:
    """The application.

    Args:
        converter: of the fleet whose payloads are shown.
        found: the stores that claims may name.
        access: who may ask. None: whoever reaches this address of the loopback interface.
        origins: of Web UIs that browsers may show payloads in.
    """
    server = _Codec(Shelf(converter, found), access, frozenset(origins))
    return Starlette(
        routes=[
            Route("/live", _live),
            *(
                Route(path, server.answer, methods=["POST"])
                for verb in ("decode", "encode", "download")
                for path in (f"/{verb}", f"/{{namespace}}/{verb}")
            ),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["POST"],
                allow_headers=list(HEADERS),
                # a UI on the internet, as Temporal Cloud's, asks for a server in the house
                allow_private_network=True,
            )
        ],
    )


async def _live(request: Request) -> Response:
    del request
    return PlainTextResponse("ok")


class _Codec:
    def __init__(self, shelf: Shelf, access: Access | None, origins: frozenset[str]) -> None:
        self._shelf = shelf
        self._access = access
        self._origins = origins

    async def answer(self, request: Request) -> Response:
        # as it was routed: a URL is put together with the Host header, which the caller writes
        verb = str(request.scope["path"]).rpartition("/")[2]
        namespace, who = "", ""
        try:
            self._not_astray(request)
            caller = await self._caller(request)
            who = caller.name
            namespace = _namespace(request)
            if not caller.may(verb, namespace):
                raise Refused(403, f"{who} may not {verb} payloads of namespace {namespace!r}")
            asked = await _payloads(request)
            keep = request.query_params.get("preserveStorageRefs") == "true"
            found, lost = await self._done(verb, namespace, asked, caller, keep=keep)
        except Refused as error:
            log.warning("refused", what=verb, who=who, namespace=namespace, status=error.status, why=str(error))
            headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
            return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)
        except ClientDisconnect:
            return Response(status_code=400)
        told = {"unreadable": len(lost), "why": lost[0]} if lost else {}
        if self._access is not None:
            log.info(verb, who=who, namespace=namespace, payloads=len(asked), **told)
        body = await asyncio.to_thread(MessageToJson, Payloads(payloads=found), indent=None)
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    def _not_astray(self, request: Request) -> None:
        """Browsers ask first for what is not simple; those that do not are refused here."""
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._origins:
            raise Refused(403, f"origin {origin[:200]!r} is not in FLEET_CODEC_ORIGINS")
        # a name of somebody else's that leads to loopback (DNS rebinding) would make the origin no other
        if self._access is None and urlsplit(f"//{request.headers.get('host', '')}").hostname not in _LOOPBACK:
            raise Refused(403, "an open codec server answers at localhost only")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the body must be application/json")

    async def _caller(self, request: Request) -> Caller:
        if self._access is None:
            return ANYBODY
        try:
            return await self._access.caller(request.headers.get("authorization", ""))
        except Denied as denied:
            raise Refused(401, str(denied)) from None
        except Unreachable as lost:
            raise Refused(503, str(lost)) from None

    async def _done(
        self, verb: str, namespace: str, asked: Sequence[Payload], caller: Caller, *, keep: bool
    ) -> tuple[list[Payload], list[str]]:
        """What is answered, and why some of it stayed as it was."""
        found: list[Payload] = []
        lost: list[str] = []
        room = MOST_ANSWERED
        # of no namespace only those may see who see all
        bound = None if caller.may("decode", "") else namespace
        for payload in asked:
            try:
                if verb == "encode":
                    done = await self._shelf.encoded(payload, namespace)
                elif verb == "decode" and keep:
                    done = await self._shelf.decoded(payload, most=room)
                else:
                    done = await self._shelf.fetched(payload, namespace=bound, most=room)
            except TooLarge as error:
                done = payload
                # what is inflated in vain counts, or many that do not fit would be work without end
                room -= error.spent
                lost.append(f"{error}, of {MOST_ANSWERED} for one answer: ask for fewer at once")
            except PayloadLost as error:
                if verb != "decode":
                    raise Refused(422, str(error)) from None
                done = payload
                lost.append(str(error))
            room = max(0, room - done.ByteSize())
            found.append(done)
        return found, lost


def _namespace(request: Request) -> str:
    told = request.headers.get("x-namespace", "")
    in_path = str(request.path_params.get("namespace", ""))
    if told and in_path and told != in_path:
        raise Refused(400, f"the path names namespace {in_path[:100]!r}, X-Namespace {told[:100]!r}")
    return told or in_path


async def _payloads(request: Request) -> list[Payload]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the body has more than {MOST_BYTES} bytes")
    try:
        return list((await asyncio.to_thread(Parse, bytes(body), Payloads())).payloads)
    except (ParseError, UnicodeDecodeError, RecursionError):
        raise Refused(400, 'the body is not {"payloads": [...]} as proto JSON') from None


def origins(text: str) -> list[str]:
    """`FLEET_CODEC_ORIGINS` as a list.

    Raises:
        BadInput: one is no origin: scheme, host and port, and nothing behind them.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for part in found:
        parsed = urlsplit(part)
        if (
            parsed.scheme not in ("http", "https")
            or not parsed.hostname
            or part != f"{parsed.scheme}://{parsed.netloc}"
        ):
            raise BadInput(f"FLEET_CODEC_ORIGINS: {part!r} must be an origin such as https://temporal.example.com")
    return found
