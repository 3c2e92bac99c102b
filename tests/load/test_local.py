"""A local fleet's processes see their own servers, whatever the user's environment says."""

import re
from pathlib import Path

import pytest

from fleet import settings
from fleet.errors import BadInput
from load.local import LocalFleet, Plan, parse_pools
from workers.embedded import Endpoints

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"


def local(tmp_path, **plan):
    found = LocalFleet(Plan(folder=tmp_path, manifest=MANIFEST, pools={"llm": 1}, **plan), settings.load())
    found.stack._endpoints = Endpoints(temporal="127.0.0.1:1", ui="u", redis="redis://127.0.0.1:2/0", folder="f")
    return found


def test_another_temporal_and_another_ledger_stay_out_of_it(tmp_path, monkeypatch):
    for name, value in {
        "TEMPORAL_NAMESPACE": "prod",
        "TEMPORAL_API_KEY": "secret",
        "TEMPORAL_TLS": "true",
        "FLEET_DATABASE_URL": "postgresql+asyncpg://prod/ledger",
        "FLEET_LOG_LEVEL": "error",
    }.items():
        monkeypatch.setenv(name, value)
    seen = local(tmp_path, own_ledger=True).environment()
    assert {name: value for name, value in seen.items() if name.startswith("TEMPORAL_")} == {
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "TEMPORAL_CONFIG_FILE": "/dev/null",
    }
    assert "FLEET_DATABASE_URL" not in seen
    assert seen["FLEET_LOG_LEVEL"] == "info"
    assert local(tmp_path).environment()["FLEET_DATABASE_URL"].startswith("postgresql")


def test_a_worker_is_ready_when_this_life_of_it_has_said_so(tmp_path):
    found = local(tmp_path)
    log = tmp_path / "logs" / "llm-1.log"
    log.parent.mkdir()
    log.write_text('{"event": "ready"}\n')
    found._log_began["llm-1"] = log.stat().st_size
    assert found._said("llm-1") == ""
    with log.open("a") as more:
        more.write("new")
    assert found._said("llm-1") == "new"


@pytest.mark.parametrize(
    ("text", "pools"),
    [
        ("llm=2", {"agents": 1, "llm": 2, "search": 1, "email+payments+approvals+memory+webhook": 1}),
        (
            "email=2,payments=1,webhook=3",
            {"agents": 1, "llm": 1, "search": 1, "email+approvals+memory": 2, "payments": 1, "webhook": 3},
        ),
    ],
)
def test_pools_with_little_to_do_share_a_process(text, pools):
    assert parse_pools(text) == pools


@pytest.mark.parametrize("text", ["lm=1", "llm=0", "llm=65", "llm=x", "approvals+memory=1", ""])
def test_what_is_no_number_of_processes_is_refused(text):
    with pytest.raises(BadInput, match="--pools: "):
        parse_pools(text)


def test_pools_that_the_manifest_lacks_are_not_started(tmp_path):
    manifest = tmp_path / "fleet.toml"
    text = MANIFEST.read_text().replace("[pools.memory]\n", "").replace(', "recall", "remember"', "")
    manifest.write_text(re.sub(r"\nmemory = .*", "", text))
    plan = Plan(folder=tmp_path, manifest=manifest, pools={"llm": 2, "memory": 1, "approvals+memory+webhook": 1})
    assert LocalFleet(plan, settings.load())._groups() == {"llm": 2, "approvals+webhook": 1}
