"""`fleet dev`, and the commands of somebody who works with it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic

import psutil
import pytest

ROOT = Path(__file__).parents[2]
FLEET = str(Path(sys.executable).parent / "fleet")
FREE_PORTS = ("--temporal-port", "0", "--ui-port", "0", "--redis-port", "0")


class Dev:
    """A folder in which `fleet dev` runs."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))}
        (folder / "deploy").mkdir()
        (folder / "deploy" / "fleet.toml").write_text((ROOT / "deploy" / "fleet.toml").read_text())
        self.process = None

    def start(self, *options):
        self.process = subprocess.Popen(
            [FLEET, "dev", *FREE_PORTS, *options], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("ready"):
                return "".join(said)
        raise AssertionError("".join(said))

    def call(self, *arguments):
        return subprocess.run(
            [FLEET, *arguments], cwd=self.folder, env=self.environment, text=True, capture_output=True, timeout=90,
            check=False,
        )  # fmt: skip

    def answer(self, *arguments):
        found = self.call(*arguments)
        assert found.returncode == 0, found
        return found.stdout

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


@pytest.fixture
def dev(tmp_path):
    found = Dev(tmp_path)
    yield found
    if found.process and found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


@pytest.mark.trial
def test_a_run_is_started_followed_stopped_told_and_listed_and_survives_a_restart(dev):
    dev.start("--pools", "agents=1,llm=1")
    # out of reach of every burst: a run waits for quota until it is stopped
    text = (dev.folder / "deploy" / "fleet.toml").read_text()
    slow = text.replace('rate = "90k/m", burst = "15k"', 'rate = "450/h", burst = 450')
    dev.answer("run", "mailer", "Say hello", "--id", "before", "--wait")
    again = dev.call("dev")
    assert again.returncode == 2
    assert f"pid {dev.process.pid}" in again.stderr
    assert dev.stop() == 0

    assert "Web UI http://127.0.0.1:" in dev.start()
    children = psutil.Process(dev.process.pid).children(recursive=True)
    answer = dev.answer("run", "researcher", "What does the module heapq do? To a@b.com.", "--wait", "--id", "r1")
    assert re.search(r"heapq.* \[1\]\n", answer)
    assert "(python/heapq)" in answer
    listed = {run["id"]: run for run in json.loads(dev.answer("ps", "--json"))}
    assert listed.keys() == {"before", "r1"}
    assert (listed["r1"]["state"], listed["r1"]["agent"]) == ("completed", "researcher")
    assert "r1" in dev.answer("ps")
    shown = json.loads(dev.answer("show", "r1", "--json"))
    assert shown["result"]["outcome"] == "completed"
    assert "a@b.com" in dev.answer("show", "r1")
    told = json.loads(dev.answer("trace", "r1", "--json"))
    assert [step["what"] for step in told["steps"]] == [
        "llm.chat", "search.query", "llm.chat", "search.fetch", "llm.chat", "email.send", "llm.chat",
    ]  # fmt: skip
    assert all(step["duration_s"] > 0 and step["attempts"] == 1 for step in told["steps"])
    assert "You research one question" in told["input"]["agent"]["instructions"]
    story = dev.answer("trace", "r1", "--full")
    assert 'called    send_email({"' in story
    assert answer.strip() in story
    again = dev.call("run", "researcher", "What does the module json do? To a@b.com.", "--id", "r1")
    assert again.returncode == 2
    assert "'r1' exists already" in again.stderr
    doctor = json.loads(dev.answer("doctor", "--json"))
    assert doctor["ok"] is True
    assert {f["component"] for f in doctor["findings"]} >= {"temporal", "redis", "database", "providers.openai"}
    assert dev.stop() == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    gone = dev.call("ps")
    assert (gone.returncode, len(gone.stderr.splitlines())) == (2, 1)

    (dev.folder / "deploy" / "fleet.toml").write_text(slow)
    dev.start("--pools", "agents=1,llm=1")
    dev.answer("run", "researcher", "What does the module heapq do?", "--id", "slow")
    waiting = until(lambda: json.loads(dev.answer("show", "slow", "--json"))["waits_for"], "openai/sim-large tokens")
    assert "waits for openai/sim-large tokens: about" in waiting
    (call,) = json.loads(dev.answer("why", "slow", "--json"))["waits_for"]
    assert (call["kind"], call["scope"], call["limit"]) == ("quota", "openai/sim-large", "tokens")
    assert dev.answer("why", "slow").startswith("slow waits for openai/sim-large tokens: about ")
    dev.answer("stop", "slow", "--reason", "enough")
    assert until(lambda: dev.answer("why", "slow"), "waits for nothing: it is completed")
    assert "stopped" in until(lambda: json.loads(dev.answer("show", "slow", "--json"))["result"], "enough")
    assert "signal stop: enough" in dev.answer("trace", "slow")
    assert dev.stop() == 0


def until(look, word):
    """What `look` answers once the word is in it."""
    deadline = monotonic() + 60
    while word not in (said := json.dumps(look())):
        assert monotonic() < deadline, said
    return said


def test_a_port_that_is_taken_is_one_line(dev):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        found = dev.call("dev", *FREE_PORTS, "--temporal-port", str(port))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert f"port {port} (temporal) is taken by pid {os.getpid()}" in found.stderr
