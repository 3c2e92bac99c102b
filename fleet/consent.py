"""Which calls need a human, and what a human's word may do. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any, Final

from fleet.arguments import excluded, problems
from fleet.conditions import BadCondition, domain, fits, holds, is_pattern, matches, number, person
from fleet.contracts.approvals import Approval, ApprovalRule, ApprovalState, Ask, Decision, Verdict, Vote, digest
from fleet.contracts.effects import EffectResult, EffectState
from fleet.contracts.runs import AgentDefinition, ToolBinding

_ENDS = {
    Decision.APPROVE: ApprovalState.APPROVED,
    Decision.AMEND: ApprovalState.APPROVED,
    Decision.REJECT: ApprovalState.REJECTED,
    Decision.SKIP: ApprovalState.SKIPPED,
}
LONGEST_COMMENT = 2000
_ATOMS = r"[!#-'+\-./0-9=A-Z\[\]^-~]+"
_ADDRESS: Final = re.compile(f"{_ATOMS}@{_ATOMS}")
"""One plain address: printable ASCII, nothing that an address list, a display name or a pattern is written with."""


def needed(
    agent: AgentDefinition, binding: ToolBinding, arguments: Mapping[str, Any], *, tenant: str, found: bool
) -> tuple[ApprovalRule, str] | None:
    """The rule that wants a human for this call, and why in words; None if the call may be made.

    All rules that hold are one (`together`). A rule that cannot be told of the call holds. Once strangers' text was
    read, a call that moves money is asked for by all rules of its tool together; if it has none, by the default rule.

    Args:
        agent: with its rules.
        binding: the tool.
        arguments: of the call.
        tenant: whose run it is.
        found: whether strangers' text was read before.
    """
    holding = _holding(agent, binding, arguments, tenant=tenant, found=found)
    if holding is not None:
        return holding
    if binding.guarded and found and not agent.trust_found:
        return _of_tool(agent, binding.spec.name, 604_800.0), "text written by strangers was read before"
    return None


def together(rules: Sequence[ApprovalRule]) -> ApprovalRule:
    """Several rules for one call as one, whatever their order.

    As many people as the rule that wants most, of those who are on the list of every rule that has one; if these are
    too few, of the list of the rule that wants most people, among equals the narrowest: without patterns, the
    shortest. Everybody's endpoints are told, the first end counts, every `amend` must be satisfied. Reminders and
    escalation are those of the strictest.

    Args:
        rules: one or more, of one tool.
    """
    first, *others = ordered = sorted(rules, key=_strictness)
    if not others:
        return first
    lists = [rule.approvers for rule in ordered if rule.approvers]
    common = [who for who in dict.fromkeys(map(person, chain(*lists))) if all(_covered(who, each) for each in lists)]
    enough = len(common) >= first.needed or any(map(is_pattern, common))
    amends = list(dict.fromkeys(rule.amend.strip() for rule in ordered if rule.amend))
    return replace(
        first,
        when="",
        over={},
        outside=[],
        approvers=common if common and enough else next(iter(lists), []),
        expires_s=min(rule.expires_s for rule in ordered),
        amend=amends[0] if len(amends) == 1 else " and ".join(f"({amend})" for amend in amends),
        notify=list(dict.fromkeys(chain(*(rule.notify for rule in ordered)))),
    )


def _strictness(rule: ApprovalRule) -> tuple[Any, ...]:
    patterns = any(map(is_pattern, rule.approvers))
    # the last only so that the order in the manifest decides nothing
    return -rule.needed, not rule.approvers, patterns, len(rule.approvers), sorted(rule.approvers), repr(rule)


def _covered(who: str, approvers: Sequence[str]) -> bool:
    """Whether everybody that an entry of a list stands for is on another list."""
    # a `?` stands for one letter, which the `*` of a pattern is not
    return any(
        who == person(each) or (fits(who, person(each)) and not (is_pattern(who) and "?" in each)) for each in approvers
    )


def _of_tool(agent: AgentDefinition, tool: str, expires_s: float) -> ApprovalRule:
    """All rules of a tool together; without any the default rule."""
    of_tool = [rule for rule in agent.approvals if rule.tool == tool]
    if of_tool:
        return together(of_tool)
    return ApprovalRule(tool=tool, expires_s=expires_s) if agent.asks is None else replace(agent.asks, tool=tool)


def _holding(
    agent: AgentDefinition, binding: ToolBinding, arguments: Mapping[str, Any], *, tenant: str, found: bool
) -> tuple[ApprovalRule, str] | None:
    holding = [
        (rule, why)
        for rule in sorted(agent.approvals, key=_strictness)
        if rule.tool == binding.spec.name
        and (why := _why(rule, agent, binding, arguments, tenant=tenant, found=found)) is not None
    ]
    if not holding:
        return None
    return together([rule for rule, _ in holding]), "; ".join(dict.fromkeys(why for _, why in holding))


def _why(
    rule: ApprovalRule,
    agent: AgentDefinition,
    binding: ToolBinding,
    arguments: Mapping[str, Any],
    *,
    tenant: str,
    found: bool,
) -> str | None:
    """Why the rule holds; None if it does not. All that it names must be so."""
    reasons: list[str] = []
    try:
        if rule.over:
            currency = str(arguments.get("currency", ""))
            most = rule.over.get(currency)
            if most is not None and number(arguments.get("amount")) <= number(most):
                return None
            reasons.append(f"over {most} {currency}" if most is not None else f"no limit is set for {currency!r}")
        if rule.outside:
            to = str(arguments.get("to", ""))
            if any(matches(domain(to), allowed) for allowed in rule.outside):
                return None
            reasons.append(f"{to[:80]} is outside of {', '.join(rule.outside)}")
        if rule.when:
            schema = binding.spec.parameters.get("properties", {})
            if not holds(rule.when, arguments, schema=schema, agent=agent.name, tenant=tenant, found=found):
                return None
            reasons.append(rule.when)
    except BadCondition as bad:
        return f"the rule cannot be told: {bad}"
    return "; ".join(reasons) or f"every {binding.spec.name} needs a human"


def refusal(
    approval: Approval, verdict: Verdict, rule: ApprovalRule, agent: AgentDefinition, *, now: datetime, found: bool
) -> str | None:
    """Why this verdict cannot be taken; None if it can.

    Args:
        approval: as it stands.
        verdict: what somebody says.
        rule: that wants the approval.
        agent: with the tool's schema and the allow-lists.
        now: when it is said.
        found: whether strangers' text was read before the call was asked for.
    """
    by = person(verdict.by)
    if approval.state is not ApprovalState.OPEN:
        return f"{approval.id} is {ended(approval)}: too late"
    if now >= approval.expires_at:
        return f"{approval.id} has expired at {approval.expires_at:%Y-%m-%d %H:%M} UTC: too late"
    if not by:
        return "who decides? name yourself"
    if approval.approvers and by not in [person(who) for who in approval.approvers if not is_pattern(who)]:
        # a pattern would fit one person under many names
        if any(map(is_pattern, approval.approvers)) and not _ADDRESS.fullmatch(by):
            return f"{verdict.by!r} is not one plain address, as ana@example.com: name yourself so"
        if not any(fits(by, person(allowed)) for allowed in approval.approvers):
            return f"{verdict.by} may not decide {approval.id}; those may: {', '.join(approval.approvers)}"
    if verdict.digest != approval.digest:
        return (
            f"the verdict is on other arguments ({verdict.digest or 'no digest'}) than those of {approval.id}"
            f" ({approval.digest}): look at it again"
        )
    if any(person(vote.by) == by for vote in approval.votes):
        return f"{verdict.by} has decided on {approval.id} already: another approver must"
    if len(verdict.comment) > LONGEST_COMMENT:
        return f"the comment has {len(verdict.comment)} characters; {LONGEST_COMMENT} are the most"
    if verdict.decision is Decision.SKIP and approval.ask is not Ask.SETTLE:
        return "skip answers only the question whether an effect was had: reject it instead"
    if verdict.decision is Decision.AMEND:
        return _amendment(approval, verdict, rule, agent, found)
    return None


def _amendment(
    approval: Approval, verdict: Verdict, rule: ApprovalRule, agent: AgentDefinition, found: bool
) -> str | None:
    if approval.ask is not Ask.ALLOW:
        return "amend answers only the question whether a call may be made: approve, reject or skip"
    if not verdict.arguments:
        return "amend needs all arguments of the call to make instead"
    if digest(approval.tool, verdict.arguments) == approval.digest:
        return "the amended arguments are those that were asked for: approve them instead"
    binding = next((tool for tool in agent.tools if tool.spec.name == approval.tool), None)
    if binding is None:
        return f"the agent has no tool {approval.tool!r}"
    against = problems(binding, verdict.arguments) or excluded(binding, verdict.arguments, agent.allow)
    if against is not None:
        return against
    holding = _holding(agent, binding, verdict.arguments, tenant=approval.tenant, found=found)
    if holding is not None and _stricter(holding[0], rule):
        # others may agree to the amended call later: what it would have needed by itself cannot be told of its author
        wanted, why = holding
        who = f"{wanted.needed} of {', '.join(wanted.approvers)}" if wanted.approvers else f"{wanted.needed} people"
        return f"these arguments need {who} ({why}): reject it and let the agent ask anew"
    schema = binding.spec.parameters.get("properties", {})
    for amend in dict.fromkeys([rule.amend, holding[0].amend if holding is not None else ""]):
        try:
            within = not amend or holds(
                amend, verdict.arguments, schema=schema, agent=agent.name, tenant=approval.tenant, found=found
            )
        except BadCondition as bad:
            return f"amended beyond the policy: {bad}"
        if not within:
            return f"amended beyond the policy: {amend} must hold"
    return None


def _stricter(wanted: ApprovalRule, asked: ApprovalRule) -> bool:
    """Whether what would do for the question that was asked may not do for the other."""
    if wanted.needed > asked.needed:
        return True
    if not wanted.approvers:
        return False
    later = asked.escalate_to if asked.escalate_s is not None else []
    may_later = list(wanted.approvers)
    if wanted.escalate_s is not None and asked.escalate_s is not None and wanted.escalate_s <= asked.escalate_s:
        may_later += wanted.escalate_to
    return (
        not asked.approvers
        or not all(_covered(person(who), wanted.approvers) for who in asked.approvers)
        or not all(_covered(person(who), may_later) for who in later)
    )


def after(approval: Approval, verdict: Verdict, now: datetime) -> Approval:
    """The approval once the verdict is taken.

    An amendment is its author's approval of other arguments: what others have said of the earlier ones is void.
    """
    by = person(verdict.by)
    vote = Vote(
        decision=verdict.decision,
        by=by if _ADDRESS.fullmatch(by) else verdict.by.strip(),
        channel=verdict.channel,
        digest=verdict.digest,
        at=now,
        comment=verdict.comment.strip(),
        arguments=verdict.arguments if verdict.decision is Decision.AMEND else None,
    )
    if verdict.decision is Decision.AMEND and verdict.arguments is not None:
        approval = replace(
            approval, arguments=verdict.arguments, digest=digest(approval.tool, verdict.arguments), votes=[vote]
        )
    else:
        approval = replace(approval, votes=[*approval.votes, vote])
    if verdict.decision in (Decision.REJECT, Decision.SKIP) and approval.ask is Ask.ALLOW:
        return replace(approval, state=_ENDS[verdict.decision], decided_at=now)
    agreeing = _agreeing(approval)
    if agreeing < approval.needed:
        return approval
    return replace(approval, state=_ENDS[verdict.decision], decided_at=now)


def _agreeing(approval: Approval) -> int:
    """How many have said the same as the last one: for a call one rejection is enough, so only these are counted."""
    last = _ENDS[approval.votes[-1].decision]
    return sum(_ENDS[vote.decision] is last for vote in approval.votes)


def ended(approval: Approval) -> str:
    """How it ended, in words."""
    who = ", ".join(vote.by for vote in approval.votes)
    when = f" at {approval.decided_at:%Y-%m-%d %H:%M} UTC" if approval.decided_at else ""
    why = f" ({approval.reason})" if approval.reason else ""
    return f"{approval.state.value}{f' by {who}' if who else ''}{when}{why}"


def summary(approval: Approval) -> dict[str, str]:
    """An approval in a run's result."""
    return {
        "id": approval.id,
        "tool": approval.tool,
        "state": approval.state.value,
        "by": ", ".join(vote.by for vote in approval.votes),
        "comment": "; ".join(vote.comment for vote in approval.votes if vote.comment),
        "reason": approval.reason,
    }


def told(approval: Approval) -> str:
    """What the model is told of a call that was not allowed."""
    comments = "; ".join(vote.comment for vote in approval.votes if vote.comment)
    said = f": {comments}" if comments else ""
    if approval.state is ApprovalState.REJECTED:
        return f"a human has rejected this call{said}. Do not try it again"
    return f"this call needed a human, and was {approval.state.value} ({approval.reason}){said}. Do not try it again"


def fate(result: EffectResult) -> str:
    """What the model is told of an effect that is not known to be done."""
    if result.state is EffectState.UNKNOWN:
        return f"nobody knows whether this was done: {result.reason}. Do not do it again"
    return result.reason or "this was not done"


def settling(agent: AgentDefinition, tool: str) -> ApprovalRule:
    """Who is asked whether an effect was had: those who allow the tool's calls; without a rule, the default's."""
    return replace(_of_tool(agent, tool, 2_592_000.0), when="", over={}, outside=[], amend="")
