"""Call a model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from temporalio import activity

from fleet.contracts.llm import ChatRequest, ChatResult
from fleet.contracts.names import FailureType
from fleet.contracts.tools import LLM_CHAT
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
        async with self._admission.admitted(
            request.model, provider.cost(request), max_failures=request.max_failures
        ) as admitted:
            request_id = f"{info.workflow_id}/{info.activity_id}/{info.attempt}"
            result = await provider.chat(
                request, model=model, request_id=request_id, heard=partial(admitted.hear, provider.dialect)
            )
            admitted.actual = provider.actual(request, result)
        return replace(result, quota=admitted.use())
