-- Purpose: take note of what the provider says is left.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2..]  limit, remaining of each limit that was told
-- Returns: 1 if a level was lowered, else 0, and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _observe.lua

local names, n = begin(KEYS[1], ARGV[1])
if not names then
  return nil
end
local lowered = observe(names, n, 2)
return {lowered and 1 or 0, write_scope(KEYS[1], names, n)}
