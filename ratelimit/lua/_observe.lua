-- What the provider says is left. Needs _begin.lua.

-- A count below ours lowers ours, never raises it. The clock goes back with it: everybody in line starts later by the
-- same amount. Four of ARGV from first on: name, remaining, granted per period, period in seconds; empty what was not
-- said. All of it is kept in a hash: by the limit's name and .remaining, .granted, .period, .at, and .taken: what was
-- lowered in all. Answers whether anything was lowered.
local function observe(scope, first)
  local n, places, lowered, heard = scope.n, places_of(scope.names), false, sibling(scope.key, 'heard')
  for i = first, #ARGV, 4 do
    local name, remaining, granted = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local at = places[name]
    redis.call('HSET', heard, name .. '.at', text(n[AT]))
    for field, value in pairs({['.granted'] = granted, ['.period'] = ARGV[i + 3]}) do
      if value ~= '' then
        redis.call('HSET', heard, name .. field, value)
      end
    end
    if remaining ~= '' then
      redis.call('HSET', heard, name .. '.remaining', remaining)
      local moved = at and n[at + KIND] ~= IN_FLIGHT and math.min(0, tonumber(remaining) - n[at + LEVEL]) or 0
      if moved < 0 then
        n[at + LEVEL] = n[at + LEVEL] + moved
        n[at + CLOCK] = n[at + CLOCK] + moved
        local taken = tonumber(redis.call('HGET', heard, name .. '.taken') or 0)
        redis.call('HSET', heard, name .. '.taken', text(taken - moved))
        lowered = true
      end
    end
  end
  return lowered
end
