"""What a trial asks of the simulators: the ledger, mails, transfers, webhooks, other options, faults, scripts."""

import json
import math
from collections.abc import Awaitable, Callable
from typing import overload

from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from load.simulators.bank_api import Book
from load.simulators.hooks import Sink
from load.simulators.ledger import Outsiders
from load.simulators.options import OptionsError, problems
from load.simulators.orders import FaultOrder
from load.simulators.script import Script
from load.simulators.world import World


class Control:
    """The routes."""

    def __init__(self, world: World, book: Book, sink: Sink, script: Script) -> None:
        self._world = world
        self._script = script
        self._book = book
        self._sink = sink

    def routes(self) -> list[Route]:
        """Paths that no provider has."""
        return [
            Route("/_ledger", _checked(self._rows)),
            Route("/_ledger/summary", self._summary),
            Route("/_ledger/window", _checked(self._window)),
            Route("/_ledger/series", _checked(self._series)),
            Route("/_mail", self._mail),
            Route("/_mail/summary", self._mail_summary),
            Route("/_bank", self._bank),
            Route("/_bank/summary", self._bank_summary),
            Route("/_hooks", self._hooks),
            Route("/_hooks/summary", self._hooks_summary),
            Route("/_control", self._options),
            Route("/_control", _checked(self._patch), methods=["POST", "PATCH"]),
            Route("/_fault", _checked(self._fault), methods=["POST"]),
            Route("/_script", self._steps),
            Route("/_script", _checked(self._play), methods=["POST"]),
            Route("/_script", self._stop, methods=["DELETE"]),
            Route("/_health", self._health),
        ]

    async def _rows(self, request: Request) -> Response:
        asked = request.query_params
        limit = asked.get("limit")
        rows = self._world.ledger.rows(
            asked.get("provider"), int(asked.get("since", "0")), int(limit) if limit is not None else 10_000
        )
        return JSONResponse(rows)

    async def _summary(self, request: Request) -> Response:
        del request
        return JSONResponse({"in_flight": self._world.in_flight, **self._world.ledger.summary()})

    async def _window(self, request: Request) -> Response:
        asked = request.query_params
        begin, end = _instant(asked, "from", 0.0), _instant(asked, "to", self._world.now())
        of = (asked.get("provider"), asked.get("model"), _outsiders(asked))
        return JSONResponse(self._world.ledger.window(begin, end, *of))

    async def _series(self, request: Request) -> Response:
        asked = request.query_params
        begin, end = _instant(asked, "from", None), _instant(asked, "to", self._world.now())
        of = (asked.get("provider"), asked.get("model"), _outsiders(asked))
        return JSONResponse(self._world.ledger.series(begin, end, _instant(asked, "step", 1.0), *of))

    async def _mail(self, request: Request) -> Response:
        return JSONResponse(self._world.mailbox.find(request.query_params.get("message_id")))

    async def _mail_summary(self, request: Request) -> Response:
        del request
        return JSONResponse(self._world.mailbox.summary())

    async def _bank(self, request: Request) -> Response:
        del request
        return JSONResponse(self._book.rows())

    async def _bank_summary(self, request: Request) -> Response:
        del request
        return JSONResponse(self._book.summary())

    async def _hooks(self, request: Request) -> Response:
        return JSONResponse(self._sink.rows(request.query_params.get("name")))

    async def _hooks_summary(self, request: Request) -> Response:
        del request
        return JSONResponse(self._sink.summary())

    async def _options(self, request: Request) -> Response:
        del request
        return self._now()

    async def _patch(self, request: Request) -> Response:
        self._world.give(await request.json())
        return self._now()

    def _now(self) -> Response:
        return JSONResponse(self._world.options.model_dump(mode="json"))

    async def _fault(self, request: Request) -> Response:
        order = FaultOrder.model_validate(await request.json())
        if order.nothing and order.count:
            raise ValueError("give status, drop or hang_s")
        self._world.order(order)
        return JSONResponse(json.loads(order.model_dump_json()))

    async def _steps(self, request: Request) -> Response:
        del request
        return JSONResponse(self._script.document())

    async def _play(self, request: Request) -> Response:
        return JSONResponse(self._script.post(await request.json()))

    async def _stop(self, request: Request) -> Response:
        del request
        self._script.stop()
        return JSONResponse(self._script.document())

    async def _health(self, request: Request) -> Response:
        del request
        return JSONResponse({"ok": True})


@overload
def _instant(asked: QueryParams, name: str, default: float) -> float: ...
@overload
def _instant(asked: QueryParams, name: str, default: None) -> float | None: ...
def _instant(asked: QueryParams, name: str, default: float | None) -> float | None:
    said = asked.get(name)
    if said is None:
        return default
    try:
        value = float(said)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {said!r}: a number of seconds")
    return value


def _outsiders(asked: QueryParams) -> Outsiders:
    said = asked.get("outsiders", "without")
    match said:
        case "without" | "with" | "only":
            return said
    raise ValueError(f"outsiders is {said!r}: without, with or only")


def _checked(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        try:
            return await handler(request)
        except ValidationError as error:
            return JSONResponse({"error": problems(error)}, 422)
        except (OptionsError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 422)

    return checked
