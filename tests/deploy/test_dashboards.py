"""Grafana's files: as they are built, sound, complete, and answered by a real Prometheus."""

import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from fleet.contracts import metrics
from fleet.contracts.metrics import REGISTRY
from fleet.dashboards import grafana
from fleet.dashboards.answers import Filling
from fleet.dashboards.catalog import dashboards
from fleet.dashboards.model import Dashboard, Panel, Query, Row, placed
from fleet.dashboards.queries import Queries
from tests.deploy import prometheus, synthetic
from tests.deploy.expressions import Expression, evaluate, of_dashboard, of_rules, panels

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana"
RULES = ROOT / "deploy" / "prometheus" / "rules"
RUNBOOKS = ROOT / "deploy" / "runbooks"
PROGRAM = str(Path(sys.executable).parent / "fleet")
EMPTY: dict[str, str] = {}
"""By expression, why the synthetic fleet cannot answer it."""


def documents():
    return [json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))]


def fleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "dashboards", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def refused(*arguments: str) -> str:
    found = fleet(*arguments)
    assert (found.returncode, found.stdout) == (2, ""), found
    (line,) = found.stderr.splitlines()
    return line


# ---- the files


def test_the_committed_files_are_what_is_built():
    found = fleet("build", "--check")
    assert found.returncode == 0, found.stdout + found.stderr
    files = {path.name for path in (FOLDER / "dashboards").glob("*.json")}
    assert files == {one.file for one in dashboards()}


def test_a_file_that_differs_is_named_and_built_again(tmp_path):
    assert fleet("build", "--out", str(tmp_path)).returncode == 0
    (tmp_path / "fleet-load.json").write_text("{}")
    found = fleet("build", "--out", str(tmp_path), "--check")
    assert found.returncode == 1
    assert found.stdout == f"{tmp_path / 'fleet-load.json'} differs from what is built\n"
    document = json.loads(fleet("build", "--out", str(tmp_path), "--json").stdout)
    assert document["changed"] == ["fleet-load.json"]
    assert fleet("build", "--out", str(tmp_path), "--check").returncode == 0


def test_panels_lead_to_runbooks_where_the_operator_says_they_are(tmp_path):
    assert fleet("build", "--out", str(tmp_path), "--runbooks", "https://docs.acme.test/fleet/").returncode == 0
    found = json.loads((tmp_path / "fleet-overview.json").read_text())
    (variable,) = [one for one in found["templating"]["list"] if one["name"] == "runbooks"]
    assert variable["query"] == "https://docs.acme.test/fleet"
    (link,) = next(panel["links"] for panel in panels(found) if panel["title"] == "Which quota is the bottleneck?")
    assert link["url"] == "${runbooks:raw}/fleet-quota-starved.md"


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda one: one.uid)
def test_grafanas_own_types_know_everything_that_is_written(dashboard):
    found = grafana.document(dashboard, runbooks="https://docs.acme.test")
    for note in found["annotations"]["list"]:
        # of the Prometheus source, which the types do not cover
        for name in ("titleFormat", "textFormat", "step"):
            del note[name]
    assert grafana.read_back(found) == found


def test_what_grafanas_types_do_not_know_is_found_out():
    found = grafana.document(dashboards()[0], runbooks="https://docs.acme.test")
    found["panels"][1]["bogus"] = True
    assert "bogus" not in grafana.read_back(found)["panels"][1]


def test_panels_lie_on_the_grid_and_never_upon_each_other():
    for document in documents():
        taken: dict[tuple[int, int], str] = {}
        for panel in document["panels"]:
            place = panel["gridPos"]
            assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert (x, y) not in taken, (panel["title"], taken[x, y])
                    taken[x, y] = panel["title"]


def test_every_row_of_panels_is_as_wide_as_the_page():
    for dashboard in dashboards():
        widths: dict[int, int] = {}
        for place, _ in placed(dashboard):
            widths[place.y] = widths.get(place.y, 0) + place.w
        assert set(widths.values()) == {24}, dashboard.uid


def test_every_panel_has_a_title_a_unit_and_says_what_to_look_for():
    for document in documents():
        for panel in panels(document):
            assert panel["title"], panel["id"]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]


def test_uids_ids_and_titles_are_used_once():
    found = documents()
    assert len({one["uid"] for one in found}) == len({one["title"] for one in found}) == len(found)
    for document in found:
        ids = [panel["id"] for panel in document["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in panels(document)]
        assert len(set(titles)) == len(titles), document["uid"]


def test_every_variable_that_is_used_is_declared():
    for document in documents():
        declared = {one["name"] for one in document["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(document)))
        assert used - declared <= {"__rate_interval", "__interval", "__range", "__all"}, document["uid"]


def test_dashboards_lead_to_each_other():
    for document in documents():
        (link,) = document["links"]
        assert (link["type"], link["tags"], link["keepTime"]) == ("dashboards", ["fleet"], True)
        assert "fleet" in document["tags"]


def test_every_runbook_that_a_panel_links_to_is_there():
    linked = {
        link["url"].removeprefix("${runbooks:raw}/")
        for document in documents()
        for panel in panels(document)
        for link in panel.get("links") or []
    }
    assert linked - {path.name for path in RUNBOOKS.glob("*.md")} == set()


def test_every_metric_is_on_a_panel_or_in_an_alert():
    texts = [one.text for document in documents() for one in of_dashboard(document) if ": note " not in one.where]
    texts += [one.text for file in RULES.glob("*.yml") for one in of_rules(file)]
    asked = {name for text in texts for name in re.findall(r"[a-z_]+", text)}
    unused = [
        one.name
        for one in REGISTRY.values()
        if not asked & {f"{one.exposed}{suffix}" for suffix in ("", "_bucket", "_sum", "_count")}
    ]
    assert unused == []


def test_the_paper_names_panels_that_exist():
    paper = (ROOT / "docs" / "dashboards.md").read_text()
    titles = {one["title"]: {panel["title"] for panel in panels(one)} for one in documents()}
    named = 0
    for row in re.findall(r"^\| [^|]+\? \| ([^|]+) \| ([^|]+) \|$", paper, re.MULTILINE):
        wanted = set(re.findall(r"\*([^*]+)\*", row[1]))
        assert wanted - titles[row[0]] == set(), row
        named += len(wanted)
    assert named > 30


def test_exemplars_are_shown_where_workers_record_them():
    found = {
        target["expr"].partition("_bucket")[0].rpartition("(")[2]
        for document in documents()
        for panel in panels(document)
        for target in panel["targets"]
        if target.get("exemplar")
    }
    assert found == {
        one.name
        for one in (metrics.QUOTA_WAIT, metrics.PROVIDER_SECONDS, metrics.QUOTA_ESTIMATE, metrics.STORE_SECONDS)
    }


def test_the_provisioning_files_name_what_the_dashboards_use():
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == "15s"
    (provider,) = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "fleet.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False


# ---- how queries are written


def test_a_label_that_a_metric_does_not_have_is_refused():
    with pytest.raises(ValueError, match="fleet_runs has no label scope: one of agent, state"):
        Queries().sum(metrics.RUNS, "scope")
    with pytest.raises(ValueError, match="fleet_store_lost has no label verb: one of none"):
        Queries().rate(metrics.STORE_LOST, where={"verb": "reserve"})


def test_a_gauge_has_no_rate_and_a_counter_no_quantile():
    with pytest.raises(ValueError, match="fleet_runs is a gauge, not a counter"):
        Queries().rate(metrics.RUNS)
    with pytest.raises(ValueError, match="fleet_store_lost is a counter, not a histogram"):
        Queries().quantile(0.5, metrics.STORE_LOST)


def test_a_dashboards_variables_filter_whatever_has_their_label():
    q = Queries(frozenset({"scope", "pool"}))
    assert q.rate(metrics.QUOTA_SPENT, "limit") == (
        'sum by (limit) (rate(fleet_quota_spent_units_total{scope=~"$scope"}[$__rate_interval]))'
    )
    assert '{task_queue=~"$pool"}' in q.quantile(0.9, metrics.SCHEDULE_TO_START)
    assert q.sum(metrics.STICKY_SIZE) == "sum (temporal_sticky_cache_size)"


def test_a_second_exporter_doubles_nothing():
    assert Queries().sum(metrics.RUNS, "state") == "sum by (state) (max by (agent, state) (fleet_runs))"


def test_a_panel_that_is_wider_than_the_page_is_refused():
    panel = Panel(title="t", says="s.", unit="s", queries=[Query(expr="1")], width=25)
    with pytest.raises(ValueError, match="t: width 25 is not in 1 to 24"):
        placed(Dashboard(uid="u", title="t", says="s", rows=[Row(title="r", panels=[panel])]))


def test_variables_are_filled_in_as_grafana_does():
    filled = Filling(range_s=3600, step_s=15, scrape_s=15, values={"scope": "openai/.*"})
    assert filled('x{scope=~"$scope", pool=~"${pool}"}[$__rate_interval]') == 'x{scope=~"openai/.*", pool=~".*"}[60s]'
    assert filled("$__range ${__interval} ${runbooks:raw}") == "3600s 15s .*"


# ---- a real Prometheus


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prometheus that has scraped every family of the registry several times."""
    prometheus.program()
    folder = tmp_path_factory.mktemp("prometheus")
    rule = folder / "rules.yml"
    rule.write_text(yaml.safe_dump({"groups": [{"name": "t", "rules": [{"alert": "FleetTest", "expr": "vector(1)"}]}]}))
    with synthetic.serving() as targets, prometheus.running(folder, targets, rules=[rule]) as found:
        found.until("count(count_over_time(up[30s]) >= 5) == 3")
        found.until('ALERTS{alertstate="firing"}')
        yield found


def test_every_expression_is_understood_and_answered(server):
    expressions = [one for document in documents() for one in of_dashboard(document)]
    assert len(expressions) > 150
    assert evaluate(server.url, expressions, time.time(), may_be_empty=EMPTY) == []


def test_every_expression_of_the_rules_is_understood(server):
    expressions = [one for file in sorted(RULES.glob("*.yml")) for one in of_rules(file)]
    assert expressions
    # that nothing fires is how it should be
    problems = evaluate(server.url, expressions, time.time())
    assert [problem for problem in problems if ": no data: " not in problem] == []


def test_an_expression_that_is_wrong_or_finds_nothing_is_a_problem(server):
    wrong = [Expression(where="a", text="rate(up)"), Expression(where="b", text="fleet_no_such_metric")]
    found = evaluate(server.url, wrong, time.time())
    assert [problem.partition(":")[0] for problem in found] == ["a", "b"]
    assert evaluate(server.url, wrong[1:], time.time(), may_be_empty={"b": "it was never there"}) == []


def test_pictures_of_all_dashboards_are_drawn_from_what_prometheus_says(server, tmp_path):
    found = fleet("render", "--prometheus", server.url, "--from", "-30s", "--out", str(tmp_path))
    assert found.returncode == 0, found.stderr
    for dashboard in dashboards():
        picture = (tmp_path / f"{dashboard.uid}.svg").read_text()
        texts = [text.text or "" for text in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert dashboard.title in texts
        assert "no data" not in texts
        # it asks nothing of any network
        assert re.findall(r"(?:href|src)=|url\(|<script", picture) == []
        assert len(picture) < 1_000_000


def test_only_the_named_dashboard_is_drawn_with_the_chosen_scope(server, tmp_path):
    found = fleet(
        "render", "--prometheus", server.url, "--from", "-30s", "--out", str(tmp_path),
        "--dashboard", "fleet-quotas", "--variable", "scope=smtp/.*", "--scrape", "1s", "--json",
    )  # fmt: skip
    assert json.loads(found.stdout)["files"] == [str(tmp_path / "fleet-quotas.svg")]
    picture = (tmp_path / "fleet-quotas.svg").read_text()
    assert "smtp/relay" in picture
    assert "openai" not in picture.replace("Closed: openai/gpt-5", "")


# ---- bad input: one line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", "--runbooks", "docs"], "'docs' is no address"),
        (["build", "--out", "README.md"], "README.md/fleet-overview.json cannot be written"),
        (["render", "--prometheus", "localhost:9090"], "'localhost:9090' is no address of a Prometheus"),
        (["render", "--prometheus", "http://localhost:http"], "'http://localhost:http' is no address"),
        (["render", "--prometheus", "http://me:secret@127.0.0.1:1"], "with credentials is not understood"),
        (["render", "--prometheus", "http://127.0.0.1:1"], "Prometheus at http://127.0.0.1:1 does not answer"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--from", "yesterday"], "--from 'yesterday' is no instant"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--to", "1e999"], "--to '1e999' is no instant"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--from", "now"], "let them be at least 10 s apart"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--dashboard", "x"], "--dashboard x: there is none"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--variable", "x=1"], "--variable x=1: write NAME=REGEX"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--variable", "scope=("], "write a regular expression"),
        (["render", "--prometheus", "http://127.0.0.1:1", "--scrape", "0s"], "--scrape '0s' is no interval"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, arguments, says):
    more = ["--out", str(tmp_path)] if arguments[0] == "render" else []
    assert says in refused(*arguments, *more)


def test_a_server_that_is_no_prometheus_is_told(tmp_path):
    with synthetic.serving() as targets:
        (address,) = targets[0]["targets"]
        assert "answers, but not as Prometheus does" in refused(
            "render", "--prometheus", f"http://{address}", "--out", str(tmp_path)
        )


def test_without_the_extra_it_says_what_to_install(tmp_path):
    # as where it is not installed: nothing of that name can be imported
    code = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None; sys.argv[1:] = ['dashboards', 'build'];"
        "from fleet.cli.main import main; main()"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert found.stderr == (
        "fleet: grafana-foundation-sdk is not installed: install the extra, as in pip install"
        " 'agent-fleet[dashboards]'\n"
    )
