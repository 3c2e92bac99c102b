-- Purpose: take places in line for n reservations, in order; each is charged to every limit of its cost or to none.
-- KEYS[1]  the scope's hash
-- KEYS[2..]  the place's record of each reservation that has a key, in order
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2..]  of each reservation: max_wait in seconds, flags (k: has a key, h: hold), asker, number m of limits, then
--            m times limit, cost
-- Returns: the reading (see _clock.lua), then of each reservation: outcome (taken, held, denied, unknown), origin
--          (booked, same, picked, rebooked, none), wait, binding limit and, if there is a place, generation, epoch,
--          booked_at, first_at, then limit, cost, due of each limit; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _place.lua
--#include _reserve.lua

local scope = begin(KEYS[1], ARGV[1])
if not scope then
  return nil
end
local answers = {}
local key, i = 2, 2
while i <= #ARGV do
  local flags = ARGV[i + 1]
  local ask = {
    max_wait = tonumber(ARGV[i]), hold = string.find(flags, 'h', 1, true), asker = ARGV[i + 2], names = {}, cost = {}
  }
  local limits = tonumber(ARGV[i + 3])
  i = i + 4
  for _ = 1, limits do
    table.insert(ask.names, ARGV[i])
    ask.cost[ARGV[i]] = tonumber(ARGV[i + 1])
    i = i + 2
  end
  local place_key = nil
  if string.find(flags, 'k', 1, true) then
    place_key = KEYS[key]
    key = key + 1
  end
  table.insert(answers, reserve(scope, place_key, ask))
end
write_scope(KEYS[1], scope)
return {reading(scope), unpack(answers)}
