"""`docs/metrics.md` has every metric of the registry, as the registry has it.

`python -m pytest` compares; `python tests/house/test_metrics_page.py` writes the tables anew.
"""

import re
from pathlib import Path

from fleet import manifest as manifests
from fleet.contracts import metrics
from fleet.contracts.metrics import Kind, Source
from workers.bootstrap import quotas
from workers.metrics import TENANTS, Bounds, most

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
BEGIN = "<!-- {} -->"
END = "<!-- /{} -->"


def table(source: Source) -> str:
    """The metrics of one source, between marks."""
    rows = [
        f"| `{one.exposed}{{{','.join(one.labels)}}}` | {one.kind.value} | {one.unit} | {one.says} |"
        for one in metrics.REGISTRY.values()
        if one.source is source
    ]
    head = ["| metric | kind | unit | meaning |", "|---|---|---|---|"]
    return "\n".join([BEGIN.format(source.value), *head, *rows, END.format(source.value)])


def bound() -> int:
    """Most series of a process that serves the example manifest."""
    manifest = manifests.load(ROOT / "deploy" / "fleet.toml")
    return most(Bounds.of(manifest, quotas(manifest), TENANTS))


def written(page: str) -> str:
    """The page with its tables and its number as they are now."""
    for source in Source:
        begin, end = BEGIN.format(source.value), END.format(source.value)
        page = re.sub(rf"{begin}(.*?{end})?", lambda _, source=source: table(source), page, count=1, flags=re.DOTALL)
    return re.sub(r"it is \*\*[\w,]+\*\*", f"it is **{bound():,}**", page)


def test_the_page_of_metrics_is_the_registry():
    page = PAGE.read_text()
    missing = [source.value for source in Source if table(source) not in page]
    assert missing == [], "run: python tests/house/test_metrics_page.py"
    assert f"it is **{bound():,}**" in page, "run: python tests/house/test_metrics_page.py"


def test_the_page_names_no_metric_that_the_registry_does_not_have():
    known = {name for one in metrics.REGISTRY.values() for name in (one.name, one.exposed)}
    named = set(re.findall(r"`((?:fleet|temporal)_\w+)", PAGE.read_text()))
    assert named - known == set()


def test_every_kind_of_source_has_metrics():
    assert {one.source for one in metrics.REGISTRY.values()} == set(Source)
    assert {one.kind for one in metrics.REGISTRY.values()} == set(Kind)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
