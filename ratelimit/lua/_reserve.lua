-- A reservation under a key. Needs _scope.lua, _clock.lua, _wait.lua and _place.lua.

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
local function expired(n, places, place)
  if place.booked_at < n[BORN] then
    return true
  end
  local late, tolerated = math.huge, math.huge
  for _, name in ipairs(place.names) do
    local at = places[name]
    if at then
      late = math.min(late, (n[at + CLOCK] - place.due[name]) / n[at + RATE])
      tolerated = math.min(tolerated, n[at + BURST] / 2 / n[at + RATE])
    end
  end
  return late > math.max(tolerated, GRACE_S)
end

local function ask_again(names, n, places, key, place, ask)
  local owed = {}
  for _, name in ipairs(place.names) do
    local at = places[name]
    if at then
      local lacking = place.due[name] - n[at + CLOCK]
      -- zero within the rounding error of long sums
      owed[at] = lacking <= EPSILON * math.max(1, math.abs(place.due[name])) and 0 or lacking
    end
  end
  local wait, binding = wait_for(n, owed)
  local origin = place.mode == 'H' and 'picked' or 'same'
  if wait <= ask.max_wait then
    if place.mode == 'H' then
      n[GRANTS] = n[GRANTS] + 1
    end
    place.mode = 'T'
    place.asker = ask.asker
  else
    n[DENIALS] = n[DENIALS] + 1
    -- whoever is told to come back has not started: anybody may pick the place up
    place.mode = 'H'
  end
  write_place(key, place)
  return answer(place, origin, wait, name_at(names, binding))
end

-- ask: max_wait, hold, asker, cost by the limit's place
local function reserve(names, n, key, ask)
  local places = places_of(names)
  local generation, first_at, origin = 1, n[AT], 'booked'
  local old = read_place(key)
  if old then
    local same = old.mode == 'H' or (old.mode == 'T' and old.asker == ask.asker)
    if same and not expired(n, places, old) then
      return ask_again(names, n, places, key, old, ask)
    end
    generation = old.generation + 1
    if old.mode ~= 'S' then
      first_at, origin = old.first_at, 'rebooked'
    end
  end
  local place = {
    mode = 'T', generation = generation, epoch = n[EPOCH], booked_at = n[AT], first_at = first_at, asker = ask.asker,
    names = {}, cost = {}, due = {}
  }
  local owed = {}
  for name in string.gmatch(names, '[^ ]+') do
    local at = places[name]
    local cost = ask.cost[at] or 0
    if cost > 0 then
      owed[at] = math.max(0, cost - n[at + LEVEL])
      table.insert(place.names, name)
      place.cost[name], place.due[name] = cost, n[at + CLOCK] + owed[at]
    end
  end
  local wait, binding = wait_for(n, owed)
  local limit = name_at(names, binding)
  if wait > ask.max_wait then
    place.mode = 'H'
    n[DENIALS] = n[DENIALS] + 1
    if not ask.hold then
      return {'denied', 'none', limit, '', pack({wait})}
    end
  else
    n[GRANTS] = n[GRANTS] + 1
  end
  for _, name in ipairs(place.names) do
    local at = places[name]
    n[at + LEVEL] = n[at + LEVEL] - place.cost[name]
    n[at + TAIL] = math.max(n[at + TAIL], place.due[name])
  end
  n[REBOOKED] = n[REBOOKED] + (origin == 'rebooked' and 1 or 0)
  write_place(key, place)
  return answer(place, origin, wait, limit)
end
