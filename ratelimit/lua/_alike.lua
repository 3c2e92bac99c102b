-- Equal reservations without a key. Needs _scope.lua, _clock.lua and _reserve.lua.

-- the first denial denies all behind it alike: it changes nothing
local function reserve_alike(scope, ask, count)
  local unknown = unknown_limit(scope, ask)
  if unknown then
    return unknown
  end
  local numbers, buckets, costs, names = {0, 0}, {}, {}, {}
  for _, name in ipairs(scope.names) do
    numbers[#numbers + 1] = scope.buckets[name].level
    local cost = ask.cost[name] or 0
    if cost > 0 then
      buckets[#buckets + 1], costs[#costs + 1], names[#names + 1] = scope.buckets[name], cost, name
    end
  end
  local limit, closed, owed = '', closed_for(scope), {}
  for taken = 1, count do
    local longest, binding = 0, 'cooldown'
    for i = 1, #buckets do
      owed[i] = math.max(0, costs[i] - buckets[i].level)
      local full = owed[i] / buckets[i].rate
      if full > longest then
        longest, binding = full, names[i]
      end
    end
    local wait = closed + seconds_until(longest, scope.pace, scope.recovery)
    if wait > ask.max_wait then
      numbers[2], limit = wait, binding
      scope.denials = scope.denials + count - taken + 1
      break
    end
    for i = 1, #buckets do
      local bucket = buckets[i]
      bucket.level = bucket.level - costs[i]
      bucket.tail = math.max(bucket.tail, bucket.clock + owed[i])
    end
    scope.grants = scope.grants + 1
    numbers[1] = taken
  end
  return {'alike', 'booked', limit, '', pack(numbers)}
end
