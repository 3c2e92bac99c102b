-- Purpose: close a scope, or one limit of it, for a while. A cooldown is never shortened; the pace is cut once per epoch.
-- KEYS[1]  the scope's state
-- KEYS[2]  the record of the place of the call that was rejected; absent if it is not known
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  for how many seconds; empty: nobody said, then twice as long with each strike
-- ARGV[3]  epoch of the call that was rejected; empty: unknown, counts as the current one
-- ARGV[4]  "1": cut the pace
-- ARGV[5]  the limit; empty: all of them
-- ARGV[6]  a random number in [0, 1), for cooldowns without a hint
-- ARGV[7]  the place's generation
-- Returns: 1 if the pace was cut, else 0, the scope's state, for how many seconds; nil if the scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua
--#include _place.lua

--#define FIRST_S 2
--#define LONGEST_S 60

local chain = begin(1, ARGV[1])
if not chain then
  return nil
end
local scope = chain[1]
local n = scope.n
local current = ARGV[3] == '' or tonumber(ARGV[3]) == n[EPOCH]
n[REJECTIONS] = n[REJECTIONS] + 1
if superseded(KEYS[2], tonumber(ARGV[7])) then
  return {0, write(scope), text(0)}
end
local for_s = tonumber(ARGV[2])
if not for_s then
  -- one burst is one event: what the first of its rejections said holds for all
  for_s = current and math.min(LONGEST_S, FIRST_S * 2 ^ n[STRIKES]) * (0.75 + tonumber(ARGV[6]) / 2) or 0
end
local only = places_of(scope.names)[ARGV[5]]
if only and n[only + KIND] ~= IN_FLIGHT then
  n[only + UNTIL] = math.max(n[only + UNTIL], n[AT] + for_s)
else
  only = nil
  n[COOLDOWN] = math.max(n[COOLDOWN], n[AT] + for_s)
end
local cuts = ARGV[4] == '1' and current
if cuts then
  n[PACE] = math.max(SLOWEST_PACE, n[PACE] / 2)
  n[EPOCH] = n[EPOCH] + 1
  n[STRIKES] = n[STRIKES] + 1
end
for at = HEAD, #n - 1, WIDTH do
  if n[at + KIND] == CONTINUOUS and (only == nil or only == at) then
    n[at + LEVEL] = math.min(n[at + LEVEL], 0)
  end
end
return {cuts and 1 or 0, write(scope), text(for_s)}
