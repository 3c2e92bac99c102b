-- Purpose: set a scope's quota. Limits that are new start at level 0 or full; those that stay keep their state.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  "seed": only if there is no quota yet; "set": in any case
-- ARGV[3]  "full" or "cold": how new limits start
-- ARGV[4]  pace regained per second
-- ARGV[5..]  name, rate per second, burst of each limit
-- Returns: 1 if the quota was set, else 0

--#include _scope.lua
--#include _clock.lua

local now = instant(ARGV[1])
local names, n = read_scope(KEYS[1])
if names and ARGV[2] == 'seed' then
  return 0
end
local places, fresh = {}, {}
if names then
  refill(n, now)
  places = places_of(names)
  for i = 1, HEAD do
    fresh[i] = n[i]
  end
else
  for i = 1, HEAD do
    fresh[i] = 0
  end
  fresh[BORN], fresh[AT], fresh[PACE] = now, now, 1
end
fresh[RECOVERY] = tonumber(ARGV[4])
local given = {}
for i = 5, #ARGV, 3 do
  local name, rate, burst = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local old, at = places[name], #fresh
  fresh[at + RATE] = rate
  fresh[at + BURST] = burst
  fresh[at + LEVEL] = math.min(old and n[old + LEVEL] or (ARGV[3] == 'full' and burst or 0), burst)
  fresh[at + CLOCK] = old and n[old + CLOCK] or 0
  fresh[at + TAIL] = old and n[old + TAIL] or 0
  given[#given + 1] = name
end
write_scope(KEYS[1], table.concat(given, ' '), fresh)
return 1
