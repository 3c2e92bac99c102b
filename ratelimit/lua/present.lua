-- Purpose: say that a process uses a scope, and hear how many do.
-- KEYS[1]  the processes of the scope
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  the process
-- ARGV[3]  seconds after which a process that was not seen is gone
-- Returns: how many processes there are, this one included

--#include _scope.lua

local now, life = instant(ARGV[1]), tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], text(now), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. text(now - life))
redis.call('PEXPIRE', KEYS[1], math.ceil(life * 2000))
return redis.call('ZCARD', KEYS[1])
