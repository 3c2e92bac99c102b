"""What the tests of the Helm chart share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fleet.deploying import helm as rendering
from tests.deploy import helm


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The values that `fleet deploy render helm` writes for a set."""

    @cache
    def write(name: str) -> Path:
        path = tmp_path_factory.mktemp("values") / f"{name}.yaml"
        path.write_text(rendering.render(helm.plan(name))["values.yaml"])
        return path

    return write


@pytest.fixture(scope="session")
def objects(rendered: Callable[[str], Path]) -> Callable[[str], list[dict[str, Any]]]:
    """What the chart becomes with a set."""
    return cache(lambda name: helm.template(rendered(name), helm.VALUES / f"{name}.yaml"))
