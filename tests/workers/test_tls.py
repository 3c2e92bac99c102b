"""Our own servers with certificates, as `FLEET_TLS_*` say: real ones, over real sockets."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import httpx2
import pytest
import trustme
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from fleet import settings as environment
from fleet.errors import BadInput
from fleet.settings import Settings
from workers import health, tls
from workers.tls import Tls
from workers.web import served


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path):
    """Of the server: where its certificate, its key, and the issuer of everybody's are."""
    write(authority, tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path


def write(authority, folder):
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    return leaf


def of(folder, **more):
    return Tls.of(Settings(tls_certificate=folder / "tls.crt", tls_key=folder / "tls.key", **more))


def trusting(authority, client=None):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


@asynccontextmanager
async def serving(found):
    async with health.serve("127.0.0.1", 0, {}, CollectorRegistry(), tls=found) as port:
        yield f"https://127.0.0.1:{port}"


async def ask(url, context):
    async with httpx2.AsyncClient(verify=context) as http:
        return await http.get(url)


async def shown(url):
    """The certificate that the server shows just now."""
    port = int(url.rpartition(":")[2])
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))


async def test_probes_and_metrics_are_encrypted(authority, files):
    async with serving(of(files)) as url:
        for path in ("/live", "/ready", "/metrics"):
            assert (await ask(url + path, trusting(authority))).status_code == 200
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(url + "/live", ssl.create_default_context())
        with pytest.raises(httpx2.HTTPError):
            await ask(url.replace("https", "http") + "/live", ssl.create_default_context())


async def test_metrics_are_told_to_those_who_show_a_certificate(authority, files):
    stranger = trustme.CA().issue_cert("prometheus")
    async with serving(of(files, tls_client_ca=files / "ca.pem")) as url:
        known = trusting(authority, authority.issue_cert("prometheus"))
        assert (await ask(url + "/metrics", known)).status_code == 200
        nobody = trusting(authority)
        refused = await ask(url + "/metrics", nobody)
        assert (refused.status_code, "FLEET_TLS_CLIENT_CA" in refused.text) == (403, True)
        # a probe has none
        assert (await ask(url + "/live", nobody)).status_code == 200
        assert (await ask(url + "/ready", nobody)).status_code == 200
        with pytest.raises(httpx2.HTTPError):
            await ask(url + "/live", trusting(authority, stranger))


async def test_a_renewed_certificate_is_shown_without_a_restart(authority, files, monkeypatch):
    monkeypatch.setattr(tls, "LOOKED_EVERY_S", 0.01)
    async with serving(of(files)) as url:
        before = await shown(url)
        # half of a new pair: the old one serves on
        kept = (files / "tls.key").read_bytes()
        with capture_logs() as said:
            leaf = write(authority, files)
            (files / "tls.key").write_bytes(kept)
            async with asyncio.timeout(10):
                while not any("no certificate in PEM and its own private key" in one.get("why", "") for one in said):
                    await asyncio.sleep(0.01)
        assert await shown(url) == before
        leaf.private_key_pem.write_to_path(str(files / "tls.key"))
        async with asyncio.timeout(10):
            while await shown(url) == before:
                await asyncio.sleep(0.01)
        assert (await shown(url)).strip() == leaf.cert_chain_pems[0].bytes().decode().strip()


async def test_a_browser_may_ask_the_codec_server_before_it_shows_who_it_is(authority, files):
    app = Starlette(routes=[Route("/decode", lambda _: PlainTextResponse("secret"), methods=["OPTIONS", "POST"])])
    found = of(files, tls_client_ca=files / "ca.pem")
    async with served(app, "127.0.0.1", 0, what="codec server", remedy="--port", tls=found) as listening:
        assert listening.url.startswith("https://127.0.0.1:")
        async with httpx2.AsyncClient(verify=trusting(authority)) as http:
            assert (await http.options(listening.url + "/decode")).status_code == 200
            assert (await http.post(listening.url + "/decode")).status_code == 403


def test_approvers_need_no_certificate(files):
    where = Settings(tls_certificate=files / "tls.crt", tls_key=files / "tls.key", tls_client_ca=files / "ca.pem")
    assert Tls.of(where, clients=False).context().verify_mode is ssl.CERT_NONE
    assert Tls.of(where).context().verify_mode is ssl.CERT_OPTIONAL
    assert Tls.of(Settings()) is None


def encrypted_key():
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hush"))


@pytest.mark.parametrize(
    ("spoilt", "content", "problem"),
    [
        ("tls.crt", None, r"FLEET_TLS_CERTIFICATE: .*tls\.crt cannot be read \(No such file or directory\)"),
        ("tls.crt", b"nothing", "FLEET_TLS_CERTIFICATE, FLEET_TLS_KEY: .* are no certificate in PEM"),
        ("tls.key", None, r"FLEET_TLS_KEY: .*tls\.key cannot be read \(No such file or directory\)"),
        ("tls.key", b"hunter22-long", "and its own private key, not encrypted"),
        ("tls.key", "another", "and its own private key, not encrypted"),
        ("tls.key", "encrypted", "and its own private key, not encrypted"),
        ("ca.pem", None, r"FLEET_TLS_CLIENT_CA: .*ca\.pem cannot be read"),
        ("ca.pem", b"nothing", r"FLEET_TLS_CLIENT_CA: .*ca\.pem is no certificate in PEM"),
    ],
)
def test_what_is_no_certificate_is_told_in_one_line(authority, files, spoilt, content, problem):
    match content:
        case None:
            (files / spoilt).unlink()
        case "another":
            authority.issue_cert("localhost").private_key_pem.write_to_path(str(files / spoilt))
        case "encrypted":
            (files / spoilt).write_bytes(encrypted_key())
        case _:
            (files / spoilt).write_bytes(content)
    with pytest.raises(BadInput, match=problem) as raised:
        of(files, tls_client_ca=files / "ca.pem").context()
    assert "hunter22" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["FLEET_TLS_KEY", "FLEET_TLS_CLIENT_CA"])
def test_a_key_without_a_certificate_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "/run/secrets/tls.pem")
    with pytest.raises(BadInput, match=f"{name}: means nothing without FLEET_TLS_CERTIFICATE"):
        Tls.of(environment.load())


async def test_a_file_that_goes_away_while_it_is_read_ends_nothing(authority, files, monkeypatch):
    monkeypatch.setattr(tls, "LOOKED_EVERY_S", 0.01)
    async with serving(of(files)) as url:
        before = await shown(url)
        with capture_logs() as said, monkeypatch.context() as patched:
            # it was there when that was asked
            patched.setattr(tls, "_readable", lambda name, path: None)
            (files / "tls.key").unlink()
            async with asyncio.timeout(10):
                while not any("No such file" in one.get("why", "") for one in said):
                    await asyncio.sleep(0.01)
        write(authority, files)
        async with asyncio.timeout(10):
            while await shown(url) == before:
                await asyncio.sleep(0.01)
