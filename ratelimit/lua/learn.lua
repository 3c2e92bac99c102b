-- Purpose: take note of what a call has used, and answer what is known since. The twin of estimates.py.
-- KEYS[1]  what is known of the scope's roles: a hash, calls, per_character, output, spread of each
-- ARGV[1]  the role
-- ARGV[2]  characters of the call; empty: only look
-- ARGV[3]  input tokens
-- ARGV[4]  output tokens
-- Returns: packed doubles: calls, per_character, output, spread; nil if nothing is known of the role

--#include _scope.lua
--#define QUANTILE 0.9
--#define SLOWEST 0.05
--#define FIRST_PER_CHARACTER 0.25

local raw = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '' then
  return raw
end
local known = raw and unpack_all(raw, 1) or {0, FIRST_PER_CHARACTER, 0, 0}
local calls, per_character, output, spread = known[1] + 1, known[2], known[3], known[4]
local characters, read, written = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local weight = math.max(SLOWEST, 1 / calls)
if characters >= 1 then
  per_character = per_character + weight * (read / characters - per_character)
end
if calls == 1 then
  output = written
else
  local away = written - output
  spread = spread + weight * (math.abs(away) - spread)
  local step = math.max(1, spread) / 2
  output = math.max(1, output + step * (away > 0 and QUANTILE or QUANTILE - 1))
end
raw = pack({calls, per_character, output, spread})
redis.call('HSET', KEYS[1], ARGV[1], raw)
return raw
