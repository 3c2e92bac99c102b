"""How servers that are not OpenAI or Anthropic themselves tell of limits. Requests alone: tokens are in no such header.

Sources: draft-ietf-httpapi-ratelimit-headers (`RateLimit`, `RateLimit-Policy`: quota `q`, window `w`, rest `r`, and `t`
seconds until it is reset); `X-RateLimit-*` as many others send them, with a reset in seconds.
"""

import math
from collections.abc import Mapping

from load.simulators.quota import Standing


def headers(how: str, standing: Mapping[str, Standing]) -> dict[str, str]:
    """Of an answer: `x-ratelimit` or `ietf`; nothing for any other word."""
    one = standing.get("requests")
    if one is None:
        return {}
    limit, left, reset = f"{one.limit:.0f}", f"{one.remaining:.0f}", f"{math.ceil(one.full_in_s)}"
    if how == "x-ratelimit":
        return {"x-ratelimit-limit": limit, "x-ratelimit-remaining": left, "x-ratelimit-reset": reset}
    if how == "ietf":
        return {
            "ratelimit-policy": f'"requests";q={limit};w={math.ceil(one.period_s)}',
            "ratelimit": f'"requests";r={left};t={reset}',
        }
    return {}


def retry_headers(how: str, wait_s: float) -> dict[str, str]:
    """Of a refusal: `Retry-After` in whole seconds (RFC 9110 §10.2.3), but for servers that tell nothing."""
    return {} if how == "none" or math.isinf(wait_s) else {"retry-after": str(max(1, math.ceil(wait_s)))}
