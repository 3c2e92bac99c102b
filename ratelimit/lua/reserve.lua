-- Purpose: take places in line for n reservations, in order; each is charged to every limit or to none.
-- KEYS[1]  the scope's state
-- KEYS[2..]  the place's record of each reservation that has a key, in order
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2..]  of each entry: flags (k: has a key, h: hold), asker, names of the limits in one string, packed doubles:
--            max_wait in seconds, how many reservations (equal ones without a key travel together), then the cost of
--            each name
-- Returns: the scope's state, then of each entry: outcome (taken, held, denied, unknown, alike), origin (booked, same,
--          picked, rebooked, none), binding limit, names of the limits charged, packed doubles: of a place wait,
--          generation, epoch, booked_at, first_at, then cost, due of each limit charged; of a denial the wait; of
--          alike ones how many are taken, the wait of the first denied, each limit's level before them; nil if the
--          scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _wait.lua
--#include _place.lua
--#include _reserve.lua
--#include _alike.lua

local names, n = begin(KEYS[1], ARGV[1])
if not names then
  return nil
end

-- the cost by the limit's place, or the name that the quota does not have
local function cost_of(given, numbers)
  local cost = {}
  if given == names then
    for i = 3, #numbers do
      cost[HEAD + WIDTH * (i - 3)] = numbers[i]
    end
    return cost
  end
  local places, i = places_of(names), 3
  for name in string.gmatch(given, '[^ ]+') do
    if not places[name] then
      return nil, name
    end
    cost[places[name]] = numbers[i]
    i = i + 1
  end
  return cost
end

local answers, key = {''}, 2
for i = 2, #ARGV, 4 do
  local flags, packed = ARGV[i], ARGV[i + 3]
  local numbers = {struct.unpack('<' .. string.rep('d', #packed / 8), packed)}
  numbers[#numbers] = nil
  local cost, unknown = cost_of(ARGV[i + 2], numbers)
  local ask = {max_wait = numbers[1], hold = flags == 'kh', asker = ARGV[i + 1], cost = cost}
  if unknown then
    answers[#answers + 1] = {'unknown', 'none', unknown, '', pack({0})}
  elseif flags == '' then
    answers[#answers + 1] = reserve_alike(names, n, numbers[1], cost, numbers[2])
  else
    answers[#answers + 1] = reserve(names, n, KEYS[key], ask)
  end
  if flags ~= '' then
    key = key + 1
  end
end
answers[1] = write_scope(KEYS[1], names, n)
return answers
