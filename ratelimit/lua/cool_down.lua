-- Purpose: close a scope for a while. A cooldown is never shortened; the pace is cut once per epoch.
-- KEYS[1]  the scope's hash
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  for how many seconds
-- ARGV[3]  epoch of the call that was rejected; empty: unknown, counts as the current one
-- ARGV[4]  "1": cut the pace
-- Returns: 1 if the pace was cut, else 0, and the reading; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local scope = begin(KEYS[1], ARGV[1])
if not scope then
  return nil
end
scope.rejections = scope.rejections + 1
scope.cooldown_until = math.max(scope.cooldown_until, scope.at + tonumber(ARGV[2]))
local cuts = ARGV[4] == '1' and (ARGV[3] == '' or tonumber(ARGV[3]) == scope.epoch)
if cuts then
  scope.pace = math.max(SLOWEST_PACE, scope.pace / 2)
  scope.epoch = scope.epoch + 1
  scope.strikes = scope.strikes + 1
end
for _, name in ipairs(scope.names) do
  scope.buckets[name].level = math.min(scope.buckets[name].level, 0)
end
write_scope(KEYS[1], scope)
return {cuts and 1 or 0, reading(scope)}
