-- One reservation. Needs _scope.lua, _clock.lua and _place.lua.

local function answer(place, origin, wait, limit)
  local outcome = place.mode == 'T' and 'taken' or 'held'
  local found = {
    outcome, origin, text(wait), limit, text(place.generation), text(place.epoch), text(place.booked_at),
    text(place.first_at)
  }
  for _, name in ipairs(place.names) do
    for _, value in ipairs({name, text(place.cost[name]), text(place.due[name])}) do
      table.insert(found, value)
    end
  end
  return found
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

local function reserve(scope, key, ask)
  for _, name in ipairs(ask.names) do
    if not scope.buckets[name] then
      return {'unknown', 'none', '0', name}
    end
  end
  local generation, first_at, origin = 1, scope.at, 'booked'
  local old = key and read_place(key)
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
  local place = {
    generation = generation, epoch = scope.epoch, booked_at = scope.at, first_at = first_at, asker = ask.asker,
    names = {}, cost = {}, due = {}
  }
  local owed = {}
  for _, name in ipairs(scope.names) do
    local cost = ask.cost[name] or 0
    if cost > 0 then
      table.insert(place.names, name)
      place.cost[name] = cost
      owed[name] = math.max(0, cost - scope.buckets[name].level)
      place.due[name] = scope.buckets[name].clock + owed[name]
    end
  end
  local wait, binding = wait_for(scope, owed)
  place.mode = wait <= ask.max_wait and 'T' or 'H'
  local counter = place.mode == 'T' and 'grants' or 'denials'
  scope[counter] = scope[counter] + 1
  if place.mode == 'H' and not (ask.hold and key) then
    return {'denied', 'none', text(wait), binding}
  end
  for _, name in ipairs(place.names) do
    local bucket = scope.buckets[name]
    bucket.level = bucket.level - place.cost[name]
    bucket.tail = math.max(bucket.tail, place.due[name])
  end
  scope.rebooked = scope.rebooked + (origin == 'rebooked' and 1 or 0)
  if key then
    write_place(key, place)
  end
  return answer(place, origin, wait, binding)
end
