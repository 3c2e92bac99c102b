-- Purpose: replace a permit's estimate by the actual cost, once. Level and clock move forward by a refund, back by a
--          debt; what is in flight is given back.
-- KEYS[1..s]  the scopes' states, innermost first
-- KEYS[s+1]  the marker of the permit
-- KEYS[s+2]  the place's record; absent for an anonymous permit
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  s
-- ARGV[3]  the permit's generation
-- ARGV[4]  when the permit's place was booked
-- ARGV[5]  the scope that the provider's counts are about: its number in the chain
-- ARGV[6..]  of each scope: lease (0: none), the number m of limits, m times limit, estimate; then the number k of what
--            is known, k times name, actual units; then limit,
--            remaining, granted per period, period of each limit that the provider has told of; empty what it has not
-- Returns: "done", "again", "stale" or "lost", and the scopes' states; nil if a scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua
--#include _cost.lua
--#include _place.lua
--#include _observe.lua

local count = tonumber(ARGV[2])
local chain = begin(count, ARGV[1])
if not chain then
  return nil
end
local outcome = finish(KEYS[count + 1], KEYS[count + 2], tonumber(ARGV[3]))
if outcome == 'again' then
  return {outcome, write_all(chain)}
end
local i, parts = 6, {}
for j = 1, count do
  local part = {lease = ARGV[i], estimates = {}}
  local after = i + 2 + 2 * tonumber(ARGV[i + 1])
  for at = i + 2, after - 1, 2 do
    part.estimates[ARGV[at]] = tonumber(ARGV[at + 1])
  end
  parts[j], i = part, after
end
local actual, after = {}, i + 1 + 2 * tonumber(ARGV[i])
for at = i + 1, after - 1, 2 do
  actual[ARGV[at]] = tonumber(ARGV[at + 1])
end
local found = false
for j, scope in ipairs(chain) do
  local n, at = scope.n, HEAD
  if tonumber(ARGV[4]) >= n[BORN] then
    found = true
    for name in string.gmatch(scope.names, '[^ ]+') do
      local estimate, spent = parts[j].estimates[name] or 0, actual[name] or actual[unit_of(name)]
      -- what a shadow limit would have refused was not charged
      local ghost = n[at + SHADOW] == 1 and estimate == 0
      if spent and not ghost and n[at + KIND] ~= IN_FLIGHT and outcome == 'done' then
        pour(n, at, estimate - spent)
      end
      at = at + WIDTH
    end
    if parts[j].lease ~= '0' then
      leases().finish(scope.key, scope.names, n, parts[j].lease, true)
    end
  end
end
if not found then
  outcome = 'lost'
elseif outcome == 'done' then
  observe(chain[tonumber(ARGV[5])], after)
end
return {outcome, write_all(chain)}
