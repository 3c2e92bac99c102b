"""Looks at the parts of a fleet, each on its own: a part that is slow or away delays no other."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from fleet.contracts.metrics import EXPORTER_AT, EXPORTER_SECONDS, EXPORTER_UP, Metric

TIMEOUT_S = 10.0
"""A look that takes longer has failed. It needs most of it where all workers have fallen silent (`fleet.pools`)."""
STALE_AFTER = 3
"""Intervals after which nobody should trust a reading any more: it is not told."""

log = structlog.get_logger("fleet.exporter")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one time series."""

    metric: Metric
    labels: tuple[str, ...]
    """Values, in the order of the metric's labels."""
    value: float


Look = Callable[[], Awaitable[Sequence[Sample]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to look at."""

    source: str
    """Who is asked: a value of the label `source`. A source may have several parts."""
    name: str
    look: Look
    """Raises whatever it likes: the part is away then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the last look at a part has brought."""

    ok: bool
    took_s: float
    samples: tuple[Sample, ...] = ()
    """Of the last look that succeeded."""
    at: float | None = None
    """When that was, on the clock of readings; None: never."""
    succeeded_at: float = 0.0
    """The same in Unix time."""
    pace_s: float = 0.0
    """How long until the next was due: the interval, or what the look took if that is more."""

    def fresh(self, now: float) -> bool:
        """Whether the samples can be trusted still."""
        return self.at is not None and now - self.at <= STALE_AFTER * self.pace_s


class Watch:
    """Looks at every part at an interval until it is left. What it has seen can be asked for at any time."""

    def __init__(
        self,
        parts: Sequence[Part],
        every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Args:
        parts: what to look at.
        every_s: from the begin of a look to that of the next; a look that takes longer delays only itself.
        clock: tells the age of readings, in seconds.
        timeout_s: most seconds of a look.
        """
        self._parts = parts
        self._every_s = every_s
        self._clock = clock
        self._timeout_s = timeout_s
        self._seen: dict[Part, _Seen] = {}
        self._began: dict[Part, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep_looking(part)) for part in self._parts]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def unseen(self) -> list[str]:
        """Parts whose first look is still awaited: it has not ended, well or not, and may take longer."""
        now = self._clock()
        return [part.name for part in self._parts if part not in self._seen and not self._stuck(part, now)]

    def samples(self) -> Iterator[Sample]:
        """Everything that is known now. Readings that are too old are left out."""
        now = self._clock()
        for seen in list(self._seen.values()):
            if seen.fresh(now):
                yield from seen.samples
        for source in dict.fromkeys(part.source for part in self._parts):
            found = [self._seen.get(part) for part in self._parts if part.source == source]
            known = [seen for seen in found if seen is not None]
            if len(known) < len(found):
                # a look that does not even end when it is cancelled will never say so itself
                if any(self._stuck(part, now) for part in self._parts if part.source == source):
                    yield Sample(EXPORTER_UP, (source,), 0.0)
                continue
            # a look that hangs has not failed yet
            yield Sample(EXPORTER_UP, (source,), float(all(seen.ok and seen.fresh(now) for seen in known)))
            yield Sample(EXPORTER_SECONDS, (source,), max(seen.took_s for seen in known))
            if all(seen.at is not None for seen in known):
                yield Sample(EXPORTER_AT, (source,), min(seen.succeeded_at for seen in known))

    async def look(self, part: Part) -> None:
        """Look at a part once, and keep what it says."""
        before = self._seen.get(part)
        began = time.monotonic()
        self._began.setdefault(part, self._clock())
        ok, why, samples = False, "", tuple[Sample, ...]()
        try:
            async with asyncio.timeout(self._timeout_s):
                samples = tuple(await part.look())
            ok = True
        except TimeoutError:
            why = f"no answer in {self._timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever befalls one part, the others are told
            why = _first_line(error)
        took = time.monotonic() - began
        if not ok:
            if before is None or before.ok:
                log.warning("cannot be read", source=part.source, part=part.name, why=why)
            old = before or _Seen(ok=False, took_s=took)
            self._seen[part] = _Seen(
                ok=False, took_s=took, samples=old.samples, at=old.at, succeeded_at=old.succeeded_at, pace_s=old.pace_s
            )
            return
        if before is not None and not before.ok:
            log.info("read again", source=part.source, part=part.name)
        self._seen[part] = _Seen(
            ok=True,
            took_s=took,
            samples=samples,
            at=self._clock(),
            succeeded_at=time.time(),
            pace_s=max(self._every_s, took),
        )

    def _stuck(self, part: Part, now: float) -> bool:
        """Whether the first look takes longer than a look may."""
        began = self._began.get(part)
        return part not in self._seen and began is not None and now - began > self._timeout_s

    async def _keep_looking(self, part: Part) -> None:
        while True:
            began = time.monotonic()
            await self.look(part)
            await asyncio.sleep(max(0.0, began + self._every_s - time.monotonic()))


def _first_line(error: Exception) -> str:
    """Of what it says; its type where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
