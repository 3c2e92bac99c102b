"""What a server says of itself to whoever looks after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from ratelimit import inspection
from ratelimit.errors import StoreLost
from ratelimit.inspection import hosts, inspected
from tests.ratelimit.servers import on_socket, running, valkey_binary
from tests.ratelimit.test_routes import free_port, node, until
from tests.waiting import until_up


@pytest.fixture(params=["valkey", "redis7"])
def url(request) -> str:
    """A server of each kind, open to anybody."""
    return request.getfixturevalue(request.param)


async def test_an_open_server_tells_everything(url):
    found = await inspected(url)
    assert (found.kind, found.encrypted, found.hosts, found.role, found.replicas) == ("single", False, (), "master", 0)
    assert (found.product, found.policy, found.persistent) == (
        "valkey" if found.version and found.version >= (8,) else "redis",
        "noeviction",
        False,
    )
    assert (found.user, found.may_flush) == ("default", True)
    assert found.ahead_s is not None
    assert abs(found.ahead_s) < 1


async def test_whether_a_user_may_delete_everything_is_asked_and_not_tried(url):
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL SETUSER careful on >pw ~* +@all -@dangerous +acl|whoami +acl|dryrun")
        client.execute_command("ACL SETUSER narrow on >pw ~fleet:* +get +ping")
        client.execute_command("ACL SETUSER bold on >pw ~* +@all -info")
        client.set("kept", "1")
    try:
        careful = await inspected(f"{url}?username=careful&password=pw")
        assert (careful.user, careful.may_flush, careful.policy) == ("careful", False, None)
        bold = await inspected(f"{url}?username=bold&password=pw")
        assert (bold.user, bold.may_flush, bold.version) == ("bold", True, None)
        # it is answered, and knows nothing
        narrow = await inspected(f"{url}?username=narrow&password=pw")
        assert (narrow.user, narrow.may_flush, narrow.ahead_s, narrow.role) == (None, None, None, None)
        with redis.Redis.from_url(url) as client:
            assert client.get("kept") == b"1"
    finally:
        with redis.Redis.from_url(url) as client:
            client.delete("kept")
            client.execute_command("ACL DELUSER careful narrow bold")


async def test_settings_are_read_as_they_are():
    options = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes")
    with on_socket(valkey_binary(), *options) as url:
        found = await inspected(url)
    assert (found.policy, found.memory_limit, found.persistent) == ("allkeys-lru", 64 * 1024 * 1024, True)


async def test_a_cluster_without_all_its_slots_is_told(tmp_path: Path):
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    with node(valkey_binary(), tmp_path, *options) as one:
        url = f"redis+cluster://127.0.0.1:{one.port}"
        one.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16000)
        until(lambda: b"cluster_state:ok" in _told(one.client))
        assert (await inspected(url)).covered is False
        one.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 16001, 16383)
        found = await inspected(url)
        assert (found.kind, found.covered) == ("cluster", True)


def _told(client: redis.Redis) -> bytes:
    found = client.execute_command("CLUSTER", "INFO")
    return found if isinstance(found, bytes) else "\r\n".join(f"{k}:{v}" for k, v in found.items()).encode()


@contextmanager
def sentinel(file: Path, home: Path) -> Iterator[int]:
    """One Sentinel; its port."""
    port = free_port()
    with running([valkey_binary(), str(file), "--sentinel", "--port", str(port), "--dir", str(home)], str(home)):
        until_up(f"redis://127.0.0.1:{port}")
        yield port


async def test_sentinels_are_asked_for_their_quorum(tmp_path: Path):
    with node(valkey_binary(), tmp_path) as master:
        file = tmp_path / "sentinel.conf"
        file.write_text(f"sentinel monitor fleet 127.0.0.1 {master.port} 2\n")
        home = tmp_path / "sentinel"
        home.mkdir()
        with sentinel(file, home) as port:
            url = f"redis+sentinel://127.0.0.1:{port},127.0.0.1:1/fleet"
            found = await inspected(url)
    # one of two that would be needed, and one that does not answer
    assert found.sentinels[f"127.0.0.1:{port}"].startswith("NOQUORUM")
    assert found.sentinels["127.0.0.1:1"] == "ConnectionError"


async def test_who_does_not_answer_is_lost():
    with pytest.raises(StoreLost):
        await inspected("redis://127.0.0.1:1")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://u:p@valkey:6379/0", ("valkey",)),
        ("rediss+sentinel://:p@one:26379,two/fleet", ("one", "two")),
        ("redis+cluster://[::1]:7000,10.0.0.1:7001", ("::1", "10.0.0.1")),
        ("unix:///run/valkey/s", ()),
    ],
)
def test_hosts_are_read_from_the_url(url, named):
    assert hosts(url) == named


async def test_sentinels_are_asked_as_the_url_says(monkeypatch):
    asked: list[object] = []

    class Recorded:
        def __init__(self, **how):
            asked.append((how["host"], how["port"], how["password"], how["ssl"], how["ssl_check_hostname"]))

        async def execute_command(self, *command):
            asked.append(command)
            return b"OK 3 usable Sentinels"

        async def aclose(self):
            pass

    monkeypatch.setattr(inspection, "Redis", Recorded)
    url = "rediss+sentinel://u:p@[::1]:7/my%20master?sentinel_password=q&ssl_check_hostname=no"
    assert await inspection._quorums(url) == {"[::1]:7": "ok"}
    assert asked == [("::1", 7, "q", True, False), ("SENTINEL CKQUORUM", "my master")]
