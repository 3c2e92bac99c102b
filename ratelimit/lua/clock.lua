-- Purpose: refill a scope and read its clock.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: the scope's state (see _scope.lua); nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local names, n = begin(KEYS[1], ARGV[1])
if not names then
  return nil
end
return write_scope(KEYS[1], names, n)
