"""Recorded histories, and runs on a real server that are looked at from outside."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from temporalio.converter import DataConverter

from fleet.history import Story, load, of_chain

RECORDED = Path(__file__).parents[1] / "histories"


@pytest.fixture
def recorded() -> Callable[[str], Awaitable[Story]]:
    """Tell a recorded history."""

    async def tell(name: str) -> Story:
        return await of_chain(load(RECORDED / f"{name}.json"), DataConverter.default)

    return tell
