"""Standing simulators in for the providers of a manifest, with the manifest's own quotas."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import tomli_w

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import UNITS
from fleet.tables import BankProvider, EmailEndpoint, MailApiProvider, MailProvider, ModelProvider
from load.trial import Rated

SIM_KEY = "sk-sim-fleet-0001"  # not a secret: the simulators accept it
SIM_KEY_FILE = "simulators.key"
HOOK_SECRET = "whsec_c2ltdWxhdGVkLXdlYmhvb2tzLW9mLXRoZS1mbGVldA=="  # noqa: S105 - the simulators' own
_NAMES = {"smtp": "smtp", "resend": "mail_api", "bank": "bank"}
"""What the simulators call the providers of each kind."""


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
        elif kind == "resend":
            # it counts what comes in
            found["mail_api"] = {"requests": limits["messages"]} if "messages" in limits else {}
        elif kind in _NAMES:
            found[_NAMES[kind]] = limits
    for spec in manifest.providers.values():
        if isinstance(spec, BankProvider | MailApiProvider):
            found.setdefault(_NAMES[spec.kind], {})["keys"] = [SIM_KEY]
    hooks = [name for name, endpoint in manifest.endpoints.items() if endpoint.kind == "webhook"]
    if hooks:
        found["hooks"] = {"secrets": dict.fromkeys(hooks, HOOK_SECRET)}
    for agent in manifest.agents.values():
        provider, _, model = agent.model.partition("/")
        kind = manifest.providers[provider].kind
        found.setdefault(kind, {"models": {}, "keys": [SIM_KEY]})["models"].setdefault(model, {})
    return found


def granting(manifest: Manifest, granted: Mapping[str, Mapping[str, Rated]]) -> dict[str, Any]:
    """A change of options after which the providers of these scopes grant so much."""
    found: dict[str, Any] = {}
    for scope, rated in granted.items():
        provider, _, model = scope.partition("/")
        kind = manifest.providers[provider].kind
        limits = {name: {"limit": one.rate * 60, "period_s": 60.0, "burst": one.burst} for name, one in rated.items()}
        if kind in ("openai", "anthropic"):
            found.setdefault(kind, {"models": {}})["models"][model] = limits
        elif kind == "resend":
            found["mail_api"] = {"requests": limits["messages"]} if "messages" in limits else {}
        elif kind in _NAMES:
            found[_NAMES[kind]] = limits
    return found


def rewrite(
    source: Path,
    manifest: Manifest,
    target: Path,
    *,
    models: str | None,
    outside: tuple[str, int] | None,
    console: str | None = None,
) -> None:
    """Write `source` to `target` with simulators in the place of providers.

    Args:
        source: the manifest's file.
        manifest: what it says.
        target: file to write.
        models: base URL that stands in for every model provider; None leaves them as they are.
        outside: base URL and SMTP port that stand in for mail, bank and endpoints: whatever the world would notice.
            None leaves them as they are.
        console: where approvers reach the console; None leaves links as they are.
    """
    raw = tomllib.loads(source.read_text(encoding="utf-8"))
    for name, spec in manifest.providers.items():
        table = raw["providers"][name]
        if isinstance(spec, ModelProvider) and models is not None:
            table.update(
                base_url=f"{models}/v1" if spec.kind == "openai" else models,
                api_key=_secret(target, SIM_KEY_FILE, SIM_KEY),
            )
        elif outside is not None and isinstance(spec, MailProvider):
            for key in ("username", "password", "ca_file"):
                table.pop(key, None)
            table.update(host="127.0.0.1", port=outside[1], tls="none", lookup_url=f"{outside[0]}/_mail")
        elif outside is not None and isinstance(spec, MailApiProvider):
            table.update(base_url=outside[0], api_key=_secret(target, SIM_KEY_FILE, SIM_KEY))
        elif outside is not None and isinstance(spec, BankProvider):
            table.update(base_url=f"{outside[0]}/bank", api_key=_secret(target, SIM_KEY_FILE, SIM_KEY))
    for name, endpoint in manifest.endpoints.items():
        if outside is not None and not isinstance(endpoint, EmailEndpoint):
            path = "hooks" if endpoint.kind == "webhook" else "slack"
            url = _secret(target, f"{name}.url", f"{outside[0]}/{path}/{name}")
            raw["endpoints"][name].update(url=url, allow_private=True)
            if endpoint.kind == "webhook":
                raw["endpoints"][name]["secret"] = _secret(target, "webhooks.key", HOOK_SECRET)
    if console is not None:
        link_key = target.parent / "links.key"
        key = link_key.read_text(encoding="utf-8") if link_key.exists() else token_hex(32)
        raw.setdefault("approvals", {}).update(url=console, link_key=_secret(target, link_key.name, key))
    target.write_text(tomli_w.dumps(raw), encoding="utf-8")


def _secret(target: Path, name: str, value: str) -> str:
    file = target.parent / name
    file.touch(mode=0o600)
    file.write_text(value, encoding="utf-8")
    return f"file:{file}"


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

    async def rows(self, provider: str, since: int = 0) -> list[dict[str, Any]]:
        """Every request of a provider, after row `since`."""
        found: list[dict[str, Any]] = await self._get("/_ledger", provider=provider, since=since, limit=1_000_000)
        return found

    async def mails(self) -> list[dict[str, Any]]:
        """Every message that was accepted, oldest first."""
        found: list[dict[str, Any]] = await self._get("/_mail")
        return found

    async def control(self, change: dict[str, Any]) -> None:
        """Change the providers' options by a JSON merge patch."""
        answer = await self._http.post("/_control", json=change)
        if answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT:
            raise BadInput(f"the simulators refuse these options: {json.loads(answer.text)['error']}")
        answer.raise_for_status()

    async def mail(self) -> dict[str, int]:
        """Messages delivered, unique, duplicates."""
        found: dict[str, int] = await self._get("/_mail/summary")
        return found

    async def bank(self) -> dict[str, Any]:
        """Transfers booked, distinct keys, duplicates, totals."""
        found: dict[str, Any] = await self._get("/_bank/summary")
        return found

    async def transfers(self) -> list[dict[str, Any]]:
        """Every transfer that was booked, oldest first."""
        found: list[dict[str, Any]] = await self._get("/_bank")
        return found

    async def hooks(self, name: str) -> list[dict[str, Any]]:
        """What an endpoint was told."""
        found: list[dict[str, Any]] = await self._get("/_hooks", name=name)
        return found
