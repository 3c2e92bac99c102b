"""In every mode the same agents do the same work; how they wait for the quota is what differs."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx2
import pytest

from fleet import manifest as manifests
from fleet.client import FleetClient
from fleet.contracts.runs import Outcome
from fleet.errors import BadInput
from load.modes import Mode, Setup, seen, task_rates
from load.worker import main
from workers.bootstrap import quotas

RATE, BURST, RUNS = 6.0, 6.0, 24
"""What the provider grants; of its burst a third is used, so that a machine with much to do overruns nothing."""

MANIFEST = """
[providers.openai]
kind = "openai"
base_url = "{base}/v1"
api_key = "env:OPENAI_API_KEY"

[providers.search]
kind = "corpus"

[quotas."openai/sim"]
requests = {{ rate = "6/s", burst = 2 }}
in_flight = 50
headroom = 1.0
within = "openai/sim/org"

[quotas."openai/sim/org"]
requests = "1M/day"
tokens = "600k/m"
headroom = 1.0

[quotas."search/corpus"]
requests = {{ rate = "3/s", burst = 3 }}

[pools.agents]
task_queue = "agents-{suffix}"
max_active = 100

[pools.llm]
task_queue = "llm-{suffix}"
drain = "2s"

[pools.search]
task_queue = "search-{suffix}"

[agents.greeter]
model = "openai/sim"
instructions = "You say hello."
max_output_tokens = 100
"""


@dataclass
class Bench:
    """A provider with a quota, and worker processes."""

    folder: object
    http: httpx2.AsyncClient
    client: FleetClient
    environment: dict

    @asynccontextmanager
    async def working(self, *commands):
        """Worker processes by their commands; all must end with 0."""
        logs = [self.folder / f"{number}.log" for number in range(len(commands))]
        processes = []
        try:
            for argv, log in zip(commands, logs, strict=True):
                with log.open("wb") as file:
                    started = asyncio.create_subprocess_exec(
                        *argv, env=self.environment, cwd=self.folder, stdout=file, stderr=file
                    )
                    processes.append(await started)
            async with asyncio.timeout(60):
                while not all('"event": "ready"' in log.read_text() for log in logs):
                    assert all(process.returncode is None for process in processes), [log.read_text() for log in logs]
                    await asyncio.sleep(0.05)
            yield
            for process in processes:
                process.send_signal(signal.SIGTERM)
            codes = await asyncio.wait_for(asyncio.gather(*(process.wait() for process in processes)), 30)
            assert codes == [0] * len(commands), [log.read_text() for log in logs]
            assert all('"event": "stopped"' in log.read_text() for log in logs)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def greet(self):
        """All runs at once; their results."""
        runs = await asyncio.gather(*(self.client.start("greeter", "Say hello") for _ in range(RUNS)))
        return await asyncio.wait_for(asyncio.gather(*map(self.client.result, runs)), 90)

    async def calls(self):
        """What the provider has been asked: instant and outcome."""
        rows = (await self.http.get("/_ledger", params={"provider": "openai"})).json()
        return [(row["wall"], row["outcome"]) for row in rows if row["model"] == "sim"]


@pytest.fixture
async def bench(tmp_path, simulators, temporal, temporal_address, valkey):
    limits = {"requests": {"limit": RATE, "period_s": 1, "burst": BURST}}
    where = await simulators(openai={"models": {"sim": limits}})
    file = tmp_path / "fleet.toml"
    file.write_text(MANIFEST.format(base=where.http, suffix=uuid4().hex[:8]))
    async with httpx2.AsyncClient(base_url=where.http) as http:
        yield Bench(
            folder=tmp_path,
            http=http,
            client=FleetClient(temporal, manifests.load(file)),
            environment={
                **{k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))},
                "FLEET_MANIFEST": str(file),
                "FLEET_STATE_DIR": str(tmp_path),
                "FLEET_LOG_FORMAT": "json",
                "FLEET_REDIS_URL": valkey,
                "TEMPORAL_ADDRESS": temporal_address,
                "OPENAI_API_KEY": "sk-test",
            },
        )


def refused(calls):
    return sum(outcome == "429" for _, outcome in calls)


def all_done(results):
    return [result.outcome for result in results] == [Outcome.COMPLETED] * RUNS


async def test_the_shared_limiter_waits_so_that_nothing_is_refused(bench):
    # calls that were granted one by one arrive together where the machine has stood still for a while; all runs at once
    # are still more than this
    patient = {"requests": {"limit": RATE, "period_s": 1, "burst": RUNS - RATE}}
    (await bench.http.post("/_control", json={"openai": {"models": {"sim": patient}}})).raise_for_status()
    async with bench.working(Setup().argv(["agents", "llm"])):
        results = await bench.greet()
    assert all_done(results)
    assert refused(await bench.calls()) == 0
    assert sum(sum(result.quota_waits_s) for result in results) > 0


@pytest.mark.trial
async def test_back_off_is_refused_beyond_the_quota_and_never_waits_at_a_limiter(bench):
    # not even for a store: there is none where this points to
    bench.environment["FLEET_REDIS_URL"] = "redis://127.0.0.1:1/0"
    async with bench.working(Setup(mode=Mode.BACKOFF).argv(["agents", "llm"])):
        results = await bench.greet()
        told = await health(bench)
    assert all_done(results)
    calls = await bench.calls()
    assert refused(calls) > 0
    assert sum(sum(result.quota_waits_s) for result in results) == 0
    assert "fleet_quota_wait_seconds_count{" not in told
    # the SDK's own retries come before Temporal's: one attempt is up to three requests
    attempts = attempted(told)
    assert attempts < len(calls) <= 3 * attempts


@pytest.mark.trial
async def test_temporals_own_limit_holds_calls_back(bench):
    # from a provider that would take them all at once
    (await bench.http.post("/_control", json={"openai": {"models": {"sim": None}}})).raise_for_status()
    setup = Setup(mode=Mode.TEMPORAL, rates={"llm": RATE})
    async with bench.working(setup.argv(["agents", "llm"]), setup.argv(["llm"])):
        results = await bench.greet()
        told = await health(bench)
    assert all_done(results)
    calls = [at for at, _ in await bench.calls()]
    assert len(calls) == RUNS
    # it begins with about a second's worth at once
    assert max(calls) - min(calls) >= (RUNS - 2 * RATE) / RATE
    assert "fleet_quota_wait_seconds_count{" not in told


@pytest.mark.trial
@pytest.mark.parametrize("divided", [True, False])
async def test_processes_that_share_nothing_overrun_unless_each_has_its_part(bench, divided):
    setup = Setup(mode=Mode.PROCESS, share=0.5 if divided else 1.0)
    async with bench.working(setup.argv(["agents", "llm"]), setup.argv(["llm"])):
        results = await bench.greet()
    assert all_done(results)
    assert (refused(await bench.calls()) == 0) is divided
    assert sum(sum(result.quota_waits_s) for result in results) > 0


async def health(bench):
    """The metrics of the first process."""
    said = (bench.folder / "0.log").read_text()
    url = said.partition('"health": "')[2].partition('"')[0]
    async with httpx2.AsyncClient(base_url=url) as http:
        return (await http.get("/metrics")).text


def attempted(metrics):
    lines = [line for line in metrics.splitlines() if line.startswith('fleet_activity_tasks_total{activity="chat"')]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture
def manifest(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text(MANIFEST.format(base="http://127.0.0.1:1", suffix="x"))
    return manifests.load(file)


def test_only_the_shared_limiter_knows_a_door_and_the_whole_quota(manifest):
    assert seen(manifest, Setup()) is manifest
    for mode in (Mode.BACKOFF, Mode.TEMPORAL):
        bare = seen(manifest, Setup(mode=mode))
        assert quotas(bare) == {}
        assert bare.agents == manifest.agents
    parts = quotas(seen(manifest, Setup(mode=Mode.PROCESS, share=0.25)))
    whole = quotas(manifest)
    assert "fleet/runs" in whole
    assert "fleet/runs" not in parts
    for scope, quota in parts.items():
        for name in quota.limits:
            assert quota.rate(name) == pytest.approx(whole[scope].rate(name) / 4)
            assert quota.burst(name) == pytest.approx(whole[scope].burst(name) / 4)
    undivided = quotas(seen(manifest, Setup(mode=Mode.PROCESS)))
    assert undivided == {scope: quota for scope, quota in whole.items() if scope != "fleet/runs"}


def test_a_queues_rate_follows_from_the_tightest_limit_of_its_calls(manifest):
    assert task_rates(manifest) == pytest.approx({"llm": RATE, "search": 3 * 0.98})
    # that of the organisation around it
    assert task_rates(manifest, {"tokens": 5000})["llm"] == pytest.approx(2.0)


def test_a_worker_is_started_by_its_mode():
    assert Setup().argv(["llm"]) == [sys.executable, "-m", "fleet.cli.main", "worker", "llm"]
    assert Setup(mode=Mode.BACKOFF).argv(["llm"])[2:] == ["load.worker", "--mode", "backoff", "llm"]
    shared = Setup(mode=Mode.PROCESS, share=0.5).argv(["llm"])
    assert shared[3:] == ["--mode", "process", "--share", "0.5", "llm"]
    held = Setup(mode=Mode.TEMPORAL, rates={"llm": 1.5, "search": 3}).argv(["email", "llm"])
    assert held[3:] == ["--mode", "temporal", "--rate", "llm=1.5", "email", "llm"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--share", "0.5", "llm"], "--share means nothing with --mode global"),
        (["--mode", "process", "--rate", "llm=1", "llm"], "--rate means nothing with --mode process"),
        (["--mode", "process", "--share", "2", "llm"], "--share 2: must be above 0 and at most 1"),
        (["--mode", "temporal", "--rate", "llm", "llm"], "--rate llm: must be a pool and a number"),
        (["--mode", "temporal", "--rate", "llm=0", "llm"], "--rate llm=0: must be above 0"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(argv, said, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(BadInput, match="must be above 0"):
        Setup(mode=Mode.TEMPORAL, rates={"llm": 0.0})
