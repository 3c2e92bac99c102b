"""Which calls need a human, and which verdicts are taken."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from fleet import consent
from fleet.contracts.approvals import Approval, ApprovalRule, ApprovalState, Ask, Decision, Verdict, digest
from fleet.contracts.effects import EffectResult, EffectState
from fleet.contracts.runs import AgentDefinition, AllowLists, ToolBinding
from fleet.contracts.tools import TOOLS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAY = {"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "r"}
MAIL = {"to": "ann@example.com", "subject": "s", "body": "b"}


def binding(name: str) -> ToolBinding:
    tool = TOOLS[name]
    return ToolBinding(
        spec=tool.spec, activity=tool.stub.name, task_queue="q", guarded=tool.guarded, lists=tool.lists, effect=True
    )


def agent(*rules: ApprovalRule, **fields: Any) -> AgentDefinition:
    tools = [binding("transfer"), binding("send_email")]
    return AgentDefinition(
        name="a", instructions="", model="m", llm_task_queue="q", tools=tools, approvals=list(rules), **fields
    )


def wanted(of: AgentDefinition, arguments: dict[str, Any], tool: str = "transfer", *, found: bool = False) -> Any:
    return consent.needed(of, binding(tool), arguments, tenant="t", found=found)


def why(*rules: ApprovalRule, arguments: dict[str, Any] | None = None, tool: str = "transfer") -> str | None:
    needed = wanted(agent(*rules), PAY if arguments is None else arguments, tool)
    return None if needed is None else needed[1]


def rule(tool: str = "transfer", **fields: Any) -> ApprovalRule:
    return ApprovalRule(tool=tool, **fields)


# --- which calls


def test_a_call_that_no_rule_names_needs_nobody():
    assert wanted(agent(), PAY) is None
    assert why(rule("send_email")) is None


def test_a_rule_without_a_condition_wants_every_call():
    assert why(rule()) == "every transfer needs a human"


@pytest.mark.parametrize(
    ("amount", "needs"), [("100", False), ("100.0000", False), ("100.0001", True), ("99.99", False), ("1000", True)]
)
def test_an_amount_over_the_limit_of_its_currency_needs_one(amount, needs):
    assert (why(rule(over={"EUR": "100"}), arguments=PAY | {"amount": amount}) is not None) is needs


def test_a_currency_without_a_limit_always_needs_one():
    assert why(rule(over={"EUR": "100"}), arguments=PAY | {"currency": "USD", "amount": "1"}) == (
        "no limit is set for 'USD'"
    )
    assert why(rule(over={"EUR": "100"}), arguments={}) == "no limit is set for ''"


@pytest.mark.parametrize(
    ("to", "needs"),
    [
        ("ann@example.com", False),
        ("ann@EXAMPLE.com", False),
        ("ann@sub.example.org", False),
        ("ann@example.org", True),
        ("ann@example.com.evil.net", True),
        ("example.com@evil.net", True),
        ("", True),
    ],
)
def test_a_recipient_outside_of_the_domains_needs_one(to, needs):
    outside = rule("send_email", outside=["example.com", "*.example.org"])
    assert (why(outside, arguments=MAIL | {"to": to}, tool="send_email") is not None) is needs


def test_a_free_condition_needs_one_when_it_holds():
    free = rule(when="amount > 100 and payee != 'DE2'")
    assert why(free) == "amount > 100 and payee != 'DE2'"
    assert why(free, arguments=PAY | {"payee": "DE2"}) is None


def test_all_that_a_rule_names_must_be_so():
    both = rule(over={"EUR": "100"}, when="payee == 'DE1'")
    assert why(both) == "over 100 EUR; payee == 'DE1'"
    assert why(both, arguments=PAY | {"payee": "DE2"}) is None
    assert why(both, arguments=PAY | {"amount": "5"}) is None


@pytest.mark.parametrize("bad", [rule(when="len(amount) > x"), rule(when="amount > 'x'"), rule(over={"EUR": "much"})])
def test_a_rule_that_cannot_be_told_holds(bad):
    assert (why(bad) or "").startswith("the rule cannot be told: ")


@pytest.mark.parametrize("amount", [None, "much", "NaN", "Infinity", True, [], {}, float("nan")])
def test_an_amount_that_cannot_be_told_needs_one(amount):
    assert why(rule(over={"EUR": "100"}), arguments=PAY | {"amount": amount}) is not None


ANA, BO, CFO = "ana@example.com", "bo@example.com", "cfo@example.com"


def test_of_several_rules_that_hold_each_counts():
    rules = rule(approvers=["one"]), rule(over={"EUR": "100"}, needed=2), rule(when="amount > 500", needed=3)
    small, large = wanted(agent(*rules), PAY), wanted(agent(*rules), PAY | {"amount": "501"})
    assert (small[0].needed, small[1]) == (2, "over 100 EUR; every transfer needs a human")
    assert large[0].needed == 3
    assert wanted(agent(*rules), PAY | {"amount": "5"}) == (rules[0], "every transfer needs a human")


def test_the_order_of_the_rules_decides_nothing():
    rules = [
        rule(over={"EUR": "500"}, approvers=[ANA, BO], notify=["mail"], expires_s=9.0, remind_s=[1.0]),
        rule(over={"EUR": "10000"}, approvers=[CFO], notify=["hook", "mail"], expires_s=5.0, amend="amount < 9"),
        rule(when="found", approvers=["*@example.com"], amend="payee == 'DE1'"),
    ]
    asked = [wanted(agent(*order), PAY | {"amount": "20000"}, found=True) for order in permutations(rules)]
    assert all(each == asked[0] for each in asked)
    together, why = asked[0]
    # nobody is on all three lists: that of the strictest, who is one person
    assert (together.approvers, together.needed, together.expires_s) == ([CFO], 1, 5.0)
    assert sorted(together.notify) == ["hook", "mail"]
    assert together.amend == "(amount < 9) and (payee == 'DE1')"
    assert sorted(why.split("; ")) == ["found", "over 10000 EUR", "over 500 EUR"]


@pytest.mark.parametrize(
    ("lists", "approvers"),
    [
        ([(1, [ANA, BO]), (1, ["BO@example.com ", CFO])], [BO]),
        ([(1, [ANA, BO]), (1, [])], [ANA, BO]),
        ([(1, ["*@example.com"]), (1, [ANA, "x@y.z"])], [ANA]),
        ([(1, ["*@example.com"]), (1, ["*@*.com"])], ["*@example.com"]),
        ([(2, [ANA, BO, CFO]), (1, [BO])], [ANA, BO, CFO]),  # two of one: the list of who wants two
        ([(2, [ANA, BO]), (2, [ANA, CFO, "x@y.z"])], [ANA, BO]),
        ([(1, ["*@x.y"]), (1, [ANA, BO])], [ANA, BO]),
        ([(1, ["a?@x.y"]), (1, ["a*@x.y"])], ["a?@x.y"]),
        ([(1, [ANA]), (3, ["*@x.y"])], ["*@x.y"]),
        ([(1, []), (2, [])], []),
    ],
)
def test_those_may_decide_who_are_on_every_list(lists, approvers):
    rules = [rule(needed=needed, approvers=names) for needed, names in lists]
    together = consent.together(rules)
    assert (together.approvers, together.needed) == (approvers, max(needed for needed, _ in lists))
    assert consent.together(rules[::-1]) == together


def test_a_tool_that_no_rule_names_is_asked_for_by_the_default():
    default = rule("", approvers=["ops@example.com"], notify=["mail"], expires_s=60.0)
    of = agent(asks=default)
    assert wanted(of, PAY) is None
    assert wanted(of, PAY, found=True)[0] == replace(default, tool="transfer")
    assert consent.settling(of, "send_email") == replace(default, tool="send_email")
    assert consent.settling(agent(RULE, asks=default), "transfer").approvers == RULE.approvers


def test_money_after_strangers_text_needs_a_human_whatever_the_rules_say():
    generous = rule(over={"EUR": "1000"}, approvers=["ann"])
    assert wanted(agent(generous), PAY) is None
    assert wanted(agent(generous), PAY, found=True) == (generous, "text written by strangers was read before")
    assert wanted(agent(), PAY, found=True) is not None
    assert wanted(agent(generous, trust_found=True), PAY, found=True) is None


def test_a_letter_after_strangers_text_is_a_matter_of_the_rules():
    assert wanted(agent(), MAIL, "send_email", found=True) is None
    assert wanted(agent(rule("send_email", when="found")), MAIL, "send_email", found=True) is not None


# --- which verdicts

RULE = rule(over={"EUR": "100"}, approvers=["ann@example.com", "*@board.example.com"], amend="amount <= 200")


def asked(**fields: Any) -> Approval:
    given: dict[str, Any] = {
        "id": "run-1/1.1",
        "run_id": "run-1",
        "agent": "a",
        "tenant": "t",
        "ask": Ask.ALLOW,
        "tool": "transfer",
        "arguments": PAY,
        "digest": digest("transfer", PAY),
        "why": "",
        "goal": "",
        "approvers": RULE.approvers,
        "opened_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(hours=1),
    }
    return Approval(**{**given, **fields})


def verdict(decision: Decision = Decision.APPROVE, **fields: Any) -> Verdict:
    given: dict[str, Any] = {"approval_id": "run-1/1.1", "by": "ann@example.com", "digest": digest("transfer", PAY)}
    return Verdict(decision=decision, **{**given, **fields})


def refused(said: Verdict, approval: Approval | None = None, *, of: AgentDefinition | None = None, **how: Any) -> Any:
    given: dict[str, Any] = {"now": NOW, "found": False, "rule": RULE, **how}
    return consent.refusal(approval or asked(), said, agent=of or agent(RULE), **given)


@pytest.mark.parametrize("by", ["ann@example.com", " Ann@Example.com ", "bob@board.example.com"])
def test_an_approver_of_the_list_is_heard(by):
    assert refused(verdict(by=by)) is None


@pytest.mark.parametrize("by", ["eve@example.com", "ann@example.com.evil.net", "a@board.example.com.evil.net"])
def test_somebody_else_is_not(by):
    assert refused(verdict(by=by)) == (
        f"{by} may not decide run-1/1.1; those may: ann@example.com, *@board.example.com"
    )


@pytest.mark.parametrize(
    "by",
    [
        "*",
        "*@board.example.com",
        "Bob <bob@board.example.com>",
        "bob@evil.net,bob@board.example.com",
        "bob @board.example.com",
        "bob",
        "b\u043eb@board.example.com",
        "bob\u200b@board.example.com",
        "bob\x00@board.example.com",
    ],
)
def test_whom_a_pattern_lets_in_is_one_plain_address(by):
    assert "is not one plain address" in refused(verdict(by=by))


@pytest.mark.parametrize("by", ["BOB@board.example.com", "\uff42ob@board.example.com", " bob@BOARD.example.com\n"])
def test_one_person_is_one_vote_however_the_name_is_written(by):
    voted = consent.after(asked(needed=2), verdict(by="bob@board.example.com"), NOW)
    assert "has decided on run-1/1.1 already" in refused(verdict(by=by), voted)
    assert consent.after(asked(), verdict(by=by), NOW).votes[0].by == "bob@board.example.com"


def test_what_follows_a_plus_is_a_part_of_the_address():
    voted = consent.after(asked(needed=2), verdict(by="bob@board.example.com"), NOW)
    assert refused(verdict(by="bob+1@board.example.com"), voted) is None


def test_without_a_list_anybody_with_a_name_may():
    assert refused(verdict(by="eve"), asked(approvers=[])) is None
    assert refused(verdict(by="  "), asked(approvers=[])) == "who decides? name yourself"


@pytest.mark.parametrize(
    "state", [state for state in ApprovalState if state is not ApprovalState.OPEN], ids=lambda s: s.value
)
def test_what_has_ended_cannot_be_decided(state):
    approval = asked(state=state, decided_at=NOW, reason="of something")
    assert (
        refused(verdict(), approval) == f"run-1/1.1 is {state.value} at 2026-03-01 12:00 UTC (of something): too late"
    )


def test_who_has_decided_is_told_to_who_comes_later():
    decided = consent.after(asked(), verdict(), NOW)
    assert refused(verdict(by="bob@board.example.com"), decided) == (
        "run-1/1.1 is approved by ann@example.com at 2026-03-01 12:00 UTC: too late"
    )


def test_what_has_expired_cannot_be_decided_even_before_it_is_noticed():
    assert refused(verdict(), now=NOW + timedelta(minutes=59, seconds=59)) is None
    assert refused(verdict(), now=NOW + timedelta(hours=1)) == "run-1/1.1 has expired at 2026-03-01 13:00 UTC: too late"


def test_a_verdict_is_on_the_arguments_that_were_shown():
    assert refused(verdict(digest="")) is not None
    crossed = refused(verdict(digest=digest("transfer", PAY | {"amount": "120.5"})))
    assert "the verdict is on other arguments" in crossed
    assert crossed.endswith("look at it again")


def test_nobody_decides_twice():
    voted = consent.after(asked(needed=2), verdict(), NOW)
    assert refused(verdict(by="ANN@example.com "), voted) == (
        "ANN@example.com  has decided on run-1/1.1 already: another approver must"
    )
    assert refused(verdict(by="bob@board.example.com"), voted) is None


def test_a_comment_has_an_end():
    assert refused(verdict(comment="x" * 2000)) is None
    assert refused(verdict(comment="x" * 2001)) == "the comment has 2001 characters; 2000 are the most"


def test_skip_and_amend_answer_only_their_own_question():
    assert refused(verdict(Decision.SKIP)) is not None
    assert refused(verdict(Decision.SKIP), asked(ask=Ask.SETTLE)) is None
    other = verdict(Decision.AMEND, arguments=PAY | {"amount": "5"})
    assert "amend answers only" in refused(other, asked(ask=Ask.SETTLE))


def amending(**changes: Any) -> Verdict:
    return verdict(Decision.AMEND, arguments=PAY | changes)


def test_an_amendment_within_the_policy_is_taken():
    assert refused(amending(amount="200.00")) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (verdict(Decision.AMEND), "amend needs all arguments"),
        (verdict(Decision.AMEND, arguments={}), "amend needs all arguments"),
        (amending(), "are those that were asked for"),
        (amending(amount="-5"), "transfer cannot be called so: amount"),
        (amending(amount="1\n"), "transfer cannot be called so: amount"),
        (verdict(Decision.AMEND, arguments={"amount": "5"}), "is a required property"),
        (amending(amount="200.01"), "amended beyond the policy: amount <= 200 must hold"),
        (amending(payee="FR1"), "is not on the list of payees"),
    ],
)
def test_an_amendment_beyond_it_is_refused_with_the_reason(said, reason):
    assert reason in refused(said, of=agent(RULE, allow=AllowLists(payees=["DE*"])))


def test_a_policy_of_amendments_that_cannot_be_told_refuses_them():
    odd = replace(RULE, amend="amount < reference")
    assert refused(amending(amount="5"), rule=odd, of=agent(odd)).startswith("amended beyond the policy: ")


def test_an_amendment_of_a_tool_that_the_agent_lacks_is_refused():
    asks = asked(tool="fly", digest=digest("fly", PAY))
    said = verdict(Decision.AMEND, digest=digest("fly", PAY), arguments=PAY | {"amount": "5"})
    assert refused(said, asks) == "the agent has no tool 'fly'"


def test_an_amendment_cannot_lead_around_a_stricter_rule():
    people = [ANA, BO, "ann@example.com"]
    one = rule(over={"EUR": "100", "USD": "50"}, approvers=people)
    two = rule(over={"EUR": "1000", "USD": "50"}, approvers=people, needed=2)
    boss = rule(over={"USD": "5", "EUR": "1000000"}, approvers=["boss", "ann@example.com"])
    of = agent(one, two)
    assert refused(amending(amount="1000"), rule=one, of=of) is None
    assert refused(amending(amount="1001"), rule=one, of=of) == (
        f"these arguments need 2 of {', '.join(people)} (over 1000 EUR; over 100 EUR): reject it and let the agent"
        " ask anew"
    )
    assert refused(amending(amount="1001"), asked(needed=2), rule=two, of=of) is None
    assert "need 1 of boss, ann@example.com (over 5 USD)" in refused(
        amending(currency="USD", amount="6"), rule=one, of=agent(one, boss)
    )


def test_an_amender_who_might_allow_it_alone_cannot_hand_it_to_others_who_might_not():
    """Under four eyes the second vote may come from somebody whom the stricter rule does not name."""
    four = rule(over={"EUR": "100"}, approvers=[ANA, BO, CFO], needed=2)
    high = rule(over={"EUR": "5000"}, approvers=[ANA, CFO], needed=2)
    of, case = agent(four, high), asked(approvers=four.approvers, needed=2)
    assert refused(replace(amending(amount="4000"), by=CFO), case, rule=four, of=of) is None
    assert "these arguments need 2 of ana@example.com, cfo@example.com" in refused(
        replace(amending(amount="6000"), by=CFO), case, rule=four, of=of
    )


def test_an_amendment_is_not_handed_to_those_to_whom_the_stricter_rule_does_not_escalate():
    case = asked(approvers=[ANA])
    low = rule(over={"EUR": "100"}, approvers=[ANA], escalate_s=60.0, escalate_to=[CFO])

    def said(**high: Any) -> Any:
        strict = rule(over={"EUR": "5000"}, approvers=[ANA], **high)
        verdict_ = replace(amending(amount="6000"), by=ANA)
        return consent.refusal(case, verdict_, low, agent(strict), now=NOW, found=False)

    assert said() is not None
    assert said(escalate_s=61.0, escalate_to=[CFO]) is not None
    assert said(escalate_s=60.0, escalate_to=[CFO]) is None
    assert said(escalate_s=60.0, escalate_to=[BO]) is not None


def test_an_amendment_satisfies_what_the_rules_of_its_own_arguments_want_of_one():
    low = rule(over={"EUR": "100"}, approvers=["ann@example.com"])
    high = replace(low, over={"EUR": "1000"}, amend="amount <= 1500")
    assert refused(amending(amount="1400"), rule=low, of=agent(low, high)) is None
    assert "amount <= 1500 must hold" in refused(amending(amount="1600"), rule=low, of=agent(low, high))


def test_what_a_verdict_needs_may_depend_on_strangers_text():
    strict = replace(RULE, amend="not found or amount < 10")
    assert refused(amending(amount="50"), rule=strict, of=agent(strict)) is None
    assert refused(amending(amount="50"), rule=strict, of=agent(strict), found=True) is not None


# --- what a verdict does


def test_one_agreement_is_enough_where_one_is_needed():
    approved = consent.after(asked(), verdict(comment=" fine "), NOW)
    assert (approved.state, approved.decided_at) == (ApprovalState.APPROVED, NOW)
    assert [(v.by, v.comment, v.at) for v in approved.votes] == [("ann@example.com", "fine", NOW)]


def test_four_eyes_are_two_people_of_one_mind():
    once = consent.after(asked(needed=2), verdict(), NOW)
    assert (once.state, once.decided_at) == (ApprovalState.OPEN, None)
    twice = consent.after(once, verdict(by="bob@board.example.com"), NOW)
    assert (twice.state, len(twice.votes)) == (ApprovalState.APPROVED, 2)


def test_one_rejection_ends_it_also_under_four_eyes():
    once = consent.after(asked(needed=2), verdict(), NOW)
    assert consent.after(once, verdict(Decision.REJECT, by="bob"), NOW).state is ApprovalState.REJECTED


def test_an_amendment_is_approved_with_its_own_arguments_and_digest():
    approved = consent.after(asked(), amending(amount="5"), NOW)
    assert approved.state is ApprovalState.APPROVED
    assert approved.arguments == PAY | {"amount": "5"}
    assert approved.digest == digest("transfer", PAY | {"amount": "5"})
    assert approved.votes[0].arguments == PAY | {"amount": "5"}
    assert approved.votes[0].digest == digest("transfer", PAY)


def test_an_amendment_voids_what_others_have_said_of_the_earlier_arguments():
    once = consent.after(asked(needed=2), verdict(), NOW)
    amended = consent.after(once, replace(amending(amount="5"), by="bob"), NOW)
    assert (amended.state, [vote.by for vote in amended.votes]) == (ApprovalState.OPEN, ["bob"])
    assert "other arguments" in refused(verdict(), amended)
    again = verdict(digest=amended.digest)
    assert refused(again, amended) is None
    assert consent.after(amended, again, NOW).state is ApprovalState.APPROVED


def test_whether_an_effect_was_had_is_settled_by_as_many_as_are_needed():
    settle = asked(ask=Ask.SETTLE, needed=2)
    first = consent.after(settle, verdict(), NOW)
    other = consent.after(first, verdict(Decision.REJECT, by="bob"), NOW)
    assert other.state is ApprovalState.OPEN
    assert consent.after(other, verdict(Decision.REJECT, by="cid"), NOW).state is ApprovalState.REJECTED
    assert consent.after(other, verdict(by="cid"), NOW).state is ApprovalState.APPROVED
    skipped = consent.after(asked(ask=Ask.SETTLE), verdict(Decision.SKIP), NOW)
    assert skipped.state is ApprovalState.SKIPPED


def test_those_who_allow_a_tools_calls_settle_its_effects():
    strict = replace(RULE, needed=2, when="amount > 5", outside=["x"])
    settling = consent.settling(agent(RULE, strict), "transfer")
    assert (settling.approvers, settling.needed) == (RULE.approvers, 2)
    assert (settling.when, settling.over, settling.outside, settling.amend) == ("", {}, [], "")
    assert consent.settling(agent(), "transfer").expires_s == timedelta(days=30).total_seconds()


def test_the_model_is_told_what_became_of_its_call():
    rejected = consent.after(asked(), verdict(Decision.REJECT, comment="too much"), NOW)
    assert consent.told(rejected) == "a human has rejected this call: too much. Do not try it again"
    expired = asked(state=ApprovalState.EXPIRED, reason="nobody decided in time")
    assert consent.told(expired) == (
        "this call needed a human, and was expired (nobody decided in time). Do not try it again"
    )
    assert "nobody knows" in consent.fate(EffectResult(state=EffectState.UNKNOWN, reason="lost"))
    assert consent.fate(EffectResult(state=EffectState.FAILED)) == "this was not done"
