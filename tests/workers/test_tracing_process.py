"""One trace over real processes: the command, the workers of the agents, of the models and of the mail."""

import asyncio
import json
import subprocess
import sys
import time

import pytest

from fleet import manifest as manifests
from fleet.client import FleetClient
from fleet.contracts.runs import Outcome
from tests.workers.collector import collecting
from tests.workers.test_worker_process import HOOK_SECRET, Bench, _fill_corpus, ended
from workers.database import upgrade
from workers.otlp import LAST_S, TIMEOUT_S

GOAL = "What does the module heapq do? E-mail it to a@example.com."


@pytest.fixture
async def bench(tmp_path, simulators, temporal_address, valkey):
    options = {"bank": {"keys": ["sk-test-bank"]}, "hooks": {"secrets": {"hook": HOOK_SECRET}}}
    found = Bench(tmp_path, await simulators(**options), temporal_address, valkey)
    await upgrade(found.ledger)
    _fill_corpus(found)
    return found


async def fleet(bench, *argv, **environment):
    """What a command has said."""
    found = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "fleet.cli.main", *argv], env=bench.environment | environment,
        cwd=bench.folder, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


async def test_a_run_over_four_processes_is_one_trace(bench, temporal):
    with collecting() as collector:
        asked = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        async with (
            bench.working("agents", **asked) as (agents, _),
            bench.working("llm", **asked) as (llm, _),
            bench.working("search", "email", "memory", **asked) as (hands, _),
        ):
            run_id = await fleet(bench, "run", "researcher", GOAL, **asked)
            result = await FleetClient(temporal, manifests.load(bench.manifest)).result(run_id)
            logs = []
            for process in (agents, llm, hands):
                code, log = await asyncio.to_thread(ended, process)
                assert code == 0
                logs += log
        await asyncio.to_thread(collector.waited_for, 1, "invoke_agent")
    assert result.outcome is Outcome.COMPLETED
    assert not [line for line in logs if line["level"] in ("warning", "error")]
    assert {encoding for _, encoding in collector.requests} == {"gzip"}
    start = collector.one("start researcher")
    run, effect = collector.one("invoke_agent researcher"), collector.one("execute_tool send_email")
    assert start.parent == ""
    assert {span.trace for span in collector.spans} == {start.trace}
    by_id = {span.id: span for span in collector.spans}
    assert len(by_id) == len(collector.spans)
    lost = [span.name for span in collector.spans if span.parent and span.parent not in by_id]
    assert lost == []
    assert by_id[run.parent] is start
    assert by_id[effect.parent] is run
    sent = collector.one("have send_email")
    assert by_id[sent.parent].name == "email.send"
    assert by_id[by_id[sent.parent].parent] is effect
    assert sent.attributes["fleet.effect.key"] == effect.attributes["fleet.effect.key"]
    chats = collector.named("chat ")
    assert len(chats) == 4
    assert {by_id[chat.parent].name for chat in chats} == {"llm.chat"}
    assert {by_id[by_id[chat.parent].parent].name for chat in chats} == {"invoke_agent researcher"}
    for chat in chats:
        assert chat.attributes["gen_ai.operation.name"] == "chat"
        assert chat.attributes["gen_ai.conversation.id"] == run_id
        assert chat.attributes["gen_ai.usage.input_tokens"] > 0
        assert chat.attributes["gen_ai.response.finish_reasons"] in (["stop"], ["tool_calls"])
    # each process is one, and says which
    assert {span.service for span in collector.spans} == {"fleet-cli", "fleet-worker"}
    of = {span.instance: set() for span in collector.spans}
    for span in collector.spans:
        of[span.instance].add(span.name.split()[0])
    assert len(of) == 4
    assert {"chat", "llm.chat"} in of.values()
    whole = json.dumps([(span.name, span.attributes, span.events) for span in collector.spans])
    for content in ("heapq", "a@example.com", *bench.secrets):
        assert content not in whole


async def test_a_collector_that_never_answers_slows_no_run_and_no_exit(bench, temporal):
    client = FleetClient(temporal, manifests.load(bench.manifest))

    async def ran(**asked):
        async with bench.working("agents", "llm", "search", "email", "memory", **asked) as (process, _):
            began = time.monotonic()
            result = await asyncio.wait_for(client.result(await client.start("researcher", GOAL)), 60)
            ran_s, began = time.monotonic() - began, time.monotonic()
            code, log = await asyncio.to_thread(ended, process)
            ended_s = time.monotonic() - began
        assert (result.outcome, code, log[-1]["event"]) == (Outcome.COMPLETED, 0, "stopped")
        return ran_s, ended_s

    ran_s, ended_s = await ran()
    with collecting(hangs=True) as collector:
        asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with_traces_s, ended_with_s = await ran(**asked)
        assert collector.requests
    # one that was waited for once would cost its timeout of five seconds
    assert with_traces_s < ran_s + TIMEOUT_S - 1
    assert ended_with_s < ended_s + LAST_S + 1
