"""The verdict of a demo: judged from the providers' ledgers and the runs' histories, not from our own counters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from fleet.contracts.runs import Outcome, RunResult
from fleet.history import Story
from fleet.manifest import Manifest
from fleet.rates import unit_of
from load.local import LocalFleet
from load.oracles.reading import quantile
from load.providers import Ledgers
from load.watch import Sample, of_scope
from ratelimit.limiter import Limiter, Snapshot

LEAST_WINDOW_S = 15.0
"""A shorter spell of queueing says nothing about utilisation."""
LEAST_UTILISATION = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything the verdict is drawn from."""

    manifest: Manifest
    snapshots: Mapping[str, Snapshot]
    summary: dict[str, Any]
    rows: Mapping[str, list[dict[str, Any]]]
    mail: dict[str, int]
    stories: Sequence[Story]
    samples: Mapping[str, Sequence[Sample]]
    processes: Mapping[str, int]
    restarts: Mapping[str, int]
    live: frozenset[str] = frozenset()
    """Kinds of providers that were real: no ledger of theirs can be read, so that our own counters stand in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The document of `--json`, and what does not hold."""

    document: dict[str, Any]
    broken: list[str]


async def gather(
    fleet: LocalFleet,
    limiter: Limiter,
    ledgers: Ledgers,
    stories: Sequence[Story],
    samples: Mapping[str, Sequence[Sample]],
    mail_before: Mapping[str, int],
) -> Evidence:
    """Collect the evidence while the servers still run; mail counts from `mail_before` on."""
    manifest, supervisor, processes = fleet.manifest, fleet.supervisor, fleet.plan.pools
    kinds = {manifest.providers[scope.partition("/")[0]].kind for scope in manifest.scopes()}
    return Evidence(
        manifest=manifest,
        snapshots={scope: await limiter.inspect(scope) for scope in manifest.scopes()},
        summary=await ledgers.summary(),
        rows={kind: await ledgers.rows(kind) for kind in sorted(kinds)},
        mail={name: count - mail_before[name] for name, count in (await ledgers.mail()).items()},
        stories=stories,
        samples=samples,
        processes=processes,
        live=frozenset({"openai", "anthropic"}) if fleet.plan.live_models else frozenset(),
        restarts={pool: sum(supervisor.restarts(f"{pool}-{n + 1}") for n in range(c)) for pool, c in processes.items()},
    )


def judge(evidence: Evidence, results: Mapping[str, RunResult], expected: int, duration_s: float) -> Verdict:
    """Draw the verdict. Pure."""
    completed = sum(r.outcome is Outcome.COMPLETED for r in results.values())
    delivered, duplicates = evidence.mail.get("delivered", 0), evidence.mail.get("duplicates", 0)
    quotas = {scope: _quota(evidence, scope) for scope in evidence.manifest.scopes()}
    broken = []
    if completed != expected:
        broken.append(f"{expected - completed} of {expected} agents did not complete")
    if evidence.mail.get("unique", delivered) != expected:
        broken.append(f"{evidence.mail.get('unique', delivered)} of {expected} e-mails were delivered")
    if duplicates:
        broken.append(f"{duplicates} e-mails were delivered twice")
    for scope, quota in quotas.items():
        if quota["provider_429"]:
            broken.append(f"{scope}: the provider answered 429 {quota['provider_429']} times")
        if quota["queued_s"] >= LEAST_WINDOW_S and quota["utilisation"] < LEAST_UTILISATION:
            broken.append(f"{scope}: used {quota['utilisation']:.0%} of the quota while work was queued")
    queues = {evidence.manifest.task_queue(pool): group for group in evidence.processes for pool in group.split("+")}
    tasks = Counter(queues.get(step.task_queue, step.task_queue) for s in evidence.stories for step in s.steps)
    tasks["agents"] = len(evidence.stories)
    document = {
        "agents": {"started": len(evidence.stories), "completed": completed, "failed": len(results) - completed},
        "quotas": quotas,
        "emails": {"expected": expected, "delivered": delivered, "duplicates": duplicates},
        "pools": {
            pool: {"processes": count, "tasks": tasks[pool], "restarts": evidence.restarts[pool]}
            for pool, count in evidence.processes.items()
        },
        "duration_s": round(duration_s, 1),
        "broken": broken,
        "ok": not broken,
    }
    return Verdict(document=document, broken=broken)


def _quota(evidence: Evidence, scope: str) -> dict[str, Any]:
    spec = evidence.manifest.quotas[scope]
    waits = sorted(
        step.result.quota.waited_s
        for s in evidence.stories
        for step in s.steps
        if step.result and step.result.quota and step.result.quota.scope == scope
    )
    counts = of_scope(evidence.summary, evidence.manifest, scope)
    counters = evidence.snapshots[scope].counters
    if evidence.manifest.providers[scope.partition("/")[0]].kind in evidence.live:
        counts = {"ok": len(waits), "429": counters.rejections}
    used, queued_s = utilisation(evidence, scope)
    per_minute = {
        n: round(r.units * 60 / r.per.total_seconds(), 3)
        for n, r in spec.limits().items()
        if r.returns == "continuously"
    }
    return {
        "limit": per_minute,
        "granted": counts.get("ok", 0),
        "provider_429": counts.get("429", 0),
        "utilisation": round(used, 4),
        "queued_s": round(queued_s, 1),
        "script_calls_per_grant": round(counters.calls / counters.grants, 3) if counters.grants else 0.0,
        "wait_p50_s": round(quantile(waits, 0.5), 3),
        "wait_p99_s": round(quantile(waits, 0.99), 3),
    }


def utilisation(evidence: Evidence, scope: str) -> tuple[float, float]:
    """Share of the binding limit that the provider has seen used while work was queued, and for how long it was.

    The window is the longest spell in which every look found somebody in line; without one it is the whole job.
    """
    spec = evidence.manifest.quotas[scope]
    provider, _, model = scope.partition("/")
    kind = evidence.manifest.providers[provider].kind
    rows = [r for r in evidence.rows[kind] if (kind == "smtp" or r["model"] == model) and r["outcome"] == "ok"]
    if kind in evidence.live:
        rows = [
            {"wall": step.ended_at.timestamp(), "charged": step.result.quota.cost}
            for s in evidence.stories
            for step in s.steps
            if step.ended_at and step.result and step.result.quota and step.result.quota.scope == scope
        ]
    begin, end = _longest_queue(evidence.samples[scope])
    queued_s = end - begin
    if queued_s <= 0 and rows:
        begin, end = min(r["wall"] for r in rows), max(r["wall"] for r in rows)
    length = max(end - begin, 1e-9)
    shares = [0.0]
    for name, rate in spec.limits().items():
        if rate.returns != "continuously" or rate.shadow:
            continue
        used = sum(r["charged"].get(unit_of(name), 0.0) for r in rows if begin <= r["wall"] < end)
        shares.append(used / (rate.units / rate.per.total_seconds() * length))
    return min(1.0, max(shares)) if len(rows) > 1 else 0.0, queued_s


def _longest_queue(samples: Sequence[Sample]) -> tuple[float, float]:
    best = (0.0, 0.0)
    begin: float | None = None
    for sample in samples:
        if not sample.queued:
            begin = None
            continue
        begin = sample.at if begin is None else begin
        if sample.at - begin > best[1] - best[0]:
            best = (begin, sample.at)
    return best


def print_verdict(found: Verdict) -> None:
    """The verdict for people."""
    doc = found.document
    agents, emails = doc["agents"], doc["emails"]
    typer.echo(f"agents   {agents['completed']} of {agents['started']} completed, {agents['failed']} failed")
    for scope, q in doc["quotas"].items():
        limit = ", ".join(f"{v:g} {k}/min" for k, v in q["limit"].items())
        typer.echo(
            f"quota    {scope} ({limit}): {q['granted']} calls, {q['provider_429']} 429s, {q['utilisation']:.1%} used"
            f" while queued for {q['queued_s']:.0f} s, waits p50 {q['wait_p50_s']:.1f} s p99 {q['wait_p99_s']:.1f} s,"
            f" {q['script_calls_per_grant']:.2f} script calls a grant"
        )
    typer.echo(f"e-mails  {emails['delivered']} of {emails['expected']} delivered, {emails['duplicates']} duplicates")
    for pool, p in doc["pools"].items():
        restarted = f", {p['restarts']} restarted" if p["restarts"] else ""
        typer.echo(f"pool     {pool}: {p['processes']} processes{restarted}, {p['tasks']} tasks")
    typer.echo(f"took     {doc['duration_s']:.1f} s")
    for problem in found.broken:
        typer.echo(f"BROKEN   {problem}")
    typer.echo("verdict  " + ("every invariant holds" if doc["ok"] else "not every invariant holds"))
