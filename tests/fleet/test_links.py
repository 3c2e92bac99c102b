"""Links that let one approver decide once."""

from datetime import UTC, datetime, timedelta

import pytest
from itsdangerous import URLSafeSerializer

from fleet.contracts.approvals import Approval, Ask
from fleet.errors import BadInput
from fleet.links import Grant, Links

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = "k" * 32
APPROVAL = Approval(
    id="run-1/2.1",
    run_id="run-1",
    agent="a",
    tenant="t",
    ask=Ask.ALLOW,
    tool="transfer",
    arguments={"amount": "5"},
    digest="0123456789abcdef",
    why="",
    goal="",
    opened_at=NOW,
    expires_at=NOW + timedelta(days=1),
)


def token(link: str) -> str:
    return link.rpartition("/")[2]


def test_a_link_grants_what_it_was_made_for():
    link = Links("https://fleet.example/", KEY).link(APPROVAL, "ann@example.com")
    assert link.startswith("https://fleet.example/approvals/")
    assert Links("", KEY).read(token(link), NOW) == Grant(
        approval_id="run-1/2.1",
        approver="ann@example.com",
        digest="0123456789abcdef",
        expires_at=NOW + timedelta(days=1),
    )


def test_a_link_says_nothing_that_needs_quoting():
    link = Links("", KEY).link(APPROVAL, "ünsal+x@exämple.com")
    assert token(link).isascii()
    assert set(token(link)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_link_that_was_changed_grants_nothing(at):
    links = Links("", KEY)
    whole = token(links.link(APPROVAL, "ann@example.com"))
    changed = whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :]
    with pytest.raises(BadInput, match="not whole, or not of this fleet"):
        links.read(changed, NOW)


@pytest.mark.parametrize("text", ["", ".", "x", "a.b.c", "é.é", "\udc80.x", "." * 5000, "{}", "W10.x"])
def test_what_is_no_link_grants_nothing(text):
    with pytest.raises(BadInput, match="not whole"):
        Links("", KEY).read(text, NOW)


def test_a_link_of_another_fleet_grants_nothing():
    link = Links("", "o" * 32).link(APPROVAL, "ann@example.com")
    with pytest.raises(BadInput, match="not of this fleet"):
        Links("", KEY).read(token(link), NOW)


def test_what_the_key_has_signed_for_something_else_grants_nothing():
    other = URLSafeSerializer(KEY, salt="something.else").dumps(["run-1/2.1", "eve@example.com", "d", 4102444800])
    with pytest.raises(BadInput, match="not whole"):
        Links("", KEY).read(str(other), NOW)


@pytest.mark.parametrize("signed", [[], ["a", "b", "c"], ["a", "b", "c", "never"], {"a": 1}, "abcd", None, 7])
def test_what_is_signed_but_no_grant_grants_nothing(signed):
    made = URLSafeSerializer(KEY, salt="fleet.approval").dumps(signed)
    with pytest.raises(BadInput, match="not whole"):
        Links("", KEY).read(str(made), NOW)


def test_a_link_expires_with_its_approval():
    links = Links("", KEY)
    whole = token(links.link(APPROVAL, "ann@example.com"))
    links.read(whole, APPROVAL.expires_at - timedelta(seconds=1))
    with pytest.raises(BadInput, match="the link has expired at 2026-03-02 12:00 UTC"):
        links.read(whole, APPROVAL.expires_at)


def test_a_key_that_is_too_short_is_refused():
    with pytest.raises(BadInput, match=r"has 31 characters; 32 are the least: make one with `openssl rand -hex 32`"):
        Links("", "k" * 31)
