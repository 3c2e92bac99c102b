"""One server, Sentinel, Cluster: by URL alone."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from subprocess import Popen

import pytest
import redis
from redis.exceptions import BusyLoadingError

from ratelimit.errors import StoreLost
from ratelimit.estimates import Learnt, Used
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.routes import routes, sentinels
from ratelimit.store import RedisStore
from tests.ratelimit.servers import on_socket, redis_binary, running, valkey_binary
from tests.waiting import until_up

SCOPES = [f"provider{number}/model" for number in range(12)]
ONE = {"requests": 1.0}


def quota(scope: str) -> Quota:
    return Quota(scope=scope, limits={"requests": Limit(capacity=6000, burst=100)})


def free_port() -> int:
    """A port whose cluster bus, ten thousand above, is free too."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            if port > 55_000:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def until(what, within_s: float = 20.0):
    """What `what` answers, once that is true."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if found := what():
                return found
        except redis.RedisError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s")
        time.sleep(0.05)


@dataclass
class Node:
    """One server that may be killed."""

    port: int
    process: Popen[bytes]
    client: redis.Redis


@contextmanager
def node(binary: str, folder: Path, *options: str, port: int | None = None) -> Iterator[Node]:
    """A server on a port of its own."""
    port = port or free_port()
    home = folder / str(port)
    home.mkdir(exist_ok=True)
    base = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(home)]
    with running([*base, *options], str(home)) as process:
        until_up(f"redis://127.0.0.1:{port}")
        with redis.Redis(port=port) as client:
            yield Node(port, process, client)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Node]]:
    """Three masters."""
    with ExitStack() as stack:
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-require-full-coverage",
            "no",
        )
        nodes = [stack.enter_context(node(valkey_binary(), tmp_path, *options)) for _ in range(3)]
        for number, one in enumerate(nodes):
            one.client.execute_command("CLUSTER", "ADDSLOTSRANGE", *[(0, 5460), (5461, 10922), (10923, 16383)][number])
            one.client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for one in nodes:
            until(lambda one=one: b"cluster_state:ok" in _info(one) and b"cluster_known_nodes:3" in _info(one))
        yield nodes


def _info(one: Node) -> bytes:
    found = one.client.execute_command("CLUSTER", "INFO")
    return found if isinstance(found, bytes) else "\r\n".join(f"{k}:{v}" for k, v in found.items()).encode()


async def test_a_cluster_is_one_store(cluster: list[Node]) -> None:
    # one of the nodes is enough to find the others
    store = RedisStore.from_url(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    async with Limiter(store, {scope: quota(scope) for scope in SCOPES}) as limiter:
        for scope in SCOPES:
            await limiter.configure(quota(scope), full=True)
        permits = await asyncio.gather(
            *(limiter.acquire(scope, ONE, max_wait=timedelta(seconds=1)) for scope in SCOPES for _ in range(10))
        )
        await asyncio.gather(*(limiter.settle(permit, ONE) for permit in permits))
        for scope in SCOPES:
            assert (await limiter.inspect(scope)).counters.grants == 10
            assert (
                await limiter.reserve(scope, {"requests": 500}, max_wait=timedelta(0), key="k", hold=True)
            ) is not None
            assert [one.key for one in await limiter.standing(scope)] == ["k"]
    await store.aclose()
    used = [one.client.dbsize() for one in cluster]
    assert all(count > 0 for count in used), used


async def test_a_slot_that_moves_is_followed(cluster: list[Node]) -> None:
    store = RedisStore.from_url(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    scope = SCOPES[0]
    async with Limiter(store, {scope: quota(scope)}) as limiter:
        await limiter.configure(quota(scope), full=True)
        slot = cluster[0].client.execute_command("CLUSTER", "KEYSLOT", "{provider0}")
        owner = next(one for one in cluster if one.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot))
        target = next(one for one in cluster if one is not owner)
        ids = {one.port: one.client.execute_command("CLUSTER", "MYID") for one in cluster}
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner.port])
        owner.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        keys = owner.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        owner.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        # in the middle of the move: the old owner asks for the new one
        await limiter.acquire(scope, ONE, max_wait=timedelta(0))
        for one in (target, owner):
            one.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        await limiter.acquire(scope, ONE, max_wait=timedelta(0))
        assert (await limiter.inspect(scope)).counters.grants == 2
    await store.aclose()


@pytest.mark.trial
async def test_a_provider_that_moves_at_once_loses_no_call_and_is_granted_no_more(cluster: list[Node]) -> None:
    store = RedisStore.from_url(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    scope, per_s, burst, for_s = SCOPES[0], 300, 50, 2.0
    limited = Quota(scope=scope, limits={"requests": Limit(capacity=per_s, period=timedelta(seconds=1), burst=burst)})
    async with Limiter(store, {scope: limited}) as limiter:
        await limiter.configure(limited, full=True)
        began = time.monotonic()

        async def call(task: int) -> int:
            number = 0
            while time.monotonic() < began + for_s:
                permit = await limiter.acquire(
                    scope, ONE, max_wait=timedelta(seconds=5), key=f"{task}/{number}", asker="1"
                )
                await limiter.settle(permit, {})
                number += 1
            return number

        calls = [asyncio.create_task(call(task)) for task in range(10)]
        await asyncio.sleep(for_s / 2)
        slot = cluster[0].client.execute_command("CLUSTER", "KEYSLOT", "{provider0}")

        def keys(one: Node) -> int:
            return int(one.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot))

        owner = next(one for one in cluster if keys(one))
        target = next(one for one in cluster if one is not owner)
        name = target.client.execute_command("CLUSTER", "MYID")
        owner.client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
        # whoever loses the store raises
        made = sum(await asyncio.gather(*calls))
        assert keys(owner) == 0
        assert keys(target) > made
        grants = (await limiter.inspect(scope)).counters.grants
        assert made <= grants <= burst + per_s * (time.monotonic() - began)
    await store.aclose()


async def test_a_node_that_does_not_know_the_others_addresses_is_asked_at_its_own(cluster: list[Node]) -> None:
    for one in cluster:
        one.client.config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
    store = RedisStore.from_url(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    async with Limiter(store, {scope: quota(scope) for scope in SCOPES}) as limiter:
        for scope in SCOPES:
            await limiter.configure(quota(scope), full=True)
            await limiter.acquire(scope, ONE, max_wait=timedelta(0))
    await store.aclose()
    assert all(one.client.dbsize() > 0 for one in cluster)


async def test_the_other_providers_go_on_when_a_node_dies(cluster: list[Node]) -> None:
    store = RedisStore.from_url("redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in cluster))
    async with Limiter(store, {scope: quota(scope) for scope in SCOPES}) as limiter:
        for scope in SCOPES:
            await limiter.configure(quota(scope), full=True)
        cluster[0].process.kill()
        cluster[0].process.wait()
        outcomes = []
        for scope in SCOPES * 2:
            try:
                await limiter.acquire(scope, ONE, max_wait=timedelta(0))
                outcomes.append(scope)
            except StoreLost:
                pass
        alive = set(outcomes)
        assert 0 < len(alive) < len(SCOPES)
        assert outcomes.count(next(iter(alive))) == 2
    await store.aclose()


@dataclass
class Watched:
    """A master, a replica, and who watches them."""

    master: Node
    replica: Node
    url: str


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Watched]:
    """Three Sentinels over a master and its replica."""
    binary = redis_binary()
    with ExitStack() as stack:
        quick = ("--repl-diskless-sync-delay", "0")
        master = stack.enter_context(node(binary, tmp_path, *quick))
        replica = stack.enter_context(node(binary, tmp_path, *quick, "--replicaof", f"127.0.0.1 {master.port}"))
        until(lambda: replica.client.info("replication").get("master_link_status") == "up")
        ports = []
        for _ in range(3):
            port = free_port()
            config = tmp_path / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
                f"sentinel monitor mymaster 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
            )
            stack.enter_context(running([binary, str(config), "--sentinel"], str(tmp_path)))
            until_up(f"redis://127.0.0.1:{port}")
            ports.append(port)
        for port in ports:
            watcher = stack.enter_context(redis.Redis(port=port))
            until(lambda w=watcher: int(w.sentinel_master("mymaster")["num-other-sentinels"]) == 2)
            until(lambda w=watcher: int(w.sentinel_master("mymaster")["num-slaves"]) == 1)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield Watched(master, replica, f"redis+sentinel://{hosts}/mymaster")


async def test_a_master_that_dies_is_followed_to_the_one_that_takes_over(sentinel: Watched) -> None:
    store = RedisStore.from_url(sentinel.url)
    scope = SCOPES[0]
    async with Limiter(store, {scope: quota(scope)}) as limiter:
        await limiter.configure(quota(scope), full=True)
        await limiter.acquire(scope, {"requests": 70}, max_wait=timedelta(0))
        until(lambda: sentinel.replica.client.exists("fleet:{provider0}:state:provider0/model"))
        sentinel.master.process.kill()
        sentinel.master.process.wait()
        async with asyncio.timeout(30):
            while True:
                try:
                    await limiter.acquire(scope, ONE, max_wait=timedelta(seconds=5))
                    break
                except StoreLost:
                    await asyncio.sleep(0.05)
        seen = await limiter.inspect(scope)
        # the state has come along: what was spent is not forgotten
        assert seen.counters.grants >= 2
    await store.aclose()


@pytest.mark.trial
async def test_a_master_that_was_demoted_is_given_up(sentinel: Watched) -> None:
    store = RedisStore.from_url(sentinel.url)
    scope = SCOPES[0]
    async with Limiter(store, {scope: quota(scope)}) as limiter:
        await limiter.configure(quota(scope), full=True)
        port = int(sentinel.url.partition("127.0.0.1:")[2].partition(",")[0])
        with redis.Redis(port=port) as watcher:
            watcher.execute_command("SENTINEL", "FAILOVER", "mymaster")
        until(lambda: sentinel.replica.client.info("replication")["role"] == "master")
        until(lambda: sentinel.master.client.info("replication")["role"] == "slave")
        async with asyncio.timeout(30):
            while True:
                try:
                    await limiter.acquire(scope, ONE, max_wait=timedelta(seconds=5))
                    break
                except StoreLost:
                    await asyncio.sleep(0.05)
    await store.aclose()


RIGHTS = "~fleet:* +@read +@write +@scripting +@connection +time"
"""What the limiter's user needs; ratelimit/README.md says so."""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A server that speaks TLS only and knows one user with few rights; URL without the password's place."""
    binary, openssl = redis_binary(), shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    kind = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    subprocess.run([openssl, *kind, "-keyout", key, "-out", certificate, *names], check=True, capture_output=True)
    config = tmp_path / "redis.conf"
    config.write_text(
        f'port 0\ntls-port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsave ""\n'
        f"tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {certificate}\ntls-auth-clients no\n"
        f"user default off\nuser fleet on >secret {RIGHTS}\n"
    )
    with running([binary, str(config)], str(tmp_path)):
        url = f"rediss://fleet:{{}}@127.0.0.1:{port}?ssl_ca_certs={certificate}"
        until_up(url.format("secret"))
        yield url


async def test_tls_and_a_user_with_few_rights(guarded: str) -> None:
    async with Limiter.from_url(guarded.format("secret"), {SCOPES[0]: quota(SCOPES[0])}) as limiter:
        await limiter.configure(quota(SCOPES[0]), full=True)
        permit = await limiter.acquire(SCOPES[0], ONE, max_wait=timedelta(0), key="k")
        await limiter.settle(permit, ONE)
        await limiter.reserve(SCOPES[0], {"requests": 500}, max_wait=timedelta(0), key="l", hold=True)
        assert [one.key for one in await limiter.standing(SCOPES[0])] == ["l"]
        await limiter.learn(
            SCOPES[0], "r", characters=4, estimate=Learnt().estimate(4, 9), used=Used(input_tokens=1, output_tokens=1)
        )
        assert len(await limiter.changes(SCOPES[0])) == 1
    async with Limiter.from_url(guarded.format("wrong"), {}) as limiter:
        with pytest.raises(StoreLost, match="refuses the user or the password"):
            await limiter.inspect(SCOPES[0])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost", "redis"),
        ("redis+other://localhost", "must begin with redis://"),
        ("redis+cluster://localhost/3", "a Cluster has no databases"),
        ("redis+sentinel://localhost:26379", "name the master"),
        ("redis+cluster://local:host:x", "is not of the form host:port"),
    ],
)
def test_other_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        routes(url)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://u:secret@h:7/1", "Redis at h:7"),
        ("valkey://h", "Redis at h:6379"),
        ("unix:///tmp/s", "Redis at /tmp/s"),
        ("redis+sentinel://:secret@a,b:7/m/2?sentinel_password=hidden", "Redis 'm' by Sentinel at a,b:7"),
        ("rediss+cluster://u:secret@a:1,b:2", "Redis Cluster at a:1,b:2"),
    ],
)
async def test_errors_name_the_server_and_no_secret(url: str, where: str) -> None:
    found = routes(url)
    assert found.where == where
    await found.aclose()


@pytest.mark.parametrize(
    ("host", "nodes"),
    [
        ("[::1]:7000,[fd00::2]", [("::1", 7000), ("fd00::2", 26379)]),
        ("one,two:7", [("one", 26379), ("two", 7)]),
    ],
)
def test_hosts_of_several_may_be_addresses_of_ipv6(host: str, nodes: list[tuple[str, int]]) -> None:
    url = f"rediss+sentinel://u:p@{host}/my%20master/2?sentinel_password=q&ssl_check_hostname=no"
    found = sentinels(url)
    assert (found.nodes, found.master) == (nodes, "my master")
    assert found.asking == {"password": "q", "ssl": True, "ssl_check_hostname": False}
    assert routes(f"redis+cluster://{host}").where.startswith("Redis Cluster at " + host.partition(",")[0])


async def test_a_cluster_is_reached_over_ipv6(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("needs IPv6 on the loopback")
    with node(valkey_binary(), tmp_path, "--cluster-enabled", "yes", "--bind", "127.0.0.1", "::1") as one:
        one.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        store = RedisStore.from_url(f"redis+cluster://[::1]:{one.port}")
        await store.ping()
        await store.aclose()


@pytest.mark.parametrize(
    ("options", "user", "said"),
    [
        (
            (),
            "?username=narrow&password=hush",
            "refuses: NOPERM User narrow has no permissions to run the 'set' command",
        ),
        (("--maxmemory", "1"), "", "refuses: OOM command not allowed when used memory > 'maxmemory'"),
        (("--replicaof", "127.0.0.1", "1"), "", "refuses: READONLY You can't write against a read only replica"),
    ],
)
async def test_what_a_server_refuses_is_no_silence(options: tuple[str, ...], user: str, said: str) -> None:
    with on_socket(valkey_binary(), *options) as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command("ACL SETUSER narrow on >hush ~* +ping")
        store = RedisStore.from_url(url + user)
        await store.ping()
        with pytest.raises(StoreLost) as raised:
            await store.execute("SET", "key", "secret-value")
        await store.aclose()
    assert said in str(raised.value)
    assert not [secret for secret in ("hush", "secret-value", "does not answer") if secret in str(raised.value)]


async def test_a_server_that_still_loads_is_told_as_such() -> None:
    store = RedisStore.from_url("redis://127.0.0.1:1")
    assert "refuses: Redis is loading" in str(store._lost(BusyLoadingError("Redis is loading the dataset in memory")))
    await store.aclose()
