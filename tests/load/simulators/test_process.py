"""The simulators as a process of their own, on the loop that is installed."""

import asyncio
import json
import smtplib
import sys
import time

import httpx2
import pytest

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
KEY = {"authorization": "Bearer sk-a"}


@pytest.fixture
async def where(tmp_path):
    ready, ledger = tmp_path / "ready.json", tmp_path / "ledger.jsonl"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "load.simulators", "--ready-file", str(ready), "--maildir", str(tmp_path / "Maildir"),
        "--ledger-file", str(ledger),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not ready.exists():
        assert process.returncode is None
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    yield json.loads(ready.read_text())
    process.terminate()
    assert await process.wait() == 0
    assert [json.loads(line)["seq"] for line in ledger.read_text().splitlines()] == [1, 2]


def send(port):
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], b"Subject: s\r\n\r\ntext")


async def test_it_takes_mail_breaks_connections_and_writes_everything_down_before_it_ends(where):
    async with httpx2.AsyncClient(base_url=where["http"], headers=KEY) as http:
        await http.post("/_fault", json={"provider": "smtp", "drop": True})
        await http.post("/_fault", json={"provider": "openai", "drop": True, "after": False})
        with pytest.raises(smtplib.SMTPServerDisconnected):
            await asyncio.to_thread(send, where["smtp_port"])
        with pytest.raises(httpx2.TransportError):
            await http.post("/v1/chat/completions", json=ASK)
        assert (await http.get("/_mail/summary")).json()["delivered"] == 1
