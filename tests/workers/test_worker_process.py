"""`fleet worker` as a process: probes, metrics, drain, exit codes."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from fleet import manifest as manifests
from fleet.client import FleetClient
from fleet.contracts.runs import Outcome
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore

ROOT = Path(__file__).parents[2]
QUEUES = ("agents", "llm", "search", "email")


class Bench:
    """A manifest over simulated providers, with task queues of its own, and worker processes."""

    def __init__(self, folder, where, temporal_address, valkey):
        self.folder = folder
        self.manifest = folder / "fleet.toml"
        text = (ROOT / "deploy" / "fleet.toml").read_text()
        text = text.replace('kind = "openai"', f'kind = "openai"\nbase_url = "{where.http}/v1"')
        text = text.replace("port = 2525", f'port = {where.smtp_port}\nlookup_url = "{where.http}/_mail"')
        suffix = uuid4().hex[:8]
        for pool in QUEUES:
            text = text.replace(f"[pools.{pool}]", f'[pools.{pool}]\ntask_queue = "{pool}-{suffix}"\ndrain = "3s"')
        self.manifest.write_text(text)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))},
            "FLEET_MANIFEST": str(self.manifest),
            "FLEET_STATE_DIR": str(folder / "state"),
            "FLEET_REDIS_URL": valkey,
            "TEMPORAL_ADDRESS": temporal_address,
            "OPENAI_API_KEY": "sk-test-key",
        }
        (folder / "state").mkdir()

    def command(self, *pools):
        return [sys.executable, "-m", "fleet.cli.main", "worker", *pools]

    def start(self, *pools, **environment):
        return subprocess.Popen(
            self.command(*pools), env=self.environment | environment, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def refused(self, *pools, **environment):
        """The one line that a worker says before it ends with 2."""
        # in a thread: the simulators live in this loop
        found = await asyncio.to_thread(
            subprocess.run,
            self.command(*pools), env=self.environment | environment, cwd=self.folder, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert found.returncode == 2, found
        assert "Traceback" not in found.stderr
        said = [line for line in found.stderr.strip().splitlines() if not line.startswith("{")]
        assert len(said) == 1, found.stderr
        return said[0]

    @asynccontextmanager
    async def working(self, *pools, **environment):
        """A worker that serves, and where its probes are."""
        process = self.start(*pools, **environment)
        try:
            yield process, await asyncio.to_thread(ready, process)
        finally:
            if process.poll() is None:
                process.kill()
            await asyncio.to_thread(process.communicate)


def ready(process):
    for line in process.stderr:
        if line.startswith("{") and (said := json.loads(line))["event"] == "ready":
            return said["health"]
    raise AssertionError(f"the worker ended with {process.wait()}")


def ended(process):
    """Exit code and everything it logged since it was ready."""
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    return process.returncode, [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@pytest.fixture
async def bench(tmp_path, simulators, temporal_address, valkey):
    return Bench(tmp_path, await simulators(), temporal_address, valkey)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_probes_tell_what_is_well_and_metrics_what_was_done(bench, loop):
    async with bench.working("llm", "search", FLEET_EVENT_LOOP=loop) as (process, health):
        async with httpx2.AsyncClient(base_url=health) as http:
            assert (await http.get("/live")).status_code == 200
            answer = await http.get("/ready")
            assert (answer.status_code, answer.json()["checks"]) == (
                200, {"temporal": "ok", "redis": "ok", "draining": "ok"},
            )  # fmt: skip
            assert "fleet_activity_running" in (await http.get("/metrics")).text
        code, log = await asyncio.to_thread(ended, process)
    assert code == 0
    assert [line["event"] for line in log if line["event"] in ("draining", "stopped")] == ["draining", "stopped"]


async def test_a_run_goes_through_all_pools_and_no_key_is_written_anywhere(bench, temporal):
    client = FleetClient(temporal, manifests.load(bench.manifest))
    _fill_corpus(bench)
    async with bench.working(*QUEUES) as (process, health):
        run = await client.start("researcher", "What does the module heapq do? E-mail it to a@example.com.")
        result = await client.result(run)
        async with httpx2.AsyncClient(base_url=health) as http:
            metrics = (await http.get("/metrics")).text
        code, log = await asyncio.to_thread(ended, process)
    assert (result.outcome, code) == (Outcome.COMPLETED, 0)
    assert "Sources:" in result.answer
    counter = r'fleet_activity_tasks_total\{activity="(\w+)",outcome="completed",pool="\w+"\} (\d+)'
    done = dict(re.findall(counter, metrics))
    assert done == {"chat": "4", "query": "1", "fetch": "2", "send": "1"}
    assert 'fleet_quota_wait_seconds_count{scope="openai/sim-large"} 4.0' in metrics
    history = (await client.handle(run).fetch_history()).to_json()
    assert "sk-test-key" not in json.dumps(log) + metrics + history


async def test_a_worker_that_starts_leaves_a_quota_alone_that_an_operator_has_set(bench, valkey):
    scope = "openai/sim-large"
    store = RedisStore.from_url(valkey)
    async with Limiter(store, {}) as limiter:
        set_by_hand = Quota(scope=scope, limits={"requests": Limit(capacity=7)})
        await limiter.configure(set_by_hand, by="ann")
        async with bench.working("llm"):
            assert await limiter.quota(scope) == set_by_hand
            # the other scope had none: it has the manifest's now
            assert (await limiter.quota("email/relay")).limits["messages"].capacity == 20
    await store.execute("FLUSHALL")
    await store.aclose()


async def test_a_run_in_flight_keeps_its_provider_when_no_agent_of_the_manifest_uses_it_any_more(bench, temporal):
    client = FleetClient(temporal, manifests.load(bench.manifest))
    run = await client.start("mailer", "Say hello")
    text = bench.manifest.read_text()
    bench.manifest.write_text(text.replace('model = "openai/sim-large"', 'model = "anthropic/claude"'))
    base = re.search(r'base_url = "(http://[^/]+)/v1"', text).group(1)
    bench.manifest.write_text(
        bench.manifest.read_text().replace('kind = "anthropic"', f'kind = "anthropic"\nbase_url = "{base}"')
    )
    async with bench.working("agents", "llm", ANTHROPIC_API_KEY="sk-test-key"):
        result = await client.result(run)
    assert result.outcome is Outcome.COMPLETED


async def test_a_draining_worker_finishes_what_it_has(bench, temporal):
    client = FleetClient(temporal, manifests.load(bench.manifest))
    async with bench.working("agents"), bench.working("llm") as (process, _):
        await slow(bench, 1.5)
        run = await client.start("mailer", "Say hello")
        await under_way(bench)
        code, _ = await asyncio.to_thread(ended, process)
        assert code == 0
        # the call had been answered: nobody else is needed to complete the run
        assert (await client.result(run)).outcome is Outcome.COMPLETED
    assert len(await calls(bench)) == 1


async def test_a_draining_worker_gives_back_what_it_cannot_finish(bench, temporal):
    client = FleetClient(temporal, manifests.load(bench.manifest))
    async with bench.working("agents"):
        async with bench.working("llm") as (process, _):
            await slow(bench, 60)
            run = await client.start("mailer", "Say hello")
            await under_way(bench)
            began = asyncio.get_running_loop().time()
            code, _ = await asyncio.to_thread(ended, process)
            assert code == 0
            assert asyncio.get_running_loop().time() - began < 12
        await slow(bench, 0)
        async with bench.working("llm"):
            result = await asyncio.wait_for(client.result(run), 60)
    assert result.outcome is Outcome.COMPLETED


async def test_what_a_worker_lacks_is_one_line(bench):
    said = await bench.refused("llm", OPENAI_API_KEY="")
    assert "OPENAI_API_KEY" in said
    said = await bench.refused("llm", OPENAI_API_KEY="sk-wrong-0815")
    assert "providers.openai: openai: the API key was refused (401)" in said
    said = await bench.refused("llm", OPENAI_API_KEY="sk-schlüssel")
    assert "not plain text" in said
    assert "schl" not in said
    port = closed_port()
    assert str(port) in await bench.refused("search", TEMPORAL_ADDRESS=f"127.0.0.1:{port}")
    assert str(port) in await bench.refused("search", FLEET_REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert "FLEET_DATABASE_URL" in await bench.refused(
        "email", FLEET_DATABASE_URL=f"sqlite+aiosqlite:///{bench.manifest}/x.db"
    )
    said = await bench.refused("email", FLEET_DATABASE_URL="my secret place")
    assert "not a database URL" in said
    assert "secret" not in said
    assert "FLEET_REDIS_URL" in await bench.refused("search", FLEET_REDIS_URL="localhost")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        said = await bench.refused("search", FLEET_HEALTH_PORT=str(taken))
        assert str(taken) in said
        assert "FLEET_HEALTH_PORT" in said


@pytest.mark.trial
@pytest.mark.timeout(600)
async def test_fifty_starts_and_stops_end_with_exit_code_zero(bench):
    async def life(number):
        pool = QUEUES[number % len(QUEUES)]
        async with bench.working(pool) as (process, _):
            code, _ = await asyncio.to_thread(ended, process)
        return code

    assert [await life(number) for number in range(50)] == [0] * 50


def _fill_corpus(bench):
    documents = bench.folder / "documents"
    documents.mkdir()
    (documents / "heapq.md").write_text("# heapq\n\nThe module heapq keeps the smallest item of a list at its front.\n")
    (documents / "queue.md").write_text("# queue\n\nA PriorityQueue is built on heapq.\n")
    subprocess.run(
        [sys.executable, "-m", "fleet.cli.main", "corpus", "add", str(documents)],
        env=bench.environment, check=True, capture_output=True,
    )  # fmt: skip


def _control(bench):
    base = re.search(r'base_url = "(http://[^/]+)/v1"', bench.manifest.read_text()).group(1)
    return httpx2.AsyncClient(base_url=base)


async def slow(bench, seconds):
    async with _control(bench) as http:
        (await http.post("/_control", json={"latency": {"base_s": seconds}})).raise_for_status()


async def calls(bench):
    async with _control(bench) as http:
        return (await http.get("/_ledger", params={"provider": "openai"})).json()


async def under_way(bench):
    """Until the model is being asked."""
    async with asyncio.timeout(30), _control(bench) as http:
        while (await http.get("/_ledger/summary")).json()["in_flight"] == 0:
            await asyncio.sleep(0.02)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
