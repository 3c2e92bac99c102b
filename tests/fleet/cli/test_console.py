"""`fleet console` as a process."""

import asyncio
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from fleet.contracts.approvals import Approval, ApprovalEvent, Ask
from fleet.links import Links
from tests.fleet.cli.conftest import PROGRAM, ROOT, Cli
from workers.effects.book import Book

KEY = "k" * 32


@pytest.fixture
def linked(operator):
    """With links in the manifest."""
    text = (ROOT / "deploy" / "fleet.toml").read_text()
    links = '\n[approvals]\nurl = "http://127.0.0.1"\nlink_key = "env:LINKS"\n'
    assert text.count("\n[approvals]") == 1
    (operator.folder / "linked.toml").write_text(text.replace("\n[approvals]", links))
    # it logs and listens to signals: a process of its own
    return Cli(operator.folder, operator.settings | {"FLEET_MANIFEST": "linked.toml", "LINKS": KEY})


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_the_console_serves_what_the_audit_knows_until_it_is_ended(linked, database, end):
    now = datetime.now(UTC)
    approval = Approval(
        id="gone/1.1", run_id="gone", agent="payer", tenant="t", ask=Ask.ALLOW, tool="transfer",
        arguments={"payee": "DE1"}, digest="d", why="w", goal="g", opened_at=now, expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    await Book(database).record(ApprovalEvent(approval=approval, what="opened", at=now))
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "console", "--port", "0", cwd=linked.folder, env=linked.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith("console at http://127.0.0.1:")
        address = line.removeprefix("console at ").strip()
        token = Links(address, KEY).link(approval, "ana@example.com")
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{address}/live")).text == "ok"
            page = await http.get(token, headers={"accept": "application/json"})
            assert page.json()["approval"]["arguments"] == {"payee": "DE1"}
            assert (await http.get(f"{address}/approvals/forged")).status_code == 404
            assert (await http.post(token, json={"decision": "approve"})).status_code == 409
        (row,) = [row for row in await Book(database).audit() if row.what == "approval.refused"]
        assert (row.subject, row.run_id, row.actor, row.channel) == ("gone/1.1", "gone", "ana@example.com", "link")
        assert "no run 'gone'" in row.comment
        process.send_signal(end)
        _, logged = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, b"Traceback" in logged) == (0, False), logged
        assert b'"ready"' in logged
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_console_that_cannot_serve_is_refused(linked, tmp_path):
    assert "LINKS is not set" in linked.refused("console", LINKS="")
    shipped = str(ROOT / "deploy" / "fleet.toml")
    assert 'add [approvals] with url = "' in linked.refused("console", FLEET_MANIFEST=shipped)
    port = linked.settings["TEMPORAL_ADDRESS"].partition(":")[2]
    assert "choose another with --host and --port" in linked.refused("console", "--port", port)
    none = f"sqlite+aiosqlite:///{tmp_path}/none.db"
    assert "fleet db upgrade" in linked.refused("console", "--port", "0", FLEET_DATABASE_URL=none)
