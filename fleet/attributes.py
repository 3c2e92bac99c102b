"""Search attributes: what runs can be found by, here and in Temporal's own UI."""

from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from fleet.contracts import names
from fleet.contracts.names import SEARCH_ATTRIBUTES
from fleet.contracts.runs import RunInput
from fleet.errors import BadInput, Unreachable

AGENT: Final = SearchAttributeKey.for_keyword(names.AGENT_ATTRIBUTE)
TENANT: Final = SearchAttributeKey.for_keyword(names.TENANT_ATTRIBUTE)
STATUS: Final = SearchAttributeKey.for_keyword(names.STATUS_ATTRIBUTE)
MODEL: Final = SearchAttributeKey.for_keyword(names.MODEL_ATTRIBUTE)
WAITING: Final = SearchAttributeKey.for_keyword(names.WAITING_ATTRIBUTE)
COST: Final = SearchAttributeKey.for_float(names.COST_ATTRIBUTE)
KEYS: Final = (AGENT, TENANT, WAITING, STATUS, MODEL, COST)

KINDS: Final = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Double": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
}
_NOT_FOR_US: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})


def of_run(run: RunInput) -> TypedSearchAttributes:
    """What a run is found by from its start."""
    pairs = [
        SearchAttributePair(AGENT, run.agent.name),
        SearchAttributePair(TENANT, run.tenant),
        SearchAttributePair(MODEL, run.agent.model),
        SearchAttributePair(STATUS, names.WORKING),
    ]
    return TypedSearchAttributes(pairs)


async def missing(client: Client) -> list[str]:
    """Those that the namespace does not know. None, too, where that cannot be asked.

    A client without the role for it is denied the operator service, and some servers do not have it: whether the
    attributes are there shows at the first run.

    Raises:
        Unreachable: Temporal does not answer.
        BadInput: one is there, but of another kind.
    """
    try:
        return await _missing(client)
    except RPCError as error:
        if error.status in _NOT_FOR_US:
            return []
        raise Unreachable(f"Temporal: {error.message}") from None


async def _missing(client: Client) -> list[str]:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    for name, kind in SEARCH_ATTRIBUTES.items():
        if listed.custom_attributes.get(name, KINDS[kind]) != KINDS[kind]:
            raise BadInput(
                f"search attribute {name!r} of namespace {client.namespace!r} is not a {kind}: remove it, or use"
                " another namespace"
            )
    return [name for name in SEARCH_ATTRIBUTES if name not in listed.custom_attributes]


async def register(client: Client) -> list[str]:
    """Make those known that are missing. Answers which.

    Raises:
        Unreachable: Temporal does not answer, or does not allow it.
        BadInput: one is there, but of another kind.
    """
    try:
        wanted = await _missing(client)
    except RPCError as error:
        raise Unreachable(f"Temporal: search attributes cannot be listed: {error.message}") from None
    if not wanted:
        return []
    request = AddSearchAttributesRequest(
        namespace=client.namespace, search_attributes={name: KINDS[SEARCH_ATTRIBUTES[name]] for name in wanted}
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise Unreachable(f"Temporal: search attributes cannot be registered: {error.message}") from None
    return wanted
