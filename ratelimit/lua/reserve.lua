-- Purpose: take places in line for n reservations, in order; each is charged to every limit of its cost or to none.
-- KEYS[1]  the scope's hash
-- KEYS[2..]  the place's record of each reservation that has a key, in order
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2..]  of each entry: max_wait in seconds, flags (k: has a key, h: hold), asker, how many reservations (equal
--            ones without a key travel together), number m of limits, then m times limit, cost
-- Returns: the reading (see _clock.lua), then of each entry: outcome (taken, held, denied, unknown, alike), origin
--          (booked, same, picked, rebooked, none), binding limit, names of the limits charged, packed numbers: of a
--          place wait, generation, epoch, booked_at, first_at, then cost, due of each limit charged; of a denial the
--          wait; of alike ones how many are taken, the wait of the first denied, each limit's level before them; nil
--          if the scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _place.lua
--#include _reserve.lua
--#include _alike.lua

local scope = begin(KEYS[1], ARGV[1])
if not scope then
  return nil
end
local answers = {reading(scope)}
local key, i = 2, 2
while i <= #ARGV do
  local flags, count = ARGV[i + 1], tonumber(ARGV[i + 3])
  local ask = {
    max_wait = tonumber(ARGV[i]), hold = string.find(flags, 'h', 1, true), asker = ARGV[i + 2], names = {}, cost = {}
  }
  local limits = tonumber(ARGV[i + 4])
  i = i + 5
  for _ = 1, limits do
    table.insert(ask.names, ARGV[i])
    ask.cost[ARGV[i]] = tonumber(ARGV[i + 1])
    i = i + 2
  end
  if string.find(flags, 'k', 1, true) then
    table.insert(answers, reserve(scope, KEYS[key], ask))
    key = key + 1
  else
    table.insert(answers, reserve_alike(scope, ask, count))
  end
end
write_scope(KEYS[1], scope)
return answers
