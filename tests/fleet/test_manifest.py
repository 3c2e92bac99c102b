"""The manifest: what it accepts, and how it refuses."""

from datetime import timedelta
from pathlib import Path

import pytest

from fleet import agents, manifest
from fleet.errors import BadInput
from fleet.rates import Rate, read_rate

GOOD = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[providers.search]
kind = "corpus"
[providers.email]
kind = "smtp"
host = "relay"
sender = "a@b.c"
[quotas."openai/m"]
requests = "600/m"
tokens = { rate = "90k/m", burst = "15k" }
[pools.agents]
[pools.llm]
[pools.search]
[pools.email]
[agents.one]
model = "openai/m"
instructions = "work"
tools = ["search", "send_email"]
budget = { deadline = "90s" }
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return path


def _problems(tmp_path: Path, text: str) -> list[str]:
    found, problems = manifest.examine(_write(tmp_path, text))
    assert (found is None) == bool(problems)
    return problems


def test_the_shipped_manifest_has_no_problem():
    assert manifest.examine(Path(__file__).parents[2] / "deploy" / "fleet.toml")[1] == []


def test_rates_and_durations_are_read_in_their_units(tmp_path):
    found = manifest.load(_write(tmp_path, GOOD))
    limits = found.quotas["openai/m"].limits()
    assert limits["requests"] == Rate(units=600, per=timedelta(minutes=1))
    assert limits["tokens"] == Rate(units=90_000, per=timedelta(minutes=1), burst=15_000)
    assert found.agents["one"].budget.deadline == timedelta(seconds=90)


def test_a_definition_carries_everything_a_run_needs(tmp_path):
    definition = agents.definition(manifest.load(_write(tmp_path, GOOD)), "one")
    assert definition.budget.deadline_s == 90
    assert [(t.spec.name, t.activity, t.task_queue, t.effect) for t in definition.tools] == [
        ("search", "search.query", "search", False),
        ("send_email", "email.send", "email", True),
    ]


def test_a_pool_may_serve_another_task_queue(tmp_path):
    text = GOOD.replace("[pools.search]", '[pools.search]\ntask_queue = "search-eu"')
    definition = agents.definition(manifest.load(_write(tmp_path, text)), "one")
    assert definition.tools[0].task_queue == "search-eu"


def test_an_unknown_agent_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(BadInput, match="unknown agent 'two'; the manifest has: one"):
        agents.definition(manifest.load(_write(tmp_path, GOOD)), "two")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('requests = "600/m"', 'requests = "600"', """quotas."openai/m".requests: '600' is not a rate"""),
        ('requests = "600/m"', 'requests = "0/m"', """quotas."openai/m".requests: '0/m': a rate must be greater"""),
        ('requests = "600/m"', 'reqests = "600/m"', 'quotas."openai/m".reqests: unknown key'),
        ('burst = "15k"', "burst = -1", 'quotas."openai/m".tokens.burst: '),
        ('burst = "15k"', "burst = nan", 'quotas."openai/m".tokens.burst: '),
        ('burst = "15k"', "burst = inf", 'quotas."openai/m".tokens.burst: '),
        ('deadline = "90s"', 'deadline = "soon"', "agents.one.budget.deadline: 'soon' is not a duration"),
        ('model = "openai/m"', 'model = "m"', "agents.one.model: 'm' is not of the form provider/model"),
        ('model = "openai/m"', 'model = "other/m"', "agents.one.model: there is no [providers.other]"),
        ('"search", "send_email"', '"serch"', "agents.one.tools: unknown tool 'serch'; there are: search, fetch"),
        ("[pools.email]", "", "agents.one.tools: send_email needs [pools.email]"),
        ("[pools.llm]", "", "agents.one: needs [pools.llm]"),
        ("[pools.agents]", "", "pools.agents: is required"),
        ("[pools.llm]", "[pools.llm]\nslots = 0", "pools.llm.slots: "),
        ("[pools.llm]", "[pools.lm]", "pools.lm: no such pool"),
        ('kind = "corpus"', 'kind = "google"', "providers.search: 'google' is not one of"),
        ('kind = "smtp"', 'kind = "corpus"', "pools.email.provider: providers.email is of kind 'corpus'"),
        ('[quotas."openai/m"]', '[quotas."nobody/m"]', 'quotas."nobody/m": there is no [providers.nobody]'),
        ('[quotas."openai/m"]', "[quotas.email]", 'quotas."email": must look like provider/model'),
        ('[quotas."openai/m"]', '[quotas."openai/my model"]', 'quotas."openai/my model": must look like'),
        ('requests = "600/m"', 'requests = { units = 5, per = "0s" }', 'quotas."openai/m".requests.per: '),
        ("[pools.llm]", '[pools.llm]\nprovider = "openai"', "pools.llm.provider: has no effect"),
        ('requests = "600/m"', 'messages = "600/m"', 'quotas."openai/m".messages: is never charged by kind'),
        ('requests = "600/m"', 'requests = "600/w"', """quotas."openai/m".requests: '600/w' is not a rate"""),
        ('requests = "600/m"', "in_flight = 0", 'quotas."openai/m".in_flight.units: '),
        ('requests = "600/m"', 'in_flight = "9/m"', """quotas."openai/m".in_flight.units: '9/m' is not a count"""),
        (
            'requests = "600/m"',
            'requests = { rate = "600/day", burst = 5 }',
            'quotas."openai/m".requests: burst: only what returns bit by bit has one',
        ),
        ('requests = "600/m"', 'within = "openai/org"', "lies within 'openai/org', which has no quota"),
        ('[quotas."openai/m"]', '[quotas."openai/x/*"]', "lies within 'openai/x', which has no quota"),
        (
            '[quotas."openai/m"]',
            '[quotas."email/a"]\nmessages = "1/s"\n[quotas."email/b"]\nmessages = "1/s"\n[quotas."openai/m"]',
            'quotas."email/b": providers.email has its quota in "email/a" already',
        ),
    ],
)
def test_every_mistake_is_refused_with_its_path(tmp_path, old, new, problem):
    assert old in GOOD
    assert any(problem in p for p in _problems(tmp_path, GOOD.replace(old, new))), _problems(
        tmp_path, GOOD.replace(old, new)
    )


def test_all_problems_are_told_at_once(tmp_path):
    text = GOOD.replace('requests = "600/m"', 'requests = "x"').replace('"search", "send_email"', '"serch"')
    problems = _problems(tmp_path, text.replace("[pools.llm]", "[pools.llm]\nslot = 3"))
    assert len(problems) == 3


def test_a_key_written_into_the_manifest_is_never_shown(tmp_path):
    problems = _problems(tmp_path, GOOD.replace("env:OPENAI_API_KEY", "sk-verysecret"))
    assert any("providers.openai.api_key: must say where the secret is" in p for p in problems)
    assert not any("verysecret" in p for p in problems)


def test_a_file_that_is_not_there_or_not_toml_is_one_line(tmp_path):
    assert "cannot be read" in manifest.examine(tmp_path / "none.toml")[1][0]
    assert "is not TOML" in _problems(tmp_path, "[[")[0]


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("limit", "text", "rate"),
    [
        ("requests", "500/m", Rate(units=500)),
        ("tokens", "200k/m", Rate(units=200_000)),
        ("requests", "5/s", Rate(units=5, per=timedelta(seconds=1))),
        ("requests", "100/10s", Rate(units=100, per=timedelta(seconds=10))),
        ("requests_per_day", "10k/d", Rate(units=10_000, per=DAY)),
        ("requests_per_day", "10k/day", Rate(units=10_000, per=DAY, returns="with_window")),
        ("requests_per_month", "2k/month", Rate(units=2000, returns="with_month")),
        ("tokens", "1.5M/h", Rate(units=1_500_000, per=timedelta(hours=1))),
        ("in_flight", "20", Rate(units=20, returns="with_call")),
        ("tokens_in_flight", "90k", Rate(units=90_000, returns="with_call")),
    ],
)
def test_limits_are_read_as_people_write_them(limit, text, rate):
    assert read_rate(limit, text) == rate


@pytest.mark.parametrize(
    ("limit", "text"),
    [("requests", t) for t in ("", "500", "500/w", "-5/s", "0/s", "k/m", "5 per second", "1e3/s", "5/1.5s")]
    + [("in_flight", t) for t in ("", "0", "-1", "5/m", "many")],
)
def test_other_limits_are_refused_in_one_line(limit, text):
    with pytest.raises(BadInput) as caught:
        read_rate(limit, text)
    assert "\n" not in str(caught.value)


def test_a_quota_says_days_flights_shadows_and_what_is_around_it(tmp_path):
    text = GOOD.replace(
        'requests = "600/m"',
        """requests = { rate = "600/m", shadow = true }
requests_per_day = { rate = "9k/day", offset = "8h" }
in_flight = { at_once = 20, lease = "2m" }
within = "openai/org"
[quotas."openai/org"]
requests = "2k/m"
[quotas."openai/m/*"]
tokens = "9k/m"
[quotas."openai/n"]""",
    )
    found = manifest.load(_write(tmp_path, text))
    assert found.quotas["openai/m"].within == "openai/org"
    assert found.quotas["openai/m"].limits() == {
        "requests": Rate(units=600, shadow=True),
        "requests_per_day": Rate(units=9000, per=DAY, returns="with_window", offset=timedelta(hours=8)),
        "in_flight": Rate(units=20, per=timedelta(minutes=2), returns="with_call"),
    }
    assert found.scopes() == ["openai/m", "openai/org", "openai/n"]
