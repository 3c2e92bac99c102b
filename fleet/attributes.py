"""Search attributes: what runs can be found by, here and in Temporal's own UI."""

from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from fleet.contracts.names import AGENT_ATTRIBUTE, SEARCH_ATTRIBUTES, TENANT_ATTRIBUTE
from fleet.errors import BadInput, Unreachable

_AGENT: Final = SearchAttributeKey.for_keyword(AGENT_ATTRIBUTE)
_TENANT: Final = SearchAttributeKey.for_keyword(TENANT_ATTRIBUTE)

_NOT_FOR_US: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})


def of_run(agent: str, tenant: str) -> TypedSearchAttributes:
    """What a run is found by from its start."""
    return TypedSearchAttributes([SearchAttributePair(_AGENT, agent), SearchAttributePair(_TENANT, tenant)])


async def missing(client: Client) -> list[str]:
    """Those that the namespace does not know. None, too, where that cannot be asked.

    A client without the role for it is denied the operator service, and some servers do not have it: whether the
    attributes are there shows at the first run.

    Raises:
        Unreachable: Temporal does not answer.
        BadInput: one is there, but not as a keyword.
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
    for name in SEARCH_ATTRIBUTES:
        kind = listed.custom_attributes.get(name, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
        if kind != IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD:
            raise BadInput(
                f"search attribute {name!r} of namespace {client.namespace!r} is not a Keyword: remove it, or use"
                " another namespace"
            )
    return [name for name in SEARCH_ATTRIBUTES if name not in listed.custom_attributes]


async def register(client: Client) -> list[str]:
    """Make those known that are missing. Answers which.

    Raises:
        Unreachable: Temporal does not answer, or does not allow it.
        BadInput: one is there, but not as a keyword.
    """
    try:
        wanted = await _missing(client)
    except RPCError as error:
        raise Unreachable(f"Temporal: search attributes cannot be listed: {error.message}") from None
    if not wanted:
        return []
    request = AddSearchAttributesRequest(
        namespace=client.namespace,
        search_attributes=dict.fromkeys(wanted, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise Unreachable(f"Temporal: search attributes cannot be registered: {error.message}") from None
    return wanted
