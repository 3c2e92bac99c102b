"""Stopping and steering runs, one and many."""

import time
from uuid import uuid4

import pytest
from temporalio.client import WorkflowExecutionStatus

from fleet import manifest
from fleet.cli import context
from fleet.cli.audit import Auditor
from fleet.cli.steering import ACTS, each
from fleet.client import FleetClient
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalEvent, ApprovalState
from fleet.settings import Settings
from tests.fleet.cli.conftest import ROOT
from tests.fleet.cli.test_approvals import open_approval
from workers.effects.book import Book


@pytest.fixture
def runs(operator):
    """Start runs that no worker serves, and wait until a query finds them."""

    def start(count: int) -> tuple[str, list[str]]:
        tenant = f"t-{uuid4().hex}"
        query = f'Tenant="{tenant}"'
        ids = [operator.said("run", "mailer", "send it", "--tenant", tenant).strip() for _ in range(count)]
        deadline = time.monotonic() + 20
        while sorted(operator.document("stop", "--query", query, "--dry-run")["matched"]) != sorted(ids):
            assert time.monotonic() < deadline, "visibility does not find the runs"
        return query, ids

    return start


def signals(operator, run_id: str) -> list[str]:
    return [note["what"] for note in operator.document("trace", run_id)["notes"]]


def test_each_act_reaches_its_run_and_the_audit(operator, runs):
    _, (run,) = runs(1)
    assert operator.said("pause", run, "--reason", "audit") == f"{run}: paused\n"
    assert operator.said("resume", run) == f"{run}: resumed\n"
    assert operator.said("tell", run, "hurry up") == f"{run}: told\n"
    assert operator.document("stop", run) == {"act": "stop", "run": run, "audited": True}
    assert operator.said("cancel", run) == f"{run}: asked to cancel\n"
    assert operator.said("terminate", run, "--reason", "enough") == f"{run}: terminated\n"
    assert "has ended already (terminated)" in operator.refused("stop", run)
    heard = signals(operator, run)
    for what in ("signal pause: audit", "signal resume: ", "signal tell: hurry up", "signal stop: ", "cancel"):
        assert any(note.startswith(what) for note in heard), (what, heard)
    rows = operator.document("audit", "--run", run)
    assert [row["what"] for row in reversed(rows)] == [
        "run.paused", "run.resumed", "run.told", "run.stopped", "run.cancelled", "run.terminated",
    ]  # fmt: skip
    assert {(row["subject"], row["channel"], bool(row["actor"])) for row in rows} == {(run, "cli", True)}
    assert (rows[0]["comment"], rows[3]["comment"]) == ("enough", "hurry up")


def test_all_runs_of_a_query_are_stopped(operator, runs):
    query, ids = runs(3)
    listed = operator.said("stop", "--query", query, "--dry-run")
    assert listed.splitlines()[-1] == "3 running runs would be stopped"
    assert sorted(listed.splitlines()[:-1]) == sorted(ids)
    assert all(signals(operator, run) == [] for run in ids)
    found = operator("stop", "--query", query, "--reason", "wrong prompt")
    assert (found.returncode, found.stdout, found.stderr) == (0, "stopped 3 of 3\n", "3 running runs match\n")
    for run in ids:
        assert signals(operator, run) == ["signal stop: wrong prompt"]
        (row,) = operator.document("audit", "--subject", run)
        assert (row["what"], row["comment"], row["detail"]) == ("run.stopped", "wrong prompt", {"query": query})
    assert operator.said("tell", "--query", query, "be quick") == "told 3 of 3\n"
    assert {one["id"] for one in operator.document("ps", "--query", query)} == set(ids)
    done = operator.document("terminate", "--query", query)
    assert (sorted(done["done"]), done["matched"], done["ended"], done["failed"]) == (sorted(ids), 3, [], {})


async def test_what_a_terminated_run_has_asked_is_closed(operator, temporal, database):
    client, book = FleetClient(temporal, manifest.load(ROOT / "deploy" / "fleet.toml")), Book(database)
    tenant = f"t-{uuid4().hex}"
    runs = [await client.start("mailer", "send it", tenant=tenant) for _ in range(2)]
    for run in (*runs, "another"):
        asked = open_approval(id=f"{run}/1.1", run_id=run)
        await book.record(ApprovalEvent(approval=asked, what="opened", at=asked.opened_at))
    assert (await operator.aside("terminate", runs[0])).returncode == 0
    deadline = time.monotonic() + 20
    query = f'Tenant="{tenant}"'
    while f"{runs[1]}" not in (await operator.aside("ps", "--query", query)).stdout:
        assert time.monotonic() < deadline, "visibility does not find the run"
    assert (await operator.aside("terminate", "--query", query)).returncode == 0
    assert [one.run_id for one in await book.approvals(state=ApprovalState.OPEN)] == ["another"]
    for run in runs:
        ended = await book.get(f"{run}/1.1")
        assert ended.state is ApprovalState.WITHDRAWN
        assert ended.reason == f"the run was terminated by {context.user()}"
        assert [row.what for row in await book.audit(subject=ended.id)] == ["withdrawn", "opened"]


def test_a_query_that_names_nothing_stops_nothing(operator):
    found = operator("stop", "--query", 'Tenant="nobody"')
    assert (found.returncode, found.stdout) == (0, "stopped 0 of 0\n")


async def test_what_goes_wrong_with_one_run_holds_up_no_other(operator, temporal, database_url, database, capsys):
    shipped = manifest.load(ROOT / "deploy" / "fleet.toml")
    client = FleetClient(temporal, shipped)
    running, over = [await client.start("mailer", "send it") for _ in range(2)]
    await client.terminate(over, "over")
    async with Auditor(Settings(database_url=database_url)) as auditor:
        outcome = await each(client, ACTS["cancel"], [over, "nobody", running], "", auditor, query="q")
    assert (outcome.done, outcome.ended, list(outcome.failed)) == ([running], [over], ["nobody"])
    assert capsys.readouterr().err == "fleet: nobody: no run 'nobody': `fleet ps` lists them\n"
    (row,) = await Book(database).audit()
    assert (row.what, row.subject) == ("run.cancelled", running)
    described = await client.handle(running).describe()
    assert described.raw_info.type.name == names.AGENT_WORKFLOW
    assert described.status is WorkflowExecutionStatus.RUNNING
    await client.terminate(running, "over")


def test_without_the_database_the_act_is_done_and_the_audit_named(operator, runs, tmp_path):
    query, (run, _) = runs(2)
    none = {"FLEET_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/none.db"}
    found = operator("stop", run, **none)
    assert (found.returncode, found.stdout) == (0, f"{run}: asked to stop\n")
    assert found.stderr.startswith("fleet: the audit was not written: there is no database")
    assert len(found.stderr.splitlines()) == 1
    assert signals(operator, run) == ["signal stop: stopped by an operator"]
    many = operator("pause", "--query", query, "--json", **none)
    assert many.returncode == 0
    assert '"audited": false' in many.stdout
    assert "the audit of 2 acts was not written" in many.stderr
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("act", [name for name in ACTS if name != "tell"])
def test_exactly_one_of_run_and_query_is_wanted(operator, act):
    assert """--query 'Agent="payer" AND Tenant="acme"'""" in operator.refused(act)
    assert "one of both" in operator.refused(act, "a", "--query", "b")
    assert "give a query" in operator.refused(act, "a", "--dry-run")
    assert "no run 'nobody'" in operator.refused(act, "nobody")


def test_a_message_must_say_something_to_somebody(operator):
    for words in (["hello"], ["a", "b", "c"], ["a", "b", "--query", "c"]):
        assert "fleet tell RUN MESSAGE" in operator.refused("tell", *words)
    assert "it must say something" in operator.refused("tell", "a", " ")
    assert "10000 at most" in operator.refused("tell", "--query", "a", "x" * 10_001)


def test_a_query_that_temporal_does_not_understand_is_one_line(operator):
    assert "query 'Agent=='" in operator.refused("stop", "--query", "Agent==")
    assert "query 'Agent=='" in operator.refused("ps", "--query", "Agent==")
