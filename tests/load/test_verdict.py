"""Each invariant has a planted fault that the verdict finds."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet import manifest as manifests
from fleet.contracts.llm import ChatResult, Message, QuotaUse, Role, Usage
from fleet.contracts.runs import Outcome, RunResult
from fleet.history import Step, Story
from load.verdict import Evidence, judge
from load.watch import Sample
from ratelimit.limiter import Snapshot
from ratelimit.places import Counters

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"
MODEL, RELAY = "openai/sim-large", "email/relay"
RATE = 90_000 / 60
BEGIN = 1_000_000.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(at, tokens=0.0, outcome="ok", model="sim-large"):
    return {"wall": at, "model": model, "outcome": outcome, "charged": {"requests": 1.0, "tokens": tokens}}


def story(number, wait_s):
    result = ChatResult(
        message=Message(role=Role.ASSISTANT, content="done"),
        usage=Usage(),
        finish_reason="stop",
        quota=QuotaUse(scope=MODEL, waited_s=wait_s, cost={"tokens": 1.0}),
    )
    step = Step(
        number=1,
        what="llm.chat",
        task_queue="llm",
        request=None,
        scheduled_at=NOW,
        result=result,
    )
    return Story(run_id=f"run-{number}", state="completed", steps=[step])


@pytest.fixture
def evidence():
    """Two agents that did well: 60 s of queueing in which 98 % of the tokens were used."""
    manifest = manifests.load(MANIFEST)
    seen = Snapshot(scope=MODEL, configured=True, counters=Counters(calls=30, grants=20))
    outcomes = {
        "openai": {"models": {"sim-large": {"outcomes": {"ok": 60}}}},
        "smtp": {"models": {"": {"outcomes": {"ok": 2}}}},
    }
    return Evidence(
        manifest=manifest,
        snapshots={MODEL: seen, RELAY: seen},
        summary={"providers": outcomes},
        rows={"openai": [row(BEGIN + n, 0.98 * RATE) for n in range(60)], "smtp": []},
        mail={"delivered": 2, "unique": 2, "duplicates": 0},
        stories=[story(1, 1.0), story(2, 3.0)],
        samples={MODEL: [Sample(at=BEGIN + n / 2, queued=True) for n in range(121)], RELAY: []},
        processes={"agents": 1, "llm": 2},
        restarts={"agents": 0, "llm": 1},
    )


RESULTS = {f"run-{n}": RunResult(outcome=Outcome.COMPLETED, answer="done") for n in (1, 2)}


def test_all_is_well_and_the_document_says_so(evidence):
    document = judge(evidence, RESULTS, 2, 61.0).document
    assert document["ok"] is True
    assert document["agents"] == {"started": 2, "completed": 2, "failed": 0}
    assert document["emails"] == {"expected": 2, "delivered": 2, "duplicates": 0}
    quota = document["quotas"][MODEL]
    assert quota["limit"] == {"requests": 600.0, "tokens": 90_000.0}
    assert (quota["granted"], quota["provider_429"], quota["script_calls_per_grant"]) == (60, 0, 1.5)
    assert quota["utilisation"] == pytest.approx(0.98, abs=0.001)
    assert (quota["wait_p50_s"], quota["wait_p99_s"]) == (3.0, 3.0)
    assert document["pools"]["llm"] == {"processes": 2, "tasks": 2, "restarts": 1}


def broken(evidence, results=RESULTS, expected=2):
    found = judge(evidence, results, expected, 61.0)
    assert found.document["ok"] is not bool(found.broken)
    return found.broken


def test_an_agent_that_did_not_complete_is_found(evidence):
    stopped = {**RESULTS, "run-2": RunResult(outcome=Outcome.BUDGET_EXHAUSTED, answer="")}
    assert broken(evidence, stopped) == ["1 of 2 agents did not complete"]
    assert "1 of 3 agents did not complete" in broken(evidence, expected=3)


def test_mail_that_is_missing_or_twice_there_is_found(evidence):
    lost = replace(evidence, mail={"delivered": 1, "unique": 1, "duplicates": 0})
    assert broken(lost) == ["1 of 2 e-mails were delivered"]
    twice = replace(evidence, mail={"delivered": 3, "unique": 2, "duplicates": 1})
    assert broken(twice) == ["1 e-mails were delivered twice"]


def test_a_429_in_the_providers_ledger_is_found(evidence):
    outcomes = {"openai": {"models": {"sim-large": {"outcomes": {"ok": 60, "429": 1}}}}}
    assert broken(replace(evidence, summary={"providers": outcomes})) == [f"{MODEL}: the provider answered 429 1 times"]


def test_a_provider_is_found_in_the_ledger_whatever_the_manifest_calls_it(evidence, tmp_path):
    renamed = MANIFEST.read_text().replace("[providers.openai]", "[providers.main]").replace('"openai/', '"main/')
    (tmp_path / "fleet.toml").write_text(renamed)
    main = "main/sim-large"
    outcomes = {"openai": {"models": {"sim-large": {"outcomes": {"ok": 60, "429": 2}}}}}
    found = replace(
        evidence,
        manifest=manifests.load(tmp_path / "fleet.toml"),
        snapshots={main: evidence.snapshots[MODEL], RELAY: evidence.snapshots[RELAY]},
        samples={main: evidence.samples[MODEL], RELAY: []},
        summary={"providers": outcomes},
    )
    assert broken(found) == [f"{main}: the provider answered 429 2 times"]


def test_a_quota_that_lies_idle_while_work_is_queued_is_found(evidence):
    idle = replace(evidence, rows={**evidence.rows, "openai": evidence.rows["openai"][:30]})
    assert broken(idle) == [f"{MODEL}: used 49% of the quota while work was queued"]


def test_refused_calls_are_no_use_of_a_quota(evidence):
    rows = [{**r, "outcome": "500"} if n % 10 == 0 else r for n, r in enumerate(evidence.rows["openai"])]
    assert "used 88%" in broken(replace(evidence, rows={**evidence.rows, "openai": rows}))[0]


def test_without_a_queue_nothing_is_said_about_utilisation(evidence):
    samples = {**evidence.samples, MODEL: [Sample(at=BEGIN + n, queued=n % 10 < 5) for n in range(60)]}
    assert (
        broken(replace(evidence, samples=samples, rows={**evidence.rows, "openai": [row(BEGIN), row(BEGIN + 60)]}))
        == []
    )
