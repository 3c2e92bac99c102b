"""A SearXNG-compatible search: `GET /search?q=…&format=json`, and the documents it finds."""

import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from load.simulators import text
from load.simulators.calls import Reception
from load.simulators.options import SearchOptions
from load.simulators.quota import Standing
from load.simulators.world import World

BUILT_IN = Path(__file__).parent / "documents"
_SUFFIXES = {".txt", ".md", ".rst"}
_PER_PAGE = 10


class _SearchWords:
    """SearXNG's words."""

    provider = "search"
    wrong_key = 401

    def error(self, status: int, detail: str) -> Response:
        """As text."""
        return PlainTextResponse(detail if status == 429 else "Internal Server Error", status)

    def headers(self, standing: Mapping[str, Standing]) -> dict[str, str]:
        """None: SearXNG tells no limits."""
        del standing
        return {}


class SearchApi:
    """The routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reception = Reception(world, _SearchWords())
        self._folder: Path | None = None
        self._index = sqlite3.connect(":memory:")

    def routes(self) -> list[Route]:
        """As SearXNG has them."""
        return [
            Route("/search", self._search, methods=["GET", "POST"]),
            Route("/documents/{name}", self._document),
        ]

    async def _search(self, request: Request) -> Response:
        options = self._world.options.search
        call = await self._reception.admit(request, options.limits(), self._world.latency(0).first_s)
        if isinstance(call, Response):
            return call
        await self._reception.take_time(call)
        return await self._reception.answer(call, await self._answer(request, options))

    async def _answer(self, request: Request, options: SearchOptions) -> Response:
        params = {**request.query_params, **(dict(await request.form()) if request.method == "POST" else {})}
        query = str(params.get("q", "")).strip()
        if not query:
            return PlainTextResponse("No query", 400)
        if params.get("format", "html") != "json":
            return HTMLResponse("<p>this instance answers format=json</p>", 403)
        page = int(str(params.get("pageno", "1"))) if str(params.get("pageno", "1")).isdigit() else 1
        return JSONResponse(self._found(query, page, str(request.base_url), options))

    def _found(self, query: str, page: int, base: str, options: SearchOptions) -> dict[str, Any]:
        self._refresh(options.documents_dir or BUILT_IN)
        terms = " OR ".join(f'"{word}"' for word in text.topic(query, 16))
        rows = self._index.execute(
            "SELECT name, title, snippet(documents, 2, '', '', '…', 32), bm25(documents) FROM documents"
            " WHERE documents MATCH ? ORDER BY bm25(documents), name LIMIT ? OFFSET ?",
            (terms or '""', _PER_PAGE, (page - 1) * _PER_PAGE),
        ).fetchall()
        results = [
            {
                "url": f"{base}documents/{name}",
                "title": title,
                "content": " ".join(snippet.split()),
                "engine": "simulator",
                "engines": ["simulator"],
                "category": "general",
                "score": -score,
                "positions": [n],
            }
            for n, (name, title, snippet, score) in enumerate(rows, start=1)
        ]
        empty: dict[str, Any] = {k: [] for k in ("answers", "corrections", "infoboxes", "suggestions")}
        return {
            "query": query,
            "number_of_results": len(results),
            "results": results,
            **empty,
            "unresponsive_engines": [],
        }

    async def _document(self, request: Request) -> Response:
        self._refresh(self._world.options.search.documents_dir or BUILT_IN)
        name = request.path_params["name"]
        found = self._index.execute("SELECT body FROM documents WHERE name = ?", (name,)).fetchone()
        return PlainTextResponse(found[0]) if found else PlainTextResponse("Not Found", 404)

    def _refresh(self, folder: Path) -> None:
        if folder == self._folder:
            return
        self._index.execute("DROP TABLE IF EXISTS documents")
        self._index.execute("CREATE VIRTUAL TABLE documents USING fts5(name UNINDEXED, title, body)")
        for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES):
            body = path.read_text(encoding="utf-8", errors="replace")
            title = re.search(r"^#*\s*(\S.*)$", body, re.MULTILINE)
            row = (path.relative_to(folder).as_posix().replace("/", "."), title.group(1) if title else path.stem, body)
            self._index.execute("INSERT INTO documents VALUES (?, ?, ?)", row)
        self._folder = folder
