"""Call a model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from temporalio import activity

from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.names import FailureType
from fleet.contracts.tools import LLM_CHAT
from ratelimit.estimates import Used
from workers import failures
from workers.admission import Admission
from workers.door import Door
from workers.providers.chat import ChatProvider


class LlmTools:
    """Serves `llm.chat` for every provider of the manifest."""

    def __init__(self, admission: Admission, providers: Mapping[str, ChatProvider], door: Door) -> None:
        self._admission = admission
        self._door = door
        self._providers = providers

    @activity.defn(name=LLM_CHAT.name)
    async def chat(self, request: ChatRequest) -> ChatResult:
        """Wait for quota, call the model once, settle what it used."""
        name, _, model = request.model.partition("/")
        provider = self._providers.get(name)
        if provider is None:
            raise failures.final(
                FailureType.BAD_REQUEST, f"this pool has no provider {name!r} of model {request.model}"
            )
        info = activity.info()
        await self._door.still_active(info.workflow_id or "")
        characters = provider.characters(request)
        estimate = await self._admission.estimate(
            request.model, request.role, characters=characters, max_output_tokens=request.max_output_tokens
        )
        cost = provider.profile.cost(estimate, request.max_output_tokens)
        async with self._admission.admitted(request.model, cost, max_failures=request.max_failures) as admitted:
            admitted.refused_counts = provider.profile.refused_counts
            admitted.sent()
            request_id = f"{info.workflow_id}/{info.activity_id}/{info.attempt}"
            result = await provider.chat(
                request, model=model, request_id=request_id, heard=partial(admitted.hear, provider.profile.dialect)
            )
            usage = result.usage
            used = Used(
                input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cached_tokens=usage.cached_tokens
            )
            admitted.actual = provider.profile.actual(cost, used)
        await self._admission.learn(request.model, request.role, characters=characters, estimate=estimate, used=used)
        return replace(result, quota=admitted.use())
