"""Faults planted into the scripts: the state machine finds each of them."""

from collections.abc import Iterator

import pytest
from hypothesis import Phase

from ratelimit import scripts
from ratelimit.errors import StoreLost
from tests.ratelimit.machine import drive

FAULTS = {
    "a fraction is lost": (
        "_clock.lua",
        "pour(n, at, n[at + RATE] * open)",
        "pour(n, at, math.floor(n[at + RATE] * open))",
    ),
    "the clock goes back": ("_clock.lua", "n[AT] = math.max(n[AT], now)", "n[AT] = now"),
    "a due is forgotten": ("_reserve.lua", "n[at + CLOCK] + (owed[i][at] or 0)", "n[at + CLOCK]"),
    "a refund comes twice": ("_place.lua", "return 'again'", "return 'done'"),
    "a settlement moves the level and not the clock": (
        "settle.lua",
        "pour(n, at, estimate - spent)",
        "n[at + LEVEL] = math.min(n[at + BURST], n[at + LEVEL] + (estimate - spent))",
    ),
    "a cooldown is shortened": ("cool_down.lua", "math.max(n[COOLDOWN], n[AT] + for_s)", "n[AT] + for_s"),
    "every 429 of a burst cuts the pace": ("cool_down.lua", "ARGV[4] == '1' and current", "ARGV[4] == '1'"),
    "a lease ends twice": ("_lease.lua", "redis.call('HDEL', held, number)", "local _"),
    "a dead call's lease stays": ("_begin.lua", "leases().sweep(scope.key, scope.names, n)", "local _"),
    "a place in line calls up those before it": (
        "_lease.lua",
        "if due <= n[at + CLOCK] +",
        "if -1e300 <= n[at + CLOCK] +",
    ),
    "an outer scope is not charged": (
        "_reserve.lua",
        "local units = costs[i][at]",
        "local units = i == 1 and costs[i][at]",
    ),
    "a shadow limit refuses": (
        "_cost.lua",
        "if n[at + SHADOW] == 0 then\n        lacking",
        "if true then\n        lacking",
    ),
    "headers raise a level": (
        "_observe.lua",
        "math.min(0, tonumber(remaining) - n[at + LEVEL]) or 0\n      if moved < 0 then",
        "tonumber(remaining) - n[at + LEVEL] or 0\n      if moved ~= 0 then",
    ),
    "a window is not closed": ("_clock.lua", "if windows > 0 then", "if windows > 1 then"),
    "an older generation settles": ("_place.lua", "return 'stale'", "return 'done'"),
    "lost state starts full": ("_quota.lua", "elseif full or", "elseif true or"),
    "a quota for a while stays": ("_begin.lua", "n[ENDS] ~= 0 and now >= n[ENDS]", "false"),
    "a closed scope opens by itself": ("close.lua", "n[AT] or math.huge", "n[AT] or n[AT] + 60"),
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    file, right, wrong = FAULTS[request.param]
    sound = scripts.source

    def source(name: str) -> str:
        text = sound(name)
        if name != file:
            return text
        assert text.count(right) == 1, f"{file} has no such line any more: plant the fault elsewhere"
        return text.replace(right, wrong)

    monkeypatch.setattr(scripts, "source", source)
    scripts.script.cache_clear()
    yield request.param
    scripts.script.cache_clear()


@pytest.mark.trial
def test_a_planted_fault_is_found(fault: str, valkey: str) -> None:
    # what is in flight, and a shadow limit, are in one quota of them all; windows in another
    focus = 3 if any(word in fault for word in ("lease", "place in line", "shadow")) else None
    focus = 4 if "window" in fault else focus
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        drive(valkey, 3000, focus=focus, phases=[Phase.generate], database=None, derandomize=True)
    # unequal, or the script itself stumbles
    assert caught.type in (AssertionError, StoreLost), fault
