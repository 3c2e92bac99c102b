-- Purpose: take places in line for n reservations, in order; each is charged to every limit of every scope or to none.
-- KEYS[1..s]  the scopes' states, innermost first; their leases lie beside them
-- KEYS[s+1..]  the place's record of each reservation that has a key, in order
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  s
-- ARGV[3..]  of each entry: flags (k: has a key, h: hold), asker, names of what is spent in one string, packed doubles:
--            max_wait in seconds, how many reservations (equal ones without a key travel together), then the units of
--            each name. A name is a limit's, or the unit that several limits count (tokens: tokens, tokens_per_day)
-- Returns: the scopes' states, then of each entry: outcome (taken, held, denied, unknown, too_large, alike), origin
--          (booked, same, picked, rebooked, none), binding limit, names of the limits charged (a line for each scope),
--          packed doubles: of a place wait, generation, booked_at, first_at, then of each scope epoch, lease, and cost,
--          due of each limit charged; of a denial the wait; of alike ones how many are taken, the wait of the first
--          denied, then of each scope the last lease and each limit's level before them; nil if a scope is not configured

--#include _scope.lua
--#include _pace.lua
--#include _wait.lua
--#include _clock.lua
--#include _begin.lua
--#include _cost.lua
--#include _row.lua
--#include _alike.lua

local count = tonumber(ARGV[2])
local chain = begin(count, ARGV[1])
if not chain then
  return nil
end
local keyed
if KEYS[count + 1] then
  --#include _place.lua
  --#include _again.lua
  --#include _reserve.lua
  keyed = reserve
end
local answers, plans, key = {''}, {}, count + 1
for i = 3, #ARGV, 4 do
  local flags, given, numbers = ARGV[i], ARGV[i + 2], unpack_all(ARGV[i + 3], 1)
  local unknown
  if plans[given] == nil then
    plans[given], unknown = plan_of(chain, given)
  end
  local reply
  if unknown then
    reply = {'unknown', 'none', unknown, '', pack({0})}
  else
    local costs = costs_of(plans[given], numbers, 3)
    if flags == '' then
      reply = reserve_alike(chain, numbers[1], costs, numbers[2])
    else
      reply = keyed(chain, KEYS[key], {max_wait = numbers[1], hold = flags == 'kh', asker = ARGV[i + 1]}, costs)
    end
  end
  answers[#answers + 1] = reply
  if flags ~= '' then
    key = key + 1
  end
end
answers[1] = write_all(chain)
return answers
