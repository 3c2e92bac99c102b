"""Standing simulators in for the providers of a manifest, with the manifest's own quotas."""

import json
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import tomli_w

from fleet.manifest import MailProvider, Manifest, ModelProvider
from fleet.rates import UNITS

SIM_KEY = "sk-sim-fleet-0001"  # not a secret: the simulators accept it
SIM_KEY_FILE = "simulators.key"


def options(manifest: Manifest) -> dict[str, Any]:
    """Simulator options that make each provider enforce what the manifest says it grants."""
    found: dict[str, Any] = {}
    for scope in manifest.scopes():
        provider, _, model = scope.partition("/")
        kind = manifest.providers[provider].kind
        limits = {
            name: {
                "limit": rate.units,
                "period_s": rate.per.total_seconds(),
                "burst": rate.burst or rate.units,
                "window": "continuous",
            }
            for name, rate in manifest.quotas[scope].limits().items()
            if name in UNITS and not rate.shadow and rate.returns == "continuously"
        }
        if kind in ("openai", "anthropic"):
            found.setdefault(kind, {"models": {}, "keys": [SIM_KEY]})["models"][model] = limits
        elif kind == "smtp":
            found["smtp"] = limits
    for agent in manifest.agents.values():
        provider, _, model = agent.model.partition("/")
        kind = manifest.providers[provider].kind
        found.setdefault(kind, {"models": {}, "keys": [SIM_KEY]})["models"].setdefault(model, {})
    return found


def rewrite(source: Path, manifest: Manifest, target: Path, *, http: str | None, mail: tuple[int, str] | None) -> None:
    """Write `source` to `target` with simulators in the place of providers.

    Args:
        source: the manifest's file.
        manifest: what it says.
        target: file to write.
        http: base URL that stands in for every model provider; None leaves them as they are.
        mail: SMTP port and lookup URL that stand in for the relay; None leaves it as it is.
    """
    raw = tomllib.loads(source.read_text(encoding="utf-8"))
    for name, spec in manifest.providers.items():
        table = raw["providers"][name]
        if isinstance(spec, ModelProvider) and http is not None:
            table["base_url"] = f"{http}/v1" if spec.kind == "openai" else http
            key_file = target.parent / SIM_KEY_FILE
            key_file.write_text(SIM_KEY, encoding="utf-8")
            table["api_key"] = f"file:{key_file}"
        elif isinstance(spec, MailProvider) and mail is not None:
            for key in ("username", "password"):
                table.pop(key, None)
            table.update(host="127.0.0.1", port=mail[0], tls="none", lookup_url=mail[1])
    target.write_text(tomli_w.dumps(raw), encoding="utf-8")


class Ledgers:
    """What the simulated providers have counted: the judge's evidence."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=10)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _get(self, path: str, **params: Any) -> Any:
        answer = await self._http.get(path, params=params)
        answer.raise_for_status()
        return json.loads(answer.text)

    async def summary(self) -> dict[str, Any]:
        """Counts by provider and model."""
        found: dict[str, Any] = await self._get("/_ledger/summary")
        return found

    async def rows(self, provider: str) -> list[dict[str, Any]]:
        """Every request of a provider."""
        found: list[dict[str, Any]] = await self._get("/_ledger", provider=provider, limit=1_000_000)
        return found

    async def mail(self) -> dict[str, int]:
        """Messages delivered, unique, duplicates."""
        found: dict[str, int] = await self._get("/_mail/summary")
        return found
