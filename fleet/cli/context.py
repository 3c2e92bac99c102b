"""What every command needs: settings, the manifest, an event loop."""

import asyncio
import os
import pwd
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.errors import BadInput
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


def user(by: str | None = None) -> str:
    """Who acts: whoever was named, else the user whose process this is, whatever the environment says."""
    if by:
        return by
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # containers run under numbers that nobody has
        return f"uid {os.getuid()}"


def run(work: Coroutine[Any, Any, T], *, loop: str = "asyncio", service: str = "fleet-cli") -> T:
    """Run a command's coroutine, with spans where the environment asks for them.

    Args:
        work: what is done.
        loop: the event loop's name.
        service: what the process is called in traces.

    Raises:
        BadInput: the loop is not installed, or what the environment asks of traces is not served.
    """
    try:
        factory = _factory(loop)
        asked = environment.traces()
        if asked is None:
            with asyncio.Runner(loop_factory=factory) as runner:
                return runner.run(work)
        # what makes spans takes a moment to import
        from workers.otlp import exporting

        with exporting(asked, service=service), asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)
    finally:
        # of one that was run nothing is left to close
        work.close()


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop != "uvloop":
        return None
    try:
        from uvloop import new_event_loop
    except ImportError:
        raise BadInput(
            "FLEET_EVENT_LOOP is 'uvloop', which is not installed: install agent-fleet[uvloop], or say 'asyncio'"
        ) from None
    return new_event_loop
