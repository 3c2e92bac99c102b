"""Call a model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from temporalio import activity

from fleet import compaction
from fleet.budget import cost
from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.names import FailureType, place_key
from fleet.contracts.runs import Price
from fleet.contracts.tools import LLM_CHAT
from ratelimit.estimates import Used
from workers import failures, tracing
from workers.admission import Admission
from workers.door import Door
from workers.metrics import METRICS
from workers.providers.chat import ChatProvider, LaterChat

if TYPE_CHECKING:
    # a pool imports only what it serves with
    from workers.effects.budgets import Budgets


class LlmTools:
    """Serves `llm.chat` for every provider of the manifest."""

    def __init__(
        self,
        admission: Admission,
        providers: Mapping[str, ChatProvider | LaterChat],
        door: Door,
        budgets: "Budgets | None",
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        """Args:
        admission: to the providers' quotas.
        providers: by their names.
        door: that active runs keep their place at.
        budgets: of tenants; None: they have none.
        prices: of models that have one.
        """
        self._admission = admission
        self._door = door
        self._budgets = budgets
        self._providers = providers
        self._prices = prices or {}

    @activity.defn(name=LLM_CHAT.name)
    async def chat(self, request: ChatRequest) -> ChatResult:
        """Wait for quota, call the model once, settle what it used."""
        name, _, model = request.model.partition("/")
        provider = self._providers.get(name)
        if provider is None:
            raise failures.final(
                FailureType.BAD_REQUEST, f"this pool has no provider {name!r} of model {request.model}"
            )
        if isinstance(provider, LaterChat):
            provider = await provider.made()
        info = activity.info()
        await self._door.still_active(info.workflow_id or "")
        tenant = info.priority.fairness_key or "default"
        if self._budgets is not None:
            await self._budgets.check(tenant)
        characters = provider.characters(request)
        estimate = await self._admission.estimate(
            request.model, request.role, characters=characters, max_output_tokens=request.max_output_tokens
        )
        agent = request.role.removesuffix(compaction.SUFFIX)
        charge = provider.profile.cost(estimate, request.max_output_tokens)
        async with self._admission.admitted(
            request.model, charge, max_failures=request.max_failures, agent=agent
        ) as admitted:
            admitted.refused_counts = provider.profile.refused_counts
            admitted.sent()
            request_id = f"{info.workflow_id}/{info.activity_id}/{info.attempt}"
            heard = partial(admitted.hear, provider.profile.dialect)
            with tracing.chatting(tracing.provider(provider.profile), model, request, agent) as chatting:
                result = await provider.chat(request, model=model, request_id=request_id, heard=heard)
                chatting.answered(result)
            usage = result.usage
            used = Used(
                input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cached_tokens=usage.cached_tokens
            )
            admitted.actual = provider.profile.actual(charge, used)
        await self._admission.learn(request.model, request.role, characters=characters, estimate=estimate, used=used)
        price = self._prices.get(request.model)
        METRICS.used(request.model, agent, tenant, usage, None if price is None else cost(price, usage))
        if self._budgets is not None:
            call = place_key(info.workflow_id or "", info.workflow_run_id or "", info.activity_id)
            await self._budgets.book(tenant, call, request.model, result)
        return replace(result, quota=admitted.use())
