-- Purpose: refill the scopes of a chain and read their clocks.
-- KEYS[1..]  the scopes' states, innermost first
-- ARGV[1]  now in seconds; empty: the server's time
-- Returns: the scopes' states (see _scope.lua); nil if one of them is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua

local chain = begin(#KEYS, ARGV[1])
return chain and write_all(chain)
