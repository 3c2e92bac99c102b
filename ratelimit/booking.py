"""One reservation over a chain of scopes. The twin of `lua/_reserve.lua`, `_again.lua` and `_cost.lua`."""

from collections.abc import Mapping, Sequence

from ratelimit import flow
from ratelimit.arithmetic import bound_by, expired, shortfall, unit_of, wait_for
from ratelimit.places import Ask, Booking, Kind, Origin, Outcome, Part
from ratelimit.state import Record, Scope

Chain = Sequence[Scope]
Costs = list[dict[str, float]]
"""Of each scope, by limit."""


def reserve(names: Sequence[str], chain: Chain, ask: Ask, old: Record | None) -> tuple[Booking, Record | None]:
    """Charge an ask to every limit of every scope or to none.

    Args:
        names: of the scopes, innermost first.
        chain: their states, brought to the instant.
        ask: what is asked for.
        old: the place booked under its key.

    Returns:
        The answer, and the place's record if it is to be kept.
    """
    unknown = next((word for word in ask.cost if not _counted(chain, word, ask.cost)), None)
    if unknown is not None:
        return Booking(Outcome.UNKNOWN, Origin.NONE, 0.0, unknown), None
    costs = [_cost(scope, ask.cost) for scope in chain]
    booked_at = max(scope.at for scope in chain)
    generation, first_at, origin = 1, booked_at, Origin.BOOKED
    if old is not None:
        same = old.mode == "H" or (old.mode == "T" and old.asker == ask.asker)
        if same and not _expired(chain, old):
            return _ask_again(names, chain, old, ask), old
        generation = old.generation + 1
        if old.mode != "S":
            first_at, origin = old.first_at, Origin.REBOOKED
    too_large = _too_large(names, chain, costs)
    if too_large is not None:
        return Booking(Outcome.TOO_LARGE, Origin.NONE, 0.0, too_large), None
    owed = [
        {n: max(0.0, units - scope.buckets[n].level) for n, units in cost.items() if not scope.buckets[n].shadow}
        for scope, cost in zip(chain, costs, strict=True)
    ]
    wait, limit = _wait(names, chain, owed)
    mode = "T" if wait <= ask.max_wait else "H"
    _count(chain, "grants" if mode == "T" else "denials")
    if mode == "H" and not (ask.hold and ask.key is not None):
        return Booking(Outcome.DENIED, Origin.NONE, wait, limit), None
    for i, scope in enumerate(chain):
        scope.waited += wait
        _drop_shadowed(scope, costs[i])
        if old is not None and old.mode == "H" and i < len(old.parts):
            flow.end_lease(scope, old.parts[i].lease, over=False)
    parts = [_charge(scope, cost, lacking, wait) for scope, cost, lacking in zip(chain, costs, owed, strict=True)]
    record = Record(mode, generation, booked_at, first_at, ask.asker, parts)
    if origin is Origin.REBOOKED:
        _count(chain, "rebooked")
    return _answer(record, origin, wait, limit), record


def _counted(chain: Chain, word: str, given: Mapping[str, float]) -> bool:
    names = [name for scope in chain for name in scope.buckets]
    return word in names or any(unit_of(name) == word for name in names if name not in given)


def _cost(scope: Scope, given: Mapping[str, float]) -> dict[str, float]:
    cost = {}
    for name in scope.buckets:
        units = given.get(name, given.get(unit_of(name), 0.0))
        if units > 0:
            cost[name] = units
    return cost


def _too_large(names: Sequence[str], chain: Chain, costs: Costs) -> str | None:
    for i, scope in enumerate(chain):
        for name, bucket in scope.buckets.items():
            granted = bucket.kind is Kind.CONTINUOUS or bucket.shadow
            if not granted and costs[i].get(name, 0.0) > bucket.burst:
                return _limit_name(names, i, name)
    return None


def _limit_name(names: Sequence[str], i: int, limit: str) -> str:
    # a limit of an outer scope is named with its scope
    return limit if i == 0 else f"{limit}@{names[i]}"


def _wait(names: Sequence[str], chain: Chain, owed: Costs) -> tuple[float, str]:
    longest, binding = -1.0, ""
    for i, scope in enumerate(chain):
        wait, limit = wait_for(scope.buckets, owed[i], scope.at, scope.cooldown_until, scope.pace, scope.recovery)
        if wait > longest:
            longest, binding = wait, _limit_name(names, i, bound_by(limit, scope.closed))
    return longest, binding


def _count(chain: Chain, counter: str) -> None:
    for scope in chain:
        setattr(scope, counter, getattr(scope, counter) + 1)


def _drop_shadowed(scope: Scope, cost: dict[str, float]) -> None:
    # a shadow limit counts what it would have refused, and is charged only with what it would have let through
    for name, bucket in scope.buckets.items():
        if bucket.shadow and name in cost and cost[name] > bucket.level:
            bucket.shadowed += 1
            del cost[name]


def _charge(scope: Scope, cost: dict[str, float], owed: Mapping[str, float], wait: float) -> Part:
    due = {}
    for name, units in cost.items():
        bucket = scope.buckets[name]
        due[name] = bucket.clock + owed.get(name, 0.0)
        bucket.level = bucket.level - units
        bucket.tail = max(bucket.tail, due[name])
    return Part(scope.epoch, flow.take_lease(scope, wait, cost, due), cost, due)


def _expired(chain: Chain, place: Record) -> bool:
    if len(place.parts) != len(chain):
        return True
    charged = []
    for scope, part in zip(chain, place.parts, strict=True):
        if place.booked_at < scope.born or (part.lease > 0 and part.lease not in scope.leases):
            return True
        for name, due in part.due.items():
            bucket = scope.buckets.get(name)
            if bucket is not None and bucket.kind is not Kind.IN_FLIGHT and not bucket.shadow:
                charged.append((bucket.clock, due, bucket.rate, bucket.burst))
    return expired(charged)


def _ask_again(names: Sequence[str], chain: Chain, place: Record, ask: Ask) -> Booking:
    owed = [
        {
            name: shortfall(due, scope.buckets[name].clock)
            for name, due in part.due.items()
            if name in scope.buckets and not scope.buckets[name].shadow
        }
        for scope, part in zip(chain, place.parts, strict=True)
    ]
    wait, limit = _wait(names, chain, owed)
    origin = Origin.PICKED if place.mode == "H" else Origin.SAME
    if wait <= ask.max_wait:
        if place.mode == "H":
            _count(chain, "grants")
        place.mode = "T"
        place.asker = ask.asker
    else:
        _count(chain, "denials")
        # whoever is told to come back has not started: anybody may pick the place up
        place.mode = "H"
    for scope, part in zip(chain, place.parts, strict=True):
        if part.lease > 0:
            flow.renew_lease(scope, part.lease, wait)
    return _answer(place, origin, wait, limit)


def _answer(record: Record, origin: Origin, wait: float, limit: str) -> Booking:
    outcome = Outcome.TAKEN if record.mode == "T" else Outcome.HELD
    parts = tuple(Part(p.epoch, p.lease, dict(p.cost), dict(p.due)) for p in record.parts)
    return Booking(outcome, origin, wait, limit, record.generation, record.booked_at, record.first_at, parts)
