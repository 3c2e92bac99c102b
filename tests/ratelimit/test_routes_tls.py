"""One server, Sentinel, Cluster behind TLS that asks clients for certificates; and URLs whose passwords stay secret."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import trustme

from ratelimit.errors import StoreLost
from ratelimit.limiter import Limiter
from ratelimit.routes import routes
from tests.ratelimit.servers import redis_binary, running
from tests.ratelimit.test_routes import ONE, SCOPES, free_port, quota, until
from tests.waiting import until_up


@dataclass
class Certificates:
    """Files of everybody's certificates."""

    folder: Path

    @property
    def server(self) -> list[str]:
        """A server's options: TLS only, with clients' certificates."""
        files = {"cert-file": "server.pem", "key-file": "server.pem", "ca-cert-file": "ca.pem"}
        named = [part for name, file in files.items() for part in (f"--tls-{name}", str(self.folder / file))]
        return ["--port", "0", "--bind", "127.0.0.1", "--save", "", "--tls-auth-clients", "yes", *named]

    @property
    def options(self) -> str:
        """A client's, in its URL."""
        return f"ssl_ca_certs={self.folder}/ca.pem&ssl_certfile={self.folder}/client.pem"

    def client(self, port: int) -> redis.Redis:
        """A connection past the limiter."""
        return redis.Redis.from_url(f"rediss://127.0.0.1:{port}?{self.options}")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, leaf in (("server", authority.issue_cert("127.0.0.1")), ("client", authority.issue_cert("fleet"))):
        leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    return Certificates(folder)


async def asked(url: str) -> int:
    """Grants of scopes whose keys lie all over the slots."""
    async with Limiter.from_url(url, {scope: quota(scope) for scope in SCOPES}) as limiter:
        for scope in SCOPES:
            await limiter.configure(quota(scope), full=True)
            await limiter.acquire(scope, ONE, max_wait=timedelta(0))
        found = [await limiter.inspect(scope) for scope in SCOPES]
        return sum(one.counters.grants for one in found)


@pytest.fixture
def single(certificates: Certificates, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    with running([redis_binary(), *certificates.server, "--tls-port", str(port)], str(tmp_path)):
        until_up(f"rediss://127.0.0.1:{port}?{certificates.options}")
        yield port


async def test_one_server_asks_who_is_there(certificates: Certificates, single: int) -> None:
    url = f"rediss://127.0.0.1:{single}"
    assert await asked(f"{url}?{certificates.options}") == len(SCOPES)
    strangers = {
        # no certificate of ours; one of theirs that is not trusted; no TLS at all
        f"{url}?ssl_ca_certs={certificates.folder}/ca.pem": None,
        url: "its certificate is not trusted: ",
        f"redis://127.0.0.1:{single}": None,
        f"{url}?ssl_ca_certs={certificates.folder}/none.pem": "a file is not there",
    }
    for refused, why in strangers.items():
        with pytest.raises(StoreLost, match=why):
            await asked(refused)


async def test_sentinels_are_spoken_to_by_tls_too(certificates: Certificates, single: int, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "sentinel.conf"
    options = [*certificates.server[:4], *certificates.server[6:], "--tls-port", str(port), "--tls-replication", "yes"]
    config.write_text(
        "".join(f"{name[2:]} {value}\n" for name, value in zip(options[::2], options[1::2], strict=True))
        + f"dir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {single} 1\n"
    )
    with running([redis_binary(), str(config), "--sentinel"], str(tmp_path)), certificates.client(port) as watcher:
        until(lambda: watcher.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
        url = f"rediss+sentinel://127.0.0.1:{port}/mymaster?{certificates.options}"
        assert await asked(url) == len(SCOPES)
        with pytest.raises(StoreLost):
            await asked(f"{url}&sentinel_ssl=no")


async def test_redirections_of_a_cluster_lead_to_tls(certificates: Certificates, tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = []
        for _ in range(2):
            port = free_port()
            home = tmp_path / str(port)
            home.mkdir()
            cluster = ("--tls-cluster", "yes", "--cluster-enabled", "yes", "--tls-port", str(port), "--dir", str(home))
            stack.enter_context(running([redis_binary(), *certificates.server, *cluster], str(home)))
            until_up(f"rediss://127.0.0.1:{port}?{certificates.options}")
            nodes.append((port, stack.enter_context(certificates.client(port))))
        for (_, one), slots in zip(nodes, [(0, 8191), (8192, 16383)], strict=True):
            one.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        nodes[1][1].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0][0])
        for _, one in nodes:
            until(lambda one=one: b"cluster_state:ok" in one.execute_command("CLUSTER", "INFO"))
        url = f"rediss+cluster://127.0.0.1:{nodes[0][0]}?{certificates.options}"
        async with asyncio.timeout(20):
            assert await asked(url) == len(SCOPES)
        assert all(one.dbsize() for _, one in nodes)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush/hush@h:6379",
        "redis://:12/hush@h:6379",
        "redis://:hush#hush@h:6379",
        "redis://:12#hush@h",
        "redis://:hush?hush@h:1",
        "redis://fleet:hush\u2100@h:1",
        "redis://:hush@h:port/0",
        "redis://:hush@[::1:6379",
        "redis+sentinel://u:hush/hush@h:1,h2:2/m",
        "redis+sentinel://u:hush@h:x,h2:2/m",
        "redis+cluster://u:12/hush@h:1",
        "redis+cluster://u:hush@h:x",
        "redis://u:hush@h:1/0?socket_timeout=hush",
        "http://u:hush@h",
    ],
)
def test_no_error_repeats_a_piece_of_the_url(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        routes(url)
    assert "hush" not in str(raised.value)
    assert raised.value.__cause__ is None
