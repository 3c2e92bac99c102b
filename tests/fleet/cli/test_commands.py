"""The command line as a user meets it: a process, its output, its exit code."""

import json
import socket
import subprocess
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

from fleet.contracts.names import SEARCH_ATTRIBUTES
from tests.fleet.cli.conftest import ROOT
from tests.fleet.fakes import Fakes, says, serving, start


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(found: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear line on stderr, nothing on stdout, exit code 2."""
    assert found.returncode == 2, found
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    lines = found.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]


def test_help_lists_the_commands(fleet):
    found = fleet("--help")
    assert found.returncode == 0
    commands = (
        "demo", "dev", "worker", "console", "init", "check", "doctor", "run", "ps", "show", "trace", "why", "stop",
        "cancel", "terminate", "tell", "pause", "resume", "approvals", "effects", "memory", "audit", "db", "quota",
        "corpus",
    )  # fmt: skip
    for command in commands:
        assert f"  {command} " in found.stdout


def test_check_finds_no_problem_in_the_shipped_manifest(fleet):
    found = fleet("check", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["ok"] is True


def test_check_tells_quotas_that_contradict_each_other(fleet, tmp_path):
    text = (ROOT / "deploy" / "fleet.toml").read_text()
    nested = text + '\n[quotas."openai/sim-large/*"]\ntokens = "900k/m"\n'
    (tmp_path / "nested.toml").write_text(nested)
    refused(
        fleet("check", "--manifest", "nested.toml"), "openai/sim-large/*: tokens", "lower the one or raise the other"
    )
    (tmp_path / "nested.toml").write_text(nested.replace("900k", "9k"))
    assert fleet("check", "--manifest", "nested.toml").returncode == 0


def test_check_tells_every_problem_at_once(fleet, tmp_path):
    broken = (
        (ROOT / "deploy" / "fleet.toml").read_text().replace('"600/m"', '"lots"').replace('"search", ', '"serch", ', 1)
    )
    (tmp_path / "broken.toml").write_text(broken)
    found = fleet("check", "--manifest", "broken.toml")
    assert found.returncode == 2
    assert [line.split(": ")[2] for line in found.stderr.splitlines()] == [
        'quotas."openai/sim-large".requests',
        "agents.researcher.tools",
    ]


def test_the_doctor_asks_whether_endpoints_and_links_have_their_secrets(operator, tmp_path):
    text = (ROOT / "deploy" / "fleet.toml").read_text()
    links = '\n[approvals]\nurl = "https://fleet.example.com"\nlink_key = "env:LINKS"\n'
    slack = '\n[endpoints.ops]\nkind = "slack"\nurl = "env:OPS"\n'
    assert text.count("\n[approvals]") == 1
    (tmp_path / "fleet.toml").write_text(text.replace("\n[approvals]", links) + slack)

    def found(**environment):
        told = operator(
            "doctor", "--json", "--manifest", "fleet.toml", FLEET_REDIS_URL="redis://127.0.0.1:1", **environment
        )
        findings = json.loads(told.stdout)["findings"]
        return {f["component"]: (f["ok"], f["detail"]) for f in findings if f["component"].startswith(("end", "appr"))}

    hook, ops, key = "endpoints.hook", "endpoints.ops", "approvals.link_key"
    bad = found()
    assert list(bad) == [hook, ops, key]
    assert [ok for ok, _ in bad.values()] == [False] * 3
    assert "endpoints.hook.secret: env:FLEET_HOOK_SECRET is not set" in bad[hook][1]
    assert bad[ops][1] == "endpoints.ops.url: env:OPS is not set"
    assert bad[key][1] == "approvals.link_key: env:LINKS is not set"
    wrong = found(FLEET_HOOK_SECRET="whsec_!", OPS="hush", LINKS="short")
    assert [ok for ok, _ in wrong.values()] == [False] * 3
    assert "not base64" in wrong[hook][1]
    assert wrong[ops][1] == "endpoints.ops.url: is no http:// or https:// URL"
    assert "32 are the least" in wrong[key][1]
    well = found(FLEET_HOOK_SECRET="whsec_c2lnbmVkLWJ5", OPS="https://hooks.example.com/hush", LINKS="k" * 32)
    assert [ok for ok, _ in well.values()] == [True] * 3
    assert not [detail for _, detail in well.values() if "hush" in detail or "kkk" in detail]


def test_an_unknown_command_is_refused(fleet):
    refused(fleet("rnu"), "rnu")


def test_a_manifest_that_is_not_there_is_refused(fleet):
    refused(fleet("ps", "--manifest", "none.toml"), "none.toml", "--manifest")


def test_temporal_that_does_not_answer_is_one_line(fleet):
    address = f"127.0.0.1:{_closed_port()}"
    refused(fleet("ps", TEMPORAL_ADDRESS=address), address, "fleet dev")


def test_a_bad_setting_is_named_with_its_value(fleet):
    refused(fleet("ps", FLEET_LOG_LEVEL="loud"), "FLEET_LOG_LEVEL", "loud")


def test_an_unknown_pool_is_refused_before_anything_connects(fleet):
    refused(fleet("worker", "serch"), "serch", "agents, llm, search, email")


@pytest.mark.parametrize("pools", ["llm=x", "llm=0", "lm=1", "llm"])
def test_a_malformed_list_of_pools_is_refused(fleet, pools):
    refused(fleet("demo", "--pools", pools), "--pools")


def test_a_live_demo_without_a_key_is_refused(fleet):
    found = fleet("demo", "--live", OPENAI_API_KEY="", ANTHROPIC_API_KEY="")
    refused(found, "OPENAI_API_KEY")


def test_a_run_of_an_unknown_agent_names_those_there_are(fleet, temporal_address):
    refused(
        fleet("run", "researchr", "x", TEMPORAL_ADDRESS=temporal_address),
        "researchr",
        "analyst, mailer, payer, researcher",
    )


def test_an_empty_goal_is_refused(fleet, temporal_address):
    refused(fleet("run", "researcher", " ", TEMPORAL_ADDRESS=temporal_address), "goal is empty")


def test_an_unknown_run_is_refused(fleet, temporal_address):
    for command in ("show", "trace", "stop"):
        refused(fleet(command, "nobody", TEMPORAL_ADDRESS=temporal_address), "nobody", "fleet ps")


def test_a_run_is_started_listed_shown_and_stopped_without_a_worker(fleet, temporal_address):
    started = fleet("run", "researcher", "find out", "--id", "cli-1", TEMPORAL_ADDRESS=temporal_address)
    assert (started.returncode, started.stdout.strip()) == (0, "cli-1")
    refused(fleet("run", "researcher", "again", "--id", "cli-1", TEMPORAL_ADDRESS=temporal_address), "cli-1", "exists")
    listed = json.loads(fleet("ps", "--json", "--state", "running", TEMPORAL_ADDRESS=temporal_address).stdout)
    assert {"id": "cli-1", "agent": "researcher", "goal": "find out"}.items() <= next(
        r for r in listed if r["id"] == "cli-1"
    ).items()
    told = json.loads(fleet("trace", "cli-1", "--json", TEMPORAL_ADDRESS=temporal_address).stdout)
    assert (told["state"], told["input"]["goal"], told["steps"]) == ("running", "find out", [])
    assert fleet("stop", "cli-1", TEMPORAL_ADDRESS=temporal_address).returncode == 0


def test_who_is_told_the_end_is_part_of_the_run(operator):
    run = operator.said("run", "mailer", "send it", "--tell", "hook", "--tell", "hook").strip()
    told = operator.document("trace", run)["input"]["tell"]
    assert told == [{"endpoint": "hook", "task_queue": "webhook"}]
    assert "'approvers' is no webhook endpoint; there are: hook" in operator.refused(
        "run", "mailer", "x", "--tell", "approvers"
    )


async def test_a_paused_run_says_so(operator, temporal):
    queue = f"q-{uuid4().hex}"
    run = await start(temporal, queue)
    assert (await operator.aside("pause", run.id, "--reason", "the bank is closed")).returncode == 0
    async with serving(temporal, Fakes(script=[says("done")]), queue):
        deadline = time.monotonic() + 20
        while "paused   the bank is closed; fleet resume" not in (
            shown := (await operator.aside("show", run.id)).stdout
        ):
            assert time.monotonic() < deadline, shown
        assert "tokens, cost 0" in shown
        assert (await operator.aside("resume", run.id)).returncode == 0
        await run.result()
        ended = (await operator.aside("show", run.id)).stdout
        assert "outcome  completed" in ended
        assert "spent    1 steps, 15 tokens, cost 0" in ended
        assert json.loads((await operator.aside("show", run.id, "--json")).stdout)["result"]["recalled"] == 0


async def test_a_namespace_is_prepared_once(operator, temporal):
    namespace = f"n-{uuid4().hex}"
    kept = Duration(seconds=int(timedelta(days=1).total_seconds()))
    await temporal.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=namespace, workflow_execution_retention_period=kept)
    )
    operator.settings["TEMPORAL_NAMESPACE"] = namespace
    names = ", ".join(SEARCH_ATTRIBUTES)
    deadline = time.monotonic() + 30
    while (found := await operator.aside("init")).returncode:
        assert "Namespace" in found.stderr, found
        assert time.monotonic() < deadline, found
    assert found.stdout == f"namespace {namespace!r}: registered the search attributes {names}\n"
    deadline = time.monotonic() + 30
    while (
        again := await operator.aside("init")
    ).stdout != f"namespace {namespace!r}: knows the search attributes {names} already\n":
        assert time.monotonic() < deadline, again


def test_a_namespace_that_there_is_not_cannot_be_prepared(operator):
    assert "Temporal: " in operator.refused("init", TEMPORAL_NAMESPACE="none")


@pytest.mark.trial
def test_short_commands_end_with_exit_code_zero(fleet, temporal_address):
    codes = [fleet("ps", "--json", TEMPORAL_ADDRESS=temporal_address).returncode for _ in range(10)]
    assert codes == [0] * 10
