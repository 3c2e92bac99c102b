"""Where am I? The environment, read once into one frozen object. Nothing else reads `os.environ`."""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.errors import BadInput

DEV_FILE = "dev.json"


class Settings(BaseSettings):
    """`FLEET_*` variables. The Temporal connection has its own: `TEMPORAL_*` and `temporal.toml`."""

    model_config = SettingsConfigDict(env_prefix="FLEET_", frozen=True, extra="ignore")

    manifest: Path = Path("deploy/fleet.toml")
    """The manifest: what the fleet is."""

    state_dir: Path = Path(".fleet")
    """Folder of the embedded stack, the corpus and the effect ledger."""

    redis_url: str | None = None
    """The limiter's store: one server, Sentinel or a Cluster (`ratelimit/routes.py`). Default: the embedded one, else
    localhost:6379."""

    database_url: str | None = None
    """SQLAlchemy URL of the effect ledger. Default: an SQLite file in `state_dir`."""

    health_host: str = "127.0.0.1"
    """Address that `/live`, `/ready` and `/metrics` listen on. In a container: 0.0.0.0."""

    health_port: int = Field(default=0, ge=0, le=65535)
    """Port of the probes. 0: any free one, told in the log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, JSON elsewhere."""

    event_loop: Literal["asyncio", "uvloop"] = "asyncio"
    """The event loop of workers. `uvloop` is an extra of the package."""

    def secret(self, reference: str) -> str | None:
        """Resolve `env:NAME` or `file:/path`. `env:NAME` also reads the file named by `NAME_FILE`.

        Returns None when nothing is set; never logs what it finds.
        """
        kind, _, name = reference.partition(":")
        try:
            if kind == "file":
                return Path(name).read_text(encoding="utf-8").strip() or None
            if path := os.environ.get(f"{name}_FILE"):
                return Path(path).read_text(encoding="utf-8").strip() or None
        except OSError as error:
            raise BadInput(f"secret {reference}: cannot be read ({error.strerror})") from None
        return os.environ.get(name, "").strip() or None

    def dev(self) -> dict[str, str]:
        """Endpoints of the embedded stack that runs in `state_dir`; empty when none does."""
        try:
            found = json.loads((self.state_dir / DEV_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {k: v for k, v in found.items() if isinstance(v, str)}

    def redis(self) -> str:
        """URL of the limiter's store."""
        return self.redis_url or self.dev().get("redis") or "redis://127.0.0.1:6379/0"

    def database(self) -> str:
        """URL of the effect ledger."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.state_dir / 'ledger.db').absolute()}"

    def environment(self) -> dict[str, str]:
        """The whole environment, for a child process."""
        return dict(os.environ)


def load() -> Settings:
    """Read the environment.

    Raises:
        BadInput: a variable has a bad value; the text names all of them.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"FLEET_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}, got {e['input']!r}" for e in error.errors()
        ]
        raise BadInput("; ".join(problems)) from None
