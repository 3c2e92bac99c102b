"""Search, and read what was found."""

import json
from time import monotonic

from temporalio import activity

from fleet.contracts.memories import Finding
from fleet.contracts.names import FailureType
from fleet.contracts.tools import SEARCH_FETCH, SEARCH_QUERY, ToolRequest, ToolResult
from workers import failures, tracing
from workers.admission import Admission
from workers.corpus.index import CorpusError
from workers.corpus.passage import passage
from workers.providers import errors
from workers.providers.search import (
    SearchError,
    SearchNotSent,
    SearchProvider,
    SearchRateLimited,
    SearchRefused,
    SearchUnavailable,
)

RESULTS = 5
"""Hits per search."""
READ_CHARS = 1_600
"""Characters of one document that are handed to the model."""
LOOK_CHARS = 200_000
"""Characters of one document in which the part to hand out is looked for."""


class SearchTools:
    """Serves `search.query` and `search.fetch`."""

    def __init__(self, admission: Admission, provider: SearchProvider, scope: str) -> None:
        self._admission = admission
        self._provider = provider
        self._scope = scope

    @activity.defn(name=SEARCH_QUERY.name)
    async def query(self, request: ToolRequest) -> ToolResult:
        """Search once."""
        query = str(request.arguments.get("query", "")).strip()
        if not query:
            raise failures.final(FailureType.TOOL_FAILED, "search: the query is empty")
        began = monotonic()
        async with self._admission.admitted(
            self._scope, {"requests": 1.0}, max_failures=request.max_failures, agent=request.agent
        ) as admitted:
            admitted.sent()
            with tracing.calling(f"search {self._scope}", {tracing.SCOPE: self._scope}):
                try:
                    found = await self._provider.search(query, RESULTS)
                    admitted.hear("generic", found.headers)
                except (SearchError, CorpusError) as error:
                    raise _translate(error) from None
        results = [{"id": r.id, "title": r.title, "snippet": r.snippet} for r in found.results]
        return ToolResult(
            content=json.dumps({"results": results}, ensure_ascii=False),
            duration_s=monotonic() - began,
            quota=admitted.use(),
        )

    @activity.defn(name=SEARCH_FETCH.name)
    async def fetch(self, request: ToolRequest) -> ToolResult:
        """Read one document, or the part of it that is asked for."""
        document_id = str(request.arguments.get("id", "")).strip()
        about = str(request.arguments.get("about", ""))
        began = monotonic()
        # a page is read from its own server: the search provider counts nothing
        async with self._admission.admitted(
            None, {}, max_failures=request.max_failures, agent=request.agent
        ) as admitted:
            admitted.sent()
            with tracing.calling(f"fetch {self._scope}", {}):
                try:
                    found = await self._provider.fetch(document_id, LOOK_CHARS)
                except (SearchError, CorpusError) as error:
                    raise _translate(error) from None
        text, start = passage(found.text, about, READ_CHARS)
        content = {
            "id": found.id,
            "title": found.title,
            "text": text,
            "starts_at": start,
            "truncated": found.truncated or start + len(text) < len(found.text),
        }
        return ToolResult(
            content=json.dumps(content, ensure_ascii=False),
            duration_s=monotonic() - began,
            quota=admitted.use(),
            findings=[Finding(text=text, subject=found.title or found.id)],
        )


def _translate(error: SearchError | CorpusError) -> errors.ProviderError:
    match error:
        case SearchRateLimited() if error.operation == "search":
            return errors.RateLimited(str(error), retry_after_s=error.retry_after)
        case SearchNotSent():
            return errors.NotSent(str(error))
        # a page's own 429 says nothing about the search provider's quota
        case SearchRateLimited() | SearchUnavailable():
            return errors.Unavailable(str(error), retry_after_s=error.retry_after)
        case SearchRefused():
            return errors.Refused(str(error))
        case _:
            return errors.BadRequest(str(error))
