"""The live table of a demo, and the samples that the verdict needs."""

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Any

import httpx2
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fleet.contracts.runs import Outcome, RunResult
from fleet.manifest import Manifest
from load.providers import Ledgers
from ratelimit.errors import RateLimitError
from ratelimit.limiter import Limiter

EVERY_S = 0.5
LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a scope."""

    at: float
    """Wall-clock seconds."""
    queued: bool
    """Somebody stands in line: a limit owes."""


class Watch:
    """Looks at the fleet twice a second until it is closed."""

    def __init__(self, manifest: Manifest, limiter: Limiter, ledgers: Ledgers, *, total: int, quiet: bool) -> None:
        self.samples: dict[str, list[Sample]] = {scope: [] for scope in manifest.scopes()}
        self._manifest = manifest
        self._limiter = limiter
        self._ledgers = ledgers
        self._total = total
        self._ended: list[RunResult] = []
        terminal = sys.stderr.isatty() and not quiet
        self._lines = not terminal and not quiet
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, transient=False) if terminal else None
        self._said_at = 0.0
        if self._live:
            self._live.start()

    def ended(self, result: RunResult) -> None:
        """Note the end of a run."""
        self._ended.append(result)

    async def follow(self) -> None:
        """Look until cancelled. A look that fails is skipped: the servers may be restarting."""
        while True:
            with suppress(RateLimitError, httpx2.HTTPError):
                await self._look()
            await asyncio.sleep(EVERY_S)

    def close(self) -> None:
        """Leave the last picture on the screen."""
        if self._live:
            self._live.stop()

    async def _look(self) -> None:
        rows: list[tuple[str, ...]] = []
        summary = await self._ledgers.summary()
        mail = await self._ledgers.mail()
        for scope in self.samples:
            seen = await self._limiter.inspect(scope)
            owing = {name: limit for name, limit in seen.limits.items() if limit.level < 0}
            self.samples[scope].append(Sample(at=time(), queued=bool(owing)))
            wait = max((-limit.level / limit.rate for limit in owing.values()), default=0.0)
            counted = of_scope(summary, self._manifest, scope)
            used = ", ".join(f"{n} {min(1.0, 1 - x.level / x.burst):.0%}" for n, x in seen.limits.items())
            rows.append((scope, used, f"{wait:.1f}s", str(counted.get("ok", 0)), str(counted.get("429", 0))))
        done = sum(r.outcome is Outcome.COMPLETED for r in self._ended)
        head = (
            f"agents {done}/{self._total} done, {len(self._ended) - done} failed · e-mails {mail.get('delivered', 0)}"
        )
        if self._live:
            self._live.update(_table(head, rows), refresh=True)
        elif self._lines and time() - self._said_at >= LINE_EVERY_S:
            self._said_at = time()
            scopes = " · ".join(f"{r[0]}: {r[1]}, line {r[2]}, calls {r[3]}, 429s {r[4]}" for r in rows)
            sys.stderr.write(f"fleet: {head} · {scopes}\n")


def of_scope(summary: dict[str, Any], manifest: Manifest, scope: str, what: str = "outcomes") -> dict[str, Any]:
    """Counts by outcome of one scope in the simulators' summary, or its units `charged`."""
    provider, _, model = scope.partition("/")
    kind = manifest.providers[provider].kind
    entry = summary.get("providers", {}).get(kind, {})
    if kind in ("openai", "anthropic"):
        entry = entry.get("models", {}).get(model, {})
    return dict(entry.get(what, {}))


def _table(head: str, rows: list[tuple[str, ...]]) -> Table:
    table = Table("QUOTA", "IN USE", "LINE", "CALLS", "429s", title=head, title_justify="left", box=None)
    for row in rows:
        table.add_row(*row)
    return table
