-- One reservation. Needs _scope.lua, _clock.lua and _place.lua.

local function answer(place, origin, wait, limit)
  local outcome = place.mode == 'T' and 'taken' or 'held'
  local numbers = {wait, place.generation, place.epoch, place.booked_at, place.first_at}
  for _, name in ipairs(place.names) do
    numbers[#numbers + 1] = place.cost[name]
    numbers[#numbers + 1] = place.due[name]
  end
  return {outcome, origin, limit, table.concat(place.names, ' '), pack(numbers)}
end

-- picked up so late that the provider's own bucket has long forgotten it, or booked in a state that is lost
local function expired(scope, place)
  if place.booked_at < scope.born then
    return true
  end
  local late, tolerated = math.huge, math.huge
  for _, name in ipairs(place.names) do
    local bucket = scope.buckets[name]
    if bucket then
      late = math.min(late, (bucket.clock - place.due[name]) / bucket.rate)
      tolerated = math.min(tolerated, bucket.burst / 2 / bucket.rate)
    end
  end
  return late > math.max(tolerated, GRACE_S)
end

local function ask_again(scope, key, place, ask)
  local owed = {}
  for _, name in ipairs(place.names) do
    local bucket = scope.buckets[name]
    if bucket then
      local lacking = place.due[name] - bucket.clock
      -- zero within the rounding error of long sums
      owed[name] = lacking <= EPSILON * math.max(1, math.abs(place.due[name])) and 0 or lacking
    end
  end
  local wait, binding = wait_for(scope, owed)
  local origin = place.mode == 'H' and 'picked' or 'same'
  if wait <= ask.max_wait then
    if place.mode == 'H' then
      scope.grants = scope.grants + 1
    end
    place.mode = 'T'
    place.asker = ask.asker
  else
    scope.denials = scope.denials + 1
    -- whoever is told to come back has not started: anybody may pick the place up
    place.mode = 'H'
  end
  write_place(key, place)
  return answer(place, origin, wait, binding)
end

local function unknown_limit(scope, ask)
  for _, name in ipairs(ask.names) do
    if not scope.buckets[name] then
      return {'unknown', 'none', name, '', pack({0})}
    end
  end
end

-- the limits that are charged, what each owes, and the wait that follows
local function price(scope, ask)
  local names, owed = {}, {}
  for _, name in ipairs(scope.names) do
    local cost = ask.cost[name] or 0
    if cost > 0 then
      names[#names + 1] = name
      owed[name] = math.max(0, cost - scope.buckets[name].level)
    end
  end
  local wait, binding = wait_for(scope, owed)
  return names, owed, wait, binding
end

-- a place that is booked under a key
local function reserve(scope, key, ask)
  local unknown = unknown_limit(scope, ask)
  if unknown then
    return unknown
  end
  local generation, first_at, origin = 1, scope.at, 'booked'
  local old = read_place(key)
  if old then
    local same = old.mode == 'H' or (old.mode == 'T' and old.asker == ask.asker)
    if same and not expired(scope, old) then
      return ask_again(scope, key, old, ask)
    end
    generation = old.generation + 1
    if old.mode ~= 'S' then
      first_at, origin = old.first_at, 'rebooked'
    end
  end
  local names, owed, wait, binding = price(scope, ask)
  local place = {
    mode = wait <= ask.max_wait and 'T' or 'H', generation = generation, epoch = scope.epoch, booked_at = scope.at,
    first_at = first_at, asker = ask.asker, names = names, cost = ask.cost, due = {}
  }
  local counter = place.mode == 'T' and 'grants' or 'denials'
  scope[counter] = scope[counter] + 1
  if place.mode == 'H' and not ask.hold then
    return {'denied', 'none', binding, '', pack({wait})}
  end
  for _, name in ipairs(names) do
    local bucket = scope.buckets[name]
    place.due[name] = bucket.clock + owed[name]
    bucket.level = bucket.level - ask.cost[name]
    bucket.tail = math.max(bucket.tail, place.due[name])
  end
  scope.rebooked = scope.rebooked + (origin == 'rebooked' and 1 or 0)
  write_place(key, place)
  return answer(place, origin, wait, binding)
end
