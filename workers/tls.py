"""The certificates of a process's own servers: which one they show, whose they ask for, and how one follows another."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from fleet.errors import BadInput
from fleet.settings import Settings

LOOKED_EVERY_S = 10.0
"""How often the files are looked at: a certificate that was renewed is shown from then on."""

log = structlog.get_logger("fleet.tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of PEM, and what a server makes of them."""

    certificate: Path
    """The server's, and those of its issuers but the last."""
    key: Path
    """Its private key: not encrypted. It may be the same file."""
    client_ca: Path | None
    """Issuers of certificates that clients must show. None: they need none."""

    @classmethod
    def of(cls, settings: Settings, *, clients: bool = True) -> Self | None:
        """What `FLEET_TLS_*` say; None where they say nothing.

        Args:
            settings: where am I?
            clients: whether this server's clients have certificates at all. Browsers of approvers have none.

        Raises:
            BadInput: a key or a client's issuer without a certificate.
        """
        if settings.tls_certificate is None:
            for name, given in (("KEY", settings.tls_key), ("CLIENT_CA", settings.tls_client_ca)):
                if given is not None:
                    raise BadInput(f"FLEET_TLS_{name}: means nothing without FLEET_TLS_CERTIFICATE: set both, or none")
            return None
        return cls(
            certificate=settings.tls_certificate,
            key=settings.tls_key or settings.tls_certificate,
            client_ca=settings.tls_client_ca if clients else None,
        )

    def context(self) -> ssl.SSLContext:
        """For a server: TLS 1.2 or newer.

        Raises:
            BadInput: a file cannot be read, is no PEM, or the key is not the certificate's.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.load(context)
        if self.client_ca is not None:
            # probes have none, and are answered all the same: `workers.web` tells them from others
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Put the files into a context. What connects from then on sees them.

        Raises:
            BadInput: a file cannot be read, is no PEM, or the key is not the certificate's.
        """
        _readable("FLEET_TLS_CERTIFICATE", self.certificate)
        _readable("FLEET_TLS_KEY", self.key)
        try:
            # without a password OpenSSL would ask the terminal for that of an encrypted key
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError):
            raise BadInput(
                f"FLEET_TLS_CERTIFICATE, FLEET_TLS_KEY: {self.certificate} and {self.key} are no certificate in PEM and"
                " its own private key, not encrypted"
            ) from None
        if self.client_ca is not None:
            _readable("FLEET_TLS_CLIENT_CA", self.client_ca)
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError:
                raise BadInput(f"FLEET_TLS_CLIENT_CA: {self.client_ca} is no certificate in PEM") from None

    async def follow(self, context: ssl.SSLContext) -> None:
        """Load the files again whenever they have changed, for ever. Those that do not fit together yet are left."""
        seen = self._stamps()
        while True:
            await asyncio.sleep(LOOKED_EVERY_S)
            found = self._stamps()
            if found == seen:
                continue
            seen = found
            try:
                # first into another: half of a new pair would spoil the one that serves
                await asyncio.to_thread(self.context)
                self.load(context)
            except (BadInput, OSError) as bad:
                # a file that is there when it is looked at may be gone when it is read
                log.warning("the new certificate is not taken; the one before it is shown on", why=str(bad))
            else:
                log.info("certificate renewed", certificate=str(self.certificate))

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BadInput(f"{name}: {path} cannot be read ({error.strerror})") from None
