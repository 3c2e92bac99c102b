"""Runs by the rules of today, as `fleet run` starts them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle

from fleet.contracts import names
from fleet.contracts.runs import RULES, RunResult
from tests.fleet.fakes import Fakes, run_input, serving


@asynccontextmanager
async def started(client: Client, fakes: Fakes, **wanted: Any) -> AsyncIterator[WorkflowHandle[Any, RunResult]]:
    """A run under way, and the worker that serves it."""
    queue, run = f"q-{uuid4().hex}", f"run-{uuid4().hex}"
    async with serving(client, fakes, queue):
        begins = replace(run_input(queue, **wanted), rules=RULES)
        yield await client.start_workflow(names.AGENT_WORKFLOW, begins, id=run, task_queue=queue, result_type=RunResult)
