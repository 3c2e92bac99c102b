"""Secrets of the environment are in no output: of `fleet doctor` and of a worker that cannot start."""

import pytest

from fleet import manifest
from fleet import settings as environment
from tests.fleet.cli.conftest import ROOT, Cli
from workers.bootstrap import secrets

HUSH = {
    "REDIS": "hush-redis-42",
    "DATABASE": "hush-sql-42",
    "TEMPORAL": "hush-temporal-42",
    "PAYLOADS": "aHVzaC1wYXlsb2Fk",
}


@pytest.fixture
def variables(tmp_path):
    """Everything in files; nobody answers anywhere."""
    held = {
        "FLEET_REDIS_URL_FILE": f"redis://fleet:{HUSH['REDIS']}@127.0.0.1:1/0?sentinel_password={HUSH['REDIS']}-too",
        "FLEET_DATABASE_URL_FILE": f"postgresql+asyncpg://fleet:{HUSH['DATABASE']}@127.0.0.1:1/fleet",
        "TEMPORAL_API_KEY_FILE": HUSH["TEMPORAL"],
        "PAYLOADS_FILE": f"k1:{HUSH['PAYLOADS']}",
    }
    for name, text in held.items():
        (tmp_path / name).write_text(text + "\n")
    return {name: str(tmp_path / name) for name in held} | {
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "TEMPORAL_TLS": "false",
        "FLEET_PAYLOAD_KEYS": "env:PAYLOADS",
        "OPENAI_API_KEY": "sk-" + "4" * 30,
    }


def test_the_doctor_tells_no_secret(tmp_path, variables):
    found = Cli(tmp_path, {"FLEET_STATE_DIR": str(tmp_path)})("doctor", **variables)
    said = found.stdout + found.stderr
    assert found.returncode == 2
    for component in ("temporal", "redis", "database", "payloads"):
        assert f"FAILS  {component} " in said, said
    assert not [secret for secret in [*HUSH.values(), "hush", "sk-4"] if secret in said], said


def test_the_log_is_told_what_to_leave_out(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    known = secrets(environment.load(), manifest.load(ROOT / "deploy" / "fleet.toml"))
    assert {*HUSH.values(), f"{HUSH['REDIS']}-too", variables["OPENAI_API_KEY"]} <= set(known)
