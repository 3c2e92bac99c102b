"""What agents remember: served from the database."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from temporalio import activity

from fleet.contracts.memories import Finding, Keep, Kept
from fleet.contracts.names import FailureType
from fleet.contracts.tools import MEMORY_FORGET, MEMORY_KEEP, MEMORY_RECALL, MEMORY_REMEMBER, ToolRequest, ToolResult
from workers import failures
from workers.effects.attempts import database
from workers.heartbeat import beating
from workers.memory.store import MemoryStore

_LIMIT = 5
_MOST_CHARS = 6_000
"""Characters of all memories that are handed to a model at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long and how much an agent remembers."""

    expires_s: float = 2_592_000.0
    max_bytes: int = 1_000_000


class MemoryTools:
    """Serves `memory.recall`, `memory.remember`, `memory.forget` and `memory.keep`."""

    def __init__(self, store: MemoryStore, keeping: Mapping[str, Keeping]) -> None:
        """Args:
        store: over the database.
        keeping: by agent, for what models remember by themselves.
        """
        self._store = store
        self._keeping = keeping

    @activity.defn(name=MEMORY_RECALL.name)
    async def recall(self, request: ToolRequest) -> ToolResult:
        """Look up what the agent remembers, best match first."""
        began = monotonic()
        async with beating(), database():
            found = await self._store.recall(
                request.tenant,
                request.agent,
                str(request.arguments.get("query", "")),
                subject=str(request.arguments.get("subject", "")),
                limit=int(request.arguments.get("limit", _LIMIT)),
                now=datetime.now(UTC),
            )
        memories, left = [], _MOST_CHARS
        for memory in found:
            text = memory.text[:left]
            left -= len(text)
            told = {"id": memory.id, "kind": memory.kind, "subject": memory.subject, "text": text}
            memories.append(told | {"when": f"{memory.created_at:%Y-%m-%d}"})
            if left <= 0:
                break
        content = json.dumps({"memories": memories}, ensure_ascii=False)
        return ToolResult(content=content, duration_s=monotonic() - began)

    @activity.defn(name=MEMORY_REMEMBER.name)
    async def remember(self, request: ToolRequest) -> ToolResult:
        """Remember one fact that the model wants to keep."""
        keeping = self._keeping.get(request.agent, Keeping())
        fact = Finding(
            text=str(request.arguments.get("text", "")), subject=str(request.arguments.get("subject", "")), kind="note"
        )
        kept = await self._kept(
            Keep(
                tenant=request.tenant,
                agent=request.agent,
                run_id=request.run_id,
                step=request.step,
                findings=[fact],
                expires_s=keeping.expires_s,
                max_bytes=keeping.max_bytes,
            )
        )
        if not (kept.kept or kept.known):
            bound = f"it must not be empty, nor larger than {keeping.max_bytes} bytes"
            raise failures.final(FailureType.TOOL_FAILED, f"memory: not remembered: {bound}")
        return ToolResult(content=json.dumps({"remembered": True, "new": kept.kept == 1}))

    @activity.defn(name=MEMORY_FORGET.name)
    async def forget(self, request: ToolRequest) -> ToolResult:
        """Forget one memory of this agent."""
        async with beating(), database():
            gone = await self._store.forget(request.tenant, request.agent, str(request.arguments.get("id", "")))
        return ToolResult(content=json.dumps({"forgotten": gone}))

    @activity.defn(name=MEMORY_KEEP.name)
    async def keep(self, request: Keep) -> Kept:
        """Remember what a run has found."""
        return await self._kept(request)

    async def _kept(self, request: Keep) -> Kept:
        async with beating(), database():
            return await self._store.keep(request, now=datetime.now(UTC))
