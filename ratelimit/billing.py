"""When a refusal means money, not pace: waiting does not help. Data, by the dialect of the provider.

Sources: OpenAI's guide "Error codes" (429 with `insufficient_quota`, spend limits, exhausted credit); Anthropic's
"Errors" and "Rate limits" (`billing_error`; an enforced spend limit is a 429 without Retry-After whose details say so;
a limit that one has set oneself is a 400 that says so in words).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

PAYMENT_REQUIRED = 402

CODES: Mapping[str, frozenset[str]] = {
    "openai": frozenset(
        {
            "insufficient_quota",
            "billing_hard_limit_reached",
            "billing_not_active",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        }
    ),
    "anthropic": frozenset({"billing_error", "enforced_spend_limit_reached"}),
    "generic": frozenset(),
}
_TEXTS: Mapping[str, re.Pattern[str]] = {
    "anthropic": re.compile(r"credit balance is too low|usage limits? .*(?:reached|regain)|spend limit", re.IGNORECASE)
}
_REFUSING = frozenset({400, 403, 429})


def out_of_money(dialect: str, status: int, said: Iterable[Any]) -> bool:
    """Whether a refusal says that somebody has to pay.

    Args:
        dialect: a key of `CODES`.
        status: the HTTP status.
        said: codes, types and texts of the answer's body, as `codes` finds them.
    """
    if status == PAYMENT_REQUIRED:
        return True
    if status not in _REFUSING:
        return False
    texts = [one for one in said if isinstance(one, str)]
    words = _TEXTS.get(dialect)
    return any(one in CODES[dialect] or (words is not None and words.search(one)) for one in texts)


def codes(body: object) -> list[str]:
    """What an error's body names: codes, types and its text, wherever they stand in `error` and its `details`."""
    found: list[str] = []
    error = body.get("error", body) if isinstance(body, dict) else None
    while isinstance(error, dict):
        found += [str(error[name]) for name in ("code", "type", "error_code", "message") if error.get(name)]
        error = error.get("details")
    return found
