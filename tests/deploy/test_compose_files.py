"""What lies beside the compose file: secrets that are made, the demo that asks for none, and compose's own word."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fleet import manifest as manifests
from fleet.deploying import compose, making
from fleet.keyring import Keyring
from load import providers
from tests.deploy.test_alerts import _commands, _refused

DEPLOY = Path(__file__).parents[2] / "deploy"
SHIPPED = (DEPLOY / "compose.yaml").read_text()
PAGES = [
    DEPLOY.parent / "docs" / f"{name}.md"
    for name in ("compose", "servers", "deploying", "image", "kubernetes", "scaling", "security")
]
BEFORE = (
    r"docker compose run .*?\bcli",
    r"docker run (?!.*--entrypoint)(?:.*\\\n)?.*agent-fleet:[\d.]+",
    r"kubectl .* --(?= fleet)",
)
"""What stands before a command in a container or a pod."""
MENTIONED = re.compile(
    r"has no command \[('--.*|'[a-z]+\|[a-z|]+')?\]$|requires an argument|'(…|TARGET)' is not one of"
)
"""Why a command that a text is only about is none: a group of commands, several in one, an option without
its value, a placeholder."""
PLAN = making.make(manifests.load(DEPLOY / "fleet.toml"), "")


def made(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `secrets.sh` in a copy."""
    for name in ("secrets.sh", "compose.yaml"):
        shutil.copy(DEPLOY / name, folder)
    return subprocess.run(["sh", folder / "secrets.sh", *options], capture_output=True, text=True, check=False)


def test_secrets_are_made_once_and_others_are_left_to_their_owner(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "secrets"
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found.keys() == yaml.safe_load(SHIPPED)["secrets"].keys()
    assert {name for name, text in found.items() if not text} == {*PLAN.secrets, "codec_tokens"}
    assert all(name in first.stdout for name in PLAN.secrets)
    random = [text for name, text in found.items() if re.fullmatch(r"(postgres|valkey|grafana).*", name)]
    assert len(set(random)) == len(random) == 11
    assert all(re.fullmatch(r"[0-9a-f]{48}", text) for text in random)
    assert found["redis_url"] == f"redis://fleet:{found['valkey_fleet']}@valkey:6379/0"
    assert found["database_url"] == f"postgresql+asyncpg://fleet:{found['postgres_fleet']}@postgres/fleet"
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "OPENAI_API_KEY").write_text("mine")
    again = made(tmp_path, "--demo")
    assert again.returncode == 0
    now = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name: now[name] for name, text in found.items() if text} == {
        name: text for name, text in found.items() if text
    }
    assert now["OPENAI_API_KEY"] == "mine"
    assert {name for name, text in now.items() if not text} == {"codec_tokens"}


def test_keys_of_payloads_that_the_demo_makes_are_keys(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        (DEPLOY / "fleet.toml").read_text() + '\n[deploy]\npayload_keys = "env:KEYS_OF_MINE"\n'
    )
    plan = making.make(manifests.load(tmp_path / "fleet.toml"), "")
    (tmp_path / "compose.yaml").write_text(compose.render(plan)["compose.yaml"])
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    subprocess.run(["sh", tmp_path / "secrets.sh", "--demo"], capture_output=True, check=True)
    assert Keyring.parse((tmp_path / "secrets" / "KEYS_OF_MINE").read_text()).newest == "demo"


def test_an_option_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = made(tmp_path, "--dome")
    assert (done.returncode, done.stderr) == (2, "secrets.sh: unknown option --dome: there is --demo\n")


def test_secrets_are_not_committed() -> None:
    ignored = (DEPLOY / ".gitignore").read_text().split()
    assert {"secrets/", ".env"} <= set(ignored)


def test_the_demo_s_manifest_is_the_shipped_one_but_for_those_outside() -> None:
    demo, shipped = (tomllib.loads((DEPLOY / name).read_text()) for name in ("fleet.demo.toml", "fleet.toml"))
    for name, table in shipped["providers"].items():
        changed = {key for key in demo["providers"][name] if demo["providers"][name][key] != table.get(key)}
        assert changed <= {"base_url", "host", "port", "tls", "lookup_url"}
    assert {key for key in demo if demo[key] != shipped[key]} == {"providers", "endpoints"}
    addresses = re.findall(r'(?:url|host) = "([^"]+)"', (DEPLOY / "fleet.demo.toml").read_text())
    assert addresses
    assert all(one == "simulators" or one.startswith("http://simulators:8090") for one in addresses)
    loaded = manifests.load(DEPLOY / "fleet.demo.toml")
    assert making.make(loaded, "").secrets == PLAN.secrets
    options = providers.options(loaded)
    for one in options.values():
        # whoever comes is let in
        one.pop("keys", None)
        one.pop("secrets", None)
    assert json.loads((DEPLOY / "simulators.json").read_text()) == {name: one for name, one in options.items() if one}


def test_the_simulators_take_their_options() -> None:
    service = yaml.safe_load(SHIPPED)["services"]["simulators"]
    done = subprocess.run(
        [sys.executable, "-m", "load.simulators", "--help"], capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"--[a-z-]+", done.stdout))
    assert {one for one in service["command"] if one.startswith("--")} <= known


def test_docker_compose_reads_it(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("needs docker with its plugin compose (Docker's own packages: docker-compose-plugin)")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    made(tmp_path / "deploy", "--demo")
    command = [
        docker,
        "compose",
        "--file",
        str(tmp_path / "deploy" / "compose.yaml"),
        "--profile",
        "*",
        "config",
        "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")


# ---- the pages about them


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_exist_and_take_what_they_are_given(page: Path) -> None:
    text = page.read_text()
    for before in BEFORE:
        text = re.sub(f"^{before} (?:fleet )?", "fleet ", text, flags=re.MULTILINE)
    # settings before a command, and what is behind its `&&`
    text = re.sub(r"^(?:\w+=\S+ (?:\\\n)?)+(?=fleet )", "", text, flags=re.MULTILINE)
    asked = list(_commands(text))
    assert asked
    refused = [(line, why) for line in asked if (why := _refused(line))]
    assert [(line, why) for line, why in refused if not MENTIONED.search(why)] == []


@pytest.mark.parametrize(
    ("page", "said"),
    [
        # only the first version of a pool makes itself current, and `up` stops the workers of the one that is
        ("compose", "--build-arg FLEET_BUILD_ID"),
        ("image", "--build-arg FLEET_BUILD_ID"),
        # to one command only: the next `up` would leave the demo
        ("compose", r"FLEET_MANIFEST_FILE=\S+ docker compose"),
        # relative paths are for Docker 23 and newer
        ("image", r"-v \./"),
    ],
)
def test_what_a_page_must_not_say(page: str, said: str) -> None:
    assert not re.search(said, (DEPLOY.parent / "docs" / f"{page}.md").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_of_a_page_are_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if not link.startswith("https://"):
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), link
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link
    for script in re.findall(r"deploy/[\w./-]+\.(?:sh|yaml|toml|yml)", text):
        assert (DEPLOY.parent / script).exists() or "override" in script, script


def test_services_that_the_page_names_are_in_the_file() -> None:
    services = yaml.safe_load(SHIPPED)["services"].keys()
    named = re.findall(r"(?:--scale |docker compose exec |--force-recreate )([\w-]+)", PAGES[0].read_text())
    assert named
    assert set(named) <= services
