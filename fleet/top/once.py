"""One picture, and the end: for scripts, and where there is no terminal."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fleet.documents import plain
from fleet.pools import PoolView
from fleet.top.picture import ApprovalsSeen, Document, Picture, QuotaSeen, Seen
from fleet.top.reading import Reading, Source


async def look(reading: Reading) -> Picture:
    """Ask every source once, all at the same time."""
    quotas: Source[tuple[QuotaSeen, ...]] = Source("Redis", reading.quotas)
    pools: Source[tuple[PoolView, ...]] = Source("Temporal", reading.pools)
    runs = Source("Temporal", reading.runs)
    approvals: Source[ApprovalsSeen] = Source("the database", reading.approvals)
    found = await asyncio.gather(quotas.look(), pools.look(), runs.look(), approvals.look())
    return Picture(quotas=found[0], pools=found[1], runs=found[2], approvals=found[3])


def document(picture: Picture, now: datetime) -> Document:
    """The picture as JSON."""
    approvals = picture.approvals.data
    return {
        "at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "whole": picture.whole,
        "quotas": _of(picture.quotas, [_quota(one) for one in picture.quotas.data or ()]),
        "pools": _of(picture.pools, [_pool(one) for one in picture.pools.data or ()]),
        "runs": _of(picture.runs, plain(picture.runs.data)),
        "approvals": _of(
            picture.approvals,
            [plain(one) | {"overdue": one.expires_at <= now} for one in approvals.rows] if approvals else [],
            more=approvals.more if approvals else False,
        ),
    }


def _of(seen: Seen[Any], data: Sequence[Any] | Document | None, **more: Any) -> Document:
    found = data if seen.data is not None else None
    return {"source": seen.source, "error": seen.error or None, "data": found, **more}


def _quota(one: QuotaSeen) -> Document:
    tight = one.tightest
    told: Document = plain(one)
    told["limits"] = [plain(limit) | {"used": round(limit.used, 4)} for limit in one.limits]
    return told | {"in_line": one.in_line, "tightest": tight.name if tight else None}


def _pool(one: PoolView) -> Document:
    told: Document = plain(one)
    return told | {"live": one.live, "served": one.served, "unpromoted": list(one.unpromoted)}
