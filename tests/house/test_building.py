"""Tests of the building itself: who may know what, and that the papers match the house."""

import ast
import inspect
import re
import subprocess
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from prometheus_client import Metric

from fleet.contracts import metrics, tools
from fleet.contracts.metrics import Source
from fleet.settings import Settings
from workers.metrics import METRICS
from workers.tools import llm, mail, memory, notify, payments, search, webhook

ROOT = Path(__file__).parents[2]
ROOMS = ("fleet", "ratelimit", "workers", "load")
MODULES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_only_workflows_import_temporals_workflow_module():
    guilty = [
        _name(p)
        for p in MODULES
        if "temporalio.workflow" in _imports(p)
        and not _name(p).startswith("fleet/workflows/")
        # there Temporal itself is what is measured
        and _name(p) not in ("load/bench/temporal_rps.py", "load/bench/engine.py", "load/bench/bare.py")
    ]
    assert guilty == []


def test_only_settings_read_the_environment():
    guilty = [
        _name(p)
        for p in MODULES
        if re.search(r"\bos\.(environ|getenv)\b", p.read_text()) and _name(p) != "fleet/settings.py"
    ]
    assert guilty == []


def test_no_module_shadows_the_standard_library():
    import sys

    assert [
        _name(p) for p in MODULES if p.stem in {"email", "types", "logging", "queue"} & set(sys.stdlib_module_names)
    ] == []


def _contracts() -> dict[str, dict[str, list[str]]]:
    papers = ConfigParser(delimiters=("=",))
    papers.read(ROOT / ".importlinter")
    return {
        section.rpartition(":")[2]: {key: value.split("\n")[1:] for key, value in papers[section].items()}
        for section in papers.sections()
        if papers[section].get("type") == "forbidden"
    }


def test_every_module_of_the_core_is_kept_from_the_rooms_above_it():
    above = {"cli", "console", "top", "__init__"}
    core = {f"fleet.{p.stem}" for p in (ROOT / "fleet").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    named = set(_contracts()["core"]["source_modules"])
    assert core - named - {f"fleet.{name}" for name in above} == set()


@pytest.mark.parametrize(
    ("package", "users"),
    [
        ("openai", {"workers.providers"}),
        ("anthropic", {"workers.providers"}),
        ("aiosmtplib", {"workers.providers"}),
        ("standardwebhooks", {"workers.providers", "load.simulators"}),
        ("cloudevents", {"workers.providers"}),
        ("sqlalchemy", {"workers.database", "workers.effects", "workers.memory"}),
        ("alembic", {"workers.database"}),
        ("asyncpg", {"workers.database"}),
        ("simpleeval", {"fleet.conditions"}),
        ("jsonschema", {"fleet.arguments"}),
        ("itsdangerous", {"fleet.links"}),
        ("cryptography", {"fleet.codec", "fleet.keyring"}),
        ("backports", {"fleet.codec"}),
        ("jwt", {"fleet.console"}),
        ("aioboto3", {"fleet.storage"}),
        ("botocore", {"fleet.storage"}),
        ("jinja2", {"fleet.console", "fleet.history", "load.report"}),
        ("grafana_foundation_sdk", {"fleet.dashboards"}),
        ("textual", {"fleet.top"}),
        ("opentelemetry", {"fleet.tracing", "fleet.workflows", "workers.otlp", "workers.tracing"}),
    ],
)
def test_what_only_one_room_uses_every_other_is_kept_from(package, users):
    (contract,) = [
        one for one in _contracts().values() if package in one["forbidden_modules"] and "fleet" in one["source_modules"]
    ]
    assert set(contract["source_modules"]) == set(ROOMS)
    allowed = [line.split(" -> ")[0] for line in contract["ignore_imports"] if line.endswith(f" -> {package}")]
    assert {".".join(user.split(".")[:2]) for user in allowed} == users


def test_nobody_else_owns_our_import_names():
    owners = packages_distributions()
    assert {room: set(owners.get(room, [])) - {"agent-fleet"} for room in ROOMS} == {room: set() for room in ROOMS}
    origins = {room: find_spec(room).origin for room in ROOMS}
    assert origins == {room: str(ROOT / room / "__init__.py") for room in ROOMS}


def test_every_stub_is_served_by_exactly_one_activity():
    served = [
        member.__temporal_activity_definition.name
        for tool in (
            llm.LlmTools,
            search.SearchTools,
            mail.MailTools,
            payments.PaymentTools,
            webhook.WebhookTools,
            memory.MemoryTools,
            notify.NotifyTools,
        )
        for _, member in inspect.getmembers(tool)
        if hasattr(member, "__temporal_activity_definition")
    ]
    assert sorted(served) == sorted(stub.name for stub in tools.STUBS)


def test_every_setting_has_a_paragraph():
    paper = (ROOT / "docs" / "operations.md").read_text()
    missing = [f"FLEET_{name.upper()}" for name in Settings.model_fields if f"### FLEET_{name.upper()}\n" not in paper]
    assert missing == []


def test_a_worker_serves_the_families_of_the_registry_and_no_others():
    families: list[Metric] = list(METRICS.registry.collect())
    registered = {one.name for one in metrics.REGISTRY.values() if one.source is Source.WORKER}
    assert {family.name for family in families} == registered


def test_the_lock_file_names_no_host():
    assert re.findall(r"https?://", (ROOT / "requirements.lock").read_text()) == []


def test_every_dependency_is_in_the_lock_file():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    # as the lock file writes names (PEP 503)
    assert {re.sub(r"[._]", "-", re.split(r"[<>=\[ ]", d)[0]) for d in wanted} - locked == set()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files are the project's")
def test_no_file_of_the_project_names_a_machines_folder():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    guilty = [
        name
        for name in files
        if (ROOT / name).is_file()
        and name != _name(Path(__file__))
        and re.search(r"(^|[\s\"'=(])/(work|root|home)/", (ROOT / name).read_text(errors="ignore"))
    ]
    assert guilty == []


def test_every_link_of_the_papers_leads_somewhere():
    broken = [
        f"{_name(paper)}: {target}"
        for paper in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        for target in re.findall(r"\]\(([^)#]+)\)", paper.read_text())
        if "://" not in target and not (paper.parent / target).exists()
    ]
    assert broken == []
