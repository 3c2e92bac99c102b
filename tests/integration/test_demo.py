"""The main job, as the README has it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

ROOT = Path(__file__).parents[2]
FLEET = str(Path(sys.executable).parent / "fleet")


def demo(folder, *arguments, timeout=300, **settings):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))} | settings
    return subprocess.run(
        [FLEET, "demo", "--keep", str(folder), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def left_over(folder):
    """Processes that still have to do with the folder."""
    return [p.info for p in psutil.process_iter(["pid", "cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


def test_a_few_agents_do_their_work_and_nothing_is_left_behind(tmp_path):
    found = demo(tmp_path / "demo", "--agents", "4", "--json")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["ok"] is True
    assert told["agents"] == {"started": 4, "completed": 4, "failed": 0}
    assert told["emails"] == {"expected": 4, "delivered": 4, "duplicates": 0}
    assert {name: pool["processes"] for name, pool in told["pools"].items()} == {
        "agents": 1, "llm": 2, "search": 1, "email+payments+approvals+memory+webhook": 1,
    }  # fmt: skip
    assert told["pools"]["llm"]["tasks"] == told["quotas"]["openai/sim-large"]["granted"] > 0
    briefs = sorted((tmp_path / "demo" / "briefs").iterdir())
    assert len(briefs) == 4
    for brief in briefs:
        question, _, rest = brief.read_text().partition("\n")
        assert question.startswith("# ")
        assert "[1]" in rest
        assert "Sources:" in rest
    assert left_over(tmp_path) == []


@pytest.mark.trial
@pytest.mark.by_name("corpus_of_ones_own")
def test_a_corpus_of_ones_own_is_asked_about(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    for name in ("walrus", "penguin"):
        (documents / f"{name}.md").write_text(
            f"# About the {name}\n\nThe {name} lives in cold water. It eats clams and herring. A {name} dives deep.\n"
        )
    found = demo(tmp_path / "demo", "--agents", "2", "--corpus", str(documents), "--pools", "llm=1")
    assert found.returncode == 0, found.stderr
    assert "every invariant holds" in found.stdout
    assert str(tmp_path / "demo" / "briefs") in found.stdout
    briefs = "".join(brief.read_text() for brief in (tmp_path / "demo" / "briefs").iterdir())
    assert "lives in cold water" in briefs


def test_an_empty_corpus_is_one_line(tmp_path):
    (tmp_path / "nothing").mkdir()
    for folder in ("nothing", "nowhere"):
        found = demo(tmp_path / "demo", "--corpus", str(tmp_path / folder))
        assert (found.returncode, found.stdout) == (2, "")
        (line,) = [line for line in found.stderr.splitlines() if "starting" not in line]
        assert "--corpus" in line
        assert folder in line
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("kind", "path", "model"), [("openai", "/v1", "gpt-5-mini")])
@pytest.mark.trial
async def test_a_live_demo_asks_the_real_provider(tmp_path, simulators, kind, path, model):
    # what stands for the real one here has no quota and a key of its own
    where = await simulators(**{kind: {"keys": ["sk-real"]}})
    manifest = tmp_path / "fleet.toml"
    text = (ROOT / "deploy" / "fleet.toml").read_text()
    manifest.write_text(text.replace(f'kind = "{kind}"', f'kind = "{kind}"\nbase_url = "{where.http}{path}"'))
    variable = f"{kind.upper()}_API_KEY"
    live = ("--live", "--manifest", str(manifest), "--agents", "2", "--json")

    found = await asyncio.to_thread(demo, tmp_path / "refused", *live, **{variable: "sk-other"})
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    assert f"--live: {kind}: the API key was refused (401)" in found.stderr

    found = await asyncio.to_thread(demo, tmp_path / "demo", *live, **{variable: "sk-real"})
    told = json.loads(found.stdout)
    assert found.returncode == 0, told
    assert told["quotas"][f"{kind}/{model}"]["granted"] == 8
    assert told["emails"] == {"expected": 2, "delivered": 2, "duplicates": 0}
    async with httpx2.AsyncClient(base_url=where.http) as http:
        assert (await http.get("/_ledger/summary")).json()["providers"][kind]["models"].keys() == {model}


# the scenario quota_squeeze has its agents saturate a quota each time
@pytest.mark.trial
@pytest.mark.by_name("saturate")
@pytest.mark.timeout(420)
def test_agents_under_a_quota_they_saturate(tmp_path):
    found = demo(tmp_path / "demo", "--json", "--agents", "18", timeout=400)
    told = json.loads(found.stdout)
    assert found.returncode == 0, told["broken"]
    assert told["agents"] == {"started": 18, "completed": 18, "failed": 0}
    assert told["emails"] == {"expected": 18, "delivered": 18, "duplicates": 0}
    quota = told["quotas"]["openai/sim-large"]
    assert quota["limit"] == {"requests": 600, "tokens": 90000}
    assert quota["provider_429"] == 0
    assert quota["queued_s"] > 30
    assert 0.95 <= quota["utilisation"] <= 1.0
    assert left_over(tmp_path) == []
