-- Purpose: close a scope until somebody opens it, or open it.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  0: open, 1: frozen by somebody, 2: the provider wants money
-- ARGV[3]  who and why, as a document
-- Returns: 1 if that is new, else 0, and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua

local chain = begin(1, ARGV[1])
if not chain then
  return nil
end
local scope, cause = chain[1], tonumber(ARGV[2])
local n = scope.n
-- whoever opens a scope also ends its cooldown
if n[CLOSED] == cause and (cause ~= 0 or n[COOLDOWN] <= n[AT]) then
  return {0, write(scope)}
end
n[CLOSED] = cause
n[COOLDOWN] = cause == 0 and n[AT] or math.huge
quotas().note_change(scope.key, n, redis.call('GET', sibling(scope.key, 'quota')) or '', ARGV[3])
return {1, write(scope)}
