"""Which calls need a human, and what a human's word may do. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from fleet.arguments import excluded, problems
from fleet.conditions import BadCondition, domain, holds, matches, number
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


def needed(
    agent: AgentDefinition, binding: ToolBinding, arguments: Mapping[str, Any], *, tenant: str, found: bool
) -> tuple[ApprovalRule, str] | None:
    """The rule that wants a human for this call, and why in words; None if the call may be made.

    Of several rules the one that wants the most people holds. A rule that cannot be told of the call holds.

    Args:
        agent: with its rules.
        binding: the tool.
        arguments: of the call.
        tenant: whose run it is.
        found: whether strangers' text was read before.
    """
    holding = _strictest(agent, binding, arguments, tenant=tenant, found=found)
    if holding is not None:
        return holding
    if binding.guarded and found and not agent.trust_found:
        of_tool = [rule for rule in agent.approvals if rule.tool == binding.spec.name]
        rule = max(of_tool, key=lambda each: each.needed, default=ApprovalRule(tool=binding.spec.name))
        return rule, "text written by strangers was read before"
    return None


def _strictest(
    agent: AgentDefinition, binding: ToolBinding, arguments: Mapping[str, Any], *, tenant: str, found: bool
) -> tuple[ApprovalRule, str] | None:
    holding = [
        (rule, why)
        for rule in agent.approvals
        if rule.tool == binding.spec.name
        and (why := _why(rule, agent, binding, arguments, tenant=tenant, found=found)) is not None
    ]
    return max(holding, key=lambda each: each[0].needed, default=None)


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
    by = verdict.by.strip().lower()
    if approval.state is not ApprovalState.OPEN:
        return f"{approval.id} is {ended(approval)}: too late"
    if now >= approval.expires_at:
        return f"{approval.id} has expired at {approval.expires_at:%Y-%m-%d %H:%M} UTC: too late"
    if not by:
        return "who decides? name yourself"
    if approval.approvers and not any(matches(by, allowed) for allowed in approval.approvers):
        return f"{verdict.by} may not decide {approval.id}; those may: {', '.join(approval.approvers)}"
    if verdict.digest != approval.digest:
        return (
            f"the verdict is on other arguments ({verdict.digest or 'no digest'}) than those of {approval.id}"
            f" ({approval.digest}): look at it again"
        )
    if any(vote.by.strip().lower() == by for vote in approval.votes):
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
    stricter = _strictest(agent, binding, verdict.arguments, tenant=approval.tenant, found=found)
    if stricter is not None and stricter[0] != rule:
        # what a call of these arguments would have needed, the amended one needs too
        wanted, why = stricter
        if wanted.needed > approval.needed:
            return f"amended beyond the policy: {wanted.needed} must agree on such a call ({why})"
        if wanted.approvers and not any(matches(verdict.by, allowed) for allowed in wanted.approvers):
            return f"amended beyond the policy: {verdict.by} may not allow such a call ({why})"
    if not rule.amend:
        return None
    schema = binding.spec.parameters.get("properties", {})
    try:
        within = holds(
            rule.amend, verdict.arguments, schema=schema, agent=agent.name, tenant=approval.tenant, found=found
        )
    except BadCondition as bad:
        return f"amended beyond the policy: {bad}"
    return None if within else f"amended beyond the policy: {rule.amend} must hold"


def after(approval: Approval, verdict: Verdict, now: datetime) -> Approval:
    """The approval once the verdict is taken.

    An amendment is its author's approval of other arguments: what others have said of the earlier ones is void.
    """
    vote = Vote(
        decision=verdict.decision,
        by=verdict.by.strip(),
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
    """Who is asked whether an effect was had: those who allow the tool's calls."""
    of_tool = [rule for rule in agent.approvals if rule.tool == tool]
    rule = max(of_tool, key=lambda each: each.needed, default=ApprovalRule(tool=tool, expires_s=2_592_000.0))
    return replace(rule, when="", over={}, outside=[], amend="")
