"""`fleet deploy`: the plan, and the files."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.fleet.cli.conftest import ROOT

SHIPPED = (ROOT / "deploy" / "fleet.toml").read_text(encoding="utf-8")
WIDE = SHIPPED + "\n[deploy.pools.llm]\nreplicas = 2\nmax_replicas = 6\n"
"""The quota keeps 14 slots busy, and these are 384."""


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """A manifest with slots that would only wait."""
    (tmp_path / "wide.toml").write_text(WIDE)
    return "wide.toml"


def test_the_plan_shows_slots_with_their_arithmetic_and_secrets(fleet):
    told = fleet.said("deploy", "plan")
    assert "image agent-fleet:" in told
    assert "1 to 1" in next(line for line in told.splitlines() if line.startswith("llm "))
    assert "llm: openai/sim-large tokens: 90000 in 60 s x 0.98 / 1900 a call = 0.774 calls/s; x 10 s" in told
    assert "payments" in told
    assert "FLEET_DATABASE_URL, BANK_API_KEY" in told
    plan = fleet.document("deploy", "plan", "--build-id", "1.0", "--image", "registry.example.com/fleet:1")
    llm = next(pool for pool in plan["pools"] if pool["name"] == "llm")
    assert (llm["useful_slots"], llm["allowed_replicas"], llm["secrets"]) == (14, 1, ["OPENAI_API_KEY"])
    assert (plan["build_id"], plan["image"], plan["ok"]) == ("1.0", "registry.example.com/fleet:1", True)


def test_the_plan_of_a_manifest_with_idle_slots_fails(fleet, wide):
    told = fleet("deploy", "plan", "--manifest", wide)
    assert told.returncode == 2
    assert "6 x 64 slots = 384, but the quota keeps 14 busy" in told.stderr
    document = json.loads(fleet("deploy", "plan", "--manifest", wide, "--json").stdout)
    assert document["ok"] is False
    assert len(document["problems"]) == 1


def test_files_are_written_once_and_then_as_the_manifest_says(fleet, tmp_path):
    told = fleet.said("deploy", "render", "systemd", "--out", "units")
    assert "units/fleet.target written" in told
    assert "systemctl enable --now fleet.target" in told
    assert "OPENAI_API_KEY, BANK_API_KEY, FLEET_HOOK_SECRET" in told
    assert "files, all as the manifest says" in fleet.said("deploy", "render", "systemd", "--out", "units", "--check")
    (tmp_path / "units" / "fleet.target").unlink()
    stale = fleet("deploy", "render", "systemd", "--out", "units", "--check")
    assert stale.returncode == 1
    assert stale.stdout == "units/fleet.target differs from what the manifest says\n"
    assert not (tmp_path / "units" / "fleet.target").exists()
    again = fleet.document("deploy", "render", "systemd", "--out", "units")
    assert again["changed"] == ["units/fleet.target"]
    assert again["written"] is True


def test_units_of_pools_that_are_gone_are_told_of(fleet, tmp_path):
    fleet.said("deploy", "render", "systemd", "--out", "units")
    fewer = SHIPPED.replace("\n[pools.memory]\n", "\n").replace(', "recall", "remember"]', "]")
    (tmp_path / "fewer.toml").write_text(fewer.replace('memory = { recall = 5, expires = "30d" }\n', ""))
    checked = fleet("deploy", "render", "systemd", "--out", "units", "--manifest", "fewer.toml", "--check")
    assert checked.returncode == 1
    assert "units/fleet-worker-memory@.service belongs to no pool of the manifest any more: delete it" in checked.stdout
    assert (tmp_path / "units" / "fleet-worker-memory@.service").exists()
    fleet.said("deploy", "render", "systemd", "--out", "units", "--manifest", "fewer.toml")
    again = fleet("deploy", "render", "systemd", "--out", "units", "--manifest", "fewer.toml", "--check")
    assert (again.returncode, "differs" in again.stdout) == (1, False)


def test_what_somebody_else_has_written_is_not_overwritten(fleet, tmp_path):
    theirs = tmp_path / "units" / "fleet-console.service"
    theirs.parent.mkdir()
    theirs.write_text("[Service]\n")
    refused = fleet.refused("deploy", "render", "systemd", "--out", "units")
    assert "fleet-console.service was not written by `fleet deploy render`" in refused
    # nothing at all was
    assert [*theirs.parent.iterdir()] == [theirs]
    fleet.said("deploy", "render", "systemd", "--out", "units", "--force")
    assert "ExecStart=" in theirs.read_text()


def test_slots_that_would_only_wait_are_refused_until_they_are_meant(fleet, wide, tmp_path):
    told = fleet.refused("deploy", "render", "systemd", "--manifest", wide, "--out", "units")
    assert "deploy.pools.llm.max_replicas: 6 x 64 slots = 384, but the quota keeps 14 busy" in told
    assert "let it be at most 1, or pools.llm.slots at most 2" in told
    assert not (tmp_path / "units").exists()
    meant = fleet("deploy", "render", "systemd", "--manifest", wide, "--out", "units", "--allow-idle-slots")
    assert meant.returncode == 0
    assert "written all the same: deploy.pools.llm.max_replicas: 6 x 64" in meant.stderr
    assert (tmp_path / "units" / "fleet.target").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--image", "A B"), "--image: 'A B' is no image"),
        (("--build-id", "a b"), "--build-id: 'a b' is not letters"),
        (("--out", "file"), "file/fleet-worker-agents@.service cannot be written"),
        (("--manifest", "none.toml"), "none.toml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(fleet, tmp_path, arguments, said):
    (tmp_path / "file").write_text("")
    assert said in fleet.refused("deploy", "render", "systemd", *arguments)


def test_an_unknown_target_is_refused(fleet):
    assert "'nomad'" in fleet.refused("deploy", "render", "nomad")


def _next(told: str) -> list[str]:
    """What is said to be done next."""
    return [line.strip() for line in told.partition("next, for ")[2].splitlines()[1:]]


def test_next_for_compose_is_everything_from_a_fresh_checkout_on(fleet, tmp_path):
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", ".env"))
    image, secrets, up, doctor = _next(fleet.said("deploy", "render", "compose", "--out", "deploy"))
    assert image.startswith("docker build -f deploy/Dockerfile -t agent-fleet:")
    assert secrets.startswith("sh deploy/secrets.sh, and write into deploy/secrets what is yours: OPENAI_API_KEY, BANK")
    assert up == "docker compose --file deploy/compose.yaml up --detach --wait"
    assert doctor.endswith("cli doctor --target compose")


def test_next_for_compose_elsewhere_begins_with_what_it_mounts(fleet, tmp_path):
    told = _next(fleet.said("deploy", "render", "compose", "--out", "away", "--build-id", "r7"))
    program, option, *copied, into = told[0].split()
    assert (program, option, into) == ("cp", "-r", "away/")
    text = (tmp_path / "away" / "compose.yaml").read_text()
    mounted = {one.partition("/")[0] for one in re.findall(r"- \./([^:]+):", text)}
    assert {one.removeprefix("deploy/") for one in copied} == {*mounted, "secrets.sh"}
    assert all((ROOT / one).exists() for one in copied)
    assert told[1] == f"cp {ROOT}/deploy/fleet.toml away/fleet.toml"
    assert "cli rollout promote r7, unless it is the first version" in told[-2]


def test_next_is_about_the_manifest_that_was_rendered(fleet, tmp_path):
    other = tmp_path / "deploy" / "other.toml"
    other.parent.mkdir()
    other.write_text(SHIPPED + "\n# mine\n")
    told = _next(fleet.said("deploy", "render", "systemd", "--manifest", str(other), "--out", "units"))
    assert told[0].startswith(f"install {other} as /etc/fleet/fleet.toml")
    told = _next(fleet.said("deploy", "render", "compose", "--manifest", str(other), "--out", "deploy"))
    assert "write FLEET_MANIFEST_FILE=./other.toml into deploy/.env" in told


@pytest.mark.parametrize(
    ("build", "name"),
    [((), "fleet-agents"), (("v2",), "fleet-agents-v2"), (("V1.0_rc",), "fleet-agents-v1-0-rc-b1199e")],
)
def test_next_for_helm_names_the_deployment_that_the_chart_makes(fleet, build, name):
    options = [word for one in build for word in ("--build-id", one)]
    told = _next(fleet.said("deploy", "render", "helm", "--out", "values", *options))
    assert all("--namespace agents " in line for line in told)
    assert f"exec deploy/{name} -- fleet doctor --target kubernetes --pool agents," in told[1]


def test_what_is_shipped_is_what_is_rendered(fleet):
    """If this fails: `fleet deploy render all`."""
    told = fleet("deploy", "render", "all", "--out", str(ROOT / "deploy"), "--check")
    assert (told.returncode, told.stderr) == (0, ""), told.stdout
