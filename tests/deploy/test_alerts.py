"""The alerts, their tests and their runbooks: they parse, they fire when they should, and what they name exists."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.cli import main
from fleet.contracts.metrics import REGISTRY, Kind

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "deploy" / "runbooks"
PAGES = sorted(page for page in RUNBOOKS.glob("*.md") if page.name != "README.md")
HEADINGS = ["Meaning", "Impact", "Look here", "Do this", "Undo"]

SCRAPED = {"job", "instance", "process"}
"""Labels that the scraping adds, and that local fleets have."""
OURS = re.compile(r"(?<![\w:.])(?:fleet|temporal)(?:_[a-z0-9_]+|:[a-z0-9_:]+)\b(?!\s*\()")


@cache
def _rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "alert" in rule]


def _named(rule: dict[str, Any]) -> str:
    return f"{rule['alert']}-{rule['labels']['severity']}"


def _cases() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in TESTS]
    return [case for document in documents for case in document["tests"]]


@cache
def _recorded() -> dict[str, set[str]]:
    """Labels of each recording rule: those that its outermost aggregation keeps, and those that it adds itself."""
    found: dict[str, set[str]] = {}
    for rule in _rules():
        if "record" in rule:
            kept = {label for clause in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in _words(clause)}
            found.setdefault(rule["record"], set()).update(kept - {"le"}, rule.get("labels", {}))
    for rule in _rules():  # built on others
        if "record" in rule:
            for name in OURS.findall(_bare(rule["expr"])):
                found[rule["record"]] |= found.get(name, set())
    return found


@cache
def _exposed() -> dict[str, set[str]]:
    """Labels of every name that a query may use."""
    found: dict[str, set[str]] = {}
    for metric in REGISTRY.values():
        labels = {*metric.labels, *SCRAPED}
        if metric.kind is Kind.HISTOGRAM:
            found |= {f"{metric.name}_sum": labels, f"{metric.name}_count": labels}
            found[f"{metric.name}_bucket"] = {*labels, "le"}
        else:
            found[metric.exposed] = labels
    return found | _recorded()


def _words(clause: str) -> list[str]:
    return re.findall(r"\w+", clause)


def _bare(expr: str) -> str:
    """Without what is in quotes or in clauses of labels."""
    expr = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    return re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", r"\1 ()", expr)


def _problems(expr: str) -> Iterator[str]:
    exposed = _exposed()
    named = set(OURS.findall(_bare(expr)))
    for name in named - exposed.keys():
        yield f"{name} is no metric of the registry and no recording rule"
    for name, matchers in re.findall(r"([a-z_:0-9]+)\{([^}]*)\}", expr):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)):
            if label not in exposed.get(name, SCRAPED):
                yield f"{name} has no label {label}"
    known = SCRAPED.union(*(exposed[name] for name in named & exposed.keys()))
    for clause in re.findall(r"\b(?:by|on|group_left|group_right)\s*\(([^)]*)\)", expr):
        for label in set(_words(clause)) - known:
            yield f"nothing in {expr!r} has a label {label}"


def _promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool (Debian: apt install prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_rules_and_finds_nothing_to_complain_of():
    _promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path):
    _promtool("test", "rules", path)


def test_alertmanager_reads_the_example():
    program = shutil.which("amtool")
    if program is None:
        pytest.skip("needs amtool (Debian: apt install prometheus-alertmanager)")
    config = PROMETHEUS / "alertmanager.yml"
    done = subprocess.run([program, "check-config", config], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_routes_every_severity_and_inhibits_alerts_that_exist():
    config = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
    receivers = {one["name"] for one in config["receivers"]}
    assert {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])} == receivers
    names = {name for rule in config["inhibit_rules"] for text in map(str, rule.values()) for name in _fleets(text)}
    assert names
    assert names <= {alert["alert"] for alert in _alerts()}


def _fleets(text: str) -> list[str]:
    return re.findall(r"\bFleet[A-Z]\w+", text)


@pytest.mark.parametrize("rule", _alerts(), ids=_named)
def test_an_alert_says_how_urgent_it_is_what_it_means_and_where_its_runbook_is(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", rule["alert"]).lower()
    assert annotations["runbook_url"] == f"deploy/runbooks/{kebab}.md"
    assert (ROOT / annotations["runbook_url"]).is_file()


@pytest.mark.parametrize("rule", _alerts(), ids=_named)
def test_an_alert_is_tested_to_fire_with_its_exact_words_and_not_to_fire(rule: dict[str, Any]):
    asked = [one for case in _cases() for one in case.get("alert_rule_test", ()) if one["alertname"] == rule["alert"]]
    fired = [alert for one in asked for alert in one["exp_alerts"]]
    mine = [alert for alert in fired if alert["exp_labels"]["severity"] == rule["labels"]["severity"]]
    assert mine
    assert all(alert["exp_annotations"].keys() == rule["annotations"].keys() for alert in mine)
    assert all(len(alert["exp_annotations"]["summary"]) <= 120 for alert in mine)
    assert any(not one["exp_alerts"] for one in asked)


def test_every_recording_rule_is_tested():
    tests = [one for case in _cases() for one in case.get("promql_expr_test", ())]
    asked = {name for one in tests for name in OURS.findall(one["expr"])}
    assert {rule["record"] for rule in _rules() if "record" in rule} - asked == set()


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_expressions_name_metrics_of_the_registry_by_labels_that_they_have(rule: dict[str, Any]):
    assert list(_problems(rule["expr"])) == []


def test_series_of_the_tests_are_metrics_of_the_registry():
    said = [f"{series['series']}" for case in _cases() for series in case["input_series"]]
    assert [problem for expr in said for problem in _problems(expr) if "namespace" not in problem] == []


@pytest.mark.parametrize(
    "expr",
    [
        "fleet_quota_lines > 1",
        "fleet:runs:rate",
        'fleet_quota_line_seconds{pool="a"}',
        "max by (tool) (fleet_quota_line_seconds)",
        "fleet_run_seconds > 1",
        "fleet_runs_ended > 1",
    ],
)
def test_an_expression_that_names_what_is_not_there_is_found_out(expr: str):
    assert list(_problems(expr)) != []


# ---- runbooks


def test_every_runbook_belongs_to_an_alert_and_the_index_has_each_under_its_severity():
    wanted = {Path(rule["annotations"]["runbook_url"]).name for rule in _alerts()}
    assert {page.name for page in PAGES} == wanted
    _, pages, tickets = re.split(r"^## .*$", (RUNBOOKS / "README.md").read_text(), flags=re.MULTILINE)
    told = {"page": re.findall(r"\((\S+\.md)\)", pages), "ticket": re.findall(r"\((\S+\.md)\)", tickets)}
    for severity, listed in told.items():
        mine = {rule["annotations"]["runbook_url"] for rule in _alerts() if rule["labels"]["severity"] == severity}
        assert sorted(listed) == sorted(Path(url).name for url in mine)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_runbook_says_what_it_means_where_to_look_what_to_do_and_how_to_take_it_back(page: Path):
    text = page.read_text()
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert all(body.strip() for body in parts[2::2])
    rules = [rule for rule in _alerts() if rule["alert"] == text.splitlines()[0].removeprefix("# ")]
    assert text.splitlines()[2] == f"Severity: {', '.join(rule['labels']['severity'] for rule in rules)}."


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "alerts.md"], ids=lambda page: page.stem)
def test_queries_of_a_page_name_metrics_of_the_registry(page: Path):
    asked = re.findall(r"```promql\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for line in "".join(asked).splitlines():
        assert list(_problems(line)) == []


def test_prometheus_can_read_the_queries_of_the_pages(tmp_path: Path):
    pages = [*PAGES, ROOT / "docs" / "alerts.md"]
    asked = [
        line
        for page in pages
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(), flags=re.DOTALL)
        for line in block.splitlines()
    ]
    rules = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(asked)]
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    _promtool("check", "rules", path)


@cache
def _program() -> Any:
    from typer.main import get_command

    # only once in a process, and other tests may have been there first
    if "load" not in get_command(main.app).commands:
        main.extend()
    return get_command(main.app)


def _commands(text: str) -> Iterator[str]:
    """Every `fleet …` of a page, in blocks of shell and in the text."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            if line.removeprefix("$ ").startswith("fleet "):
                yield line.removeprefix("$ ")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (" ".join(said.split()) for said in re.findall(r"`(fleet [^`]+)`", text))


def _refused(line: str) -> str:
    """Why the command line could not be taken; empty if it could. A command by itself is only named."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command, path = _program(), ["fleet"]
    while getattr(command, "commands", None):
        if not words or words[0] not in command.commands:
            return f"{' '.join(path)} has no command {words[:1]}"
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    try:
        if words:
            command.make_context(" ".join(path), words)
    except Exception as error:  # noqa: BLE001 - click's usage errors: typer carries a click of its own
        return str(getattr(error, "message", error))
    return ""


@pytest.mark.parametrize("page", [*PAGES, RUNBOOKS / "README.md", ROOT / "docs" / "alerts.md"], ids=lambda p: p.stem)
def test_commands_of_a_page_exist_and_take_what_they_are_given(page: Path):
    assert [(line, why) for line in _commands(page.read_text()) if (why := _refused(line))] == []


@pytest.mark.parametrize("line", ["fleet quota melt S", "fleet quota thaw S T", "fleet pools --loud", "fleet nothing"])
def test_a_command_that_does_not_exist_is_found_out(line: str):
    assert _refused(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_panels_that_a_runbook_names_are_on_the_dashboard(page: Path):
    titles: dict[str, set[str]] = {}
    for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        document = json.loads(path.read_text())
        titles[document["title"]] = set(_titles(document["panels"]))
    text = " ".join(page.read_text().split())
    for dashboard, named in re.findall(r'\*([A-Z][a-z ]+)\*[:,] ((?:"[^"]+"(?:, )?)+)', text):
        assert dashboard in titles
        assert set(re.findall(r'"([^"]+)"', named)) - titles[dashboard] == set()


def _titles(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield panel.get("title", "")
        yield from _titles(panel.get("panels", []))


@pytest.mark.parametrize("page", [*PAGES, RUNBOOKS / "README.md", ROOT / "docs" / "alerts.md"], ids=lambda p: p.stem)
def test_links_of_a_page_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), link
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link
