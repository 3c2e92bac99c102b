"""Conditions over arguments: told exactly, or not told at all."""

import time
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from fleet import conditions
from fleet.conditions import BadCondition, check, domain, fits, holds, is_pattern, matches, number, person
from fleet.contracts.tools import TOOLS

SCHEMA: dict[str, Any] = {name: {} for name in ("amount", "currency", "to", "note", "urgent", "rate", "tags")}


def told(expression: str, *, agent: str = "a", tenant: str = "t", found: bool = False, **arguments: Any) -> bool:
    return holds(expression, arguments, schema=SCHEMA, agent=agent, tenant=tenant, found=found)


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        ("amount > 500", {"amount": "500.01"}),
        ("amount >= 500", {"amount": "500.00"}),
        ("amount > 500 and currency == 'EUR'", {"amount": "900", "currency": "EUR"}),
        ("not urgent", {"urgent": False}),
        ("domain(to) != 'example.com'", {"to": "a@elsewhere.org"}),
        ("domain(to) == 'example.com'", {"to": "A <a@EXAMPLE.com>"}),
        ("domain(to) not in ['example.com', 'example.org']", {"to": "a@example.com.evil.net"}),
        ("matches(to, '*@example.com')", {"to": "Ann@Example.COM"}),
        ("lower(note) == 'now'", {"note": "NOW"}),
        ("len(tags) > 1", {"tags": ["a", "b"]}),
        ("number(note) + 1 == 3", {"note": " 2 "}),
        ("note is None", {}),
        ("arguments['amount'] == '5'", {"amount": "5"}),
        ("'x' in tags", {"tags": ["x"]}),
        ("(amount if currency == 'EUR' else amount * 2) > 10", {"amount": "6", "currency": "USD"}),
        ("-amount < 0", {"amount": "1"}),
    ],
)
def test_a_condition_that_is_so_holds(expression, arguments):
    assert told(expression, **arguments)


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        ("amount > 500", {"amount": "500.00"}),
        ("urgent", {}),
        ("domain(to) == 'example.com'", {"to": "example.com@evil.net"}),
        ("matches(to, '*@example.com')", {"to": "a@example.com.evil.net"}),
        ("len(note) > 0", {"note": None}),
    ],
)
def test_a_condition_that_is_not_so_does_not(expression, arguments):
    assert not told(expression, **arguments)


def test_a_condition_knows_the_agent_the_tenant_and_whether_strangers_text_was_read():
    assert told("agent == 'x' and tenant == 'acme' and found", agent="x", tenant="acme", found=True)
    assert not told("found")


def test_an_argument_cannot_pass_itself_off_as_what_the_run_knows():
    assert not holds("found", {"found": True}, schema={"found": {}}, agent="a", tenant="t", found=False)


@pytest.mark.parametrize("amount", ["0.30", "0.3", 0.3])
def test_decimals_are_exact(amount):
    assert told("amount == 0.1 + 0.2", amount=amount)
    assert told("amount <= 0.3 and amount >= 0.3", amount=amount)


def test_numbers_that_json_gave_as_floats_are_exact_too():
    assert not told("rate > 0.1", rate=0.1)
    assert told("rate == 0.1", rate=0.1)


def test_large_amounts_lose_no_digit():
    assert told("amount > 999999999999.9999", amount="1000000000000.0000")
    assert not told("amount > 999999999999.9999", amount="999999999999.9999")


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "to.__class__",
        "to.upper()",
        "(lambda: 1)()",
        "[x for x in tags]",
        "{x: 1 for x in tags}",
        "any(x for x in tags)",
        "f'{to}'",
        "open('/etc/passwd')",
        "exec('1')",
        "(amount := 1)",
        "9**9**9",
        "1 << 99",
        "1 | 2",
        "~1",
        "amount > 1; amount > 2",
        "amount = 1",
        "import os",
        "lower(*tags)",
        "domain(address=to)",
        "tags[0:1]",
        "domain(to)(to)",
        "await x",
        "",
        "   ",
        "amount >",
        "amount > 1\x00",
        "(" * 300 + ")" * 300,
    ],
)
def test_what_could_do_more_than_compare_is_refused(expression):
    with pytest.raises(BadCondition):
        check(expression, SCHEMA)
    with pytest.raises(BadCondition):
        told(expression, amount="1", to="a@b.c", tags=["x"])


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(BadCondition, match=r"there is no 'amuont'; there are: .*amount.*domain"):
        check("amuont > 5", SCHEMA)


TRANSFER = TOOLS["transfer"].spec.parameters["properties"]
WEBHOOK = TOOLS["send_webhook"].spec.parameters["properties"]


@pytest.mark.parametrize(
    "expression",
    [
        "amount > '500'",
        "amount + currency == 'x'",
        "payee > 5",
        "-payee == 1",
        "agent > 1",
        "'DE' in amount",
        "found > 'x'",
        "currency == 'EUR' and amount > '500' or amount > '600'",
        "matches(payee)",
    ],
)
def test_what_fails_of_every_value_of_its_arguments_types_is_refused(expression):
    with pytest.raises(BadCondition, match="can never be told: "):
        check(expression, TRANSFER)


@pytest.mark.parametrize(
    ("expression", "schema"),
    [
        ("amount > 500", TRANSFER),
        ("number(reference) > 5", TRANSFER),
        ("payee is None or amount > '500'", TRANSFER),
        ("found and amount > 500", TRANSFER),
        ("arguments['amount'] > '500'", TRANSFER),
        ("data['total'] + 5 > 6", WEBHOOK),
        ("(data['a'] if 'a' in data else 5) > '4'", WEBHOOK),
        ("data == {}", WEBHOOK),
        ("'x' * len(type) == endpoint", WEBHOOK),
        ("rate > 5", SCHEMA),
        ("rate > 'x'", SCHEMA),
        ("rate * tags == [1]", SCHEMA),
        ("tags + [1] == tags and not urgent", SCHEMA),
        ("1 / (amount - amount) > 1", TRANSFER),
        (" + ".join(["to", "note", "urgent", "rate", "tags"]) + " == 1", SCHEMA),
    ],
)
def test_what_can_be_told_of_some_values_is_not(expression, schema):
    check(expression, schema)


def test_an_expression_that_is_too_long_is_refused():
    longest = "amount" + " " * (conditions.LONGEST - len("amount"))
    check(longest, SCHEMA)
    with pytest.raises(BadCondition, match="the expression has 1001 characters; 1000 are the most"):
        check(longest + " ", SCHEMA)


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        ("amount > 5", {}),
        ("amount > 5", {"amount": None}),
        ("amount > 5", {"amount": "much"}),
        ("amount > 5", {"amount": "NaN"}),
        ("amount > 5", {"amount": "sNaN"}),
        ("amount > 5", {"amount": "Infinity"}),
        ("amount > 5", {"amount": float("nan")}),
        ("amount > 5", {"amount": float("inf")}),
        ("amount > 5", {"amount": True}),
        ("amount > 5", {"amount": ["1"]}),
        ("amount > 1e400", {"amount": "1"}),
        ("rate > 5", {"rate": float("nan")}),
        ("rate == rate", {"rate": float("nan")}),
        ("rate < 5", {"rate": float("inf")}),
        ("note > 5", {"note": "x"}),
        ("amount / 0 > 1", {"amount": "1"}),
        ("amount % 3 == 0", {"amount": "1e999999"}),
        ("amount * amount > 1", {"amount": "9e999999"}),
        ("tags[5] == 1", {"tags": []}),
        ("tags['x'] == 1", {"tags": {}}),
        ("1j < amount", {"amount": "1"}),
        ("{tags: 1}", {"tags": []}),
        ("number(note) > 1", {"note": "1,000"}),
        ("matches(to)", {"to": "a@b.c"}),
        ("matches(to, 5)", {"to": "a@b.c"}),
        ("domain", {}),
        ("-" * 900 + "1 > 0", {}),
        ("not " * 240 + "urgent", {}),
        ("(" + "+".join(["1"] * 490) + ") > 0", {}),
    ],
)
def test_what_cannot_be_told_is_an_error_and_nothing_else(expression, arguments):
    try:
        # deep ones may be told where the stack allows it; they must never break the run
        assert told(expression, **arguments) in (True, False)
        assert len(expression) > 400
    except BadCondition:
        pass


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        ("note % 3 == 'x'", {"note": "%999999999d"}),
        ("note % tags == 'x'", {"note": "%*d", "tags": [999_999_999, 1]}),
        ("note * 999999999 == 'x'", {"note": "x" * 1000}),
        ("[1] * 999999999 == tags", {}),
        ("999999999 * tags == tags", {"tags": ["x"]}),
        ("matches(note, '*a*a*a*a*a*a*a*a*b')", {"note": "a" * 200}),
        ("number(note) > 1", {"note": "1e" + "9" * 5000}),
    ],
)
def test_arguments_cannot_make_a_condition_large_or_slow(expression, arguments):
    began = time.process_time()
    with suppress(BadCondition):
        assert told(expression, **arguments) in (True, False)
    assert time.process_time() - began < 1


def test_the_functions_by_themselves():
    assert domain("a@b@C.d ") == "c.d"
    assert domain("nobody") == "nobody"
    assert number("1e2") == Decimal(100)
    assert number(0.1) == Decimal("0.1")
    assert matches(" Ann@example.com ", "ann@*")
    assert matches("a1", "a?")
    assert not matches("a\nb", "a")


def test_a_pattern_knows_only_stars_and_question_marks():
    assert not matches("a@example.com", "[abc]@example.com")
    assert matches("[abc]@example.com", "[abc]@example.com")


def test_a_list_is_compared_with_every_space():
    assert fits("DE1", " de* ")
    assert not fits(" DE1", "DE*")
    assert not fits("DE1\n", "DE1")


def test_people_are_compared_by_one_form_of_their_names():
    assert person(" Ann@EXAMPLE.com ") == person("\uff41nn@example.com") == "ann@example.com"
    assert person("ann+1@example.com") != person("ann@example.com")
    assert [is_pattern(name) for name in ("*@x.y", "a?@x.y", "[a]@x.y")] == [True, True, False]
