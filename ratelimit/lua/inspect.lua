-- Purpose: look at a scope without touching it.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: the scope's state (see _scope.lua), refilled; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local names, n = read_scope(KEYS[1])
if not names then
  return nil
end
refill(n, instant(ARGV[1]))
return state(names, n)
