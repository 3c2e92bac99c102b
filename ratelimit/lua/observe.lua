-- Purpose: take note of what the provider says is left.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2..]  limit, remaining, granted per period, period of each limit that was told; empty what was not
-- Returns: 1 if a level was lowered, else 0, and the scope's state; nil if the scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua
--#include _observe.lua

local chain = begin(1, ARGV[1])
if not chain then
  return nil
end
local lowered = observe(chain[1], 2)
return {lowered and 1 or 0, write(chain[1])}
