"""A Temporal that has fallen silent is given up soon, and not so that it hangs up on us."""

from datetime import timedelta

from fleet import settings as environment
from fleet.client import connect


async def test_a_silent_server_is_given_up_soon_and_asked_no_more_often_than_it_allows(temporal_address: str) -> None:
    client = await connect(environment.load(), address=temporal_address)
    config = client.service_client.config
    alive = config.keep_alive_config
    assert alive is not None
    assert config.connect_timeout is not None
    assert alive.interval_millis + alive.timeout_millis <= 15_000
    # https://github.com/temporalio/temporal/pull/1334
    assert alive.interval_millis > 10_000
    assert config.connect_timeout <= timedelta(seconds=5)
