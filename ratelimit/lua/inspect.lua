-- Purpose: look at a scope; unlike clock it leaves no trace in the scope's counters.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: the scope's state (see _scope.lua), refilled, and what the provider has said (see _observe.lua) as field,
--          value in turn; nil if the scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua

local chain = begin(1, ARGV[1])
if not chain then
  return nil
end
chain[1].n[CALLS] = chain[1].n[CALLS] - 1
return {write(chain[1]), redis.call('HGETALL', sibling(KEYS[1], 'heard'))}
