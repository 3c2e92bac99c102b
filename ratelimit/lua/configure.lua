-- Purpose: set a scope's quota, and keep who did it. Limits that are new start at level 0 or full; those that stay keep
--          their state.
-- KEYS[1]  the scope's state
-- KEYS[2]  the quota as a document
-- KEYS[3]  the list of changes, newest first
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  "seed": only if there is no quota yet; "set": in any case
-- ARGV[3]  the version that must be in force (0: none); empty: any
-- ARGV[4]  "full" or "cold": how new limits start
-- ARGV[5]  pace regained per second
-- ARGV[6]  the document
-- ARGV[7]  who and why, as a document
-- ARGV[8..]  name, rate per second, burst of each limit
-- Returns: 1 if the quota was set, else 0

--#include _scope.lua
--#include _clock.lua

local now = instant(ARGV[1])
local names, n = read_scope(KEYS[1])
local version = names and n[VERSION] or 0
if (names and ARGV[2] == 'seed') or (ARGV[3] ~= '' and tonumber(ARGV[3]) ~= version) then
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
fresh[RECOVERY], fresh[VERSION] = tonumber(ARGV[5]), version + 1
local given = {}
for i = 8, #ARGV, 3 do
  local name, rate, burst = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local old, at = places[name], #fresh
  fresh[at + RATE] = rate
  fresh[at + BURST] = burst
  fresh[at + LEVEL] = math.min(old and n[old + LEVEL] or (ARGV[4] == 'full' and burst or 0), burst)
  fresh[at + CLOCK] = old and n[old + CLOCK] or 0
  fresh[at + TAIL] = old and n[old + TAIL] or 0
  given[#given + 1] = name
end
write_scope(KEYS[1], table.concat(given, ' '), fresh)
redis.call('SET', KEYS[2], ARGV[6])
redis.call('LPUSH', KEYS[3], text(fresh[AT]) .. ' ' .. text(version + 1) .. ' ' .. ARGV[7] .. '\n' .. ARGV[6])
redis.call('LTRIM', KEYS[3], 0, 999)
return 1
