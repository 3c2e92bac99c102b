"""A call's arguments against the tool's schema and the agent's allow-lists."""

import pytest

from fleet import planning
from fleet.arguments import excluded, problems
from fleet.contracts.approvals import digest
from fleet.contracts.runs import AllowLists, ToolBinding
from fleet.contracts.tools import TOOLS

MAIL = {"to": "ann@example.com", "subject": "s", "body": "b"}
PAY = {"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "r"}


def binding(name: str) -> ToolBinding:
    tool = TOOLS[name]
    return ToolBinding(spec=tool.spec, activity=tool.stub.name, task_queue="q", lists=tool.lists)


def test_arguments_of_the_schema_have_no_problem():
    assert problems(binding("send_email"), MAIL) is None
    assert problems(binding("transfer"), PAY) is None


def test_each_problem_is_told_by_its_argument():
    told = problems(binding("transfer"), PAY | {"amount": "-5", "currency": "euro"})
    assert told is not None
    assert told.startswith("transfer cannot be called so: amount: '-5' does not match")
    assert "; currency: 'euro' does not match" in told
    assert "\n" not in told


def test_of_many_problems_the_first_are_told_and_the_others_counted():
    told = problems(binding("transfer"), {"payee": 1, "amount": 1, "currency": 1, "reference": 1, "more": 1})
    assert told is not None
    assert told.count(";") == 3
    assert told.endswith("; and 2 more")


def test_what_is_missing_or_not_known_is_told():
    assert "'query' is a required property" in (problems(binding("search"), {}) or "")
    assert "'how'" in (problems(binding("search"), {"query": "x", "how": "fast"}) or "")


def test_a_long_argument_is_not_told_back():
    told = problems(binding("search"), {"query": "x" * 5000})
    assert told is not None
    assert len(told) < 300


@pytest.mark.parametrize(
    "amount", ["0", "0.00", "-1", "1e9", "1,000", "١٢", "1_0", "", " 1", "1 ", "1\n", "12.50\n", 5]
)
def test_an_amount_is_a_plain_decimal(amount):
    assert problems(binding("transfer"), PAY | {"amount": amount}) is not None


@pytest.mark.parametrize(
    "to", ["a@b.c\n", "a@b.c, d@e.f", "a <b@c.d>", "a@b@c.d", "a", "a@b.c\r\nBcc: x@y.z", '"a"@b.c', "a b@c.d", "@b.c"]
)
def test_a_recipient_is_one_address_and_nothing_else(to):
    assert problems(binding("send_email"), MAIL | {"to": to}) is not None


@pytest.mark.parametrize(
    "arguments", [{"query": "\ud800"}, {"query": "x", "\udfff": 1}], ids=["in a value", "in a name"]
)
def test_text_that_is_no_unicode_is_refused_before_anything_must_write_it(arguments):
    told = problems(binding("search"), arguments)
    assert told is not None
    told.encode()


def test_numbers_that_json_does_not_have_are_refused():
    arguments = {"endpoint": "e", "type": "t", "data": {"x": float("nan")}}
    assert problems(binding("send_webhook"), arguments) is not None


@pytest.mark.parametrize(
    ("allowed", "to", "free"),
    [
        ([], "anybody@any.where", True),
        (["ann@example.com"], "ann@example.com", True),
        (["ann@example.com"], "Ann@Example.com", True),
        (["ann@example.com"], "bob@example.com", False),
        (["*@example.com"], "bob@example.com", True),
        (["*@example.com"], "bob@sub.example.com", False),
        (["*@example.com"], "bob@example.com.evil.net", False),
        (["*@*.example.com", "bob@x.y"], "bob@x.y", True),
        (["[ab]@x.y"], "a@x.y", False),
    ],
)
def test_a_recipient_is_on_the_list_or_excluded(allowed, to, free):
    told = excluded(binding("send_email"), MAIL | {"to": to}, AllowLists(recipients=allowed, payees=["nobody"]))
    assert (told is None) is free
    if told is not None:
        assert told == f"send_email: to {to!r} is not on the list of recipients of this agent"


def test_a_payee_is_on_a_list_of_its_own():
    lists = AllowLists(payees=["DE*"], recipients=["nobody@x.y"])
    assert excluded(binding("transfer"), PAY, lists) is None
    assert excluded(binding("transfer"), PAY | {"payee": "FR1"}, lists) is not None
    assert excluded(binding("search"), {"query": "x"}, lists) is None


@pytest.mark.parametrize("payee", [" DE1", "DE1 ", "DE1\n", "\tDE1", "DE1\u00a0", " ", "D\nE"])
def test_a_payee_has_no_spaces_around_it(payee):
    assert problems(binding("transfer"), PAY | {"payee": payee}) is not None
    assert problems(binding("transfer"), PAY | {"payee": "DE 1"}) is None
    assert problems(binding("transfer"), PAY | {"payee": "D" * 65}) is not None


@pytest.mark.parametrize(("tool", "argument"), [("transfer", "payee"), ("send_email", "to")])
def test_what_is_compared_with_a_list_is_exactly_what_will_be_sent(tool, argument):
    lists = AllowLists(payees=["DE1"], recipients=["DE1"])
    assert excluded(binding(tool), {argument: "DE1"}, lists) is None
    assert excluded(binding(tool), {argument: " DE1"}, lists) is not None
    assert excluded(binding(tool), {argument: "DE1\n"}, lists) is not None


def test_an_argument_that_is_missing_is_on_no_list():
    assert excluded(binding("transfer"), {}, AllowLists(payees=["DE*"])) is not None


def test_a_digest_is_of_the_tool_and_of_exactly_these_arguments():
    assert digest("transfer", PAY) == digest("transfer", dict(reversed(PAY.items())))
    assert len(digest("transfer", PAY)) == 16
    others = [PAY | {"amount": "120.5"}, PAY | {"amount": 120.5}, PAY | {"x": None}, {}]
    assert len({digest("transfer", PAY), digest("pay", PAY), *(digest("transfer", o) for o in others)}) == 6


def test_the_model_is_told_what_a_human_has_changed():
    told = planning.amended('{"done": true}', {"amount": "5"})
    assert told == '{"changed_by_a_human_to": {"amount": "5"}, "result": {"done": true}}'
    assert planning.amended("plain", {}) == '{"changed_by_a_human_to": {}, "result": "plain"}'
