-- Purpose: replace a permit's estimate by the actual cost, once. Level and clock move forward by a refund, back by a debt.
-- KEYS[1]  the scope's state
-- KEYS[2]  the marker of the permit
-- KEYS[3]  the place's record; absent for an anonymous permit
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  the permit's generation
-- ARGV[3]  when the permit's place was booked
-- ARGV[4]  the number m of limits that are settled
-- ARGV[5..]  m times limit, estimate, actual; then limit, remaining of each limit that the provider has told of
-- Returns: "done", "again" or "lost", and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _place.lua
--#include _observe.lua

local names, n = begin(KEYS[1], ARGV[1])
if not names then
  return nil
end
local outcome = finish(n, KEYS[2], KEYS[3], tonumber(ARGV[2]), tonumber(ARGV[3]))
if outcome == 'done' then
  local places = places_of(names)
  local rest = 5 + 3 * tonumber(ARGV[4])
  for i = 5, rest - 1, 3 do
    local at = places[ARGV[i]]
    if at then
      local refund = tonumber(ARGV[i + 1]) - tonumber(ARGV[i + 2])
      local moved = math.min(refund, n[at + BURST] - n[at + LEVEL])
      n[at + LEVEL] = n[at + LEVEL] + moved
      n[at + CLOCK] = n[at + CLOCK] + moved
      call_up(n, at)
    end
  end
  observe(names, n, rest)
end
return {outcome, write_scope(KEYS[1], names, n)}
