"""`fleet batch …`: inputs are checked before anything starts, and a batch can be followed, steered and read."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.worker import Worker

from fleet.contracts.tools import ToolResult
from fleet.workflows.batch import BatchWorkflow
from tests.fleet.fakes import Fakes
from workers.pool import SANDBOX
from workers.tools.batch import BatchTools

SEARCH = ("--tool", "search")


@pytest.fixture
def fakes():
    return Fakes(search=lambda request: ToolResult(content=json.dumps({"of": request.arguments["query"]})))


@pytest.fixture
async def working(temporal, database, fakes, tmp_path, operator):
    """Start workers of the manifest's queues, under names of this test."""
    mark = tmp_path.name
    manifest = tmp_path / "fleet.toml"
    manifest.write_text(
        f"""
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[providers.search]
kind = "corpus"
[providers.bank]
kind = "bank"
base_url = "http://127.0.0.1:9/bank"
api_key = "env:BANK_API_KEY"
[pools.agents]
task_queue = "agents-{mark}"
[pools.llm]
task_queue = "llm-{mark}"
[pools.search]
task_queue = "search-{mark}"
[pools.payments]
provider = "bank"
[pools.approvals]
[pools.memory]
task_queue = "memory-{mark}"
[agents.reader]
model = "openai/m"
tools = ["search"]
instructions = "Read."
"""
    )
    operator.settings["FLEET_MANIFEST"] = str(manifest)

    async def opened():
        return database

    tools = BatchTools(opened)

    @asynccontextmanager
    async def work():
        async with AsyncExitStack() as stack:
            for pool in ("agents", "llm", "search", "memory"):
                worker = Worker(
                    temporal,
                    task_queue=f"{pool}-{mark}",
                    workflows=[BatchWorkflow] if pool == "agents" else [],
                    workflow_runner=SANDBOX,
                    activities=[*fakes.activities(), tools.count, tools.read, tools.write, tools.watch],
                    max_heartbeat_throttle_interval=timedelta(milliseconds=100),
                )
                await stack.enter_async_context(worker)
            yield

    return work


def lines(folder, *rows, name="in.jsonl"):
    file = folder / name
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(file)


def refused(operator, *arguments):
    return operator.refused("batch", *arguments)


def test_inputs_that_do_not_fit_are_refused_with_their_line_before_anything_starts(operator, working, tmp_path):
    good = {"query": "x"}
    for row, why in (
        ("{nonsense", "is not JSON"),
        ("[1]", "must be a JSON object, is '[1]'"),
        ('{"query": NaN}', "NaN is no JSON"),
        ({"query": 7}, "search cannot be called so: query: 7 is not of type 'string'"),
        ({"other": "x"}, "'query' is a required property"),
        ({"query": "x", "more": "y" * 300_000}, "262144 are the most"),
    ):
        told = refused(operator, "run", lines(tmp_path, good, "", row), *SEARCH, "--id", "bad")
        assert "in.jsonl, line 3: " in told
        assert why in told
    (tmp_path / "latin.jsonl").write_bytes('{"query": "ü"}'.encode("latin-1"))
    assert "line 1: is not UTF-8" in refused(operator, "run", str(tmp_path / "latin.jsonl"), *SEARCH)
    assert "there are no inputs" in refused(operator, "run", lines(tmp_path, name="none.jsonl"), *SEARCH)
    assert "cannot be read" in refused(operator, "run", str(tmp_path / "gone.jsonl"), *SEARCH)
    assert operator.said("batch", "ls") == "no batches; start one with `fleet batch run`\n"


def test_what_a_batch_cannot_do_is_refused(operator, working, tmp_path):
    file = lines(tmp_path, {"title": "x"})
    for arguments, why in (
        ((), "name one: --agent NAME"),
        ((*SEARCH, "--agent", "reader"), "name one: --agent NAME"),
        (("--agent", "nobody", "--goal", "{title}"), "unknown agent 'nobody'"),
        (("--agent", "reader"), "--goal is empty"),
        (("--agent", "reader", "--goal", "{title.__class__}"), "names no field of an item"),
        (("--agent", "reader", "--goal", "{title!r}"), "names no field of an item"),
        (("--agent", "reader", "--goal", "{title"), "a brace of the text is written twice"),
        (("--agent", "reader", "--goal", "{name}"), "line 1: there is no field 'name'; there are: title"),
        (("--tool", "transfer"), "moves money"),
        (("--tool", "recall"), "is of an agent's memory"),
        (("--tool", "dance"), "unknown tool 'dance'; a batch can call: fetch, search, send_email, send_webhook"),
        (("--model", "m", "--prompt", "x"), "must be provider/model"),
        (("--model", "search/m", "--prompt", "x"), "of kind openai or anthropic"),
        (("--model", "openai/m", "--prompt", "x", "--goal", "y"), "--goal is of an agent"),
        ((*SEARCH, "--window", "0"), "must be from 1 to 1000"),
        ((*SEARCH, "--priority", "5"), "priority 5 is not between 1 (first) and 4"),
        ((*SEARCH, "--id", "a/b"), "batch id 'a/b'"),
        ((*SEARCH, "--on-failure", "retry=0"), "--on-failure 'retry=0': must be skip, stop or retry=N"),
        ((*SEARCH, "--max-failures", "101%"), "--max-failures '101%'"),
        ((*SEARCH, "--out", "x"), "add --wait"),
    ):
        assert why in refused(operator, "run", file, *arguments), arguments
    assert "no batch 'nobody'" in refused(operator, "status", "nobody")
    assert operator.document("batch", "ls") == []


async def test_a_batch_is_run_to_its_end_and_its_results_are_read_in_order(operator, working, tmp_path):
    file = lines(tmp_path, *({"query": f"q{n}"} for n in range(30)))
    out = tmp_path / "out.jsonl"
    async with working():
        ran = await operator.aside("batch", "run", file, *SEARCH, "--id", "b1", "--wait", "--out", str(out))
        assert (ran.returncode, ran.stdout) == (0, "30 of 30: 30 done · finished\n"), ran
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows == [
            {
                "index": n, "outcome": "done", "result": {"of": f"q{n}"}, "error": None, "attempts": 1, "run": None,
            }
            for n in range(30)
        ]  # fmt: skip
        again = await operator.aside("batch", "results", "b1", "--with-input")
        assert json.loads(again.stdout.splitlines()[7])["input"] == {"query": "q7"}
        status = await asyncio.to_thread(operator.document, "batch", "status", "b1")
        assert (status["state"], status["ended"], status["counts"]) == ("finished", 30, {"done": 30})
        (listed,) = await asyncio.to_thread(operator.document, "batch", "ls")
        assert (listed["batch"], listed["workflow"], listed["does"]) == ("b1", "completed", "tool search")


async def test_the_same_inputs_under_the_same_id_go_on_and_others_are_refused(operator, working, tmp_path):
    rows = [{"query": f"q{n}"} for n in range(5)]
    file = lines(tmp_path, *rows)
    first = await asyncio.to_thread(operator.document, "batch", "run", file, *SEARCH, "--id", "b2")
    assert first == {"batch": "b2", "items": 5, "resumed": False}
    again = await asyncio.to_thread(operator.document, "batch", "run", file, *SEARCH, "--id", "b2")
    assert again == {"batch": "b2", "items": 5, "resumed": True}
    other = lines(tmp_path, *rows, {"query": "more"}, name="other.jsonl")
    told = await asyncio.to_thread(refused, operator, "run", other, *SEARCH, "--id", "b2")
    assert "batch 'b2' exists with other inputs (5 of them, here are 6): choose another id" in told
    told = await asyncio.to_thread(
        refused, operator, "run", file, "--model", "openai/m", "--prompt", "{query}", "--id", "b2"
    )
    assert "exists and does something else (tool search)" in told
    async with working():
        watched = await operator.aside("batch", "status", "b2", "--watch", "--json")
        assert json.loads(watched.stdout)["counts"] == {"done": 5}
        assert "has ended: `fleet batch retry b2`" in await asyncio.to_thread(refused, operator, "resume", "b2")
        assert (await operator.aside("batch", "retry", "b2")).stdout == "b2: no item has failed\n"


async def test_a_batch_is_paused_resumed_stopped_and_goes_on(operator, working, fakes, tmp_path):
    fakes.hold = asyncio.Event()
    file = lines(tmp_path, *({"query": f"q{n}"} for n in range(6)))
    async with working():
        await operator.aside("batch", "run", file, *SEARCH, "--id", "b3", "--window", "2")

        async def until(**wanted):
            async with asyncio.timeout(20):
                while True:
                    status = await asyncio.to_thread(operator.document, "batch", "status", "b3")
                    if wanted.items() <= status.items():
                        return status
                    await asyncio.sleep(0.05)

        await until(state="running", in_flight=2)
        assert (await operator.aside("batch", "pause", "b3", "--reason", "lunch")).stdout == "b3: asked to pause\n"
        assert (await until(state="paused"))["reason"] == "lunch"
        await operator.aside("batch", "resume", "b3", "--window", "3")
        await until(state="running", in_flight=3, window=3)
        await operator.aside("batch", "stop", "b3")
        status = await until(state="finished")
        assert (status["ended"], status["reason"]) == (0, "6 items are left: `fleet batch resume b3` goes on")
        fakes.hold.set()
        await operator.aside("batch", "resume", "b3")
        watched = await operator.aside("batch", "status", "b3", "--watch")
        assert watched.returncode == 0, watched
        audit = await asyncio.to_thread(operator.document, "audit", "--subject", "b3")
        assert [row["what"] for row in reversed(audit)] == [
            "batch.pause", "batch.resume", "batch.stop", "batch.resume",
        ]  # fmt: skip


def test_text_files_of_a_folder_are_inputs(operator, working, tmp_path):
    folder = tmp_path / "texts" / "deep"
    folder.mkdir(parents=True)
    (folder / "b.txt").write_text("second")
    (folder.parent / "a.txt").write_text("first")
    run = ("--model", "openai/m", "--prompt", "Summarise {name}: {text}")
    assert operator.document("batch", "run", str(folder.parent), *run, "--id", "b4")["items"] == 2
    assert operator.document("batch", "run", f"{folder.parent}/**/a.*", *run, "--id", "b5")["items"] == 1
    assert operator.document("batch", "run", str(folder.parent), *run, "--id", "b6", "--limit", "1")["items"] == 1
    (folder / "c.bin").write_bytes(b"\xff\xfe")
    assert "c.bin: is not UTF-8 text" in refused(operator, "run", str(folder.parent), *run)
