"""How every contender calls the provider."""

from typing import Any

import httpx2

BODY = {"model": "bench", "messages": [{"role": "user", "content": "x"}]}
PATH = "/v1/chat/completions"


def client(asked: dict[str, Any]) -> httpx2.AsyncClient:
    """A connection for each agent of a process."""
    # given up before the server does: whoever waits for long would meet a connection that has just been closed
    limits = httpx2.Limits(
        max_connections=asked["tasks"], max_keepalive_connections=asked["tasks"], keepalive_expiry=2.0
    )
    headers = {"authorization": "Bearer sk-bench"}
    return httpx2.AsyncClient(base_url=asked["provider"], headers=headers, limits=limits, timeout=30)
