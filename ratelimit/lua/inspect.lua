-- Purpose: look at a scope without touching it.
-- KEYS[1]  the scope's hash
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: pace, closed_for, epoch, strikes, calls, grants, denials, rebooked, rejections, then name, level, burst,
--          rate, clock, tail of each limit; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local scope = read_scope(KEYS[1])
if not scope then
  return nil
end
refill(scope, instant(ARGV[1]))
local answer = {text(scope.pace), text(closed_for(scope)), text(scope.epoch), text(scope.strikes)}
for _, field in ipairs(COUNTERS) do
  table.insert(answer, text(scope[field]))
end
for _, name in ipairs(scope.names) do
  local bucket = scope.buckets[name]
  table.insert(answer, name)
  for _, part in ipairs({'level', 'burst', 'rate', 'clock', 'tail'}) do
    table.insert(answer, text(bucket[part]))
  end
end
return answer
