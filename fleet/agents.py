"""Agent definitions: from the manifest to the snapshot that a run carries."""

from fleet.contracts.approvals import ApprovalRule
from fleet.contracts.runs import (
    AgentDefinition,
    AllowLists,
    Budget,
    CallPolicy,
    ContextPolicy,
    MemoryPolicy,
    Price,
    ToolBinding,
)
from fleet.contracts.tools import TOOLS
from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.tables import APPROVALS_POOL, LLM_POOL, MEMORY_POOL, ApprovalSpec, ApprovalsSpec, MemorySpec


def definition(manifest: Manifest, name: str) -> AgentDefinition:
    """The agent as it stands now, with everything a run needs.

    Raises:
        BadInput: there is no such agent.
    """
    spec = manifest.agents.get(name)
    if spec is None:
        raise BadInput(f"unknown agent {name!r}; the manifest has: {', '.join(sorted(manifest.agents)) or 'none'}")
    tools = [TOOLS[tool] for tool in spec.tools]
    return AgentDefinition(
        name=name,
        instructions=spec.instructions.strip(),
        model=spec.model,
        llm_task_queue=manifest.task_queue(LLM_POOL),
        tools=[
            ToolBinding(
                spec=tool.spec,
                activity=tool.stub.name,
                task_queue=manifest.task_queue(tool.stub.pool),
                effect=tool.effect,
                finds=tool.finds,
                guarded=tool.guarded,
                lists=tool.lists,
            )
            for tool in tools
        ],
        budget=Budget(
            steps=spec.budget.steps,
            tokens=spec.budget.tokens,
            deadline_s=spec.budget.deadline.total_seconds(),
            money=None if spec.budget.money is None else f"{spec.budget.money:f}",
        ),
        policy=CallPolicy(
            max_failures=spec.policy.max_failures,
            start_to_close_s=spec.policy.attempt_timeout.total_seconds(),
            heartbeat_s=spec.policy.heartbeat.total_seconds(),
            schedule_to_close_s=spec.policy.call_deadline.total_seconds(),
            max_refusals=spec.policy.max_refusals,
            continue_after=spec.policy.continue_after,
        ),
        max_output_tokens=spec.max_output_tokens,
        approvals=[_rule(rule) for rule in spec.approvals],
        asks=_default(manifest.approvals),
        approvals_task_queue=manifest.task_queue(APPROVALS_POOL),
        on_unknown=spec.on_unknown,
        trust_found=spec.trust_found,
        allow=AllowLists(recipients=spec.allow.recipients, payees=spec.allow.payees),
        memory=_memory(manifest, spec.memory),
        price=price(manifest, spec.model),
        context=ContextPolicy(
            tokens=spec.context.tokens,
            keep=spec.context.keep,
            result_chars=spec.context.result_chars,
            model=spec.context.model or "",
            price=price(manifest, spec.context.model) if spec.context.model else None,
            max_output_tokens=spec.context.max_output_tokens,
        ),
    )


def price(manifest: Manifest, model: str) -> Price | None:
    """What a model costs; None where the manifest has no price."""
    spec = manifest.prices.get(model)
    if spec is None:
        return None
    cached = spec.input if spec.cached is None else spec.cached
    return Price(input=f"{spec.input:f}", output=f"{spec.output:f}", cached=f"{cached:f}", currency=spec.currency)


def _rule(spec: ApprovalSpec) -> ApprovalRule:
    return ApprovalRule(
        tool=spec.tool,
        when=spec.when,
        over={currency: f"{amount:f}" for currency, amount in spec.over.items()},
        outside=spec.outside,
        approvers=spec.approvers,
        needed=spec.needed,
        expires_s=spec.expires.total_seconds(),
        remind_s=[after.total_seconds() for after in spec.remind],
        escalate_s=spec.escalate.after.total_seconds() if spec.escalate else None,
        escalate_to=spec.escalate.to if spec.escalate else [],
        amend=spec.amend,
        notify=spec.notify,
    )


def _default(spec: ApprovalsSpec) -> ApprovalRule | None:
    if not spec.model_fields_set & {"approvers", "notify", "expires"}:
        return None
    return ApprovalRule(tool="", approvers=spec.approvers, notify=spec.notify, expires_s=spec.expires.total_seconds())


def _memory(manifest: Manifest, spec: MemorySpec | None) -> MemoryPolicy | None:
    if spec is None:
        return None
    return MemoryPolicy(
        task_queue=manifest.task_queue(MEMORY_POOL),
        recall=spec.recall,
        findings=spec.findings,
        outcome=spec.outcome,
        expires_s=spec.expires.total_seconds(),
        max_bytes=spec.max_bytes,
    )
