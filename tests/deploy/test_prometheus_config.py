"""The example of a scrape configuration is one that Prometheus takes, and fits the house."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fleet import manifest as manifests
from fleet.cli.exporter_app import PORT

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"


def test_prometheus_takes_it_with_all_its_rules():
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian: apt install prometheus)")
    checked = subprocess.run(
        ["promtool", "check", "config", str(CONFIG)], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked
    rules = list((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    assert rules
    assert f"{len(rules)} rule files found" in checked.stdout


def test_it_scrapes_every_pool_and_the_exporter_by_the_names_of_the_jobs():
    jobs = {job["job_name"]: job for job in yaml.safe_load(CONFIG.read_text())["scrape_configs"]}
    (workers,) = jobs["fleet-worker"]["dns_sd_configs"]
    assert set(workers["names"]) == set(manifests.load(DEPLOY / "fleet.toml").pools)
    assert jobs["fleet-exporter"]["static_configs"][0]["targets"] == [f"exporter:{PORT}"]
    assert workers["port"] != PORT
