"""A hundred agents, a storm of 429s and a killed worker: what dashboards and alerts ask, and what they are answered."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from fleet import settings as environment
from fleet.dashboards import catalog, render
from load import harness, scenario
from load.course import Course
from load.local import Plan, parse_pools
from load.view import View
from tests.deploy import prometheus
from tests.deploy.expressions import evaluate, of_dashboard, of_rules
from workers.bootstrap import limiter

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
EVERY_S = 1.0
STORM_S = 8.0

QUIET = {
    "fleet-overview: Which alerts fire?: A": "they wait for minutes",
    "fleet-overview: What do the instruments lose?: B": "no label had too many values",
    "fleet-effects: Are approvers told?: A": "the drill's approvers look by themselves",
    "fleet-effects: Effects: B": "none failed",
    "fleet-effects: Which attempts does the fence refuse?: A": "nobody was frozen with a claim",
    "fleet-pools: Versions: B": "no version drains",
    "fleet-pools: Which activities fail?: A": "a call that is refused waits, and fails nothing",
    "fleet-pools: Which workflow tasks fail?: A": "every replay agrees",
    "fleet-quotas: What would shadow limits refuse?: A": "there is no shadow limit",
    **{
        f"{uid}: note {note}": "by the end there is none"
        for uid in ("fleet-overview", "fleet-quotas", "fleet-pools", "fleet-agents", "fleet-effects", "fleet-load")
        for note in ("Faults", "Closed scopes", "New versions")
    },
}
"""What such a run has no data of."""


async def test_of_an_incident_every_panel_and_rule_has_its_data_and_the_dashboards_tell_what_happened(tmp_path):
    drill = scenario.find("incident")
    asked = drill.ask({"agents": 100, "for": 40, "storm": STORM_S, "retry_after": 3})
    plan = Plan(
        folder=tmp_path / "fleet",
        manifest=harness.prepared(DEPLOY / "fleet.toml", tmp_path / "load.toml", drill.stage(asked)),
        pools=parse_pools(asked.pools),
        own_ledger=True,
        build="v1",
        exporter_every_s=2.0,
    )
    async with harness.standing(plan, environment.Settings(), View(quiet=True), asyncio.Event()) as crew:
        # a list that follows the processes: Prometheus is told where it lies
        with prometheus.running(tmp_path / "prometheus", crew.fleet.scraped.targets, rules=RULES) as watching:
            async with limiter(crew.fleet.settings(), crew.fleet.manifest) as shared:
                course = Course(replace(crew, shared=shared), drill, asked)
                await course.prepare()
                began = time()
                report = await course.run(asyncio.Event())
            assert [finding.says for finding in report.oracles if not finding.ok] == []
            await asyncio.to_thread(watching.until, 'fleet_load_oracle{oracle="nothing_lost"} == 1')
            at = time()
            asks = [one for file in DASHBOARDS for one in of_dashboard(json.loads(file.read_text()))]
            told = await asyncio.to_thread(
                evaluate, watching.url, asks, at, range_s=at - began, scrape_s=EVERY_S, may_be_empty=QUIET
            )
            assert not told, "\n".join(told)
            assert not set(QUIET) - {one.where for one in asks}
            # alerts are quiet, but each is understood
            rules = [one for file in RULES for one in of_rules(file)]
            quiet = {one.where: "nothing is wrong now" for one in rules}
            assert await asyncio.to_thread(evaluate, watching.url, rules, at, may_be_empty=quiet) == []

            await asyncio.to_thread(_tells, watching.api, began, at)
            look = render.Look(prometheus=watching.api, begin=began, end=at, scrape_s=EVERY_S, values={})
            for dashboard in catalog.dashboards():
                picture = await asyncio.to_thread(render.svg, dashboard, look)
                (tmp_path / f"{dashboard.uid}.svg").write_text(picture)
                assert picture.count("No data") <= 6


def _tells(api, began, at):
    """What happened and when, from Prometheus alone."""

    def seen(expression):
        return {t for answer in api.range(expression, began, at, EVERY_S) for t, _ in answer.points}

    storm = seen('fleet_load_fault{kind="provider"} == 1')
    assert STORM_S - 3 <= max(storm) - min(storm) <= STORM_S + 4
    # the scope was closed during it, and refused calls only then
    closed = seen('fleet_quota_cooldown_seconds{scope="openai/sim-large"} > 0')
    assert closed & storm
    refused = seen('increase(fleet_provider_rejections_total{scope="openai/sim-large"}[5s]) > 0')
    assert refused
    assert min(refused) >= min(storm) - 2
    assert max(refused) <= max(storm) + 8
    # and the pace was cut
    assert min(value for a in api.range("fleet_quota_pace_ratio", began, at, EVERY_S) for _, value in a.points) < 1
    # the worker that was killed began anew, after the storm
    killed = seen('fleet_load_fault{kind="kill",target="llm"} == 1')
    silent = seen('up{process=~"llm-.*"} == 0')
    assert silent
    assert max(storm) < min(killed) <= min(silent) + 2 * EVERY_S
    assert "llm" in {answer.labels["pool"] for answer in api.range("fleet_pool_workers", began, at, EVERY_S)}
