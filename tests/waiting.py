"""Waiting for servers of other processes."""

import time

import redis


def until_up(url: str) -> None:
    """Return once the server answers.

    Raises:
        RuntimeError: it has not within five seconds.
    """
    with redis.Redis.from_url(url) as client:
        for _ in range(500):
            try:
                client.ping()
            except redis.ConnectionError:
                time.sleep(0.01)
            else:
                return
    raise RuntimeError(f"no server at {url}")
