"""What every command needs: settings, the manifest, an event loop."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.manifest import Manifest
from fleet.settings import Settings

T = TypeVar("T")


def load(manifest: Path | None) -> tuple[Settings, Manifest]:
    """Settings and manifest; `--manifest` wins, then the embedded stack's own, then the settings'.

    Raises:
        BadInput: with every problem.
    """
    settings = environment.load()
    return settings, manifests.load(manifest_path(settings, manifest))


def manifest_path(settings: Settings, manifest: Path | None) -> Path:
    """Where the manifest is."""
    if manifest is not None:
        return manifest
    dev = settings.dev().get("manifest")
    if dev and "manifest" not in settings.model_fields_set:
        return Path(dev)
    return settings.manifest


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)
