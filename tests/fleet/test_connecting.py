"""The way to a Temporal that asks who is there: TLS with certificates of both sides, keys out of files."""

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress

import pytest
import trustme

from fleet import settings as environment
from fleet.client import connect, target
from fleet.errors import BadInput, FleetError, Unreachable


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@asynccontextmanager
async def encrypted(authority, address):
    """Temporal behind TLS: HTTP/2, and certificates of clients; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    authority.configure_trust(context)
    authority.issue_cert("temporal.example.com").configure_cert(context)
    host, _, port = address.rpartition(":")
    ways = set()

    async def relay(reader, writer):
        ways.add(asyncio.current_task())
        there, back = await asyncio.open_connection(host, int(port))
        # asyncio would tell of a handler that was cancelled
        with suppress(asyncio.CancelledError):
            await asyncio.gather(_pour(reader, back), _pour(there, writer))
        for one in (writer, back):
            one.transport.abort()

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pour(reader, writer):
    with suppress(OSError):
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()


@pytest.fixture
def certificates(authority, tmp_path, monkeypatch):
    """What Temporal's own environment configuration says of certificates."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf = authority.issue_cert("worker.example.com")
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    said = {
        "TEMPORAL_TLS": "true",
        "TEMPORAL_TLS_SERVER_NAME": "temporal.example.com",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(tmp_path / "ca.pem"),
        "TEMPORAL_TLS_CLIENT_CERT_PATH": str(tmp_path / "client.pem"),
        "TEMPORAL_TLS_CLIENT_KEY_PATH": str(tmp_path / "client.key"),
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    return tmp_path


async def test_both_sides_show_certificates(authority, certificates, temporal_address, monkeypatch):
    async with encrypted(authority, temporal_address) as port:
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{port}")
        client = await connect(environment.load())
        assert await client.service_client.check_health()
        del client
        # who has none of ours is not let in
        leaf = trustme.CA().issue_cert("stranger.example.com")
        leaf.cert_chain_pems[0].write_to_path(str(certificates / "client.pem"))
        leaf.private_key_pem.write_to_path(str(certificates / "client.key"))
        with pytest.raises(Unreachable, match="does not answer at 127"):
            await connect(environment.load())


@pytest.mark.parametrize("name", ["TEMPORAL_TLS_SERVER_NAME", "TEMPORAL_TLS_SERVER_CA_CERT_PATH"])
async def test_a_server_that_is_not_the_right_one_is_told_nothing(
    authority, certificates, temporal_address, monkeypatch, name
):
    async with encrypted(authority, temporal_address) as port:
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{port}")
        monkeypatch.delenv(name)
        with pytest.raises(Unreachable, match=r"its certificate is not trusted: (UnknownIssuer|NotValidForName)"):
            await connect(environment.load())


def test_the_api_key_comes_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("hush-hush\n")
    monkeypatch.setenv("TEMPORAL_API_KEY_FILE", str(tmp_path / "key"))
    config = target(environment.load())
    assert (config["api_key"], config["tls"]) == ("hush-hush", True)
    monkeypatch.setenv("TEMPORAL_TLS", "false")
    assert target(environment.load())["tls"] is False
    monkeypatch.setenv("TEMPORAL_API_KEY", "another")
    with pytest.raises(BadInput, match="TEMPORAL_API_KEY and TEMPORAL_API_KEY_FILE are set"):
        target(environment.load())


def ask(name):
    found = environment.load()
    return {"REDIS": found.redis, "DATABASE": found.database, "TEMPORAL": found.temporal_key}[name.partition("_")[0]]()


@pytest.mark.parametrize("name", ["REDIS_URL", "DATABASE_URL"])
def test_urls_with_passwords_come_from_files(tmp_path, monkeypatch, name):
    (tmp_path / "url").write_text(" scheme://fleet:hush@host/0\n")
    monkeypatch.setenv(f"FLEET_{name}_FILE", str(tmp_path / "url"))
    assert ask(name) == "scheme://fleet:hush@host/0"
    monkeypatch.setenv(f"FLEET_{name}", "scheme://other")
    with pytest.raises(BadInput, match=f"FLEET_{name} and FLEET_{name}_FILE are set: leave one of the two"):
        ask(name)


@pytest.mark.parametrize("name", ["FLEET_REDIS_URL_FILE", "FLEET_DATABASE_URL_FILE", "TEMPORAL_API_KEY_FILE"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"/secret cannot be read \(No such file or directory\)"),
        (b" \n", "/secret holds nothing"),
        (b"redis://:hush@host\nredis://:hush@host\n", "/secret holds more than one line"),
        (b"redis://:hush\xff@host", "/secret is no text"),
    ],
)
def test_a_file_that_holds_no_secret_is_told_without_its_text(tmp_path, monkeypatch, name, content, problem):
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv(name, str(tmp_path / "secret"))
    with pytest.raises(BadInput, match=f"{name}: .*{problem}") as raised:
        ask(name.removeprefix("FLEET_"))
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("text", ['[profile.default]\napi_key = "hush-hush\nx', "api_key hush-hush", "[profile"])
def test_a_configuration_that_cannot_be_read_is_told_without_its_text(tmp_path, monkeypatch, text):
    (tmp_path / "temporal.toml").write_text(text)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    with pytest.raises(FleetError, match="configuration cannot be read") as raised:
        target(environment.load())
    assert "hush" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("TEMPORAL_TLS_CLIENT_CERT_PATH", "client.pem", "both client cert and private key"),
        ("TEMPORAL_ADDRESS", "temporal_x y:7233", "invalid target URL"),
        ("TEMPORAL_ADDRESS", "localhost:port", "invalid target URL: invalid port number"),
    ],
)
async def test_settings_that_the_sdk_refuses_are_one_line(tmp_path, monkeypatch, name, value, problem):
    (tmp_path / "client.pem").write_text("hush-hush")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"^Temporal's configuration: .*{problem}.*: see TEMPORAL_ADDRESS and") as raised:
        await connect(environment.load())
    assert "hush" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_empty_variable_says_nothing(tmp_path, monkeypatch):
    # as env files and ${NAME:-} make them
    (tmp_path / "url").write_text("scheme://host/0\n")
    for name in ("REDIS_URL", "DATABASE_URL_FILE", "TLS_CERTIFICATE", "HEALTH_PORT", "BUILD_ID", "LOG_LEVEL"):
        monkeypatch.setenv(f"FLEET_{name}", "")
    monkeypatch.setenv("FLEET_REDIS_URL_FILE", str(tmp_path / "url"))
    found = environment.load()
    assert (found.redis(), found.build_id, found.health_port) == ("scheme://host/0", "", 0)
    assert found.database().startswith("sqlite+aiosqlite:///")
    assert found.tls_certificate is None


def test_empty_keys_of_payloads_are_no_leave_to_write_them_plain(monkeypatch):
    monkeypatch.setenv("FLEET_PAYLOAD_KEYS", "")
    with pytest.raises(BadInput, match="FLEET_PAYLOAD_KEYS: is empty"):
        environment.load()
