"""TLS to PostgreSQL, as the URL asks for it in libpq's words: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`."""

import ssl
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import URL

from fleet import settings

MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SYSTEM: Final = "system"
"""As `sslrootcert`: whom the machine trusts."""
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")


class BadCertificate(ValueError):
    """What the URL says of certificates cannot be."""


def of(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL without what it says of TLS, and arguments for asyncpg.

    asyncpg itself takes `ssl=verify-full` and reads files from `PGSSLROOTCERT`, `PGSSLCERT` and `PGSSLKEY` only. Where
    files are named in the URL, the default is `verify-full`. Where none are, neither there nor by `PGSSLROOTCERT` nor
    in `~/.postgresql`, the machine says who is trusted.
    https://www.postgresql.org/docs/current/libpq-ssl.html

    Raises:
        BadCertificate: an unknown mode, or a file that cannot be read.
    """
    mode = _one(url, "sslmode") or _one(url, "ssl")
    files = {name: value for name in _FILES if (value := _one(url, name))}
    if mode is None and not files:
        return url, {}
    mode = mode or "verify-full"
    if mode not in MODES:
        raise BadCertificate(f"sslmode={mode} must be one of {', '.join(MODES)}")
    bare = url.difference_update_query(["ssl", "sslmode", *_FILES])
    verified = mode in ("verify-ca", "verify-full")
    if not files:
        own = _of_machine() if verified else None
        return bare, {"ssl": mode if own is None else _context(mode, own)}
    if not verified:
        raise BadCertificate(f"sslmode={mode} looks at no certificate: with {', '.join(files)} it must be verify-full")
    return bare, {"ssl": _context(mode, files)}


def _of_machine() -> dict[str, str] | None:
    """What a URL that names no file would say, where nobody but the machine says who is trusted; else None: asyncpg
    finds the files itself."""
    said = settings.libpq()
    root = said.get("sslrootcert", SYSTEM)
    if root != SYSTEM or "sslcrl" in said or ("sslrootcert" not in said and _at_home("root.crt")):
        return None
    found = {"sslrootcert": SYSTEM}
    for name, file in (("sslcert", "postgresql.crt"), ("sslkey", "postgresql.key")):
        if path := said.get(name) or _at_home(file):
            found[name] = path
    if "sslcert" not in found:
        found.pop("sslkey", None)
    return found


def _at_home(name: str) -> str | None:
    try:
        path = Path.home() / ".postgresql" / name
        return str(path) if path.exists() else None
    except (OSError, RuntimeError, KeyError):
        # nobody's home, or one that may not be looked into
        return None


def _context(mode: str, files: dict[str, str]) -> ssl.SSLContext:
    root = files.get("sslrootcert", SYSTEM)
    try:
        context = ssl.create_default_context(cafile=None if root == SYSTEM else root)
    except (OSError, ValueError) as error:
        raise BadCertificate(f"sslrootcert={root} cannot be read ({_why(error)})") from None
    context.check_hostname = mode == "verify-full"
    if "sslkey" in files and "sslcert" not in files:
        raise BadCertificate("sslkey means nothing without sslcert")
    if certificate := files.get("sslcert"):
        try:
            context.load_cert_chain(certificate, files.get("sslkey"), password="")
        except (OSError, ValueError) as error:
            key = files.get("sslkey", certificate)
            raise BadCertificate(
                f"sslcert={certificate}, sslkey={key} cannot be read as a certificate and its own key, not encrypted"
                f" ({_why(error)})"
            ) from None
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "no PEM, or not of each other"
    return error.strerror or "unreadable" if isinstance(error, OSError) else "unreadable"


def _one(url: URL, name: str) -> str | None:
    found = url.query.get(name)
    return found if found is None or isinstance(found, str) else found[-1]
