"""Who serves each pool, and what waits in its queue."""

from collections import Counter
from collections.abc import Iterator

from temporalio.client import Client

from fleet.contracts.metrics import BACKLOG, BACKLOG_AGE, POOL_SERVED, SLOTS, WORKERS
from fleet.manifest import Manifest
from fleet.pools import PoolView, survey
from workers.exporter.looking import Sample

_STATES = ("running", "stopping", "silent")


class Queues:
    """Workers, slots and backlogs of the manifest's pools."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self._client = client
        self._manifest = manifest

    async def look(self) -> list[Sample]:
        """Raises:
        Unreachable: Temporal does not answer.
        """
        return [sample for pool in await survey(self._client, self._manifest) for sample in _told(pool)]


def _told(pool: PoolView) -> Iterator[Sample]:
    found = Counter((worker.build, worker.state) for worker in pool.workers)
    # the build that new work goes to is told even if nobody serves it: an absent series says nothing
    for build in sorted({pool.current, *(worker.build for worker in pool.workers)}):
        for state in _STATES:
            yield Sample(WORKERS, (pool.name, build, state), found[build, state])
    yield Sample(POOL_SERVED, (pool.name,), float(pool.served))
    slots = [worker.activities for worker in pool.workers if worker.live and worker.activities]
    yield Sample(SLOTS, (pool.name, "used"), sum(one.used for one in slots))
    yield Sample(SLOTS, (pool.name, "free"), sum(one.free for one in slots))
    for kind, backlog in (("activity", pool.activities), ("workflow", pool.workflows)):
        if backlog is not None:
            yield Sample(BACKLOG, (pool.name, kind), backlog.count)
            yield Sample(BACKLOG_AGE, (pool.name, kind), backlog.oldest_s)
