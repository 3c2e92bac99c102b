"""Servers for the tests from containers, where `FLEET_TEST_INFRA=containers` asks for them.

What no container gives stays on embedded servers: `kill -9` by pid, Unix sockets, Sentinel, Cluster, a test's own
options. Where containers are reached, and who cleans up, Testcontainers' own variables say (docs/image.md).
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from urllib.parse import urlsplit

import pytest

from fleet.contracts.names import SEARCH_ATTRIBUTES
from tests.waiting import until_up

SETTING = "FLEET_TEST_INFRA"
CHOICES = ("embedded", "containers")

VALKEY = "valkey/valkey:9.1"
REDIS = "redis:7.4"
POSTGRES = "postgres:17"
TEMPORAL = "temporalio/temporal:1.9.1"

KEEPS_NOTHING = ("--save", "", "--appendonly", "no", "--protected-mode", "no")
ANSWER_S = 5.0
"""How long the engine may take to answer whether it is there."""
PLAIN_PORT = 2375
"""Of an engine whose address names none."""


def chosen(environment: Mapping[str, str]) -> str:
    """Where the servers of the tests come from.

    Raises:
        UsageError: from nowhere that there is.
    """
    found = environment.get(SETTING) or CHOICES[0]
    if found not in CHOICES:
        raise pytest.UsageError(f"{SETTING}={found!r}: must be {' or '.join(CHOICES)}")
    return found


def wanted() -> bool:
    """Whether servers come from containers; skips the test if they do and no engine answers."""
    # as it was when the tests began: each has an environment without our settings
    if _INFRA != "containers":
        return False
    if why := absent():
        pytest.skip(f"{SETTING}=containers: {why}")
    return True


_INFRA = os.environ.get(SETTING)


@cache
def absent() -> str | None:
    """Why no container can be started; None if an engine takes connections where Docker's clients look for it."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    where = urlsplit(host)
    try:
        if where.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(ANSWER_S)
                asked.connect(where.path)
        elif where.scheme == "tcp":
            socket.create_connection((where.hostname, where.port or PLAIN_PORT), ANSWER_S).close()
    except OSError as error:
        return f"no container engine answers at {host}: {error.strerror or error}"
    return None


@contextmanager
def serving(
    image: str, port: int, command: Sequence[str], *, asked: Sequence[str] = (), **environment: str
) -> Iterator[tuple[str, int]]:
    """A server in a container for as long as the block lasts; the host and port where it is reached.

    Args:
        image: with its tag.
        port: it listens on, inside.
        command: what the image's entry point is given.
        asked: command that ends well inside the container once the server answers.
        environment: variables.
    """
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import ExecWaitStrategy

    container = DockerContainer(image).with_exposed_ports(port).with_command(list(command)).with_envs(**environment)
    if asked:
        container.waiting_for(ExecWaitStrategy(list(asked)).with_poll_interval(0.1).with_startup_timeout(60))
    try:
        container.start()
        yield container.get_container_host_ip(), int(container.get_exposed_port(port))
    finally:
        container.stop()
        # it keeps its connection to the engine, which would be noticed when it is collected
        with suppress(AttributeError):
            container.get_docker_client().client.close()


@contextmanager
def valkey() -> Iterator[str]:
    """URL of a Valkey that keeps nothing."""
    with serving(VALKEY, 6379, ["valkey-server", *KEEPS_NOTHING]) as (host, port):
        url = f"redis://{host}:{port}/0"
        until_up(url)
        yield url


@contextmanager
def redis() -> Iterator[str]:
    """URL of a Redis 7 that keeps nothing."""
    with serving(REDIS, 6379, ["redis-server", *KEEPS_NOTHING]) as (host, port):
        url = f"redis://{host}:{port}/0"
        until_up(url)
        yield url


@contextmanager
def postgres(*options: str) -> Iterator[tuple[str, int]]:
    """Host and port of a PostgreSQL whose `postgres` needs no password."""
    # while the image makes its database a first server answers too, but not on TCP
    asked = ["pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres"]
    made = "--encoding=UTF8 --locale=C.UTF-8 --no-sync"
    with serving(
        POSTGRES,
        5432,
        ["postgres", *options],
        asked=asked,
        POSTGRES_HOST_AUTH_METHOD="trust",
        POSTGRES_INITDB_ARGS=made,
    ) as found:
        yield found


@contextmanager
def temporal(*options: str) -> Iterator[str]:
    """Address of a Temporal dev server that knows the fleet's search attributes. It may not answer yet."""
    known = [part for name, kind in SEARCH_ATTRIBUTES.items() for part in ("--search-attribute", f"{name}={kind}")]
    command = ["server", "start-dev", "--ip", "0.0.0.0", "--headless", "--log-level", "error", *options, *known]
    with serving(TEMPORAL, 7233, command, GOGC="400") as (host, port):
        yield f"{host}:{port}"
