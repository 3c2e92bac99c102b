-- Purpose: refill a scope and read its clock.
-- KEYS[1]  the scope's hash
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: the reading (see _clock.lua); nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua

local scope = begin(KEYS[1], ARGV[1])
if not scope then
  return nil
end
write_scope(KEYS[1], scope)
return reading(scope)
