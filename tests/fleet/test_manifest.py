"""The manifest: what it accepts, and how it refuses."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from fleet import agents, manifest
from fleet.contracts.approvals import ApprovalRule
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
[pools.approvals]
[agents.one]
model = "openai/m"
instructions = "work"
tools = ["search", "send_email"]
budget = { deadline = "90s" }
"""


WHOLE = """
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[providers.email]
kind = "resend"
api_key = "env:RESEND_API_KEY"
sender = "a@b.c"
recipients = ["*@b.c"]
[providers.bank]
kind = "bank"
base_url = "https://bank.example.com/v1"
api_key = "env:BANK_API_KEY"
payees = ["DE*"]
[endpoints.people]
kind = "email"
provider = "email"
[endpoints.hook]
kind = "webhook"
url = "https://hooks.example.com"
secret = "env:HOOK_SECRET"
deadline = "2d"
[endpoints.ops]
kind = "slack"
url = "env:SLACK_URL"
[approvals]
url = "https://fleet.example.com"
link_key = "env:LINK_KEY"
[prices."openai/m"]
input = "1.25"
output = "10"
currency = "EUR"
[tenants.acme]
daily = { steps = 9, tokens = 99, money = "12.50", time = "2h" }
[tenants."*"]
daily = { steps = 5 }
[tenants.free]
weight = 2
[pools.agents]
[pools.llm]
[pools.email]
[pools.payments]
provider = "bank"
[pools.approvals]
task_queue = "people"
[pools.memory]
[pools.webhook]
[agents.one]
model = "openai/m"
instructions = "work"
tools = ["send_email", "transfer", "send_webhook", "recall", "remember", "forget"]
budget = { money = "0.50" }
allow = { recipients = ["*@b.c"], payees = ["DE01"] }
memory = { recall = 3, expires = "10d", max_bytes = 5000, findings = false }
on_unknown = "skip"
[[agents.one.approvals]]
tool = "transfer"
over = { EUR = "500" }
approvers = ["ana@b.c", "bo@b.c"]
needed = 2
expires = "7d"
remind = ["1d", "3d"]
escalate = { after = "2d", to = ["cfo@b.c"] }
amend = "amount <= 5000"
notify = ["people", "hook", "ops"]
[[agents.one.approvals]]
tool = "send_email"
outside = ["b.c"]
when = "len(body) > 10"
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
        ("[pools.llm]", '[pools.llm]\ntask_queue = "agents"', "llm.task_queue: 'agents' is that of pools.agents too"),
        (
            "[pools.agents]\n[pools.llm]",
            '[pools.agents]\ntask_queue = "a.b"\n[pools.llm]\ntask_queue = "a-b"',
            "pools.llm.task_queue: 'a-b' is that of pools.agents too",
        ),
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


def test_whom_an_agent_asks_and_what_it_remembers_is_in_its_definition(tmp_path):
    found = manifest.load(_write(tmp_path, WHOLE))
    one = agents.definition(found, "one")
    rule, other = one.approvals
    assert (rule.over, rule.approvers, rule.needed, rule.amend) == (
        {"EUR": "500"}, ["ana@b.c", "bo@b.c"], 2, "amount <= 5000",
    )  # fmt: skip
    assert (rule.expires_s, rule.remind_s, rule.escalate_s, rule.escalate_to) == (
        604_800, [86_400, 259_200], 172_800, ["cfo@b.c"],
    )  # fmt: skip
    assert rule.notify == ["people", "hook", "ops"]
    assert (other.outside, other.when, other.needed) == (["b.c"], "len(body) > 10", 1)
    assert (one.allow.recipients, one.allow.payees, one.on_unknown) == (["*@b.c"], ["DE01"], "skip")
    assert one.approvals_task_queue == "people"
    memory = one.memory
    assert (memory.task_queue, memory.recall, memory.findings, memory.outcome) == ("memory", 3, False, True)
    assert (memory.expires_s, memory.max_bytes) == (864_000, 5000)
    assert (one.budget.money, one.price.input, one.price.cached, one.price.currency) == ("0.50", "1.25", "1.25", "EUR")
    lists = {tool.spec.name: tool.lists for tool in one.tools if tool.lists}
    assert lists == {"send_email": {"to": "recipients"}, "transfer": {"payee": "payees"}}
    assert {tool.spec.name for tool in one.tools if tool.effect} == {"send_email", "transfer", "send_webhook"}


def test_a_tenant_without_a_daily_budget_of_its_own_has_that_of_the_star_also_if_it_has_a_table(tmp_path):
    found = manifest.load(_write(tmp_path, WHOLE))
    acme = found.daily("acme")
    assert (acme.steps, acme.tokens, acme.money, acme.time) == (9, 99, Decimal("12.50"), timedelta(hours=2))
    assert found.daily("somebody").steps == 5
    assert found.daily("free").steps == 5
    assert (found.weight("free"), found.weight("somebody")) == (2, 1)
    assert manifest.load(_write(tmp_path, GOOD)).daily("acme") is None


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        # providers, endpoints, links
        ("https://bank.", "bank.", "providers.bank.base_url: must begin with https:// or http://"),
        ('url = "https://fleet', 'url = "fleet', "approvals.url: must begin with https:// or http://"),
        ("[approvals]", '[approvals]\nnotify = ["peeple"]', "approvals.notify: there is no [endpoints.peeple]"),
        (
            "[approvals]",
            '[approvals]\napprovers = ["o?s@b.c"]\nnotify = ["people"]',
            "approvals.notify: people writes to each approver, and there is none by address",
        ),
        ('link_key = "env:LINK_KEY"', "", "approvals: url and link_key are needed together"),
        ('"env:LINK_KEY"', '"the key itself"', "approvals.link_key: must say where the secret is"),
        ('"env:LINK_KEY"', '["the key itself"]', "approvals.link_key: must say where the secret is"),
        ('"env:HOOK_SECRET"', '"whsec_itself"', "secret: must say where the secret is"),
        ('kind = "email"', 'kind = "mail"', "endpoints.people: 'mail' is not one of 'webhook', 'slack', 'email'"),
        (
            'provider = "email"',
            'provider = "bank"',
            "endpoints.people.provider: there is no [providers.bank] of kind smtp or resend",
        ),
        (
            '"https://hooks.example.com"',
            '"hooks.example.com"',
            "endpoints.hook.url: must begin with https:// or http://, or be 'env:NAME'",
        ),
        (
            '"env:SLACK_URL"',
            '"https://hooks.slack.example/secret"',
            "endpoints.ops.url: must say where the address is: 'env:NAME' or 'file:/path'",
        ),
        ('deadline = "2d"', 'deadline = "0s"', "deadline: "),
        # pools
        ("[pools.approvals]", "[pools.approval]", "pools.approval: no such pool; there are: agents, llm"),
        ("[pools.approvals]", "[pools.nothing]", "agents.one: needs [pools.approvals], through which humans are asked"),
        ("[pools.memory]", "", "agents.one.memory: needs [pools.memory]"),
        ("[pools.webhook]", "", "agents.one.tools: send_webhook needs [pools.webhook]"),
        ('provider = "bank"', "", "pools.payments.provider: there is no [providers.payments]"),
        (
            'provider = "bank"',
            'provider = "email"',
            "pools.payments.provider: providers.email is of kind 'resend', not one of bank",
        ),
        ("[pools.memory]", '[pools.memory]\nprovider = "bank"', "pools.memory.provider: has no effect"),
        ("[pools.webhook]", '[pools.webhook]\nprovider = "bank"', "pools.webhook.provider: has no effect"),
        (
            'task_queue = "people"',
            'provider = "email"',
            "pools.approvals.provider: has no effect",
        ),
        ("[pools.llm]", "[pools.llm]\nmax_active = 3", "pools.llm.max_active: has no effect: set it on pools.agents"),
        # money
        ('[prices."openai/m"]', '[prices."openai/other"]', 'agents.one.budget.money: needs [prices."openai/m"]'),
        (
            '[prices."openai/m"]',
            '[prices."bank/m"]\ninput = 1\noutput = 1\n[prices."openai/m"]',
            'prices."bank/m": there is no [providers.bank] of kind openai or anthropic',
        ),
        ('input = "1.25"', "input = 1.25", 'prices."openai/m".input: 1.25 is a float, which is not exact: write it as'),
        ('input = "1.25"', 'input = "-1"', 'prices."openai/m".input: '),
        ('input = "1.25"', 'input = "inf"', 'prices."openai/m".input: '),
        (
            'currency = "EUR"',
            'currency = "eur"',
            """prices."openai/m".currency: 'eur' is not a currency: three capital""",
        ),
        ('budget = { money = "0.50" }', "budget = { money = 0.5 }", "agents.one.budget.money: 0.5 is a float"),
        ('money = "12.50"', "money = 12.5", "tenants.acme.daily.money: 12.5 is a float"),
        ("steps = 9", "steps = 0", "tenants.acme.daily.steps: "),
        ("tokens = 99", "tokns = 99", "tenants.acme.daily.tokns: unknown key"),
        ('time = "2h"', 'time = "long"', "tenants.acme.daily.time: 'long' is not a duration"),
        (
            'model = "openai/m"',
            'model = "openai/other"',
            'tenants.acme.daily.money: needs [prices."openai/other"]',
        ),
        (
            '[prices."openai/m"]',
            '[prices."openai/n"]\ninput = 1\noutput = 1\n[prices."openai/m"]',
            "prices: are in EUR, USD: where money is budgeted, all are in one currency",
        ),
        # rules
        ('tool = "transfer"', 'tool = "pay"', "agents.one.approvals.0.tool: the agent has no tool 'pay'; it has: send"),
        ('"amount <= 5000"', '"amount <="', "agents.one.approvals.0.amend: 'amount <=' is not an expression"),
        ('"amount <= 5000"', "\"amount <= '5000'\"", "amend: \"amount <= '5000'\" can never be told: "),
        ('"amount <= 5000"', '"total <= 5000"', "agents.one.approvals.0.amend: "),
        ('"len(body) > 10"', '"body.__class__"', "agents.one.approvals.1.when: "),
        ('"len(body) > 10"', '"amount > 10"', "agents.one.approvals.1.when: "),
        ('outside = ["b.c"]', "over = { EUR = 1 }", "agents.one.approvals.1.over: send_email has no argument 'amount'"),
        (
            'over = { EUR = "500" }',
            'outside = ["b.c"]',
            "agents.one.approvals.0.outside: transfer has no argument 'to'",
        ),
        ('EUR = "500" }', 'eur = "500" }', "agents.one.approvals.0.over.eur: 'eur' is not a currency: three capital"),
        ('EUR = "500" }', '"" = "500" }', """agents.one.approvals.0.over."": '' is not a currency"""),
        ('over = { EUR = "500" }', "over = { EUR = 500.5 }", "agents.one.approvals.0.over.EUR: 500.5 is a float"),
        ('"people", "hook"', '"peeple"', "agents.one.approvals.0.notify: there is no [endpoints.peeple]"),
        ("needed = 2", "needed = 3", "agents.one.approvals.0: needed = 3, but only 2 approvers"),
        ('"ana@b.c", "bo@b.c"', '"ana@b.c", "ana@b.c"', "agents.one.approvals.0: needed = 2, but only 1 approvers"),
        ('"ana@b.c", "bo@b.c"', '"ana@b.c", " Ana@B.c "', "needed = 2, but only 1 approvers"),
        ('"ana@b.c", "bo@b.c"', "", "agents.one.approvals.0: needed = 2: name the approvers"),
        ('"1d", "3d"', '"1d", "7d"', "agents.one.approvals.0: remind: 7 days, 0:00:00 is not before the end, after 7"),
        ('after = "2d"', 'after = "8d"', "agents.one.approvals.0: escalate.after: 8 days, 0:00:00 is not before"),
        ("needed = 2", "needed = 0", "agents.one.approvals.0.needed: "),
        ('"cfo@b.c"', "", "agents.one.approvals.0.escalate.to: "),
        ('remind = ["1d", "3d"]', 'remind = ["soon"]', "agents.one.approvals.0.remind.0: 'soon' is not a duration"),
        ("amend =", "ammend =", "agents.one.approvals.0.ammend: unknown key"),
        (
            (
                'approvers = ["ana@b.c", "bo@b.c"]\nneeded = 2\nexpires = "7d"\nremind = ["1d", "3d"]\n'
                'escalate = { after = "2d", to = ["cfo@b.c"] }'
            ),
            'approvers = ["*@b.c"]',
            "agents.one.approvals.0.notify: people writes to each approver, and there is none by address",
        ),
        # what an agent may, and remembers
        ('payees = ["DE01"] }', "payee = [] }", "agents.one.allow.payee: unknown key"),
        ("recall = 3", "recall = 51", "agents.one.memory.recall: "),
        ("max_bytes = 5000", "max_bytes = 5", "agents.one.memory.max_bytes: "),
        ('"skip"', '"guess"', "agents.one.on_unknown: 'guess' is not one of 'ask', 'resend' or 'skip'"),
        # of a kind that nobody expects
        ('notify = ["people", "hook", "ops"]', 'notify = [["people"]]', "agents.one.approvals.0.notify.0: "),
        ('model = "openai/m"', 'model = ["openai/m"]', "agents.one.model: "),
        ('tool = "transfer"', 'tool = ["transfer"]', "agents.one.approvals.0.tool: "),
        ('"amount <= 5000"', "5", "agents.one.approvals.0.amend: "),
    ],
)
def test_every_mistake_about_people_money_and_memory_is_refused_with_its_path(tmp_path, old, new, problem):
    assert old in WHOLE
    problems = _problems(tmp_path, WHOLE.replace(old, new, 1))
    assert any(problem in p for p in problems), problems


def test_quotas_of_those_who_pay_and_write_are_charged_in_their_own_units(tmp_path):
    def told(scope, limit):
        return _problems(tmp_path, f'[quotas."{scope}"]\n{limit} = "5/s"\n{WHOLE}')

    assert told("bank/all", "requests") == told("email/all", "recipients") == []
    (problem,) = told("bank/all", "messages")
    assert problem == """quotas."bank/all".messages: is never charged by kind 'bank'; set one of requests"""
    (problem,) = told("email/all", "tokens")
    assert "is never charged by kind 'resend'; set one of messages, recipients" in problem
    assert _problems(tmp_path, f'[quotas."bank/all"]\nwithin = ["x"]\nrequests = "5/s"\n{WHOLE}')
    (problem,) = _problems(tmp_path, f'[quotas."bank/all"]\nheadroom = 0.5\n{WHOLE}')
    assert problem == 'quotas."bank/all": has no limit; set one of requests'


def test_an_endpoint_that_nobody_serves_is_a_problem(tmp_path):
    text = GOOD.replace("[pools.approvals]\n", "").replace(', "send_email"', "")
    hook = '[endpoints.hook]\nkind = "webhook"\nurl = "env:URL"\nsecret = "env:SECRET"\n'
    assert _problems(tmp_path, text) == []
    assert _problems(tmp_path, text + hook) == [
        "endpoints: need [pools.approvals] or [pools.webhook], which serve them"
    ]
    assert _problems(tmp_path, f"{text}{hook}[pools.webhook]\n") == []


def test_a_tool_that_tells_needs_somebody_to_tell(tmp_path):
    text = GOOD.replace('"search", "send_email"', '"send_webhook"') + "[pools.webhook]\n"
    assert _problems(tmp_path, text) == ["agents.one.tools: send_webhook needs an endpoint of kind 'webhook'"]


def test_an_agent_that_asks_nobody_needs_nobody_to_ask_through(tmp_path):
    text = GOOD.replace("[pools.approvals]\n", "")
    needs = ["agents.one: needs [pools.approvals], through which humans are asked"]
    assert _problems(tmp_path, text) == needs
    # `resend` asks when it has resent in vain
    assert _problems(tmp_path, text.replace("budget =", 'on_unknown = "resend"\nbudget =')) == needs
    assert _problems(tmp_path, text.replace("budget =", 'on_unknown = "skip"\nbudget =')) == []


def test_an_agent_that_moves_money_asks_after_strangers_text(tmp_path):
    bank = '[providers.bank]\nkind = "bank"\nbase_url = "https://b.c"\napi_key = "env:K"\n'
    text = bank + GOOD.replace("[pools.approvals]\n", '[pools.payments]\nprovider = "bank"\n')
    text = text.replace('"send_email"', '"transfer"').replace("budget =", 'on_unknown = "skip"\nbudget =')
    assert _problems(tmp_path, text) == ["agents.one: needs [pools.approvals], through which humans are asked"]
    assert _problems(tmp_path, text.replace("budget =", "trust_found = true\nbudget =")) == []


def test_whom_to_ask_where_no_rule_says_so_is_in_every_definition(tmp_path):
    def asks(keys: str):
        text = WHOLE.replace("[approvals]", f"[approvals]\n{keys}")
        return agents.definition(manifest.load(_write(tmp_path, text)), "one").asks

    assert asks("") is None
    assert asks('approvers = ["ops@b.c"]\nnotify = ["people", "ops"]') == ApprovalRule(
        tool="", approvers=["ops@b.c"], notify=["people", "ops"], expires_s=604_800.0
    )
    assert asks('expires = "2d"') == ApprovalRule(tool="", expires_s=172_800.0)


def test_a_pattern_may_be_any_number_of_people(tmp_path):
    for people in ('"*@b.c", "bo@b.c"', '"o?s@b.c", "bo@b.c"', '"*@b.c"'):
        text = WHOLE.replace('"ana@b.c", "bo@b.c"', people)
        assert _problems(tmp_path, text) == []


def test_prices_in_several_currencies_are_no_problem_where_money_is_not_budgeted(tmp_path):
    prices = "".join(f'[prices."openai/{c}"]\ninput = 1\noutput = 1\ncurrency = "{c}"\n' for c in ("EUR", "USD"))
    assert _problems(tmp_path, GOOD + prices) == []
    assert _problems(tmp_path, f'{GOOD}{prices}[tenants."*"]\ndaily = {{ money = 5 }}\n') == [
        'tenants."*".daily.money: needs [prices."openai/m"]',
        "prices: are in EUR, USD: where money is budgeted, all are in one currency",
    ]


def test_the_address_of_a_slack_webhook_is_never_shown(tmp_path):
    problems = _problems(tmp_path, WHOLE.replace("env:SLACK_URL", "https://hooks.slack.example/T0/verysecret"))
    assert len(problems) == 1
    assert "verysecret" not in problems[0]


def test_all_problems_are_told_at_once(tmp_path):
    text = GOOD.replace('requests = "600/m"', 'requests = "x"').replace('"search", "send_email"', '"serch"')
    problems = _problems(tmp_path, text.replace("[pools.llm]", "[pools.llm]\nslot = 3"))
    assert len(problems) == 3
    worse = WHOLE.replace("needed = 2", "needed = 3").replace('"people", "hook"', '"peeple"')
    worse = worse.replace("steps = 9", "steps = 0")
    assert len(_problems(tmp_path, worse)) == 3


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
