"""Recorded reservations of a run, replayed against other quotas, weights, arrivals and estimates.

The recorded runs keep their calls, latencies and gaps; only what they wait for is computed anew. A run that gets its
permit sooner asks for its next one sooner.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.tables import ModelProvider
from load import behaviour, figures
from load.planner import scaled
from load.simulation import Conditions, simulate
from load.workload import Call, Run
from ratelimit.arithmetic import unit_of
from ratelimit.estimates import Learnt
from ratelimit.places import Kind
from ratelimit.profiles import PROFILES, Profile

FILE = "reservations.jsonl"
FACTORS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Of the quotas, in a sweep."""
ESTIMATORS = ("recorded", "exact", "max_output", "profile")
_COUNTED = ("requests", "messages", "recipients")
"""What a call costs is known of these before it is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a model's call was told and has used. Needed by estimators that do not follow from the costs."""

    characters: int
    """Of the request."""
    max_output: int
    """Its output limit."""
    input: int
    """Used, those that were cached included."""
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One call that asked for quota, as it was recorded."""

    at: float
    """Wall-clock seconds when it first asked."""
    scope: str
    run_id: str
    estimate: Mapping[str, float]
    """Units by limit."""
    actual: Mapping[str, float]
    """What it was settled with."""
    waited_s: float
    """From asking to its permit, over all attempts."""
    took_s: float
    """From its permit to its end."""
    tenant: str = "default"
    priority: int = 3
    first: bool = False
    """It was the first call of its run."""
    seq: int = 0
    """Its number within the run."""
    agent: str = ""
    tokens: Tokens | None = None


def write(path: Path, reservations: Iterable[Reservation]) -> int:
    """Write them, a JSON document a line, in the order of asking; answers how many."""
    ordered = sorted(reservations, key=lambda one: (one.at, one.run_id, one.seq))
    with path.open("w", encoding="utf-8") as file:
        for one in ordered:
            document = {key: value for key, value in asdict(one).items() if value is not None and value != ""}
            file.write(json.dumps(document, separators=(",", ":")) + "\n")
    return len(ordered)


def read(path: Path) -> list[Reservation]:
    """The reservations of a file, or of a report's folder, in the order of asking.

    Raises:
        BadInput: there is none, or a line is no reservation.
    """
    file = path / FILE if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text"
        raise BadInput(f"{file}: {why}: name the folder of a report of `fleet load run`") from None
    found = [_parsed(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadInput(f"{file}: nothing was reserved in that run: there is nothing to replay")
    return sorted(found, key=lambda one: (one.at, one.run_id, one.seq))


def _parsed(file: Path, number: int, line: str) -> Reservation:
    try:
        raw = json.loads(line)
        tokens = Tokens(**raw.pop("tokens")) if raw.get("tokens") else None
        found = Reservation(**raw, tokens=tokens)
        sums = [0.0, found.at, found.waited_s, found.took_s, *found.estimate.values(), *found.actual.values()]
        if min(sums) < 0:
            raise ValueError("times and units must be 0 or more")
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{file}:{number}: is no reservation ({error}): record the run anew") from None
    return found


def estimated(reservations: Sequence[Reservation], estimator: str, manifest: Manifest | None) -> list[Reservation]:
    """The same calls with other estimates; what they really cost stays.

    Args:
        reservations: in the order of asking.
        estimator: `recorded`; `exact`: what they cost; `max_output`: their input and all that they may write;
            `profile`: as the fleet estimates, learning from call to call; `x1.5`: the recorded estimate times 1.5.
        manifest: whose provider counts how, for `profile`.

    Raises:
        BadInput: there is no such estimator, or the record lacks what it needs.
    """
    if estimator == "recorded":
        return list(reservations)
    if estimator == "exact":
        return [replace(one, estimate={**one.estimate, **one.actual}) for one in reservations]
    if estimator.startswith("x"):
        factor = _factor(estimator)
        return [
            replace(one, estimate={n: u if n.startswith(_COUNTED) else u * factor for n, u in one.estimate.items()})
            for one in reservations
        ]
    if estimator not in ESTIMATORS:
        raise BadInput(f"--estimator {estimator!r} is not one of {', '.join(ESTIMATORS)}, x1.5")
    counts = [one for one in reservations if any(not name.startswith(_COUNTED) for name in one.estimate)]
    if any(one.tokens is None for one in counts):
        raise BadInput(f"--estimator {estimator}: the record does not tell tokens and characters: use exact or x1.5")
    learnt: dict[tuple[str, str], Learnt] = defaultdict(Learnt)
    return [_estimated(one, estimator, manifest, learnt[one.scope, one.agent]) for one in reservations]


def _factor(estimator: str) -> float:
    try:
        factor = float(estimator[1:])
    except ValueError:
        factor = 0.0
    if not 0.01 <= factor <= 100:
        raise BadInput(f"--estimator {estimator!r}: the factor must be 0.01 to 100, as in x1.5")
    return factor


def _estimated(one: Reservation, estimator: str, manifest: Manifest | None, learnt: Learnt) -> Reservation:
    told = one.tokens
    if told is None:
        return one
    if estimator == "max_output":
        known = {
            "input_tokens": float(told.input),
            "output_tokens": float(told.max_output),
            "tokens": float(told.input + told.max_output),
        }
    else:
        known = _profile(manifest, one.scope).cost(learnt.estimate(told.characters, told.max_output), told.max_output)
        learnt.learn(told.characters, told.input, told.output)
    fits = {name: known.get(unit_of(name), units) for name, units in one.estimate.items()}
    return replace(one, estimate=fits)


def _profile(manifest: Manifest | None, scope: str) -> Profile:
    spec = manifest.providers.get(scope.partition("/")[0]) if manifest else None
    return PROFILES[(spec.counts or spec.kind) if isinstance(spec, ModelProvider) else "openai"]


def runs_of(
    reservations: Sequence[Reservation], manifest: Manifest | None = None, *, jitter_s: float = 0.0
) -> list[Run]:
    """The recorded runs, in seconds from the first reservation.

    Args:
        reservations: in any order.
        manifest: tells which pool serves a scope; without one no pool is short of slots.
        jitter_s: each run begins later by a random time up to this, the same for every replay.
    """
    by_run: dict[str, list[Reservation]] = defaultdict(list)
    for one in sorted(reservations, key=lambda one: (one.at, one.seq)):
        by_run[one.run_id].append(one)
    begin = min(one.at for one in reservations)
    source = random.Random(1)
    found = []
    for run_id, mine in sorted(by_run.items(), key=lambda item: item[1][0].at):
        calls, ended = [], mine[0].at
        for one in mine:
            call = Call(
                latency_s=one.took_s,
                pool=behaviour.pool_of(manifest, one.scope) if manifest else "",
                scope=one.scope,
                estimate=one.estimate,
                actual=one.actual,
                # calls that overlapped follow each other
                gap_s=max(0.0, one.at - ended),
            )
            calls.append(call)
            ended = max(ended, one.at + one.waited_s + one.took_s)
        first = mine[0]
        run = Run(
            at_s=first.at - begin + source.random() * jitter_s,
            calls=calls,
            agent=first.agent,
            tenant=first.tenant,
            priority=first.priority,
            run_id=run_id,
            begun=not first.first,
        )
        found.append(run)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be otherwise."""

    conditions: Conditions
    jitter_s: float = 0.0
    estimator: str = "recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """As recorded, as simulated without a change, and with it. Documents with the same keys."""

    recorded: dict[str, Any]
    baseline: dict[str, Any]
    changed: dict[str, Any]
    curve: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Quota factor; p50 and p99 of the waits in seconds; utilisation of the limit that is used most."""

    @property
    def drift(self) -> float:
        """By which share the baseline's finish is off what was recorded: how far to trust the rest."""
        finished: float = self.recorded["finished_s"]
        return abs(self.baseline["finished_s"] - finished) / finished if finished else 0.0


def replay(
    reservations: Sequence[Reservation],
    baseline: Conditions,
    change: Change,
    manifest: Manifest | None = None,
    *,
    sweep: bool = True,
) -> Replayed:
    """Replay twice: as it was, and otherwise.

    Args:
        reservations: as recorded.
        baseline: what was in force.
        change: what would be.
        manifest: of the recorded fleet.
        sweep: draw the curve too, over the changed quotas.

    Raises:
        BadInput: a call costs more than a limit would ever grant, or an estimator lacks what it needs.
    """
    before = _replayed(runs_of(reservations, manifest), baseline)
    runs = runs_of(estimated(reservations, change.estimator, manifest), manifest, jitter_s=change.jitter_s)
    after = _replayed(runs, change.conditions)
    curve = swept(runs, change.conditions) if sweep else []
    return Replayed(recorded=recorded(reservations, baseline), baseline=before, changed=after, curve=curve)


def _replayed(runs: Sequence[Run], given: Conditions) -> dict[str, Any]:
    given = replace(given, provider=True)
    found = simulate(runs, given)
    return {**figures.document(found, given, curves=True), "busiest": busiest(figures.limits(found))}


def recorded(reservations: Sequence[Reservation], given: Conditions) -> dict[str, Any]:
    """What the record itself says, as far as it does."""
    begin = min(one.at for one in reservations)
    end = max(one.at + one.waited_s + one.took_s for one in reservations)
    last: dict[str, float] = defaultdict(float)
    used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    waits: dict[str, list[float]] = defaultdict(list)
    for one in reservations:
        waits[one.scope].append(one.waited_s)
        last[one.scope] = max(last[one.scope], one.at + one.waited_s - begin)
        for name, units in one.actual.items():
            used[one.scope][name] += units
    limits: dict[str, dict[str, dict[str, float]]] = {}
    for scope, quota in given.quotas.items():
        for name, one_limit in quota.limits.items():
            granted = quota.burst(name) + quota.rate(name) * last[scope]
            if name in used[scope] and one_limit.kind is Kind.CONTINUOUS:
                share = round(used[scope][name] / granted, 4)
                limits.setdefault(scope, {})[name] = {"used": used[scope][name], "utilisation": share}
    return {
        "runs": len({one.run_id for one in reservations}),
        "calls": len(reservations),
        "finished_s": round(end - begin, 3),
        "call_wait_s": figures.spread(one.waited_s for one in reservations),
        "waits": {scope: figures.spread(mine) for scope, mine in waits.items()},
        "limits": limits,
        "busiest": busiest(limits),
    }


def busiest(limits: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The limit that is used most."""
    every = [(one["utilisation"], scope, name) for scope, found in limits.items() for name, one in found.items()]
    utilisation, scope, name = max(every, default=(0.0, "", ""))
    return {"scope": scope, "limit": name, "utilisation": utilisation}


def swept(
    runs: Sequence[Run], given: Conditions, factors: Sequence[float] = FACTORS
) -> list[tuple[float, float, float, float]]:
    """Waits and utilisation over a factor of all quotas. Those under which a call could never be made are left out."""
    curve = []
    for factor in factors:
        try:
            found = simulate(runs, replace(given, quotas=scaled(given.quotas, factor), provider=False))
        except BadInput:
            continue
        waits = sorted(found.waits)
        most = busiest(figures.limits(found))["utilisation"]
        curve.append((factor, round(figures.quantile(waits, 0.5), 3), round(figures.quantile(waits, 0.99), 3), most))
    return curve
