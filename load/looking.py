"""Looking at a fleet twice a second while load is offered: for the live view, and for the oracles that need waits."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from time import time
from typing import Any

import httpx2

from fleet.manifest import Manifest
from load.faults import rss_mb
from load.local import LocalFleet
from load.metrics import TrialMetrics
from load.offering import Runs
from load.providers import Ledgers
from load.trial import Look, Rated
from load.view import Picture, ScopePicture, View
from load.watch import of_scope
from ratelimit.errors import RateLimitError
from ratelimit.limiter import Limiter, Snapshot

EVERY_S = 0.5
MEMORY_EVERY = 4
"""Looks between two readings of the workers' memory."""
AWAY_S = 2.0
"""A server that does not answer within this time is away: the look goes without it."""


class Looker:
    """Looks until cancelled. What cannot be seen is left out: servers may be away."""

    def __init__(
        self,
        manifest: Manifest,
        fleet: LocalFleet,
        ledgers: Ledgers,
        shared: Limiter,
        runs: Runs,
        *,
        began: float,
        load_s: float,
        quotas: Mapping[str, Mapping[str, Rated]],
        view: View,
        metrics: TrialMetrics,
    ) -> None:
        self.looks: list[Look] = []
        self._manifest = manifest
        self._fleet = fleet
        self._ledgers = ledgers
        self._shared = shared
        self._runs = runs
        self._began = began
        self._load_s = load_s
        self._quotas = quotas
        self._view = view
        self._metrics = metrics

    async def follow(self) -> None:
        """Look twice a second."""
        number = 0
        while True:
            await self._look(with_memory=number % MEMORY_EVERY == 0)
            number += 1
            await asyncio.sleep(EVERY_S)

    async def _look(self, *, with_memory: bool) -> None:
        seen: dict[str, Snapshot] = {}
        summary: dict[str, Any] = {}
        with suppress(RateLimitError, TimeoutError):
            async with asyncio.timeout(AWAY_S):
                seen = {scope: await self._shared.inspect(scope) for scope in self._quotas}
        with suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(AWAY_S):
                summary = await self._ledgers.summary()
        look = Look(
            at=time(),
            active=self._runs.active,
            waiting={scope: _line_s(one) for scope, one in seen.items()},
            pace={scope: one.pace for scope, one in seen.items()},
            rss_mb=await asyncio.to_thread(rss_mb, self._fleet) if with_memory else {},
        )
        self.looks.append(look)
        if summary:
            answered = {scope: of_scope(summary, self._manifest, scope) for scope in self._quotas}
            self._metrics.called({(scope, what): n for scope, one in answered.items() for what, n in one.items()})
        self._show(look, seen, summary)

    def _show(self, look: Look, seen: Mapping[str, Snapshot], summary: dict[str, Any]) -> None:
        runs = self._runs
        scopes = []
        for scope, snapshot in seen.items():
            counted = Counter(of_scope(summary, self._manifest, scope))
            charged = of_scope(summary, self._manifest, scope, "charged")
            used = {name: 1 - one.level / one.burst for name, one in snapshot.limits.items() if one.burst > 0}
            tightest = max(used, key=lambda name: used[name], default="")
            scopes.append(
                ScopePicture(
                    scope=scope,
                    limit=tightest,
                    used=min(1.0, max(0.0, used.get(tightest, 0.0))),
                    line_s=look.waiting[scope],
                    calls=counted["ok"],
                    refused=counted["429"],
                    pace=snapshot.pace,
                    charged=charged,
                    rates={name: one.rate for name, one in self._quotas[scope].items()},
                )
            )
        elapsed = look.at - self._began
        done = len(runs.closed)
        rate = done / elapsed if elapsed > 0 else 0.0
        left = len(runs.planned) - done
        self._view.update(
            Picture(
                elapsed_s=max(0.0, elapsed),
                total_s=self._load_s,
                agents={"to come": len(runs.planned) - len(runs.arrived), "active": runs.active, "ended": done},
                scopes=scopes,
                eta_s=max(self._load_s - elapsed, left / rate) if rate else None,
            )
        )


def _line_s(snapshot: Snapshot) -> float:
    return max((-one.level / one.rate for one in snapshot.limits.values() if one.level < 0 < one.rate), default=0.0)
