"""Agent definitions: from the manifest to the snapshot that a run carries."""

from fleet.contracts.runs import AgentDefinition, Budget, CallPolicy, ToolBinding
from fleet.contracts.tools import TOOLS
from fleet.errors import BadInput
from fleet.manifest import LLM_POOL, Manifest


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
            )
            for tool in tools
        ],
        budget=Budget(
            steps=spec.budget.steps, tokens=spec.budget.tokens, deadline_s=spec.budget.deadline.total_seconds()
        ),
        policy=CallPolicy(
            max_failures=spec.policy.max_failures,
            start_to_close_s=spec.policy.attempt_timeout.total_seconds(),
            heartbeat_s=spec.policy.heartbeat.total_seconds(),
            schedule_to_close_s=spec.policy.call_deadline.total_seconds(),
        ),
        max_output_tokens=spec.max_output_tokens,
    )
