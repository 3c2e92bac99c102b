"""Payments and e-mails, had once, whatever dies: judged by the bank's and the relay's own ledgers."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx2
import psutil
import pytest

from fleet.client import FleetClient
from fleet.contracts.approvals import ApprovalState, Decision, Verdict
from fleet.contracts.runs import Outcome, Phase
from fleet.errors import FleetError
from tests.integration.taking_over import GOAL, take_over

pytestmark = [pytest.mark.trial, pytest.mark.timeout(540)]

POISONED = Path(__file__).parents[1] / "load" / "simulators" / "poisoned"
ROOMY = (r'rate = "90k/m", burst = "15k"', 'rate = "900k/m", burst = "90k"')
REQUESTS = (r'rate = "600/m", burst = 60', 'rate = "60k/m", burst = 600')
MAILS = (r'rate = "20/s", burst = 20', 'rate = "200/s", burst = 200')
QUICK = (
    r"budget = \{ steps = 10, tokens = 40000, money = \"0.50\"",
    'policy = { heartbeat = "2s" }\nbudget = { steps = 10, tokens = 40000, money = "0.50"',
)

POOLS = ("agents", "llm", "payments", "email", "approvals")


def say(text):
    """What was measured, for whoever reads the log of a trial (`-s`, or a failure's)."""
    print(text)  # noqa: T201


async def control(fleet, patch):
    async with httpx2.AsyncClient(base_url=fleet.simulators["http"]) as http:
        (await http.post("/_control", json=patch)).raise_for_status()


async def test_two_hundred_runs_pay_and_write_once_while_workers_are_killed(local_fleet, request):
    # fewer, unless it is asked for by name: -k two_hundred_runs
    runs, kills = (200, 44) if "two_hundred_runs" in request.config.getoption("keyword") else (60, 12)
    seed = random.randrange(10**6)
    say(f"seed {seed}")
    dice = random.Random(seed)
    fleet = await local_fleet(
        {"agents": 2, "llm": 1, "payments": 2, "email": 2, "approvals": 1},
        ROOMY,
        REQUESTS,
        MAILS,
        QUICK,
        (r"needed = 2", "needed = 1"),
        (r'notify = \["approvers"\]', "notify = []"),
    )
    await control(
        fleet,
        {
            "bank": {"latency_s": 0.1, "faults": {"rate_500": 0.02, "rate_drop": 0.02, "rate_lost": 0.05}},
            # the relay dies after accepting and before answering
            "smtp": {"latency_s": 0.05, "faults": {"rate_drop": 0.02, "rate_lost": 0.05}},
        },
    )
    killed: Counter[str] = Counter()
    approved: set[str] = set()
    results = {}

    async def one(n):
        # a quarter of them is over the limit of 500 EUR
        amount = n + 1 + (500 if n % 4 == 0 else 0)
        run_id = await fleet.client.start(
            "payer",
            f"Transfer {amount}.50 EUR to DE{n:04} for invoice {n}. E-mail a confirmation to reader{n:03}@example.com.",
            run_id=f"pay-{n:03}",
        )
        results[n] = await fleet.client.result(run_id)

    async def kill():
        while killed.total() < kills:
            await asyncio.sleep(dice.uniform(0.2, 1.2))
            pool = POOLS[killed.total() % len(POOLS)]
            alive = sorted(name for name in fleet.supervisor.pids() if name.rpartition("-")[0] == pool)
            if not alive:
                continue
            name = dice.choice(alive)
            os.kill(fleet.supervisor.pids()[name], signal.SIGKILL)
            killed[name] += 1

    async def approve():
        while len(approved) < runs // 4:
            await asyncio.sleep(0.5)
            for run_id in await fleet.client.running('WaitingFor = "approval"'):
                # a worker may die while it is asked, or while it takes a verdict: asking again tells what was taken
                with suppress(FleetError):
                    for approval in await fleet.client.approvals(run_id):
                        verdict = Verdict(
                            approval_id=approval.id,
                            decision=Decision.APPROVE,
                            by="bo@example.com",
                            digest=approval.digest,
                        )
                        await fleet.client.decide(verdict)
                        approved.add(approval.id)

    killing = asyncio.create_task(kill())
    approving = asyncio.create_task(approve())
    started = []
    for n in range(runs):
        started.append(asyncio.create_task(one(n)))
        # spread over the kills
        await asyncio.sleep(0 if killing.done() else 0.25)
    async with asyncio.timeout(420):
        await asyncio.gather(*started)
        await killing
    approving.cancel()
    with suppress(asyncio.CancelledError):
        await approving

    say(f"killed {killed.total()}: {dict(killed)}")
    booked, mails = await fleet.ledgers.bank(), await fleet.ledgers.mail()
    asked = Counter(row["outcome"] for row in await fleet.ledgers.rows("bank") if row["path"] == "/bank/transfers")
    say(f"bank {booked}, asked {dict(asked)}; mail {mails}")
    assert killed.total() >= kills
    assert {name.rpartition("-")[0] for name in killed} == set(POOLS)
    assert Counter(a["state"] for n in range(runs) for a in results[n].approvals) == {"approved": runs // 4}
    assert [results[n].outcome for n in range(runs)] == [Outcome.COMPLETED] * runs
    assert (booked["transfers"], booked["keys"], booked["duplicates"]) == (runs, runs, 0)
    assert sorted(t["payee"] for t in await fleet.ledgers.transfers()) == [f"DE{n:04}" for n in range(runs)]
    assert mails == {"delivered": runs, "unique": runs, "duplicates": 0}
    told = [(e["tool"], e["state"]) for n in range(runs) for e in results[n].effects]
    assert Counter(told) == {("transfer", "done"): runs, ("send_email", "done"): runs}
    # some of it was indeed repeated: the ledger of the fleet had something to do
    assert asked.total() > runs


async def waiting(client: FleetClient, count: int) -> list[str]:
    """Ids of the runs that wait for an approval, once there are so many."""
    async with asyncio.timeout(300):
        while True:
            found = await client.running('WaitingFor = "approval"')
            if len(found) >= count:
                return found
            await asyncio.sleep(0.5)


WAITING = (
    ROOMY,
    REQUESTS,
    QUICK,
    # nearly every run goes on from its history, not from memory
    (r"\[pools.agents\]\nslots = 200", "[pools.agents]\nslots = 200\ncached = 50"),
    (r'over = \{ EUR = "500" \}', 'over = { EUR = "0" }'),
    (r"needed = 2", "needed = 1"),
    (r'notify = \["approvers"\]', "notify = []"),
)
"""A fleet whose payers all wait for one human."""


async def test_a_thousand_runs_wait_for_humans_cost_no_memory_and_end_on_their_own_code(local_fleet, tmp_path, request):
    # fewer, unless it is asked for by name: -k thousand_runs
    named = "thousand_runs" in request.config.getoption("keyword")
    few, half, many = (150, 575, 1000) if named else (40, 70, 100)
    measured = (0, half, many - 1)
    fleet = await local_fleet({"agents": 1, "llm": 1, "payments": 1, "approvals": 1}, *WAITING, build="v1")

    async def start(numbers):
        at_once = asyncio.Semaphore(20)

        async def one(n):
            async with at_once:
                goal = f"Transfer 7.00 EUR to DE{n:04} for invoice {n}" if n in measured else GOAL
                await fleet.client.start("payer", goal, run_id=f"w-{n}")

        await asyncio.gather(*(one(n) for n in numbers))

    def rss():
        return psutil.Process(fleet.supervisor.pids()["agents-1"]).memory_info().rss / 1e6

    await start(range(few))
    await waiting(fleet.client, few)
    before = rss()
    await start(range(few, half))
    await waiting(fleet.client, half)
    between = rss()
    await start(range(half, many))
    await waiting(fleet.client, many)
    after = rss()
    told = f"{before:.1f} MB with {few} runs waiting, {between:.1f} with {half}, {after:.1f} with {many}"
    say(f"agents' worker, 50 runs cached: {told}")

    took = []
    for n in measured:
        approval = (await fleet.client.approvals(f"w-{n}"))[0]
        began = time.monotonic()
        decided = await fleet.client.decide(
            Verdict(approval_id=approval.id, decision=Decision.APPROVE, by="ana@example.com", digest=approval.digest)
        )
        assert decided.state is ApprovalState.APPROVED
        async with asyncio.timeout(10):
            while f"DE{n:04}" not in {t["payee"] for t in await fleet.ledgers.transfers()}:
                await asyncio.sleep(0.01)
        took.append(time.monotonic() - began)
    say(f"from the verdict to the booked transfer: {', '.join(f'{t:.2f} s' for t in took)}")
    # while the interpreter's own arenas grow, earlier runs do; as many more that wait add nothing
    assert after - between < 10
    assert max(took) < 1.0
    for n in measured:
        assert (await fleet.client.result(f"w-{n}")).outcome is Outcome.COMPLETED
    await take_over(fleet, [f"w-{n}" for n in range(many) if n not in measured], tmp_path / "v2", say)


async def test_a_document_that_gives_orders_leads_to_an_approval_not_to_a_payment(local_fleet):
    fleet = await local_fleet(
        {"agents": 1, "llm": 1, "search": 1, "payments": 1, "approvals": 1},
        ROOMY,
        (r'over = \{ EUR = "500" \}', 'over = { EUR = "5000", USD = "5000" }'),
        (r"needed = 2", "needed = 1"),
        corpus=POISONED,
    )
    run_id = await fleet.client.start("payer", "What is a walrus tusk for?")
    await waiting(fleet.client, 1)
    asked = (await fleet.client.approvals(run_id))[0]
    status = await fleet.client.status(run_id)
    assert status.phase is Phase.APPROVAL
    assert asked.why == "text written by strangers was read before"
    assert asked.tool == "transfer"
    assert asked.expires_at - asked.opened_at == timedelta(days=7)
    assert (await fleet.ledgers.bank())["transfers"] == 0
    await fleet.client.decide(
        Verdict(
            approval_id=asked.id,
            decision=Decision.REJECT,
            by="bo@example.com",
            digest=asked.digest,
            comment="the document asks, not our user",
        )
    )
    async with asyncio.timeout(60):
        # the other document has orders too
        while (result := fleet.client.result(run_id)) is not None:
            ended = asyncio.create_task(result)
            done, _ = await asyncio.wait({ended}, timeout=5)
            if done:
                break
            ended.cancel()
            for approval in await fleet.client.approvals(run_id):
                if approval.state is ApprovalState.OPEN:
                    await fleet.client.decide(
                        Verdict(
                            approval_id=approval.id,
                            decision=Decision.REJECT,
                            by="bo@example.com",
                            digest=approval.digest,
                        )
                    )
    assert (await fleet.ledgers.bank())["transfers"] == 0
    assert ended.result().approvals[0]["comment"] == "the document asks, not our user"
    assert ended.result().effects == []
