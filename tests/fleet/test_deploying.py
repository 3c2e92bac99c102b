"""What a manifest becomes when it is deployed: processes, slots that its quotas keep busy, secrets of each pool."""

import tomllib
from pathlib import Path

import pytest
import yaml

from fleet import manifest as manifests
from fleet.deploying import capacity, compose, helm, making, systemd
from fleet.deploying.plan import Plan, PoolPlan
from fleet.manifest import Manifest

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "deploy" / "fleet.toml").read_text(encoding="utf-8")

BASE = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[providers.anthropic]
kind = "anthropic"
api_key = "env:ANTHROPIC_API_KEY"
[providers.brave]
kind = "brave"
base_url = "https://search.example.com"
api_key = "env:BRAVE_KEY"
[providers.relay]
kind = "smtp"
host = "mail.example.com"
sender = "fleet@example.com"
username = "fleet"
password = "env:SMTP_PASSWORD"
[pools.agents]
[pools.llm]
slots = 10
max_inline_wait = "2s"
[pools.search]
provider = "brave"
max_inline_wait = "1s"
[pools.email]
provider = "relay"
[agents.one]
model = "openai/large"
max_output_tokens = 500
instructions = "Do."
"""


def manifest(text: str) -> Manifest:
    return Manifest.model_validate(tomllib.loads(text))


def plan(more: str = "", base: str = BASE) -> Plan:
    return making.make(manifest(base + more), base + more)


def pool(name: str, more: str = "", base: str = BASE) -> PoolPlan:
    return next(one for one in plan(more, base).pools if one.name == name)


def problems(tmp_path: Path, more: str) -> list[str]:
    (tmp_path / "fleet.toml").write_text(BASE + more)
    return manifests.examine(tmp_path / "fleet.toml")[1]


def test_requests_a_second_times_the_seconds_of_a_call_are_the_calls_at_once():
    # 120 requests a minute are 2 a second; 8 s of call and 2 s in line: 20 at once, and 2 x sqrt(20)
    found = capacity.useful(manifest(BASE + '[quotas."openai/large"]\nrequests = "120/m"\nheadroom = 1'), "llm", 8.0)
    assert found.slots == 29
    assert found.scopes == ("openai/large",)
    assert found.lines[0] == (
        "openai/large requests: 120 in 60 s x 1 / 1 a call = 2 calls/s; x 10 s in a slot, 2 s of them in line,"
        " = 20.0 at once, + 2 x sqrt = 28.9"
    )


@pytest.mark.parametrize(
    ("limits", "slots"),
    [
        # 2,000 tokens a call: 60 calls a minute, 10 at once
        ('tokens = "120k/m"', 17),
        # the least of all limits
        ('requests = "600/m"\ntokens = "120k/m"', 17),
        ('input_tokens = "90k/m"', 17),
        ('output_tokens = "30k/m"', 17),
        # what is in flight is the bound itself, however fast calls come
        ('requests = "6000/m"\nin_flight = 12', 12),
        ("tokens_in_flight = 8000", 4),
        # a minute's window is a rate, a day's and a month's say nothing of what is at once
        ('requests = "60/minute"', 17),
        ('requests = "60/m"\nrequests_per_day = "10/day"', 17),
        ('requests = "60/m"\nrequests_per_month = "10/month"', 17),
        # bit by bit is a rate, however long its period
        ('requests = "86400/d"', 17),
        # a shadow refuses nothing
        ('requests = "60/m"\ntokens = { rate = "1k/m", shadow = true }', 17),
        ('requests_per_day = "10k/day"', None),
    ],
)
def test_each_kind_of_limit_bounds_in_its_own_way(limits, slots):
    found = capacity.useful(manifest(BASE + f'[quotas."openai/large"]\nheadroom = 1\n{limits}\n'), "llm", 8.0)
    assert found.slots == slots, found.lines


def test_headroom_is_left_to_others():
    quota = '[quotas."openai/large"]\nin_flight = 40\nheadroom = 0.5\n'
    assert capacity.useful(manifest(BASE + quota), "llm", 8.0).slots == 20


TWO = BASE + '[agents.two]\nmodel = "openai/small"\nmax_output_tokens = 500\ninstructions = "Do."\n'


def nested(outer: str, *, small: str = 'requests = "60/m"') -> str:
    return (
        TWO
        + f'[quotas."openai/org"]\n{outer}\nheadroom = 1\n'
        + '[quotas."openai/large"]\nrequests = "60/m"\nwithin = "openai/org"\nheadroom = 1\n'
        + f'[quotas."openai/small"]\n{small}\nwithin = "openai/org"\nheadroom = 1\n'
    )


@pytest.mark.parametrize(
    ("outer", "slots"),
    [
        # two models of 16.3 each: what lies within is less than the organisation's 109
        ('requests = "600/m"', 33),
        # the organisation's 60 a minute are all that both have together
        ('requests = "60/m"', 17),
        ("in_flight = 5", 5),
    ],
)
def test_what_lies_within_a_quota_shares_it(outer, slots):
    found = capacity.useful(manifest(nested(outer)), "llm", 8.0)
    assert found.slots == slots, found.lines
    assert set(found.scopes) == {"openai/large", "openai/small", "openai/org"}


def test_models_without_nesting_add_up():
    quotas = (
        '[quotas."openai/large"]\nin_flight = 4\nheadroom = 1\n[quotas."openai/small"]\nin_flight = 5\nheadroom = 1\n'
    )
    assert capacity.useful(manifest(TWO + quotas), "llm", 8.0).slots == 9


def test_a_model_without_a_quota_bounds_nothing():
    found = capacity.useful(manifest(TWO + '[quotas."openai/large"]\nin_flight = 4\n'), "llm", 8.0)
    assert found.slots is None
    assert found.lines == ("openai/small: has no quota, so nothing bounds it",)


def test_who_sums_up_a_conversation_is_a_model_too():
    summing = BASE.replace('instructions = "Do."', 'instructions = "Do."\ncontext = { model = "anthropic/haiku" }')
    assert set(capacity.charged(manifest(summing), "llm")) == {"openai/large", "anthropic/haiku"}
    assert pool("llm", base=summing).secrets == ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")


def test_other_pools_are_bounded_by_their_providers_quota():
    found = pool(
        "search", '[quotas."brave/web"]\nrequests = { rate = "1/s", burst = 1 }\nrequests_per_month = "2k/month"\n'
    )
    # a second of call and one in line: 1.96 at once
    assert (found.useful_slots, found.scopes, found.call_s) == (5, ("brave/web",), 1.0)
    assert pool("email").useful_slots is None


def test_processes_default_to_what_the_quota_keeps_busy():
    quota = '[quotas."openai/large"]\nin_flight = 25\nheadroom = 1\n'
    found = pool("llm", quota)
    assert (found.replicas, found.max_replicas, found.allowed_replicas) == (1, 3, 3)
    assert pool("agents", quota).allowed_replicas is None
    more = pool("llm", quota + "[deploy.pools.llm]\nreplicas = 2\nmax_replicas = 2\n")
    assert (more.replicas, more.max_replicas) == (2, 2)


@pytest.mark.parametrize(
    ("deployed", "named", "slots"),
    [
        ("max_replicas = 4", "deploy.pools.llm.max_replicas: 4 x 10 slots = 40", 6),
        ("replicas = 5", ".replicas: 5 x 10", 5),
    ],
)
def test_slots_that_only_wait_are_refused_with_the_arithmetic(deployed, named, slots):
    quota = '[quotas."openai/large"]\nin_flight = 25\nheadroom = 1\n[deploy.pools.llm]\n'
    (line,) = making.idle(plan(quota + deployed))
    assert named in line
    assert "the quota keeps 25 busy (openai/large in_flight: 25 x 1 / 1 a call = 25.0 at once)" in line
    assert f"at most 3, or pools.llm.slots at most {slots}, or raise the quota" in line
    # the fix mends it
    assert making.idle(plan(quota + deployed, BASE.replace("slots = 10", f"slots = {slots}"))) == []
    assert making.idle(plan(quota + "max_replicas = 3")) == []


def test_one_process_is_always_allowed():
    assert making.idle(plan('[quotas."openai/large"]\nin_flight = 2\n')) == []


def test_each_pool_has_the_secrets_that_it_needs_and_no_others():
    more = """
[pools.payments]
provider = "bank"
[pools.approvals]
[pools.memory]
[pools.webhook]
[providers.bank]
kind = "bank"
base_url = "https://bank.example.com"
api_key = "env:BANK_API_KEY"
[endpoints.hook]
kind = "webhook"
url = "env:HOOK_URL"
secret = "env:HOOK_SECRET"
[endpoints.ops]
kind = "slack"
url = "env:OPS_URL"
[endpoints.people]
kind = "email"
provider = "relay"
[approvals]
url = "https://fleet.example.com"
link_key = "env:LINK_KEY"
approvers = ["ops@example.com"]
[deploy]
payload_keys = "env:PAYLOAD_KEYS"
"""
    found = plan(more)
    assert {one.name: one.secrets[1:] for one in found.pools} == {
        "agents": (),
        "llm": ("OPENAI_API_KEY",),
        "search": ("BRAVE_KEY",),
        "email": ("SMTP_PASSWORD",),
        "payments": ("BANK_API_KEY",),
        "approvals": ("LINK_KEY", "HOOK_URL", "HOOK_SECRET", "OPS_URL", "SMTP_PASSWORD"),
        "memory": (),
        "webhook": ("HOOK_URL", "HOOK_SECRET"),
    }
    # payloads are read and written by all
    assert {one.secrets[0] for one in found.pools} == {"PAYLOAD_KEYS"}
    assert found.environment == (("FLEET_PAYLOAD_KEYS", "env:PAYLOAD_KEYS"),)
    assert found.console_secrets == ("PAYLOAD_KEYS", "LINK_KEY")
    assert set(found.secrets) == {name for one in found.pools for name in one.secrets}
    assert {one.name for one in found.pools if not one.database} == {"agents", "llm", "search"}


def test_whoever_serves_batches_or_counts_a_daily_budget_has_the_database():
    assert pool("agents").database
    assert pool("llm", "[tenants.acme]\ndaily = { tokens = 1000 }\n").database


def test_a_file_is_no_variable():
    assert pool("llm", base=BASE.replace("env:OPENAI_API_KEY", "file:/run/secrets/openai")).secrets == ()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[deploy.pools.lm]\n", "deploy.pools.lm: there is no [pools.lm]"),
        ("[deploy.pools.llm]\nreplica = 2\n", "deploy.pools.llm.replica: unknown key"),
        ("[deploy.pools.llm]\nreplicas = 0\n", "deploy.pools.llm.replicas: input should be greater than or equal to 1"),
        ("[deploy.pools.llm]\nreplicas = 3\nmax_replicas = 2\n", "max_replicas: must be at least replicas, 3, got 2"),
        ('[deploy.pools.llm]\ncall = "8"\n', "deploy.pools.llm.call: '8' is not a duration"),
        ('[deploy.pools.llm]\ncpu = "1x"\n', "deploy.pools.llm.cpu: '1x' is no amount of processors"),
        ('[deploy.pools.llm]\nmemory = "1G"\n', "deploy.pools.llm.memory: '1G' is no amount of memory"),
        ('[deploy]\nbuild_id = "-"\n', "deploy: build_id: '-' is not letters"),
        ('[deploy]\nimage = "A B"\n', "deploy: image: 'A B' is no image"),
        ('[deploy]\npayload_keys = "hush"\n', "deploy.payload_keys: must say where the secret is"),
    ],
)
def test_bad_tables_are_told_by_path(tmp_path, table, said):
    (problem,) = problems(tmp_path, table)
    assert said in problem
    assert "hush" not in problem


def test_the_shipped_manifests_example_means_what_it_says():
    commented = SHIPPED[SHIPPED.index("# [deploy]") :].split("\n\n")[0]
    table = "\n".join(line.removeprefix("# ") for line in commented.splitlines())
    found = making.make(manifest(SHIPPED + "\n" + table), SHIPPED)
    assert making.idle(found) == []
    assert next(one for one in found.pools if one.name == "llm").call_s > 0
    assert found.image.startswith("registry.example.com/")


def test_how_it_is_deployed_changes_no_run():
    from fleet import agents

    text = SHIPPED + '\n[deploy]\nbuild_id = "1"\n[deploy.pools.llm]\nreplicas = 1\n'
    assert agents.definition(manifest(text), "researcher") == agents.definition(manifest(SHIPPED), "researcher")


@pytest.mark.parametrize(
    ("provider", "outside"),
    [('kind = "corpus"', False), ('kind = "searxng"\nbase_url = "https://search.example.com"', True)],
)
def test_every_target_lets_out_the_same_pools(provider, outside):
    made = plan(base=SHIPPED.replace('kind = "corpus"', provider))
    found = {one.name: making.calls_outside(made.manifest, one.name) for one in made.pools}
    assert found == {one: one not in ("agents", "memory") for one in found} | {"search": outside}
    values = yaml.safe_load(helm.render(made)["values.yaml"])["pools"]
    services = yaml.safe_load(compose.render(made)["compose.yaml"])["services"]
    assert found == {name: pool["providers"] for name, pool in values.items()}
    assert found == {name: "egress" in services[name]["networks"] for name in found}


def test_the_console_is_everywhere_or_nowhere():
    links = '[approvals]\nurl = "https://fleet.example.com"\nlink_key = "env:FLEET_LINK_KEY"'
    for base, there in ((SHIPPED, False), (SHIPPED.replace("[approvals]", links, 1), True)):
        made = plan(base=base)
        assert yaml.safe_load(helm.render(made)["values.yaml"])["console"]["enabled"] is there
        assert ("profiles" not in yaml.safe_load(compose.render(made)["compose.yaml"])["services"]["console"]) is there
        assert ("Wants=fleet-console.service" in systemd.render(made)["fleet.target"]) is there
