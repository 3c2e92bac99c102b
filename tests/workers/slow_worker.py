"""`python -m tests.workers.slow_worker ADDRESS QUEUE NAME SECONDS`: a pool with one activity that takes so long."""

import asyncio
import sys
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client

from workers.heartbeat import beating
from workers.pool import Pool, worker


@activity.defn(name="answer")
async def answer() -> list[str | int]:
    """Who has answered, and at which attempt."""
    raise NotImplementedError


async def main(address: str, queue: str, name: str, takes_s: float) -> None:
    """Serve until killed."""

    @activity.defn(name="answer")
    async def slowly() -> list[str | int]:
        async with beating():
            await asyncio.sleep(takes_s)
        return [name, activity.info().attempt]

    client = await Client.connect(address)
    pool = Pool(name="slow", task_queue=queue, slots=1, drain=timedelta(seconds=1), activities=[slowly])
    await worker(client, pool, on_fatal=print).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
