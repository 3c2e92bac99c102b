"""The network that can fail: what is sent arrives, in order, later, or not at all; and nothing is left behind."""

import asyncio
import os
import socket
import struct
import sys
import time
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from load.proxy import Counts, Proxy, ProxyError, RemoteProxy
from workers.supervisor import ProcessSpec, Supervisor

DELAY_S = 0.1


@asynccontextmanager
async def echo(heard=None):
    """A server that says what it hears, and ends when the client has."""
    writers = set()

    async def answer(reader, writer):
        writers.add(writer)
        try:
            while data := await reader.read(65536):
                if heard is not None:
                    heard.append(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            writers.discard(writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await until(lambda: not writers)


@asynccontextmanager
async def client(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def until(what):
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.005)


@pytest.fixture
async def proxied():
    """A proxy before an echo, and what the echo has heard."""
    heard = []
    async with echo(heard) as port, Proxy("127.0.0.1", port) as proxy:
        proxy.heard = heard
        yield proxy


async def says(connection, text):
    reader, writer = connection
    writer.write(text)
    return await reader.readexactly(len(text))


async def test_what_is_sent_comes_back_and_is_counted(proxied):
    async with client(proxied.port) as one, client(proxied.port) as other:
        assert await says(one, b"a") == b"a"
        assert await says(other, b"bc") == b"bc"
        assert await proxied.counts() == Counts(accepted=2, open=2, bytes_to=3, bytes_back=3)
    await until(lambda: not proxied.links)


async def test_a_megabyte_arrives_whole_and_an_end_of_one_direction_leaves_the_other_open(proxied):
    sent = os.urandom(4_000_000)
    async with client(proxied.port) as (reader, writer):

        async def send():
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        _, got = await asyncio.gather(send(), reader.read(-1))
    assert got == sent


async def test_a_reader_that_is_slow_slows_its_sender_down(proxied):
    async with client(proxied.port) as (_, writer):

        async def flood():
            for _ in range(100):
                writer.write(bytes(1_000_000))
                await writer.drain()

        with pytest.raises(TimeoutError):
            # nobody reads the echo: the buffers between have an end
            await asyncio.wait_for(flood(), 0.5)
        assert (await proxied.counts()).bytes_to < 40_000_000
        writer.transport.abort()


async def test_a_delay_is_for_each_way_and_keeps_order(proxied):
    await proxied.delay(DELAY_S)
    async with client(proxied.port) as (reader, writer):
        began = time.monotonic()
        lines = [b"%d\n" % number for number in range(200)]
        for line in lines:
            writer.write(line)
            await asyncio.sleep(0)
        assert [await reader.readline() for _ in lines] == lines
        # one round trip, not two hundred
        assert 2 * DELAY_S <= time.monotonic() - began < 8 * DELAY_S


async def test_a_delay_that_ends_lets_through_what_is_under_way(proxied):
    await proxied.delay(30)
    async with client(proxied.port) as connection:
        saying = asyncio.create_task(says(connection, b"late"))
        await until(lambda: proxied.bytes_to == 4)
        await proxied.heal()
        assert await asyncio.wait_for(saying, 5) == b"late"


@pytest.mark.parametrize("seconds", [-1, 61, float("nan")])
async def test_no_delay_is_negative_or_without_end(proxied, seconds):
    with pytest.raises(ValueError, match="must be from 0 to 60"):
        await proxied.delay(seconds)


async def test_a_cut_resets_what_is_open_and_refuses_what_is_new_until_it_heals(proxied):
    async with client(proxied.port) as (reader, writer):
        assert await says((reader, writer), b"a") == b"a"
        await proxied.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxied.port)
    await until(lambda: not proxied.links)
    await proxied.heal()
    async with client(proxied.port) as connection:
        assert await says(connection, b"b") == b"b"
    assert (await proxied.counts()).reset == 1


async def test_a_silent_cut_swallows_nothing_that_a_network_would_send_again(proxied):
    async with client(proxied.port) as connection:
        assert await says(connection, b"a") == b"a"
        await proxied.cut(silent=True)
        saying = asyncio.create_task(says(connection, b"b"))
        _, waiting = await asyncio.wait({saying}, timeout=0.1)
        assert waiting
        assert proxied.heard == [b"a"]
        await proxied.heal()
        assert await asyncio.wait_for(saying, 5) == b"b"


async def test_who_connects_while_nothing_gets_through_gets_no_answer_and_is_reset(proxied):
    await proxied.cut(silent=True)
    async with client(proxied.port) as (reader, writer), client(proxied.port) as (_, gone):
        writer.write(b"a")
        gone.close()
        await until(lambda: proxied.accepted == 2 and len(proxied.links) == 1)
        await proxied.heal()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
    assert proxied.heard == []


async def test_a_client_that_left_in_silence_is_heard_when_it_ends(proxied):
    async with client(proxied.port) as connection:
        assert await says(connection, b"a") == b"a"
        await proxied.cut(silent=True)
        connection[1].write(b"last words")
    await proxied.heal()
    await until(lambda: proxied.heard == [b"a", b"last words"])
    await until(lambda: not proxied.links)


async def test_one_cut_may_turn_into_the_other(proxied):
    await proxied.cut()
    await proxied.cut(silent=True)
    async with client(proxied.port) as (reader, _):
        await until(lambda: proxied.accepted == 1)
        await proxied.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxied.port)


async def test_a_target_that_is_away_ends_the_connection():
    async with echo() as port:
        pass
    async with Proxy("127.0.0.1", port) as proxy, client(proxy.port) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
        assert (await proxy.counts()).unreachable == 1


async def test_a_reset_by_the_target_is_a_reset_for_the_client():
    async def reset(reader, writer):
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy, client(proxy.port) as (reader, writer):
        writer.write(b"abc")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        await until(lambda: not proxy.links)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("state", ["open", "delayed", "silent", "cut"])
async def test_nothing_is_left_of_a_proxy_that_was_left(state):
    async with echo() as port:
        ours = psutil.Process()
        before = ours.num_fds(), len(asyncio.all_tasks())
        proxy = Proxy("127.0.0.1", port)
        async with proxy:
            clients = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(20)]
            for connection in clients:
                assert await says(connection, b"a") == b"a"
            await {"delayed": lambda: proxy.delay(30), "silent": lambda: proxy.cut(silent=True), "cut": proxy.cut}.get(
                state, proxy.counts
            )()
            for _, writer in clients:
                writer.write(b"more")
        assert proxy.links == set()
        for _, writer in clients:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await until(lambda: (ours.num_fds(), len(asyncio.all_tasks())) == before)


async def test_many_connections_that_come_and_go_leave_nothing(proxied):
    async def visit():
        async with client(proxied.port) as connection:
            for _ in range(5):
                assert await says(connection, b"x" * 100) == b"x" * 100

    for _ in range(4):
        await asyncio.gather(*(visit() for _ in range(50)))
    await until(lambda: not proxied.links)
    assert await proxied.counts() == Counts(accepted=200, bytes_to=100_000, bytes_back=100_000)


async def test_a_process_of_its_own_obeys_and_ends(tmp_path):
    ready = tmp_path / "proxy.ready"
    async with echo() as port, Supervisor() as supervisor:
        argv = [sys.executable, "-m", "load.proxy", "--target", f"127.0.0.1:{port}", "--ready-file", str(ready)]
        spec = ProcessSpec(name="proxy", argv=argv, log=tmp_path / "proxy.log", restart=False)
        process = psutil.Process(await supervisor.start(spec))
        await until(ready.exists)
        proxy = RemoteProxy.read(ready)
        async with client(proxy.port) as connection:
            assert await says(connection, b"a") == b"a"
            await proxy.delay(DELAY_S)
            began = time.monotonic()
            assert await says(connection, b"b") == b"b"
            assert time.monotonic() - began >= 2 * DELAY_S
            await proxy.heal()
            await proxy.cut()
            with pytest.raises(ConnectionResetError):
                await connection[0].read(1)
        await proxy.cut(silent=True)
        async with client(proxy.port):
            await proxy.heal()
        assert (await proxy.counts()).bytes_to == 2
        with pytest.raises(ProxyError, match=r"refuses: a delay of 99 s: must be from 0 to 60"):
            await proxy.delay(99)
    assert not process.is_running()
    assert supervisor.last_code("proxy") == 0
    with pytest.raises(ProxyError, match=rf"the proxy on port {proxy.port} does not answer"):
        await proxy.heal()
