-- Purpose: give a place back unused, once. The cost returns to the level only: those behind must not start early.
-- KEYS[1]  the scope's state
-- KEYS[2]  the marker of the permit
-- KEYS[3]  the place's record; absent for an anonymous place
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  the place's generation
-- ARGV[3]  when the place was booked
-- ARGV[4..]  limit, cost of each limit that was charged
-- Returns: "done", "again" or "lost", and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _place.lua

local names, n = begin(KEYS[1], ARGV[1])
if not names then
  return nil
end
local outcome = finish(n, KEYS[2], KEYS[3], tonumber(ARGV[2]), tonumber(ARGV[3]))
if outcome == 'done' then
  local cost, places = {}, places_of(names)
  for i = 4, #ARGV, 2 do
    cost[ARGV[i]] = tonumber(ARGV[i + 1])
  end
  for name, at in pairs(places) do
    n[at + LEVEL] = math.min(n[at + BURST], n[at + LEVEL] + (cost[name] or 0))
    call_up(n, at)
  end
end
return {outcome, write_scope(KEYS[1], names, n)}
