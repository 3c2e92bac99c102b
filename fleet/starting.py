"""What a run is started with, whoever starts it: a client or a Temporal Schedule."""

from collections.abc import Sequence
from typing import Any

from temporalio.client import ScheduleActionStartWorkflow
from temporalio.common import Priority

from fleet import agents, attributes
from fleet.contracts import names
from fleet.contracts.runs import LAST_PRIORITY, RULES, RunInput, Told
from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import NAME
from fleet.tables import AGENTS_POOL, WEBHOOK_POOL


def run_input(
    manifest: Manifest, agent: str, goal: str, *, tenant: str, priority: int, tell: Sequence[Told] = ()
) -> RunInput:
    """The input of a run, with its agent's definition as the manifest has it now.

    Raises:
        BadInput: unknown agent, empty goal, or a tenant or priority that cannot be.
    """
    if not goal.strip():
        raise BadInput("the goal is empty: say what the agent is to do")
    if not NAME.fullmatch(tenant):
        raise BadInput(f"tenant {tenant!r}: must be letters, digits, _ . : -, at most 64")
    if not 1 <= priority <= LAST_PRIORITY:
        raise BadInput(f"priority {priority} is not between 1 (first) and {LAST_PRIORITY}")
    return RunInput(
        agent=agents.definition(manifest, agent),
        goal=goal,
        tenant=tenant,
        priority=priority,
        weight=manifest.weight(tenant),
        door=manifest.max_active is not None,
        tell=list(tell),
        rules=RULES,
    )


def listener(manifest: Manifest, endpoint: str) -> Told:
    """A webhook endpoint that is to be told the end of a run.

    Raises:
        BadInput: there is none of that name, or no pool serves it.
    """
    spec = manifest.endpoints.get(endpoint)
    webhooks = [name for name, other in manifest.endpoints.items() if other.kind == "webhook"]
    if spec is None or spec.kind != "webhook":
        raise BadInput(f"{endpoint!r} is no webhook endpoint; there are: {', '.join(webhooks) or 'none'}")
    if WEBHOOK_POOL not in manifest.pools:
        raise BadInput(f"endpoint {endpoint!r} cannot be told: the manifest has no [pools.{WEBHOOK_POOL}]")
    return Told(endpoint=endpoint, task_queue=manifest.task_queue(WEBHOOK_POOL))


def told(run: RunInput) -> dict[str, Any]:
    """What Temporal is told of a run beside its input: memo, summary, priority and fairness."""
    return {
        "memo": {names.AGENT_MEMO: run.agent.name, names.GOAL_MEMO: run.goal[:500], names.TENANT_MEMO: run.tenant},
        "static_summary": f"{run.agent.name}: {run.goal}"[:200],
        "priority": Priority(priority_key=run.priority, fairness_key=run.tenant, fairness_weight=run.weight),
    }


def action(manifest: Manifest, run: RunInput, run_id: str) -> ScheduleActionStartWorkflow:
    """What a Temporal Schedule does to start such a run. Temporal appends the instant to the id."""
    return ScheduleActionStartWorkflow(
        names.AGENT_WORKFLOW,
        run,
        id=run_id,
        task_queue=manifest.task_queue(AGENTS_POOL),
        typed_search_attributes=attributes.of_run(run),
        **told(run),
    )
