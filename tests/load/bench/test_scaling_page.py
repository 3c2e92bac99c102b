"""What the page on scaling reckons is right, and what it names is there."""

import ast
import operator
import re
from pathlib import Path

import pytest

from fleet.contracts.metrics import REGISTRY
from load.bench import footprint, masters, stores

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SUM = re.compile(r"(?P<sum>[\d(][\d,.() ]*(?:[\u00d7/+] ?[\d,.() ]+)+) = (?P<result>[\d,]+(?:\.\d+)?)")
DOES = {ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Add: operator.add}


def reckoned(node):
    if isinstance(node, ast.BinOp):
        return DOES[type(node.op)](reckoned(node.left), reckoned(node.right))
    assert isinstance(node, ast.Constant)
    return node.value


def plain(text):
    return text.replace(",", "").replace("\u00d7", "*")


def wrong(found):
    """What a sum comes to, if it is not what is written, to the digits that are written."""
    result = plain(found["result"])
    step = 10 ** -len(result.partition(".")[2])
    value = reckoned(ast.parse(plain(found["sum"]).strip(), mode="eval").body)
    return None if abs(value - float(result)) <= 0.51 * step else value


def test_every_sum_on_the_page_adds_up():
    found = list(SUM.finditer(PAGE))
    assert len(found) >= 15
    assert {one[0]: value for one in found if (value := wrong(one)) is not None} == {}


@pytest.mark.parametrize(
    ("text", "value"), [("2 / 3 = 7", 2 / 3), ("600 \u00d7 1,000 / 4 = 150,000", None), ("1 / 3 = 0.33", None)]
)
def test_a_wrong_sum_is_noticed(text, value):
    assert wrong(SUM.search(text)) == value


def test_panels_and_alerts_that_the_page_names_exist():
    panels = set()
    for file in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        panels |= set(re.findall(r'"title": "([^"]+)"', file.read_text(encoding="utf-8")))
    named = set(re.findall(r'"([A-Z][^"]*\?|Longest line)"', PAGE.replace("\n", " ")))
    assert len(named) > 5
    assert named - panels == set()
    rules = (ROOT / "deploy" / "prometheus" / "rules" / "alerts.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"`(Fleet[A-Z]\w+)`", PAGE)) - set(re.findall(r"alert: (\w+)", rules)) == set()


def test_metrics_that_the_page_names_are_served():
    named = set(re.findall(r"\b((?:fleet|temporal)_[a-z_]+)(?:\[|\)|`)", PAGE))
    assert len(named) > 5
    assert {re.sub("_(count|sum|bucket)$", "", name) for name in named} - {
        one.exposed for one in REGISTRY.values()
    } == set()


def test_slots_that_the_page_names_are_those_of_the_providers():
    told = dict(re.findall(r"\b(anthropic|search|email|bank|fleet)\)? (\d{4,5})\b", PAGE))
    told["openai"] = re.search(r"keyslot '\{openai\}' +# (\d+)", PAGE)[1]
    assert len(told) == 6
    assert {name: masters.slot(name) for name in told} == {name: int(number) for name, number in told.items()}


def test_the_page_tells_of_every_case_that_is_measured():
    for case in stores.CASES:
        assert f"| {case.label} |" in PAGE
    for table in footprint.DATA:
        assert f"| `{table}` |" in PAGE
