-- Purpose: look at a scope without touching it.
-- KEYS[1]  the scope's hash
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: the limits' names; packed: pace, closed_for, epoch, strikes, calls, grants, denials, rebooked, rejections,
--          then level, burst, rate, clock, tail of each limit; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local scope = read_scope(KEYS[1])
if not scope then
  return nil
end
refill(scope, instant(ARGV[1]))
local numbers = {scope.pace, closed_for(scope), scope.epoch, scope.strikes}
for _, field in ipairs(COUNTERS) do
  table.insert(numbers, scope[field])
end
for _, name in ipairs(scope.names) do
  local bucket = scope.buckets[name]
  for _, part in ipairs({'level', 'burst', 'rate', 'clock', 'tail'}) do
    table.insert(numbers, bucket[part])
  end
end
return {scope.joined, pack(numbers)}
