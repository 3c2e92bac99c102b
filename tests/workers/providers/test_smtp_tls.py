"""A relay that encrypts and asks who is there: a real one, with real certificates."""

import asyncio
import contextlib
import ssl
from email.message import EmailMessage

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

from workers.providers import errors
from workers.providers.smtp import Relay

USER, PASSWORD = "fleet", "hunter22-long"


class _Handler:
    def __init__(self):
        self.taken = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's
        self.taken.append((envelope.content, session.ssl is not None, session.authenticated))
        return "250 2.0.0 queued as 1"


def _authenticated(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=True) if right else AuthResult(success=False, handled=False)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@contextlib.asynccontextmanager
async def relay(authority, tls, *, name="localhost", auth=True):
    """A server, and the settings of a client that may log in to it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    handler = _Handler()
    loop = asyncio.get_running_loop()

    class Watched(SMTP):
        def connection_lost(self, error):
            super().connection_lost(error)
            left.set()

    left = asyncio.Event()

    def serve():
        return Watched(
            handler,
            hostname="localhost",
            loop=loop,
            tls_context=context if tls == "starttls" else None,
            require_starttls=tls == "starttls",
            # of implicit TLS aiosmtpd knows nothing, and warns of log-ins without: the handler notes who has logged in
            auth_required=auth and tls == "starttls",
            auth_require_tls=tls == "starttls",
            auth_exclude_mechanism=[] if auth else ["LOGIN", "PLAIN"],
            authenticator=_authenticated if auth else None,
        )

    server = await loop.create_server(serve, "127.0.0.1", 0, ssl=context if tls == "implicit" else None)
    async with server:
        settings = {
            "host": "localhost",
            "port": server.sockets[0].getsockname()[1],
            "tls": tls,
            "sender": "fleet@example.com",
            "username": USER if auth else None,
            "password": PASSWORD if auth else None,
            "timeout_s": 5,
        }
        yield handler, settings
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(left.wait(), 1)


def mail():
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "fleet@example.com", "a@example.com", "Grüße"
    message.set_content("It says:\n.dot\nfür dich\n")
    return message


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_mail_goes_encrypted_and_logged_in(authority, ca_file, tls):
    async with relay(authority, tls) as (handler, settings):
        found = Relay(**settings, ca_file=ca_file)
        await found.check()
        assert await found.send(mail(), key="k") == "2.0.0 queued as 1"
    ((content, encrypted, logged_in),) = handler.taken
    assert "für dich".encode() in content
    assert b"\r\n.dot\r\n" in content
    assert (encrypted or tls == "implicit", logged_in) == (True, True)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_certificate_of_strangers_is_not_trusted(authority, tls):
    async with relay(authority, tls) as (handler, settings):
        for act in (Relay(**settings).check, lambda: Relay(**settings).send(mail(), key="k")):
            with pytest.raises(errors.NotSent, match=r"certificate is not trusted .*: set ca_file"):
                await act()
    assert handler.taken == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_certificate_for_another_name_is_not_trusted(authority, ca_file, tls):
    async with relay(authority, tls, name="other.example.com") as (handler, settings):
        with pytest.raises(errors.NotSent, match="Hostname mismatch"):
            await Relay(**settings, ca_file=ca_file).send(mail(), key="k")
    assert handler.taken == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_wrong_password_is_refused_and_not_repeated(authority, ca_file, tls):
    async with relay(authority, tls) as (handler, settings):
        found = Relay(**(settings | {"password": "wrong-3141"}), ca_file=ca_file)
        for act in (found.check, lambda: found.send(mail(), key="k")):
            with pytest.raises(errors.Refused, match="user or password was refused") as raised:
                await act()
            assert "3141" not in str(raised.value)
    assert handler.taken == []


async def test_a_relay_without_starttls_gets_neither_password_nor_mail(authority, ca_file):
    async with relay(authority, "none", auth=False) as (handler, settings):
        with pytest.raises(errors.Refused, match="STARTTLS"):
            await Relay(**(settings | {"tls": "starttls", "username": USER, "password": PASSWORD})).send(
                mail(), key="k"
            )
    assert handler.taken == []


async def test_a_relay_without_log_in_is_told(authority, ca_file):
    async with relay(authority, "starttls", auth=False) as (handler, settings):
        with pytest.raises(errors.Refused, match=r"AUTH|authentication method"):
            await Relay(**(settings | {"username": USER, "password": PASSWORD}), ca_file=ca_file).send(mail(), key="k")
    assert handler.taken == []


async def test_mail_before_logging_in_is_refused_by_the_relay(authority, ca_file):
    async with relay(authority, "starttls") as (handler, settings):
        with pytest.raises(errors.BadRequest, match="530"):
            await Relay(**(settings | {"username": None, "password": None}), ca_file=ca_file).send(mail(), key="k")
    assert handler.taken == []


async def test_a_ca_file_that_is_none_is_told(authority, tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")
    async with relay(authority, "starttls") as (_, settings):
        for path in ("missing.pem", "empty.pem"):
            with pytest.raises(errors.Refused, match=f"{path} cannot be read"):
                await Relay(**settings, ca_file=str(tmp_path / path)).check()


async def test_a_stale_attempt_hands_in_nothing_over_tls_either(authority, ca_file):
    async def before():
        return False

    async with relay(authority, "implicit") as (handler, settings):
        with pytest.raises(errors.Fenced):
            await Relay(**settings, ca_file=ca_file).send(mail(), key="k", before=before)
    assert handler.taken == []
