"""TLS to a PostgreSQL that demands it, certificates of clients included."""

import os
import shutil
import ssl
from urllib.parse import quote

import asyncpg
import pytest
import trustme
from sqlalchemy.engine import make_url

from tests.postgres import running_postgres
from workers.database.encryption import BadCertificate, of
from workers.database.engine import Database, DatabaseLost


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority):
    """Takes nobody without TLS; `certain` only with a certificate of that name."""
    with running_postgres() as found:
        found.stop()
        leaf = authority.issue_cert("127.0.0.1")
        leaf.cert_chain_pems[0].write_to_path(str(found.folder / "server.crt"))
        leaf.private_key_pem.write_to_path(str(found.folder / "server.key"))
        authority.cert_pem.write_to_path(str(found.folder / "ca.crt"))
        for name in ("server.crt", "server.key", "ca.crt"):
            (found.folder / name).chmod(0o600)
            if not os.geteuid():
                shutil.chown(found.folder / name, "postgres", "postgres")
        (found.folder / "data" / "pg_hba.conf").write_text(
            "hostssl certain all 127.0.0.1/32 trust clientcert=verify-full\nhostssl all all 127.0.0.1/32 trust\n"
        )
        found.options += ("-c", "ssl=on", *_files(found.folder))
        found.start()
        yield found


def _files(folder):
    named = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key", "ssl_ca_file": "ca.crt"}
    return [part for name, file in named.items() for part in ("-c", f"{name}={folder / file}")]


@pytest.fixture
def ca(authority, tmp_path):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


async def opened(url):
    database = Database(url)
    try:
        await database.prepare()
    finally:
        await database.aclose()


async def test_it_is_spoken_to_encrypted_or_not_at_all(server, ca, tmp_path):
    url = server.url("postgres")
    await opened(f"{url}?sslrootcert={ca}")
    await opened(f"{url}?ssl=verify-full&sslrootcert={ca}")
    await opened(f"{url}?sslmode=require")
    with pytest.raises(DatabaseLost, match=r"no encryption|no pg_hba"):
        await opened(f"{url}?sslmode=disable")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(DatabaseLost, match="CERTIFICATE_VERIFY_FAILED"):
        await opened(f"{url}?sslrootcert={tmp_path / 'other.pem'}")
    with pytest.raises(DatabaseLost, match="CERTIFICATE_VERIFY_FAILED"):
        await opened(f"{url}?sslrootcert=system")


async def test_a_server_of_another_name_is_not_trusted(server, ca):
    url = f"{server.url('postgres').replace('127.0.0.1', 'localhost')}?sslrootcert={ca}"
    with pytest.raises(DatabaseLost, match="Hostname mismatch"):
        await opened(url)
    await opened(f"{url}&sslmode=verify-ca")


async def test_verify_full_never_falls_back_to_plain_text(postgres, ca):
    url = postgres.url("postgres")
    with pytest.raises(DatabaseLost, match="rejected SSL"):
        await opened(f"{url}?ssl=verify-full&sslrootcert={ca}")
    await opened(f"{url}?sslmode=prefer")


async def test_the_client_shows_its_certificate(server, authority, ca, tmp_path):
    connection = await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="postgres", ssl=ssl.create_default_context(cafile=ca)
    )
    await connection.execute("CREATE DATABASE certain")
    await connection.close()
    leaf = authority.issue_cert(common_name="postgres")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    url = f"{server.url('certain')}?sslrootcert={ca}"
    with pytest.raises(DatabaseLost, match="certificate"):
        await opened(url)
    await opened(f"{url}&sslcert={tmp_path / 'client.pem'}")


def _url(query):
    return make_url(f"postgresql+asyncpg://fleet:{quote('hush/hush')}@db/fleet?{query}")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sslmode=on", "sslmode=on must be one of disable, allow"),
        ("sslmode=require&sslrootcert=ca.pem", "looks at no certificate: with sslrootcert it must be verify-full"),
        ("sslrootcert=none.pem", r"sslrootcert=none\.pem cannot be read \(No such file"),
        ("sslkey=none.pem", "sslkey means nothing without sslcert"),
        ("sslcert=none.pem", r"sslcert=none\.pem, sslkey=none\.pem cannot be read"),
    ],
)
def test_what_the_url_cannot_say_of_certificates_is_told(query, problem):
    with pytest.raises(BadCertificate, match=problem):
        of(_url(query))
    with pytest.raises(DatabaseLost, match=problem) as raised:
        Database(str(_url(query).render_as_string(hide_password=False)))
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("asked", ["ssl=verify-full", "sslmode=verify-full", "sslmode=verify-ca"])
async def test_without_files_the_machine_says_who_is_trusted(server, ca, tmp_path, monkeypatch, asked):
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"{server.url('postgres')}?{asked}"
    with pytest.raises(DatabaseLost, match="CERTIFICATE_VERIFY_FAILED"):
        await opened(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    await opened(url)
    if asked != "sslmode=verify-ca":
        with pytest.raises(DatabaseLost, match="Hostname mismatch"):
            await opened(url.replace("127.0.0.1", "localhost"))


async def test_files_that_the_environment_or_the_home_names_count_more(server, ca, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"{server.url('postgres')}?ssl=verify-full"
    monkeypatch.setenv("PGSSLROOTCERT", str(ca))
    await opened(url)
    monkeypatch.delenv("PGSSLROOTCERT")
    (tmp_path / ".postgresql").mkdir()
    shutil.copy(ca, tmp_path / ".postgresql" / "root.crt")
    await opened(url)


@pytest.mark.parametrize("by", ["environment", "home"])
def test_without_a_root_the_client_still_shows_its_certificate(authority, tmp_path, monkeypatch, by):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    leaf = authority.issue_cert(common_name="postgres")
    leaf.cert_chain_pems[0].write_to_path(str(folder / "postgresql.crt"))
    leaf.private_key_pem.write_to_path(str(folder / "postgresql.key"))
    if by == "environment":
        folder.rename(tmp_path / "there")
        monkeypatch.setenv("PGSSLCERT", str(tmp_path / "there" / "postgresql.crt"))
        monkeypatch.setenv("PGSSLKEY", str(tmp_path / "there" / "postgresql.key"))
    shown = []
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda self, *files, **_: shown.append(files))
    of(_url("sslmode=verify-full"))
    assert [tuple(str(file).rpartition("/")[2] for file in files) for files in shown] == [
        ("postgresql.crt", "postgresql.key")
    ]
