"""Tell one of the configured endpoints that something has happened."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from temporalio import activity

from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.names import FailureType
from fleet.contracts.tools import WEBHOOK_SEND
from workers import failures
from workers.effects.attempts import Attempts, Had, Recipe
from workers.effects.ledger import Ledger
from workers.providers import errors
from workers.providers.once import Before
from workers.providers.webhooks import Endpoint, WebhookClient, cloud_event

_PATIENCE = 0.1
"""A delivery that has failed is tried again after this share of its age: often at first, then ever less."""
_SHORTEST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 3600.0
_MOST_FAILURES = 1_000_000
"""What ends a delivery is its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An endpoint, and how long a delivery to it is tried."""

    endpoint: Endpoint
    deadline: timedelta


class WebhookTools:
    """Serves `webhook.send`. The receiver knows a repeated message by its `webhook-id`."""

    def __init__(
        self,
        attempts: Attempts,
        ledger: Ledger,
        client: WebhookClient,
        targets: Mapping[str, Target],
        unusable: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        attempts: of the pool.
        ledger: of the fleet.
        client: of all endpoints.
        targets: by name.
        unusable: endpoints that lack something, and what.
        """
        self._attempts = attempts
        self._ledger = ledger
        self._client = client
        self._targets = targets
        self._unusable = unusable or {}

    @activity.defn(name=WEBHOOK_SEND.name)
    async def send(self, request: EffectRequest) -> EffectResult:
        """Deliver a CloudEvent, signed as Standard Webhooks says; after the endpoint's deadline it is a dead letter."""
        name = str(request.arguments.get("endpoint", ""))
        target = self._targets.get(name)
        if target is None:
            there = ", ".join(self._targets) or "none"
            barred = self._unusable.get(name) or f"webhook: no endpoint {name[:64]!r}; there are: {there}"
            return await self._attempts.make(request, Recipe(have=_never, barred=barred), {})
        what, data = request.arguments.get("type"), request.arguments.get("data") or {}
        if not isinstance(what, str) or not what or not isinstance(data, dict):
            told = "webhook: `type` must be text that is not empty, `data` an object"
            raise failures.final(FailureType.TOOL_FAILED, told)

        async def have(before: Before) -> Had:
            entry = await self._ledger.get(request.key)
            # of every attempt the same, as the event is
            created = entry.created_at if entry else datetime.now(UTC)
            age = datetime.now(UTC) - created
            if age > target.deadline:
                raise errors.BadRequest(f"webhook {name}: a dead letter: not delivered within {target.deadline}")
            body, content_type = cloud_event(
                id=request.key,
                source=f"fleet/{request.agent}",
                type=what,
                subject=request.run_id,
                time=created,
                data=data,
            )
            try:
                status = await self._client.deliver(
                    target.endpoint, message_id=request.key, body=body, content_type=content_type, before=before
                )
            except (errors.Unavailable, errors.RateLimited, errors.Overloaded) as error:
                raise _later(error, age) from None
            content = {"delivered": True, "endpoint": name}
            return Had(content=json.dumps(content), evidence={"endpoint": name, "status": status})

        recipe = Recipe(have=have, honours_keys=True, key_lifetime=target.deadline * 10)
        patient = replace(request, policy=replace(request.policy, max_failures=_MOST_FAILURES))
        return await self._attempts.make(patient, recipe, {})


async def _never(before: Before) -> Had:
    raise NotImplementedError  # it is barred


def _later(error: errors.ProviderError, age: timedelta) -> errors.ProviderError:
    """The same error, for a delivery of that age. Who has not answered, or with a 5xx, may have taken the message."""
    pause = max(_SHORTEST_PAUSE_S, min(_LONGEST_PAUSE_S, age.total_seconds() * _PATIENCE))
    error.retry_after_s = max(error.retry_after_s or 0.0, pause)
    if isinstance(error, errors.Unavailable) and not isinstance(error, errors.NotSent):
        return errors.Lost(str(error), retry_after_s=error.retry_after_s)
    return error
