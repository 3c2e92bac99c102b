"""Temporal servers of tests, each in a process of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from temporalio.testing import WorkflowEnvironment

TRIES = 4

Starting = Callable[[], Awaitable[WorkflowEnvironment]]


async def started(starting: Starting) -> WorkflowEnvironment:
    """The server that it starts: the SDK gives one five seconds, and a busy machine may need another try."""
    for _ in range(TRIES - 1):
        try:
            return await starting()
        except RuntimeError as error:
            if "did not start within" not in str(error):
                raise
    return await starting()


@contextmanager
def served(starting: Starting, *asked: Callable[[WorkflowEnvironment], Awaitable[object]]) -> Iterator[str]:
    """Its address, while a loop of its own holds it; what is asked of it first."""
    loop = asyncio.new_event_loop()
    try:
        environment = loop.run_until_complete(started(starting))
        try:
            for ask in asked:
                loop.run_until_complete(ask(environment))
            yield environment.client.service_client.config.target_host
        finally:
            loop.run_until_complete(environment.shutdown())
    finally:
        loop.close()
