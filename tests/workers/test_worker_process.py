"""`fleet worker` as a process: probes, metrics, drain, exit codes."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from fleet import manifest as manifests
from fleet import settings
from fleet.client import FleetClient
from fleet.contracts.approvals import Decision, Verdict, digest
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState
from fleet.contracts.names import EFFECT_WORKFLOW, effect_key
from fleet.contracts.runs import CallPolicy, Outcome
from fleet.contracts.tools import EMAIL_SEND
from fleet.errors import FleetError
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from workers.bootstrap import run_pools
from workers.database import Database, upgrade
from workers.effects.ledger import Ledger

ROOT = Path(__file__).parents[2]
QUEUES = ("agents", "llm", "search", "email", "payments", "approvals", "memory", "webhook")
HOOK_SECRET = "whsec_c2lnbmVkLWJ5LXRoZS1mbGVldC1mb3ItdGVzdHM="
LINK_KEY = "link-key-of-the-tests-of-worker-processes"


class Bench:
    """A manifest over simulated providers, with task queues of its own, and worker processes."""

    def __init__(self, folder, where, temporal_address, valkey):
        self.folder = folder
        self.manifest = folder / "fleet.toml"
        text = (ROOT / "deploy" / "fleet.toml").read_text()
        text = text.replace('kind = "openai"', f'kind = "openai"\nbase_url = "{where.http}/v1"')
        text = text.replace("port = 2525", f'port = {where.smtp_port}\nlookup_url = "{where.http}/_mail"')
        text = text.replace("http://127.0.0.1:8080/bank", f"{where.http}/bank")
        text = text.replace("https://hooks.example.com/fleet", f'{where.http}/hooks/hook"\nallow_private = true #"')
        links = '\n[approvals]\nurl = "https://fleet.example.com"\nlink_key = "env:FLEET_LINK_KEY"\n'
        assert text.count("\n[approvals]") == 1
        text = text.replace("\n[approvals]", links)
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
            "BANK_API_KEY": "sk-test-bank",
            "FLEET_HOOK_SECRET": HOOK_SECRET,
            "FLEET_LINK_KEY": LINK_KEY,
        }
        self.secrets = ("sk-test-key", "sk-test-bank", HOOK_SECRET, LINK_KEY)
        (folder / "state").mkdir()
        self.ledger = f"sqlite+aiosqlite:///{folder}/state/ledger.db"

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

    async def turned_away(self, pool, **environment):
        """What it would say, without a process of its own: starting one takes seconds."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (self.environment | environment).items():
                patch.setenv(name, value)
            with pytest.raises(FleetError) as raised:
                await asyncio.wait_for(run_pools(settings.load(), manifests.load(self.manifest), [pool]), 60)
        assert "\n" not in str(raised.value)
        return str(raised.value)

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
    options = {"bank": {"keys": ["sk-test-bank"]}, "hooks": {"secrets": {"hook": HOOK_SECRET}}}
    found = Bench(tmp_path, await simulators(**options), temporal_address, valkey)
    await upgrade(found.ledger)
    return found


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
    assert not [secret for secret in bench.secrets if secret in json.dumps(log) + metrics + history]


async def test_a_payment_is_asked_for_by_mail_decided_booked_once_and_told(bench, temporal):
    client = FleetClient(temporal, manifests.load(bench.manifest))
    async with bench.working("agents", "llm", "payments", "email", "approvals", "webhook"):
        run = await client.start("payer", "Transfer 900.00 EUR to DE01ACME for invoice 17", tell=["hook"])
        async with asyncio.timeout(60), _control(bench) as http:
            while len(mails := (await http.get("/_mail")).json()) < 2:
                await asyncio.sleep(0.05)
            (asked,) = await client.approvals(run)
            for by in ("ana@example.com", "bo@example.com"):
                assert (await http.get("/_bank")).json() == []
                await client.decide(
                    Verdict(approval_id=asked.id, decision=Decision.APPROVE, by=by, digest=asked.digest)
                )
            result = await client.result(run)
            while not (told := (await http.get("/_hooks")).json()):
                await asyncio.sleep(0.05)
            (booked,) = (await http.get("/_bank")).json()
    assert sorted(mail["recipients"][0] for mail in mails) == ["ana@example.com", "bo@example.com"]
    assert (booked["payee"], booked["idempotency_key"]) == ("DE01ACME", result_key(result, run))
    assert (told[0]["verified"], json.loads(told[0]["body"])["type"]) == (True, "fleet.run.completed")
    history = (await client.handle(run).fetch_history()).to_json()
    assert not [secret for secret in bench.secrets if secret in history]


def result_key(result, run):
    """The key of the run's one effect."""
    (had,) = result.effects
    assert (had["tool"], had["state"]) == ("transfer", "done")
    return effect_key(run, had["step"])


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
    text = text.replace('[prices."openai/sim-large"]', '[prices."anthropic/claude"]')
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
    said = await bench.turned_away("llm", OPENAI_API_KEY="")
    assert "OPENAI_API_KEY" in said
    said = await bench.refused("llm", OPENAI_API_KEY="sk-wrong-0815")
    assert "providers.openai: openai: the API key was refused (401)" in said
    said = await bench.turned_away("llm", OPENAI_API_KEY="sk-schlüssel")
    assert "not plain text" in said
    assert "schl" not in said
    assert "providers.bank: no API key: set BANK_API_KEY" in await bench.turned_away("payments", BANK_API_KEY="")
    said = await bench.turned_away("payments", BANK_API_KEY="sk-test-other")
    assert "providers.bank: bank: 401" in said
    assert "other" not in said
    assert "approvals.link_key: env:FLEET_LINK_KEY is not set" in await bench.turned_away(
        "approvals", FLEET_LINK_KEY=""
    )
    said = await bench.turned_away("approvals", FLEET_LINK_KEY="too-short")
    assert "approvals.link_key: has 9 characters; 32 are the least" in said
    # a process of its own says the same, and ends with 2
    old = f"sqlite+aiosqlite:///{bench.folder}/old.db"
    for pool in ("email", "memory"):
        assert "run `fleet db upgrade`" in await bench.turned_away(pool, FLEET_DATABASE_URL=old)
    port = closed_port()
    assert str(port) in await bench.turned_away("search", TEMPORAL_ADDRESS=f"127.0.0.1:{port}")
    assert str(port) in await bench.turned_away("search", FLEET_REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert "FLEET_DATABASE_URL" in await bench.turned_away(
        "email", FLEET_DATABASE_URL=f"sqlite+aiosqlite:///{bench.manifest}/x.db"
    )
    said = await bench.turned_away("email", FLEET_DATABASE_URL="my secret place")
    assert "not a database URL" in said
    assert "secret" not in said
    assert "FLEET_REDIS_URL" in await bench.turned_away("search", FLEET_REDIS_URL="localhost")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        said = await bench.turned_away("search", FLEET_HEALTH_PORT=str(taken))
        assert str(taken) in said
        assert "FLEET_HEALTH_PORT" in said


class SlowRelay:
    """A mail relay that takes its time with the first client's recipient, and notes what everybody says."""

    def __init__(self):
        self.said = []
        """Of each connection."""
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()
        """The first client has gone."""

    @asynccontextmanager
    async def listening(self):
        clients = set()

        async def serve(reader, writer):
            clients.add(asyncio.current_task())
            try:
                await self._talk(reader, writer)
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                self.go_on.set()
                await asyncio.gather(*clients, return_exceptions=True)

    async def _talk(self, reader, writer):
        async def say(text):
            writer.write(f"{text}\r\n".encode())
            await writer.drain()

        said = []
        await say("220 here")
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            if verb == "MAIL":
                # not a worker that only looks whether the relay is there
                self.said.append(said)
            said.append(verb)
            if verb == "RCPT" and said is self.said[0]:
                self.reached.set()
                await self.go_on.wait()
            elif verb == "DATA":
                await say("354 go on")
                await reader.readuntil(b"\r\n.\r\n")
            await say("250 fine")
        if self.said and said is self.said[0]:
            self.left.set()


class Wire:
    """A way to a server, which can be held."""

    def __init__(self, address):
        self._host, _, self._port = address.rpartition(":")
        self.open = asyncio.Event()
        self.open.set()

    @asynccontextmanager
    async def listening(self):
        tasks = set()

        async def carry(reader, writer):
            try:
                while data := await reader.read(65536):
                    await self.open.wait()
                    writer.write(data)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.transport.abort()

        async def serve(reader, writer):
            tasks.add(asyncio.current_task())
            far, back = await asyncio.open_connection(self._host, int(self._port))
            await asyncio.gather(carry(reader, back), carry(far, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            try:
                yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            finally:
                self.open.set()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_worker_that_was_frozen_with_its_claim_is_refused_at_the_fence(bench, temporal, temporal_address):
    relay, wire = SlowRelay(), Wire(temporal_address)
    async with relay.listening() as port, wire.listening() as by_wire:
        text = re.sub(r"port = \d+\nlookup_url = .*", f"port = {port}", bench.manifest.read_text())
        # one slot: a worker that stands still asks for no more work
        bench.manifest.write_text(text.replace("slots = 8", "slots = 1"))
        queue = manifests.load(bench.manifest).task_queue("email")
        arguments = {"to": "a@example.com", "subject": "once", "body": "x"}
        request = EffectRequest(
            key=f"frozen-{queue}/1.1", tool="send_email", activity=EMAIL_SEND.name, arguments=arguments,
            digest=digest("send_email", arguments), run_id=f"frozen-{queue}", agent="a", tenant="t",
            policy=CallPolicy(heartbeat_s=1.0),
        )  # fmt: skip
        async with bench.working("email", TEMPORAL_ADDRESS=by_wire) as (frozen, health):
            run = await temporal.start_workflow(
                EFFECT_WORKFLOW, request, id=request.key, task_queue=queue, result_type=EffectResult
            )
            async with asyncio.timeout(30):
                await relay.reached.wait()
            frozen.send_signal(signal.SIGSTOP)
            try:
                # the server takes it for dead, and another worker has the effect
                async with bench.working("email"), asyncio.timeout(60):
                    await recorded(bench, request.key, EffectState.DONE)
                    assert relay.said[1] == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]
                    # it goes on, and Temporal does not reach it to tell it that it is late: only the fence does
                    wire.open.clear()
                    relay.go_on.set()
                    frozen.send_signal(signal.SIGCONT)
                    await relay.left.wait()
                    wire.open.set()
                    result = await run.result()
            finally:
                frozen.send_signal(signal.SIGCONT)
            async with httpx2.AsyncClient(base_url=health) as http:
                metrics = (await http.get("/metrics")).text
    assert relay.said[0] == ["EHLO", "MAIL", "RCPT", "RSET", "QUIT"]
    assert len(relay.said) == 2
    assert 'fleet_effects_fenced_total{tool="send_email"} 1.0' in metrics
    assert result.state is EffectState.DONE
    entry = await recorded(bench, request.key, EffectState.DONE)
    assert entry.fence == 2


async def recorded(bench, key, state):
    """The effect in the fleet's ledger, once it is in that state."""
    async with aclosing(Database(bench.ledger)) as database:
        await database.open()
        while (entry := await Ledger(database).get(key)) is None or entry.state is not state:
            await asyncio.sleep(0.05)
    return entry


@pytest.mark.trial
@pytest.mark.timeout(600)
async def test_starts_and_stops_end_with_exit_code_zero(bench):
    async def life(number):
        pool = QUEUES[number % len(QUEUES)]
        async with bench.working(pool) as (process, _):
            code, _ = await asyncio.to_thread(ended, process)
        return code

    assert [await life(number) for number in range(6)] == [0] * 6


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
