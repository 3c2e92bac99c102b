"""Who may see decrypted payloads: bearers of named tokens, and of JSON Web Tokens of one issuer."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import jwt

from fleet.errors import BadInput, FleetError, Unreachable
from fleet.settings import Settings

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones: with the others the public key would be a secret."""
LEEWAY_S: Final = 30
FETCH_TIMEOUT_S: Final = 5
EVERY: Final = "*"
_SYSTEM: Final = "temporal-system"
"""Namespace of permissions for all namespaces, in the claims of Temporal's default claim mapper."""
_READS: Final = frozenset({"read", "write", "worker", "admin"})
_WRITES: Final = frozenset({"write", "worker", "admin"})
_LINE: Final = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<digest>[0-9a-f]{64})\s+(?P<namespaces>\S+)")


class Denied(FleetError):
    """The caller is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and for which namespaces; `*` is all of them."""

    name: str
    reads: frozenset[str]
    writes: frozenset[str]

    def may(self, what: str, namespace: str) -> bool:
        """Whether they may `decode`, `download` or `encode` payloads of the namespace; an empty one stands for any."""
        granted = self.writes if what == "encode" else self.reads
        return EVERY in granted or (namespace != "" and namespace in granted)


ANYBODY: Final = Caller(name="anybody", reads=frozenset({EVERY}), writes=frozenset({EVERY}))
"""Whoever reaches a server that is open."""


class Access:
    """Tells callers from strangers."""

    def __init__(self, tokens: Mapping[bytes, Caller], issuer: "Issuer | None" = None) -> None:
        """Args:
        tokens: callers by the SHA-256 of their token.
        issuer: whose JSON Web Tokens are taken too.
        """
        self._tokens = dict(tokens)
        self._issuer = issuer

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """What `FLEET_CODEC_*` say; None if nobody is named.

        Raises:
            BadInput: tokens cannot be read, or an issuer comes without keys or audience.
        """
        issuer = Issuer.of(settings)
        if settings.codec_tokens is None:
            return cls({}, issuer) if issuer else None
        if not re.fullmatch(r"(env|file):\S+", settings.codec_tokens):
            raise BadInput("FLEET_CODEC_TOKENS: must say where the tokens are, env:NAME or file:/path")
        text = settings.secret(settings.codec_tokens)
        if text is None:
            raise BadInput(f"FLEET_CODEC_TOKENS: {settings.codec_tokens} holds no token")
        return cls(_tokens(text), issuer)

    async def caller(self, authorization: str) -> Caller:
        """Who sends this header.

        Raises:
            Denied: nobody known.
            Unreachable: the issuer's keys cannot be fetched.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Denied("no bearer token: send the header Authorization: Bearer …")
        presented = hashlib.sha256(token.encode()).digest()
        # all are compared, whichever fits: the time tells nothing
        fitting = [who for digest, who in self._tokens.items() if hmac.compare_digest(digest, presented)]
        if fitting:
            return fitting[0]
        if self._issuer is None:
            raise Denied("the token is not known here")
        return await self._issuer.caller(token)


def _tokens(text: str) -> dict[bytes, Caller]:
    found: dict[bytes, Caller] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        parts = _LINE.fullmatch(stripped)
        if parts is None:
            raise BadInput(
                f"FLEET_CODEC_TOKENS: line {number} is not `name sha256 namespace,namespace` (`*`: all of them): hash"
                " a token with `printf %s TOKEN | sha256sum`"
            )
        granted = frozenset(parts["namespaces"].split(","))
        found[bytes.fromhex(parts["digest"])] = Caller(name=parts["name"], reads=granted, writes=granted)
    if not found:
        raise BadInput("FLEET_CODEC_TOKENS: there is no token: add a line `name sha256 namespace,namespace`")
    return found


class Issuer:
    """Takes the JSON Web Tokens of one issuer for one audience.

    Their claim `permissions` grants as in Temporal's default claim mapper, `["acme:read", "temporal-system:admin"]`:
    `read` lets decode, `write`, `worker` and `admin` encode too.
    https://docs.temporal.io/self-hosted-guide/security#default-jwt-claimmapper
    """

    def __init__(self, issuer: str, audience: str, jwks_url: str) -> None:
        """Args:
        issuer: the claim `iss`.
        audience: the claim `aud`.
        jwks_url: where the issuer's public keys are.
        """
        self._issuer = issuer
        self._audience = audience
        self._keys = jwt.PyJWKClient(jwks_url, timeout=FETCH_TIMEOUT_S)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Of `FLEET_CODEC_ISSUER`, `FLEET_CODEC_AUDIENCE` and `FLEET_CODEC_JWKS_URL`; None if none is set.

        Raises:
            BadInput: only some are set, or the keys would come over a network without TLS.
        """
        given = {
            "FLEET_CODEC_ISSUER": settings.codec_issuer,
            "FLEET_CODEC_AUDIENCE": settings.codec_audience,
            "FLEET_CODEC_JWKS_URL": settings.codec_jwks_url,
        }
        if not any(given.values()):
            return None
        if lacking := [name for name, value in given.items() if not value]:
            raise BadInput(
                f"{', '.join(lacking)}: must be set too: a token is checked for issuer, audience and signature"
            )
        url = str(settings.codec_jwks_url)
        if not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", url):
            raise BadInput(
                f"FLEET_CODEC_JWKS_URL: {url!r} must begin with https://: who changes the keys reads everything"
            )
        return cls(str(settings.codec_issuer), str(settings.codec_audience), url)

    async def caller(self, token: str) -> Caller:
        """Who bears this token.

        Raises:
            Denied: it is not of this issuer, not for this audience, expired, or says not what it grants.
            Unreachable: the keys cannot be fetched.
        """
        try:
            claims = await asyncio.to_thread(self._claims, token)
        except jwt.PyJWKClientConnectionError:
            raise Unreachable("the issuer's keys cannot be fetched: look at FLEET_CODEC_JWKS_URL") from None
        except jwt.PyJWTError as error:
            raise Denied(f"the token is not taken: {error}") from None
        granted = claims.get("permissions")
        pairs = [str(one).rpartition(":") for one in granted] if isinstance(granted, list) else []

        def of(roles: frozenset[str]) -> frozenset[str]:
            # an issuer's namespace is a name: only `temporal-system` stands for all
            named = {namespace for namespace, _, role in pairs if role in roles} - {"", EVERY}
            return frozenset(EVERY if namespace == _SYSTEM else namespace for namespace in named)

        return Caller(name=str(claims["sub"])[:200], reads=of(_READS), writes=of(_WRITES))

    def _claims(self, token: str) -> dict[str, Any]:
        key = self._keys.get_signing_key_from_jwt(token)
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=self._issuer,
            audience=self._audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
