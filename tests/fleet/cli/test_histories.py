"""Histories by command: told, explained, compared, executed again, run again from a step."""

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client

from fleet.cli.replays import WORKFLOWS
from fleet.codec import Codec, data_converter
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalRule
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.runs import RunResult
from fleet.contracts.tools import EMAIL_SEND
from fleet.history import load, save
from fleet.keyring import Keyring
from fleet.settings import Settings
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests.fleet.cli.conftest import InProcess
from tests.fleet.fakes import Fakes, calls, opened, pays, run_input, says, started
from workers.effects.ledger import Ledger


@dataclass
class Ledgered(Fakes):
    """Effects that the real ledger keeps from being had twice."""

    ledger: Ledger | None = None

    @activity.defn(name=EMAIL_SEND.name)
    async def send(self, request: EffectRequest) -> EffectResult:
        assert self.ledger is not None
        call = {name: getattr(request, name) for name in ("tool", "digest", "run_id", "agent", "tenant", "arguments")}
        await self.ledger.intend(request.key, **call)
        claim = await self.ledger.claim(request.key)
        if not claim.mine:
            return EffectResult(state=claim.entry.state, content=claim.entry.result, evidence=claim.entry.evidence)
        had = await super().send(request)
        await self.ledger.record(request.key, claim.fence, had.state, result=had.content, evidence=had.evidence)
        return had


RECORDED = Path(__file__).parents[1] / "histories"
SEARCH, SEND = calls("search", query="x"), calls("send_email", to="a@b.c", subject="s", body="b")


@pytest.fixture
def offline(tmp_path):
    """Without any server."""
    return InProcess(tmp_path, {"TEMPORAL_ADDRESS": "127.0.0.1:1"})


def recorded(name):
    return str(RECORDED / f"{name}.json")


def test_a_file_is_told_without_a_server(offline):
    lines = offline.said("trace", recorded("amended")).splitlines()
    assert lines[0] == "amended: completed"
    assert any(
        line.startswith("  2.1  +") and "asks ann@example.com for leave: approved, human" in line for line in lines
    )
    assert any("vote      ann@example.com says amend (api): less" in line for line in lines)
    assert "  spent     3 steps, 45 tokens (30 in, of them 0 cached, 15 out), cost 0" in lines
    told = offline.document("trace", recorded("amended"))
    assert [step["name"] for step in told["steps"]] == ["0.1", "1", "1.1", "2", "2.1", "3"]
    assert sum(told["time_s"].values()) == pytest.approx(told["duration_s"], abs=1e-3)
    assert told["steps"][0]["request"]["tool"] == "recall"


def test_the_decision_behind_a_step_is_told(offline):
    said = offline.said("trace", recorded("amended"), "--why", "2.1")
    assert "amended, step 2.1: decided by call 2 of openai/m" in said
    assert "    * transfer " in said
    assert "left        search, send_email: offered, not asked for; the history has no reason" in said
    assert 'amended   {"amount": "7.00"' in said
    document = offline.document("trace", recorded("amended"), "--why", "2.1")
    assert document["not_chosen"] == ["search", "send_email"]
    assert "has no step '9'" in offline.refused("trace", recorded("amended"), "--why", "9")


def test_a_page_and_a_copy_are_written(offline, tmp_path):
    found = offline("trace", recorded("settled"), "--html", "page.html", "--save", "copy.json")
    assert (found.returncode, found.stdout) == (0, "")
    assert found.stderr.splitlines() == ["written to copy.json", "written to page.html"]
    assert "<svg" in (tmp_path / "page.html").read_text()
    # they hold what was decrypted
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("page.html", "copy.json")} == {0o600}
    assert offline.document("trace", "copy.json") == offline.document("trace", recorded("settled"))
    assert "No such file" in offline.refused("trace", recorded("settled"), "--html", "nowhere/page.html")


@pytest.mark.parametrize("command", [["trace"], ["replay"], ["diff", recorded("settled")]])
def test_a_file_that_there_is_not_is_refused(offline, command):
    assert "no such file" in offline.refused(*command, "nothing.json")


def test_runs_that_parted_are_told_side_by_side(offline):
    found = offline("diff", recorded("completed"), recorded("settled"))
    assert found.returncode == 1
    agents, *lines = found.stdout.splitlines()
    assert agents == "their agents are not the same: another definition, or another agent"
    assert lines[:3] == ["parted at step 2: tools", "  first   send_email", "  second  transfer"]
    assert any(line.split() == ["tokens", "45", "45"] for line in lines)
    document = json.loads(offline("diff", recorded("completed"), recorded("settled"), "--json").stdout)
    assert (document["same_path"], document["parted"]["step"], document["common"]) == (False, "2", ["1"])
    same = offline.document("diff", recorded("completed"), recorded("completed"))
    assert (same["same_path"], same["parted"]) == (True, None)


def test_recorded_histories_replay(offline):
    said = offline.said("replay", recorded("amended"), recorded("stopped")).splitlines()
    assert said[-1] == "2 of 2 runs replay on the code at hand"
    assert offline.said("replay", recorded("completed")) == "completed: 38 events replay\n"
    assert "one of both" in offline.refused("replay")


@pytest.mark.parametrize("command", ["trace", "replay"])
def test_a_history_whose_key_is_missing_is_told_in_one_line(offline, tmp_path, command):
    chain = load(Path(recorded("completed")))
    sealing = Codec("none", Keyring.parse(f"k1:{base64.b64encode(bytes(32)).decode()}"))
    (result,) = chain.executions[0].events[6].activity_task_completed_event_attributes.result.payloads
    result.CopyFrom(asyncio.run(sealing.encode([result]))[0])
    save(chain, tmp_path / "sealed.json")
    said = offline.refused(command, "sealed.json")
    assert "a payload is encrypted with the key 'k1', and FLEET_PAYLOAD_KEYS is not set" in said
    assert command == "trace" or "completed cannot be replayed: " in said


def test_a_history_that_diverges_is_told_in_two_lines(offline, tmp_path):
    said = json.loads(Path(recorded("completed")).read_text())
    for event in said["events"]:
        if event["eventType"] == "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED":
            event["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "llm.ponder"
            break
    (tmp_path / "other.json").write_text(json.dumps(said))
    found = offline("replay", "other.json")
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.splitlines() == [
        "completed: diverges at event 5, ActivityTaskScheduled of llm.ponder",
        "  the code at hand calls llm.chat there instead of llm.ponder",
    ]
    document = json.loads(offline("replay", "other.json", "--json").stdout)
    assert (document["ok"], document["histories"][0]["event_id"]) == (False, 5)


async def test_a_run_is_reset_only_when_told_so(operator, temporal, database):
    fakes = Ledgered(script=[SEND, says("done")], ledger=Ledger(database))
    async with started(temporal, fakes) as run:
        before = await run.result()
        shown = await operator.aside("reset", run.id, "--to", "1")
        assert shown.returncode == 0
        assert shown.stdout.splitlines() == [
            f"{run.id}: back to step 1 (workflow task of event 4)",
            "  again     1 llm.chat, 1.1 email.send, 2 llm.chat",
            "  not again 1.1 send_email: the ledger knows it as done, if the arguments are the same",
            "nothing is done yet: --yes does it",
        ]
        assert len(fakes.seen) == 2
        fakes.script = [says("never"), says("never"), SEND, says("again")]
        done = await operator.aside("reset", run.id, "--to", "1", "--reason", "better luck", "--yes", "--json")
        document = json.loads(done.stdout)
        assert (document["done"], document["audited"], document["not_again"]) == (True, True, ["1.1"])
        resumed = temporal.get_workflow_handle(run.id, result_type=RunResult)
        after = await resumed.result()
        assert (after.answer, after.effects) == ("again", before.effects)
        assert len(fakes.sent) == 1
        (row,) = json.loads((await operator.aside("audit", "--run", run.id, "--json")).stdout)
        assert (row["what"], row["comment"], row["detail"]["to"]) == ("run.reset", "better luck", "1")
        refused = await operator.aside("reset", run.id, "--to", "9", "--yes")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


async def test_a_run_whose_key_is_missing_is_neither_told_nor_reset(operator, temporal_address, tmp_path):
    (tmp_path / "keys").write_text(f"k1:{base64.b64encode(bytes(32)).decode()}")
    converter = data_converter(Settings(payload_keys=f"file:{tmp_path}/keys"))
    client = await Client.connect(temporal_address, data_converter=converter)
    run = await client.start_workflow(names.AGENT_WORKFLOW, run_input("q"), id=f"run-{uuid4()}", task_queue="nobody")
    for command in (["trace", run.id], ["reset", run.id, "--to", "1"]):
        refused = await operator.aside(*command)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            "fleet: a payload is encrypted with the key 'k1', and FLEET_PAYLOAD_KEYS is not set: set it\n"
        )
    await run.terminate()


async def test_runs_in_flight_are_replayed_by_query(operator, temporal):
    rule = ApprovalRule(tool="transfer", approvers=["ann@example.com"])
    async with started(temporal, Fakes(script=[SEARCH, pays()]), agent={"approvals": [rule]}) as run:
        await opened(run)
        for _ in range(200):
            found = await operator.aside("replay", "--query", f'WorkflowId="{run.id}"', "--json")
            document = json.loads(found.stdout)
            if document["runs"]:
                break
        assert (found.returncode, document["runs"], document["diverging"]) == (0, 1, 0)
        assert document["histories"][0]["workflow_type"] == "AgentWorkflow"
        live = json.loads((await operator.aside("trace", run.id, "--json")).stdout)
        assert (live["state"], live["ended_at"]) == ("running", None)
        assert live["time_s"]["human"] > 0
        await run.terminate()
    none = await operator.aside("replay", "--query", 'Agent="nobody"')
    assert (none.returncode, none.stdout) == (0, "no run in flight matches 'Agent=\"nobody\"': nothing was replayed\n")
    refused = await operator.aside("replay", "--query", "nonsense is")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


def test_the_code_at_hand_has_every_workflow_that_a_run_needs():
    assert {AgentWorkflow, EffectWorkflow} <= set(WORKFLOWS)
