"""A workflow that passes a text through everything that a history keeps, and whose activity returns a megabyte."""

import base64
import os
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

MEGABYTE = 1_000_000


@activity.defn
async def fetch(what: str) -> str:
    activity.heartbeat(what)
    if activity.info().attempt == 1:
        raise ApplicationError(f"not yet, {what}", what, type="NotYet", next_retry_delay=timedelta(milliseconds=10))
    return what + " " + base64.b64encode(os.urandom(3 * MEGABYTE // 4)).decode()


@workflow.defn
class Fetching:
    def __init__(self) -> None:
        self.heard = ""

    @workflow.run
    async def run(self, what: str) -> str:
        await workflow.wait_condition(lambda: self.heard != "")
        workflow.upsert_memo({"note": what})
        text = await workflow.execute_activity(
            fetch, what, start_to_close_timeout=timedelta(seconds=20), summary=f"fetches {what}"
        )
        if self.heard == "fail":
            raise ApplicationError(f"lost {what}", type="Lost")
        return text

    @workflow.signal
    def hear(self, what: str) -> None:
        self.heard = what.partition(":")[0]

    @workflow.update
    def ask(self, what: str) -> str:
        return what

    @workflow.query
    def say(self, what: str) -> str:
        return what


def worker(client: Client, queue: str) -> Worker:
    """One that serves both. Without the sandbox, whose imports take seconds."""
    return Worker(
        client,
        task_queue=queue,
        workflows=[Fetching],
        activities=[fetch],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
