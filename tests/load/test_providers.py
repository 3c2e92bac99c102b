"""The simulators stand in for a manifest's providers with the manifest's own quotas."""

import tomllib
from pathlib import Path

from fleet import manifest as manifests
from fleet import settings
from load import providers
from load.simulators.options import Options

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"


def test_each_provider_enforces_what_the_manifest_says_it_grants():
    found = Options.of(providers.options(manifests.load(MANIFEST)))
    model = found.openai.models["sim-large"]
    assert (model.requests.limit, model.requests.burst, model.requests.period_s) == (600, 60, 60)
    assert (model.tokens.limit, model.tokens.burst) == (90_000, 15_000)
    assert found.smtp.messages.limit / found.smtp.messages.period_s == 20
    assert found.openai.keys == [providers.SIM_KEY]


def test_the_manifest_is_rewritten_to_the_simulators_and_stays_valid(tmp_path):
    source = manifests.load(MANIFEST)
    target = tmp_path / "fleet.toml"
    providers.rewrite(MANIFEST, source, target, models="http://127.0.0.1:1", outside=("http://127.0.0.1:1", 25))
    rewritten = manifests.load(target)
    assert rewritten.providers["openai"].base_url == "http://127.0.0.1:1/v1"
    assert rewritten.providers["anthropic"].base_url == "http://127.0.0.1:1"
    assert (rewritten.providers["email"].port, rewritten.providers["email"].lookup_url) == (
        25,
        "http://127.0.0.1:1/_mail",
    )
    assert rewritten.quotas == source.quotas
    assert rewritten.agents == source.agents
    assert providers.SIM_KEY not in target.read_text()
    assert settings.load().secret(rewritten.providers["openai"].api_key) == providers.SIM_KEY


def test_live_providers_are_left_as_they_are(tmp_path):
    target = tmp_path / "fleet.toml"
    providers.rewrite(MANIFEST, manifests.load(MANIFEST), target, models=None, outside=None)
    assert tomllib.loads(target.read_text()) == tomllib.loads(MANIFEST.read_text())
