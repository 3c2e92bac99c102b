"""Clients of the manifest's providers and endpoints, with their keys."""

from typing import TYPE_CHECKING

import httpx2

from fleet.errors import BadInput
from fleet.settings import Settings
from fleet.tables import (
    BankProvider,
    MailApiProvider,
    MailProvider,
    ModelProvider,
    SearchProvider,
    SlackEndpoint,
    WebhookEndpoint,
)
from ratelimit.profiles import PROFILES
from workers.providers.chat import ChatProvider

if TYPE_CHECKING:
    from workers.providers.mail import Mailer
    from workers.providers.payments import Bank
    from workers.providers.search import SearchProvider as SearchClient
    from workers.providers.webhooks import Endpoint


def key_of(settings: Settings, where: str, reference: str) -> str:
    """The API key of what the manifest has there. Raises `BadInput`: it is not set, or cannot be one."""
    key = settings.secret(reference)
    if key is None:
        raise BadInput(f"{where}: no API key: set {reference.partition(':')[2]} ({reference})")
    if not (key.isascii() and key.isprintable()):
        raise BadInput(f"{where}: the API key in {reference} is not plain text: set it again")
    return key


def chat_provider(settings: Settings, name: str, spec: ModelProvider) -> ChatProvider:
    """The client of one model provider.

    Raises:
        BadInput: its key is not set.
    """
    key = key_of(settings, f"providers.{name}", spec.api_key)
    profile = PROFILES[spec.counts or spec.kind]
    # each SDK takes a second and more to import: only those that are used are
    if spec.kind == "openai":
        from workers.providers.openai import OpenAIChat

        timeout_s = spec.timeout.total_seconds()
        return OpenAIChat(name=name, api_key=key, base_url=spec.base_url, timeout_s=timeout_s, profile=profile)
    from workers.providers.anthropic import AnthropicChat

    timeout_s = spec.timeout.total_seconds()
    return AnthropicChat(name=name, api_key=key, base_url=spec.base_url, timeout_s=timeout_s, profile=profile)


def search_provider(settings: Settings, name: str, spec: SearchProvider, http: httpx2.AsyncClient) -> "SearchClient":
    """The client of one search provider."""
    from workers.corpus.index import Corpus
    from workers.providers import search

    if spec.kind == "corpus":
        return search.CorpusSearch(Corpus(spec.path or settings.state_dir / "corpus.db"))
    if spec.base_url is None:
        raise BadInput(f"providers.{name}.base_url: is required for kind {spec.kind!r}")
    if spec.kind == "searxng":
        return search.SearxngSearch(spec.base_url, http, allow_private=spec.allow_private)
    key = settings.secret(spec.api_key) if spec.api_key else None
    if key is None:
        raise BadInput(f"providers.{name}.api_key: is required for kind {spec.kind!r}, and must be set")
    kind = search.BraveSearch if spec.kind == "brave" else search.TavilySearch
    return kind(spec.base_url, key, http, allow_private=spec.allow_private)


def mailer(settings: Settings, name: str, spec: MailProvider | MailApiProvider) -> "Mailer":
    """The client of a mail relay or API.

    Raises:
        BadInput: its key is not set.
    """
    timeout_s = spec.timeout.total_seconds()
    if isinstance(spec, MailApiProvider):
        from workers.providers.mail_api import MailApi

        key = key_of(settings, f"providers.{name}", spec.api_key)
        return MailApi(
            base_url=spec.base_url,
            key=key,
            sender=spec.sender,
            key_lifetime=spec.key_lifetime,
            timeout_s=timeout_s,
        )
    from workers.providers.smtp import Relay

    return Relay(
        host=spec.host,
        port=spec.port,
        tls=spec.tls,
        sender=spec.sender,
        username=spec.username,
        password=settings.secret(spec.password) if spec.password else None,
        lookup_url=spec.lookup_url,
        ca_file=str(spec.ca_file) if spec.ca_file else None,
        timeout_s=timeout_s,
    )


def bank(settings: Settings, name: str, spec: BankProvider) -> "Bank":
    """The client of a payments API.

    Raises:
        BadInput: its key is not set.
    """
    from workers.providers.payments import Bank

    return Bank(
        name=name,
        base_url=spec.base_url,
        key=key_of(settings, f"providers.{name}", spec.api_key),
        honours_keys=spec.honours_keys,
        looks_up=spec.looks_up,
        key_lifetime=spec.key_lifetime,
        timeout_s=spec.timeout.total_seconds(),
    )


def endpoint(settings: Settings, name: str, spec: WebhookEndpoint | SlackEndpoint) -> "Endpoint":
    """Where something is told.

    Raises:
        BadInput: its address or secret is not set.
    """
    from workers.providers.webhooks import Endpoint

    url = spec.url
    if url.startswith(("env:", "file:")):
        found = settings.secret(url)
        if found is None:
            raise BadInput(f"endpoints.{name}.url: {url} is not set")
        url = found
    secret = None
    if isinstance(spec, WebhookEndpoint):
        secret = settings.secret(spec.secret)
        if secret is None:
            raise BadInput(f"endpoints.{name}.secret: {spec.secret} is not set: it is what deliveries are signed with")
    return Endpoint(
        name=name,
        url=url,
        secret=secret or "",
        allow_private=spec.allow_private,
        timeout_s=spec.timeout.total_seconds(),
    )
