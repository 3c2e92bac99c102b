-- Purpose: keep leases of calls that are still in flight.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2..]  the leases' numbers
-- Returns: how many of them were there, and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua

local chain = begin(1, ARGV[1])
if not chain then
  return nil
end
local scope, found = chain[1], 0
for i = 2, #ARGV do
  if redis.call('HEXISTS', sibling(scope.key, 'held'), ARGV[i]) == 1 then
    leases().renew(scope.key, scope.n, ARGV[i], 0)
    found = found + 1
  end
end
return {found, write(scope)}
