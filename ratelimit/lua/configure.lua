-- Purpose: set a scope's quota, for good or for a while, and keep who did it. Limits that are new start at level 0 or
--          full; those that stay keep their state.
-- KEYS[1]  the scope's state
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  "seed": only if there is no quota yet; "set": in any case
-- ARGV[3]  the version that must be in force (0: none); empty: any
-- ARGV[4]  "full" or "cold": how new limits start
-- ARGV[5]  for how many seconds, then the quota before it is back; empty: for good
-- ARGV[6]  the quota (see _quota.lua)
-- ARGV[7]  the quota as a document
-- ARGV[8]  who and why, as a document; empty for a passing scope: nothing is noted
-- Returns: 1 if the quota was set, else 0

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua

local key, quota, names, n = KEYS[1], quotas(), nil, nil
local chain = begin(1, ARGV[1])
if chain then
  names, n = chain[1].names, chain[1].n
  n[CALLS] = n[CALLS] - 1
end
local version = n and n[VERSION] or 0
if (n and ARGV[2] == 'seed') or (ARGV[3] ~= '' and tonumber(ARGV[3]) ~= version) then
  if chain then
    chain[1].n = n
    write(chain[1])
  end
  return 0
end
local before = sibling(key, 'before')
if not n then
  n = {}
  for i = 1, HEAD do
    n[i] = 0
  end
  n[BORN], n[AT], n[PACE] = instant(ARGV[1]), instant(ARGV[1]), 1
  redis.call('DEL', sibling(key, 'leases'), sibling(key, 'held'), sibling(key, 'heard'), before)
elseif ARGV[5] == '' then
  redis.call('DEL', before)
  n[ENDS] = 0
else
  if n[ENDS] == 0 then
    redis.call('SET', before, (redis.call('GET', sibling(key, 'quota')) or '{}') .. '\0' .. quota.spec_of(names, n))
  end
  n[ENDS] = n[AT] + tonumber(ARGV[5])
end
names, n = quota.set_limits(key, names, n, ARGV[6], ARGV[4] == 'full')
if ARGV[8] ~= '' then
  quota.note_change(key, n, ARGV[7], ARGV[8])
end
write({key = key, names = names, n = n})
return 1
