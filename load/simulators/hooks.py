"""A receiver of webhooks: `POST /hooks/{name}`, and `POST /slack/{name}` after Slack's incoming webhooks.

Signatures follow the Standard Webhooks specification, checked by its own library.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from load.simulators.calls import Call, Reception
from load.simulators.ledger import digest
from load.simulators.quota import Standing
from load.simulators.world import World

_KEPT = ("webhook-id", "webhook-timestamp", "webhook-signature", "content-type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One webhook that arrived."""

    name: str
    id: str | None
    """`webhook-id`; None: it had none."""
    at: float
    """Wall-clock seconds."""
    attempt: int
    """1 for the first delivery of this id (without one, of this body) under this name."""
    verified: bool | None
    """None: the name has no secret."""
    headers: dict[str, str]
    body: str
    """As it came."""


class Sink:
    """Every delivery that was answered, refused ones too."""

    def __init__(self) -> None:
        self._deliveries: list[Delivery] = []
        self._seen: dict[tuple[str, str], int] = {}

    def add(self, name: str, raw: bytes, headers: Mapping[str, str], verified: bool | None, at: float) -> None:
        """Note a delivery."""
        identity = headers.get("webhook-id")
        place = (name, identity or digest(raw))
        self._seen[place] = self._seen.get(place, 0) + 1
        self._deliveries.append(
            Delivery(
                name=name,
                id=identity,
                at=at,
                attempt=self._seen[place],
                verified=verified,
                headers={kept: headers[kept] for kept in _KEPT if kept in headers},
                body=raw.decode(errors="replace"),
            )
        )

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Deliveries, oldest first."""
        return [asdict(delivery) for delivery in self._deliveries if name in (None, delivery.name)]

    def summary(self) -> dict[str, dict[str, int]]:
        """By name: accepted deliveries, how many of those differ, how many are repeats, how many were refused."""
        return {name: self._summary(name) for name in dict.fromkeys(d.name for d in self._deliveries)}

    def _summary(self, name: str) -> dict[str, int]:
        own = [delivery for delivery in self._deliveries if delivery.name == name]
        taken = [delivery for delivery in own if delivery.verified is not False]
        unique = len({delivery.id or delivery.body for delivery in taken})
        return {
            "deliveries": len(taken),
            "unique": unique,
            "duplicates": len(taken) - unique,
            "refused": len(own) - len(taken),
        }


class _HookWords:
    """A plain receiver's words."""

    provider = "hooks"
    wrong_key = 401

    def error(self, status: int, detail: str) -> Response:
        """As text."""
        return PlainTextResponse(detail, status)

    def headers(self, standing: Mapping[str, Standing]) -> dict[str, str]:
        """None."""
        del standing
        return {}


class Hooks:
    """The routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reception = Reception(world, _HookWords())
        self.sink = Sink()

    def routes(self) -> list[Route]:
        """For any name."""
        return [
            Route("/hooks/{name}", self._hook, methods=["POST"]),
            Route("/slack/{name}", self._slack, methods=["POST"]),
        ]

    async def _admit(self, request: Request) -> Call | Response:
        options = self._world.options.hooks
        call = await self._reception.admit(request, options.limits(), options.latency_s)
        if isinstance(call, Call):
            call.row.message_id = request.headers.get("webhook-id")
            await self._reception.take_time(call)
        return call

    async def _hook(self, request: Request) -> Response:
        call = await self._admit(request)
        if isinstance(call, Response):
            return call
        name = request.path_params["name"]
        secret = self._world.options.hooks.secrets.get(name)
        verified = _verified(secret, call.raw, request.headers) if secret else None
        self.sink.add(name, call.raw, request.headers, verified, self._world.now())
        refused = verified is False
        return await self._reception.answer(
            call, PlainTextResponse("invalid signature", 401) if refused else Response(status_code=204)
        )

    async def _slack(self, request: Request) -> Response:
        call = await self._admit(request)
        if isinstance(call, Response):
            return call
        if not _says_something(call.raw):
            return await self._reception.answer(call, PlainTextResponse("invalid_payload", 400))
        name = f"slack/{request.path_params['name']}"
        self.sink.add(name, call.raw, request.headers, None, self._world.now())
        return await self._reception.answer(call, PlainTextResponse("ok"))


def _verified(secret: str, raw: bytes, headers: Mapping[str, str]) -> bool:
    try:
        Webhook(secret).verify(raw, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):
        # the library lets a malformed header or body through as ValueError
        return False
    return True


def _says_something(raw: bytes) -> bool:
    try:
        message = json.loads(raw)
    except ValueError:
        return False
    return isinstance(message, dict) and isinstance(message.get("text"), str) and bool(message["text"])
