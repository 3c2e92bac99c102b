"""Secrets stay here: they are taken out of logs, and out of what activities leave in a run's history."""

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

from temporalio.exceptions import ApplicationError, CancelledError

REDACTED: Final = "[redacted]"
SHORTEST = 6
"""Characters of a secret that is looked for: shorter ones are words of ordinary text."""
SHORTEST_PART = 8
"""Characters of base64 that are surely a secret's."""

_SHAPES: Final = tuple(
    (marker, re.compile(pattern), rf"\g<1>{REDACTED}\g<2>")
    for marker, pattern in (
        # keys of OpenAI and Anthropic: a digit tells them from words with hyphens
        ("sk-", r"(?<![\w-])(sk-)(?=[A-Za-z_-]*\d)[\w-]{16,}()"),
        ("earer ", r"\b([Bb]earer )(?=[A-Za-z._~+/-]*\d)[\w.~+/-]{16,}=*()"),
        ("whsec_", r"\b(whsec_)[A-Za-z0-9+/]{16,}=*()"),
        ("hooks.slack.com/", r"(hooks\.slack\.com/(?:services|workflows|triggers)/)[\w/-]+()"),
        # RFC 3986's userinfo with a colon: user and password
        ("://", r"(://)[^\s/?#@:\"<>\\^`{|}\[\]]{0,256}:[^\s/?#@\"<>\\^`{|}\[\]]{0,256}(@)"),
        ("password=", r"((?<![\w.-])password=)[^\s&;,\"'<>\\\[\](){}]+()"),
    )
)


class Redactor:
    """Replaces known secrets, and what looks like one, by `[redacted]`. Other text stays as it is."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Args:
        secrets: their values. Those shorter than `SHORTEST` are left alone.
        """
        self._secrets: set[str] = set()
        self._forms: tuple[str, ...] = ()
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Look for these too: secrets are read after the log is set up."""
        self._secrets |= {secret for secret in secrets if len(secret) >= SHORTEST}
        forms = {form for secret in self._secrets for form in _forms(secret)}
        # the longest first: one secret may be the beginning of another
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def clean(self, text: str) -> str:
        """The text without secrets; the same object where it has none."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, REDACTED)
        for marker, shape, instead in _SHAPES:
            if marker in text:
                text = shape.sub(instead, text)
        return text

    def clean_value(self, value: Any) -> Any:
        """A dataclass, dictionary, list, tuple or text without secrets; the same object where it has none."""
        if isinstance(value, str):
            found = self.clean(value)
            return value if found == value else found
        if isinstance(value, dict):
            return self._clean_dict(value)
        if isinstance(value, (list, tuple)):
            items = [self.clean_value(item) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._clean_dataclass(value)
        return value

    def processor(self, logger: object, name: str, event: Any) -> Any:
        """A structlog processor. As the last one, after the renderer, it also sees tracebacks."""
        del logger, name
        return self.clean_value(event)

    def error(self, error: BaseException) -> BaseException:
        """The error, and what caused it, without secrets; the same object where they have none.

        What Temporal would write of an error that is not its own is an `ApplicationError` with its text and the name
        of its class: that is what such an error becomes.
        """
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        cleaned_cause = None if cause is None else self.error(cause)
        details = tuple(getattr(error, "details", ())) if isinstance(error, (ApplicationError, CancelledError)) else ()
        cleaned_details = self.clean_value(details)
        said = error.message if isinstance(error, (ApplicationError, CancelledError)) else str(error)
        text = self.clean(said)
        if text == said and cleaned_details is details and cleaned_cause is cause:
            return error
        cleaned: BaseException
        if isinstance(error, ApplicationError):
            cleaned = ApplicationError(
                text,
                *cleaned_details,
                type=error.type,
                non_retryable=error.non_retryable,
                next_retry_delay=error.next_retry_delay,
                category=error.category,
            )
        elif isinstance(error, CancelledError):
            cleaned = CancelledError(text, *cleaned_details)
        else:
            cleaned = ApplicationError(text, type=type(error).__name__)
        cleaned.__cause__ = cleaned_cause
        return cleaned.with_traceback(error.__traceback__)

    def _clean_dict(self, value: dict[Any, Any]) -> Any:
        found = {self.clean_value(key): self.clean_value(item) for key, item in value.items()}
        same = all(a is b and found[a] is value[b] for a, b in zip(found, value, strict=False))
        return value if same and len(found) == len(value) else found

    def _clean_dataclass(self, value: Any) -> Any:
        changed = {}
        for part in dataclasses.fields(value):
            if part.init:
                old = getattr(value, part.name)
                new = self.clean_value(old)
                if new is not old:
                    changed[part.name] = new
        return dataclasses.replace(value, **changed) if changed else value


REDACTOR: Final = Redactor()
"""The process's own."""


def _forms(secret: str) -> Iterator[str]:
    """The secret as it may stand in a text: plain, in a URL, in JSON, in base64."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    raw = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        # base64 of something longer that has the secret in it, as in `user:password`: the characters that are
        # determined by the secret alone, for each of its three places
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        first, bits = -(-before * 8 // 6), (before + len(raw)) * 8
        part = encoded[first : bits // 6]
        if len(part) >= SHORTEST_PART:
            yield part
            yield part.replace("+", "-").replace("/", "_")
