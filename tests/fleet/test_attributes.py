"""Search attributes where the operator service answers, and where it does not."""

from types import SimpleNamespace

import pytest
from temporalio.service import RPCError, RPCStatusCode

from fleet import attributes
from fleet.errors import Unreachable


def client(status):
    """A client to whom the operator service says only that."""

    async def listing(request):
        raise RPCError("not for you", status, b"")

    return SimpleNamespace(namespace="n", operator_service=SimpleNamespace(list_search_attributes=listing))


@pytest.mark.parametrize("status", [RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED])
async def test_where_the_operator_service_is_not_for_us_nothing_is_said_to_be_missing(status):
    assert await attributes.missing(client(status)) == []
    # nor that it is there
    with pytest.raises(Unreachable, match="cannot be listed: not for you"):
        await attributes.register(client(status))


async def test_a_server_that_does_not_answer_is_unreachable():
    with pytest.raises(Unreachable, match="Temporal: not for you"):
        await attributes.missing(client(RPCStatusCode.UNAVAILABLE))
