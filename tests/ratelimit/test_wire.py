"""The one connection of a process: order, loss, lateness."""

import asyncio
from contextlib import suppress

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError, ResponseError, TimeoutError  # noqa: A004

from ratelimit.errors import StoreLost
from ratelimit.store import RedisStore
from ratelimit.wire import Wire


async def call(wire, *command):
    reply = asyncio.get_running_loop().create_future()

    def answer(found):
        if not reply.done():
            reply.set_exception(found) if isinstance(found, Exception) else reply.set_result(found)

    wire.send(command, answer)
    return await reply


@pytest.fixture
async def wire(valkey):
    pool = ConnectionPool.from_url(valkey, protocol=2)

    async def connect():
        connection = pool.make_connection()
        await connection.connect()
        return connection

    found = Wire(connect, 0.3)
    yield found
    await found.aclose()


async def test_every_caller_gets_its_own_reply(wire):
    replies = await asyncio.gather(*(call(wire, "ECHO", str(number)) for number in range(500)))
    assert replies == [str(number).encode() for number in range(500)]


async def test_a_caller_that_leaves_does_not_disturb_those_behind_it(wire):
    await call(wire, "PING")
    leaving = asyncio.create_task(call(wire, "ECHO", "left"))
    staying = asyncio.create_task(call(wire, "ECHO", "stayed"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == b"stayed"


async def test_an_error_reaches_only_its_caller(wire):
    good, bad = await asyncio.gather(call(wire, "ECHO", "x"), call(wire, "NOSUCH"), return_exceptions=True)
    assert good == b"x"
    assert isinstance(bad, ResponseError)


async def test_an_answer_that_is_not_taken_disturbs_nobody(wire):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    await call(wire, "PING")
    wire.send(("PING",), lambda _: 1 / 0)
    assert await call(wire, "PING") == b"PONG"
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_whatever_keeps_the_connection_from_being_made_is_told():
    async def connect():
        raise UnicodeError("a library's")

    wire = Wire(connect, 0.3)
    with pytest.raises(ConnectionError, match="no connection: UnicodeError"):
        await call(wire, "PING")
    await wire.aclose()


async def test_a_connection_that_the_server_closed_is_made_anew(wire, valkey):
    number = await call(wire, "CLIENT", "ID")
    other = RedisStore.from_url(valkey)
    await other.execute("CLIENT", "KILL", "ID", number)
    await other.aclose()
    # whether the loss is noticed before or with the next call: at most that one fails
    with suppress(ConnectionError):
        await call(wire, "PING")
    assert await call(wire, "CLIENT", "ID") != number


async def test_a_reply_that_is_late_gives_the_connection_up(wire):
    await call(wire, "PING")
    # blocks this connection alone
    with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
        await call(wire, "BLPOP", "nothing-is-ever-put-here", "5")
    assert await call(wire, "PING") == b"PONG"


async def test_many_callers_of_a_server_that_is_not_there_are_all_told():
    store = RedisStore.from_url("redis://127.0.0.1:9/0")
    found = await asyncio.gather(*(store.ping() for _ in range(20)), return_exceptions=True)
    assert {str(error) for error in found} == {"Redis at 127.0.0.1:9 does not answer (ConnectionError)"}
    assert all(isinstance(error, StoreLost) for error in found)
    await store.aclose()


async def test_a_wrong_password_is_named_and_not_repeated(valkey, wire):
    await call(wire, "CONFIG", "SET", "requirepass", "right")
    store = RedisStore.from_url(valkey.replace("unix://", "unix://:verysecret@"))
    try:
        with pytest.raises(StoreLost, match="refuses the user or the password") as raised:
            await store.ping()
    finally:
        await call(wire, "CONFIG", "SET", "requirepass", "")
        await store.aclose()
    assert "verysecret" not in str(raised.value)
