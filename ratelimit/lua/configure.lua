-- Purpose: set a scope's quota. Limits that are new start at level 0 or full; those that stay keep their state.
-- KEYS[1]  the scope's hash
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  "seed": only if there is no quota yet; "set": in any case
-- ARGV[3]  "full" or "cold": how new limits start
-- ARGV[4]  pace regained per second
-- ARGV[5..]  name, rate per second, burst of each limit
-- Returns: 1 if the quota was set, else 0

--#include _scope.lua
--#include _clock.lua

local now = instant(ARGV[1])
local scope = read_scope(KEYS[1])
if scope and ARGV[2] == 'seed' then
  return 0
end
if scope then
  refill(scope, now)
else
  scope = {
    names = {}, buckets = {}, born = now, at = now, cooldown_until = 0, pace = 1, epoch = 0, strikes = 0, calls = 0,
    grants = 0, denials = 0, rebooked = 0, rejections = 0
  }
end
scope.recovery = tonumber(ARGV[4])
local old = scope.buckets
scope.joined = ''
scope.names = {}
scope.buckets = {}
for i = 5, #ARGV, 3 do
  local name, rate, burst = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local bucket = old[name] or {level = ARGV[3] == 'full' and burst or 0, clock = 0, tail = 0}
  bucket.rate = rate
  bucket.burst = burst
  bucket.level = math.min(bucket.level, burst)
  table.insert(scope.names, name)
  scope.buckets[name] = bucket
end
scope.joined = table.concat(scope.names, ' ')
write_scope(KEYS[1], scope)
return 1
