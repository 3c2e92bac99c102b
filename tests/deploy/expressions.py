"""Every expression of Grafana's files and of Prometheus' rules, and whether a Prometheus answers it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fleet.dashboards.answers import Filling, Prometheus, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One expression and where it stands."""

    where: str
    """As in `fleet-overview: 429s: A`."""
    text: str


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels that are no headings, those of closed rows included."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def of_dashboard(dashboard: Mapping[str, Any]) -> list[Expression]:
    """Those of panels, variables and annotations, as Grafana has them: with its variables."""
    uid = dashboard["uid"]
    found = [
        Expression(where=f"{uid}: {panel['title']}: {target['refId']}", text=target["expr"])
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked, f"{uid}: ${variable['name']}: {variable['query']}"
            found.append(Expression(where=f"{uid}: ${variable['name']}", text=f"group by ({asked[2]}) ({asked[1]})"))
    found += [
        Expression(where=f"{uid}: note {note['name']}", text=note["expr"])
        for note in dashboard["annotations"]["list"]
        if "expr" in note
    ]
    return found


def of_rules(file: Path) -> list[Expression]:
    """Those of recording rules and alerts."""
    return [
        Expression(where=f"{file.name}: {rule.get('alert') or rule['record']}", text=str(rule["expr"]))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def evaluate(
    url: str,
    expressions: Iterable[Expression],
    at: float,
    *,
    range_s: float = 60.0,
    scrape_s: float = 1.0,
    may_be_empty: Mapping[str, str] | None = None,
) -> list[str]:
    """What is wrong: expressions that the Prometheus refuses, and those without an answer.

    Args:
        url: of the Prometheus.
        expressions: to be asked.
        at: instant, in seconds of the Unix epoch.
        range_s: what stands for `$__range`.
        scrape_s: how often the Prometheus scrapes.
        may_be_empty: by `where` of an expression, why no answer is fine.
    """
    api = Prometheus(url)
    filled = Filling(range_s=range_s, step_s=15.0, scrape_s=scrape_s)
    problems = []
    for one in expressions:
        text = filled(one.text)
        try:
            answers = [answer for answer in api.instant(text, at) if answer.points]
        except Refused as error:
            problems.append(f"{one.where}: {error}")
            continue
        if not answers and one.where not in (may_be_empty or {}):
            problems.append(f"{one.where}: no data: {text}")
    return problems
