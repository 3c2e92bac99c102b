"""The manifest's table `[deploy]`: what `fleet deploy render` writes files for."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from fleet.rates import Duration, Table
from fleet.settings import BUILD_ID
from fleet.tables import REFERENCE


def _cpu(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*m?|0\.\d*[1-9]\d*|[1-9]\d*\.\d+", text):
        raise ValueError(f"{text[:40]!r} is no amount of processors: write 250m (thousandths) or 2")
    return text


def _memory(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[MG]i", text):
        raise ValueError(f"{text[:40]!r} is no amount of memory: write 512Mi or 2Gi")
    return text


class DeployPoolSpec(Table):
    """How a pool's processes are deployed."""

    replicas: int = Field(default=1, ge=1, le=1000)
    """Processes to begin with. One: whatever runs it starts it again, and nothing is lost meanwhile."""
    max_replicas: int | None = Field(default=None, ge=1, le=1000)
    """Most processes that an autoscaler may start. Default: as many as the quota keeps busy, `replicas` at least."""
    call: Duration | None = None
    """How long one call takes. Default: by what the pool does (`fleet/deploying/capacity.py`)."""
    cpu: Annotated[str, AfterValidator(_cpu)] | None = None
    """Processors that a process asks for, as `250m`."""
    memory: Annotated[str, AfterValidator(_memory)] | None = None
    """Memory that it asks for and may use, as `512Mi`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: must be at least replicas, {self.replicas}, got {self.max_replicas}")
        return self


class DeploySpec(Table):
    """What `fleet deploy render` writes files for. Nothing else reads it."""

    image: str | None = Field(default=None, min_length=1)
    """The container image with its tag. Default: `agent-fleet` with the version of the package."""
    build_id: str = ""
    """Version of the workers' code, as `FLEET_BUILD_ID`."""
    payload_keys: str | None = Field(default=None, pattern=REFERENCE)
    """Where the keys are that payloads are encrypted with, as `FLEET_PAYLOAD_KEYS`. Default: they are not."""
    pools: dict[str, DeployPoolSpec] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if not re.fullmatch(BUILD_ID, self.build_id):
            raise ValueError(f"build_id: {self.build_id[:40]!r} is not letters, digits, '.', '_', '-', at most 63")
        if self.image is not None and not re.fullmatch(r"[a-z0-9][\w./:@-]*", self.image):
            raise ValueError(f"image: {self.image[:80]!r} is no image, as in registry.example.com/agent-fleet:1.0")
        return self
