-- Purpose: give a place back unused, once. The cost returns to the level only: those before it must not start early.
-- KEYS[1..s]  the scopes' states, innermost first
-- KEYS[s+1]  the marker of the permit
-- KEYS[s+2]  the place's record; absent for an anonymous place
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  s
-- ARGV[3]  the place's generation
-- ARGV[4]  when the place was booked
-- ARGV[5..]  of each scope: lease (0: none), the number m of limits, m times limit, cost
-- Returns: "done", "again", "stale" or "lost", and the scopes' states; nil if a scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua
--#include _place.lua

local count = tonumber(ARGV[2])
local chain = begin(count, ARGV[1])
if not chain then
  return nil
end
local outcome = finish(KEYS[count + 1], KEYS[count + 2], tonumber(ARGV[3]))
if outcome == 'again' then
  return {outcome, write_all(chain)}
end
local found, i = false, 5
for _, scope in ipairs(chain) do
  local names, n = scope.names, scope.n
  local known = tonumber(ARGV[4]) >= n[BORN]
  local places, lease, limits = places_of(names), ARGV[i], tonumber(ARGV[i + 1])
  found = found or known
  i = i + 2
  for _ = 1, limits do
    local at = places[ARGV[i]]
    if known and outcome == 'done' and at and n[at + KIND] ~= IN_FLIGHT then
      n[at + LEVEL] = math.min(n[at + BURST], n[at + LEVEL] + tonumber(ARGV[i + 1]))
      call_up(n, at)
    end
    i = i + 2
  end
  if known and lease ~= '0' then
    leases().finish(scope.key, names, n, lease, false)
  end
end
return {found and outcome or 'lost', write_all(chain)}
