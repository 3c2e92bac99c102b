"""What pools serve: what one endpoint lacks keeps nobody else from being told."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from temporalio.exceptions import ApplicationError

from fleet import manifest
from fleet.contracts.approvals import Notice
from fleet.contracts.effects import EffectState
from fleet.contracts.names import FailureType
from fleet.settings import Settings
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from tests.workers.attempting import asked, environment
from tests.workers.tools.test_notify import ASKED
from workers.serving import Shop

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LACKING = """
[endpoints.lacking]
kind = "webhook"
url = "http://127.0.0.1:9/"
secret = "env:NO_SUCH_SECRET"

[endpoints.ops]
kind = "slack"
url = "env:NO_SUCH_ADDRESS"
"""
SECRET = "whsec_c2lnbmVkLWJ5LXRoZS1mbGVldC1mb3ItdGVzdHM="


@pytest.fixture
async def shop(outside, database, tmp_path, monkeypatch):
    shipped = (Path(__file__).parents[3] / "deploy" / "fleet.toml").read_text()
    hook = f'url = "{outside.where.http}/hooks/hook"\nallow_private = true'
    (tmp_path / "fleet.toml").write_text(shipped.replace('url = "https://hooks.example.com/fleet"', hook) + LACKING)
    monkeypatch.setenv("FLEET_HOOK_SECRET", SECRET)
    url = database._engine.url.render_as_string(hide_password=False)
    async with AsyncExitStack() as stack, Limiter(MemoryStore(), {}) as limiter:
        found = manifest.load(tmp_path / "fleet.toml")
        yield Shop(stack=stack, settings=Settings(database_url=url), manifest=found, limiter=limiter)


async def test_a_webhook_without_its_secret_keeps_no_other_from_being_delivered(shop, outside):
    with capture_logs() as logs:
        (send,) = (await shop.pool("webhook")).activities
    why = "endpoints.lacking.secret: env:NO_SUCH_SECRET is not set"
    assert [(line["endpoint"], line["why"].partition(":")[0]) for line in logs if "endpoint" in line] == [
        ("lacking", "endpoints.lacking.secret")
    ]
    call = {"type": "t", "data": {}}
    assert (
        await environment().run(send, asked("send_webhook", {"endpoint": "hook", **call}))
    ).state is EffectState.DONE
    with pytest.raises(ApplicationError, match=why) as raised:
        await environment().run(send, asked("send_webhook", {"endpoint": "lacking", **call}, step="4.1"))
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.TOOL_FAILED, True)


async def test_approvers_are_told_through_the_endpoints_that_lack_nothing(shop, outside):
    _, notify = (await shop.pool("approvals")).activities
    await environment().run(notify, Notice(approval=ASKED, what="opened", endpoint="hook", to=[]))
    assert len(await outside.get("/_hooks", name="hook")) == 1
    for endpoint, why in (("lacking", "secret: env:NO_SUCH_SECRET is not set"), ("ops", "url: env:NO_SUCH_ADDRESS is")):
        with pytest.raises(ApplicationError, match=f"endpoints.{endpoint}.{why}") as raised:
            await environment().run(notify, Notice(approval=ASKED, what="opened", endpoint=endpoint, to=[]))
        assert (raised.value.type, raised.value.non_retryable) == (FailureType.TOOL_FAILED, True)
