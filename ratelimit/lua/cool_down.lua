-- Purpose: close a scope for a while. A cooldown is never shortened; the pace is cut once per epoch.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  for how many seconds
-- ARGV[3]  epoch of the call that was rejected; empty: unknown, counts as the current one
-- ARGV[4]  "1": cut the pace
-- Returns: 1 if the pace was cut, else 0, and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local names, n = begin(KEYS[1], ARGV[1])
if not names then
  return nil
end
n[REJECTIONS] = n[REJECTIONS] + 1
n[COOLDOWN] = math.max(n[COOLDOWN], n[AT] + tonumber(ARGV[2]))
local cuts = ARGV[4] == '1' and (ARGV[3] == '' or tonumber(ARGV[3]) == n[EPOCH])
if cuts then
  n[PACE] = math.max(SLOWEST_PACE, n[PACE] / 2)
  n[EPOCH] = n[EPOCH] + 1
  n[STRIKES] = n[STRIKES] + 1
end
for at = HEAD, #n - 1, WIDTH do
  n[at + LEVEL] = math.min(n[at + LEVEL], 0)
end
return {cuts and 1 or 0, write_scope(KEYS[1], names, n)}
