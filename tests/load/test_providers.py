"""The simulators stand in for a manifest's providers with the manifest's own quotas."""

import re
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


def test_whatever_the_world_would_notice_is_stood_in_for(tmp_path):
    source = manifests.load(MANIFEST)
    target = tmp_path / "fleet.toml"
    providers.rewrite(
        MANIFEST, source, target, models=None, outside=("http://127.0.0.1:1", 25), console="http://127.0.0.1:2"
    )
    rewritten = manifests.load(target)
    found = settings.load()
    assert rewritten.providers["openai"] == source.providers["openai"]
    bank, hook = rewritten.providers["bank"], rewritten.endpoints["hook"]
    assert (bank.base_url, found.secret(bank.api_key)) == ("http://127.0.0.1:1/bank", providers.SIM_KEY)
    assert (found.secret(hook.url), hook.allow_private) == ("http://127.0.0.1:1/hooks/hook", True)
    assert found.secret(hook.secret) == providers.HOOK_SECRET
    assert rewritten.approvals.url == "http://127.0.0.1:2"
    key = found.secret(rewritten.approvals.link_key)
    assert len(key) >= 32
    for secret in (key, providers.HOOK_SECRET, providers.SIM_KEY):
        assert secret not in target.read_text()
    # links that were sent stay good when the fleet is started again
    providers.rewrite(MANIFEST, source, target, models=None, outside=None, console="http://127.0.0.1:3")
    assert found.secret(manifests.load(target).approvals.link_key) == key
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("*.key"))


def test_the_bank_and_the_receivers_know_the_keys_that_the_rewritten_manifest_has(tmp_path):
    source = tmp_path / "source.toml"
    source.write_text(
        MANIFEST.read_text()
        + '[quotas."bank/all"]\nrequests = { rate = "5/s", burst = 2 }\n'
        + '[endpoints.ops]\nkind = "slack"\nurl = "env:SLACK_URL"\n'
    )
    manifest = manifests.load(source)
    found = Options.of(providers.options(manifest))
    assert (found.bank.keys, found.bank.requests.limit, found.bank.requests.burst) == ([providers.SIM_KEY], 5, 2)
    assert set(found.hooks.secrets) == {"hook"}
    target = tmp_path / "fleet.toml"
    providers.rewrite(source, manifest, target, models=None, outside=("http://127.0.0.1:1", 25))
    ops = manifests.load(target).endpoints["ops"]
    assert settings.load().secret(ops.url) == "http://127.0.0.1:1/slack/ops"


def test_an_email_api_is_stood_in_for_too(tmp_path):
    source = tmp_path / "source.toml"
    text = MANIFEST.read_text()
    begin, end = text.index("[providers.email]"), text.index("[providers.bank]")
    api = '[providers.email]\nkind = "resend"\napi_key = "env:RESEND_API_KEY"\nsender = "a@b.c"\n'
    source.write_text(re.sub(r'\[quotas."email/relay"\]\nmessages = .*', "", text[:begin] + api + text[end:]))
    manifest, target = manifests.load(source), tmp_path / "fleet.toml"
    assert Options.of(providers.options(manifest)).mail_api.keys == [providers.SIM_KEY]
    providers.rewrite(source, manifest, target, models=None, outside=("http://127.0.0.1:1", 25))
    email = manifests.load(target).providers["email"]
    assert (email.base_url, settings.load().secret(email.api_key)) == ("http://127.0.0.1:1", providers.SIM_KEY)
