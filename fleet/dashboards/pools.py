"""*Worker pools and queues*: what waits, who serves it, which versions, and is the engine well."""

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Dashboard, Draw, Panel, Query, Row
from fleet.dashboards.queries import Queries, at_least
from fleet.dashboards.shared import POOL, WELL, processes

SHORT = {"operation": "!Poll.*"}
"""Operations that are no long polls."""


def pools() -> Dashboard:
    """The page of the workers."""
    q = Queries(frozenset({"pool"}))
    return Dashboard(
        uid="fleet-pools",
        title="Worker pools and queues",
        says="What waits in which queue, are there workers and slots for it, and which versions still have runs?",
        variables=[POOL],
        rows=[_queues(q), _workers(q), _attempts(q), _versions(q), _engine(q)],
    )


def _queues(q: Queries) -> Row:
    return Row(
        title="What waits?",
        panels=[
            Panel(
                title="How much waits in each queue?",
                says="Tasks in the task queue, approximately. Work that quota holds back also waits here, behind a"
                " closed gate: see the line of its scope before adding workers.",
                unit=model.NUMBER, width=8, alert="FleetBacklogOld",
                queries=[Query(expr=q.max(metrics.BACKLOG, "pool type"), legend="{{pool}} {{type}}")],
            ),
            Panel(
                title="How old is the oldest task?",
                says="By pool. Rising in a straight line: nobody takes any of it.",
                unit=model.SECONDS, width=8, alert="FleetBacklogOld",
                queries=[Query(expr=q.max(metrics.BACKLOG_AGE, "pool type"), legend="{{pool}} {{type}}")],
            ),
            Panel(
                title="How long from scheduling to start?",
                says="The slowest 5 % of attempts, by task queue, as the workers tell it. Higher than a call may wait:"
                " more slots, or more quota.",
                unit=model.SECONDS, width=8, alert="FleetBacklogOld",
                queries=[
                    Query(expr=q.quantile(0.95, metrics.SCHEDULE_TO_START, "task_queue"), legend="{{task_queue}}")
                ],
            ),
        ],
    )  # fmt: skip


def _workers(q: Queries) -> Row:
    used = q.sum(metrics.SLOTS, "pool", {"state": "used"})
    return Row(
        title="Who serves it?",
        panels=[
            Panel(
                title="How many workers has each pool?",
                says="Live workers by pool. A step down is a worker that died or was stopped.",
                unit=model.NUMBER, width=6, alert="FleetPoolWithoutWorkers",
                queries=[
                    Query(expr=q.sum(metrics.WORKERS, "pool", {"state": "running"}), legend="{{pool}}"),
                    Query(
                        expr=f'{q.sum(metrics.WORKERS, "pool state", {"state": "!running"})} > 0',
                        legend="{{pool}} {{state}}",
                    ),
                ],
            ),
            Panel(
                title="Is new work taken?",
                says="By pool, whether a live worker takes its new work. No, though workers live: they are of a version"
                " that drains, or of one that nobody has promoted.",
                unit=model.STATE, draw=Draw.STATES, width=6, alert="FleetPoolWithoutWorkers", mappings=WELL,
                queries=[Query(expr=q.max(metrics.POOL_SERVED, "pool"), legend="{{pool}}")],
            ),
            Panel(
                title="How many slots are used?",
                says="Used by all slots of live workers. Near 1 with a backlog and no line for quota: the pool is too"
                " small.",
                unit=model.SHARE, width=6, most=1.0, thresholds=((0.9, model.AMBER),), alert="FleetBacklogOld",
                queries=[
                    Query(expr=f"{used} / ({q.sum(metrics.SLOTS, 'pool')} > 0)", legend="{{pool}}")
                ],
            ),
            processes(6),
        ],
    )  # fmt: skip


def _attempts(q: Queries) -> Row:
    return Row(
        title="What do workers do?",
        panels=[
            Panel(
                title="How many attempts are under way?",
                says="By pool, as the workers tell it.",
                unit=model.NUMBER, draw=Draw.STACK, width=8,
                queries=[Query(expr=q.sum(metrics.RUNNING, "pool"), legend="{{pool}}")],
            ),
            Panel(
                title="How do attempts end?",
                says="A minute, by outcome. `waited` gave its slot back for quota: no failure. Failures are tried again"
                " as the policy of the tool says.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8,
                colours={"completed": model.GREEN, "waited": model.ORANGE, "failed": model.RED},
                queries=[Query(expr=q.per_minute(metrics.TASKS, "outcome"), legend="{{outcome}}")],
            ),
            Panel(
                title="Which activities fail?",
                says="Failed attempts a minute, by pool and activity.",
                unit=model.PER_MINUTE, width=8, none="none has failed",
                queries=[
                    Query(
                        expr=q.per_minute(metrics.TASKS, "pool activity", {"outcome": "failed"}),
                        legend="{{pool}} {{activity}}",
                    )
                ],
            ),
            Panel(
                title="How long does an attempt take?",
                says="The slowest 5 %, by activity, short waits in the slot included.",
                unit=model.SECONDS, width=8,
                queries=[
                    Query(
                        expr=q.quantile(0.95, metrics.ACTIVITY_SECONDS, "activity_type"), legend="{{activity_type}}"
                    )
                ],
            ),
            Panel(
                title="How many slots does a gate hold back?",
                says="Free slots that wait for the pool's gate, averaged: its quota would not grant soon. What is in"
                " the queue meanwhile waits for quota, not for workers.",
                unit=model.NUMBER, width=8, alert="FleetQuotaStarved",
                queries=[Query(expr=q.rate(metrics.GATE_CLOSED, "pool"), legend="{{pool}}")],
            ),
            Panel(
                title="How many polls are under way?",
                says="By task queue. None where a gate is closed; none anywhere: workers are gone, or do not reach"
                " Temporal.",
                unit=model.NUMBER, width=8, alert="FleetPoolWithoutWorkers",
                queries=[
                    Query(
                        expr=q.sum(metrics.POLLERS, "task_queue poller_type"),
                        legend="{{task_queue}} {{poller_type}}",
                    )
                ],
            ),
        ],
    )  # fmt: skip


def _versions(q: Queries) -> Row:
    return Row(
        title="Which versions?",
        height=7,
        panels=[
            Panel(
                title="Versions",
                says="Runs on each version and how long it has been draining. A version that is `drained` may lose its"
                " workers; one that is `draining` for days has runs that wait for something.",
                unit=model.NUMBER, draw=Draw.TABLE, labels=("pool", "build", "status"), width=8, most_series=8,
                none="workers are not versioned", alert="FleetVersionNotDraining",
                queries=[
                    Query(expr=q.max(metrics.VERSION_RUNS, "pool build status"), legend="runs", decimals=0),
                    Query(
                        expr=f"{q.max(metrics.VERSION_DRAINING, 'pool build')} * on (pool, build) group_left (status)"
                        f" ({q.max(metrics.VERSION_RUNS, 'pool build status', {'status': 'draining'})} * 0 + 1)",
                        legend="draining for",
                        unit=model.SECONDS,
                    ),
                ],
            ),
            Panel(
                title="How many runs has each version?",
                says="The former should shrink to nothing after a promotion.",
                unit=model.NUMBER, draw=Draw.STACK, width=8, alert="FleetVersionNotDraining",
                none="workers are not versioned",
                queries=[
                    Query(
                        expr=f"sum by (build, status) ({q.max(metrics.VERSION_RUNS, 'pool build status')})",
                        legend="{{build}} {{status}}",
                    )
                ],
            ),
            Panel(
                title="Which versions do processes run?",
                says="Processes by build. Two builds are a rollout; for long they are a rollout that was forgotten.",
                unit=model.NUMBER, draw=Draw.STACK, width=8,
                queries=[Query(expr=q.count(metrics.BUILD, "build version"), legend="{{build}} ({{version}})")],
            ),
        ],
    )  # fmt: skip


def _engine(q: Queries) -> Row:
    return Row(
        title="Is the engine well?",
        height=7,
        panels=[
            Panel(
                title="How long do workflow tasks wait?",
                says="The slowest 5 %, scheduling to start. High: the pool `agents` is too small.",
                unit=model.SECONDS, width=8,
                queries=[
                    Query(
                        expr=q.quantile(0.95, metrics.WORKFLOW_SCHEDULE_TO_START, "task_queue"),
                        legend="{{task_queue}}",
                    )
                ],
            ),
            Panel(
                title="How long does a workflow task take?",
                says="The slowest 1 %. Near 2 s the SDK takes it for a deadlock.",
                unit=model.SECONDS, width=8, thresholds=((1, model.AMBER),), alert="FleetWorkflowTaskFailing",
                queries=[
                    Query(
                        expr=q.quantile(0.99, metrics.WORKFLOW_TASK_SECONDS, "workflow_type"),
                        legend="{{workflow_type}}",
                    )
                ],
            ),
            Panel(
                title="Which workflow tasks fail?",
                says="A minute, by reason. `NonDeterminismError`: a run is on code that it did not begin on; its"
                " version must come back.",
                unit=model.PER_MINUTE, width=8, alert="FleetWorkflowTaskFailing", none="none has failed",
                queries=[
                    Query(
                        expr=q.per_minute(metrics.WORKFLOW_TASK_FAILED, "workflow_type failure_reason"),
                        legend="{{workflow_type}} {{failure_reason}}",
                    )
                ],
            ),
            Panel(
                title="How long does Temporal take?",
                says="The slowest 5 % of calls, by operation; long polls are left out.",
                unit=model.SECONDS, width=8,
                queries=[
                    Query(
                        expr=f"topk(6, {q.quantile(0.95, metrics.REQUEST_SECONDS, 'operation', SHORT)})",
                        legend="{{operation}}",
                    )
                ],
            ),
            Panel(
                title="Which calls of Temporal fail?",
                says="A minute, by operation and status. `RESOURCE_EXHAUSTED` is Temporal's own rate limit.",
                unit=model.PER_MINUTE, width=8, none="none has failed",
                queries=[
                    Query(
                        expr=q.per_minute(metrics.REQUEST_FAILURES, "operation status_code"),
                        legend="{{operation}} {{status_code}}",
                    )
                ],
            ),
            Panel(
                title="How many workflows are kept in memory?",
                says="And how many had to leave it before their end, a minute: each is replayed when it goes on.",
                unit=model.NUMBER, width=8,
                queries=[
                    Query(expr=q.sum(metrics.STICKY_SIZE), legend="kept"),
                    Query(expr=at_least(q.per_minute(metrics.STICKY_EVICTED)), legend="left, a minute"),
                ],
                colours={"kept": model.BLUE, "left, a minute": model.RED},
            ),
        ],
    )  # fmt: skip
