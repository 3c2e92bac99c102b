-- Asking again for a place that is booked. Needs _begin.lua, _cost.lua and _place.lua.

local function answer(place, origin, wait, limit)
  local numbers, names = {wait, place.generation, place.booked_at, place.first_at}, {}
  for i, part in ipairs(place.parts) do
    names[i] = table.concat(part.names, ' ')
    numbers[#numbers + 1] = part.epoch
    numbers[#numbers + 1] = part.lease
    for _, name in ipairs(part.names) do
      numbers[#numbers + 1] = part.cost[name]
      numbers[#numbers + 1] = part.due[name]
    end
  end
  return {place.mode == 'T' and 'taken' or 'held', origin, limit, table.concat(names, '\n'), pack(numbers)}
end

-- picked up so late that the provider's own bucket has long forgotten it, or booked in a state that is lost
local function expired(chain, place)
  local late, tolerated = math.huge, math.huge
  if #place.parts ~= #chain then
    return true
  end
  for i, part in ipairs(place.parts) do
    local key, names, n = chain[i].key, chain[i].names, chain[i].n
    if place.booked_at < n[BORN] then
      return true
    end
    if part.lease > 0 and redis.call('HEXISTS', sibling(key, 'held'), text(part.lease)) == 0 then
      return true
    end
    local places = places_of(names)
    for _, name in ipairs(part.names) do
      local at = places[name]
      if at and n[at + KIND] ~= IN_FLIGHT and n[at + SHADOW] == 0 then
        late = math.min(late, (n[at + CLOCK] - part.due[name]) / n[at + RATE])
        tolerated = math.min(tolerated, n[at + BURST] / 2 / n[at + RATE])
      end
    end
  end
  return late < math.huge and late > math.max(tolerated, GRACE_S)
end

local function ask_again(chain, key, place, ask)
  local owed = {}
  for i, part in ipairs(place.parts) do
    local n, places, lacking = chain[i].n, places_of(chain[i].names), {}
    for _, name in ipairs(part.names) do
      local at = places[name]
      if at and n[at + SHADOW] == 0 then
        local rest = part.due[name] - n[at + CLOCK]
        -- zero within the rounding error of long sums
        lacking[at] = rest <= EPSILON * math.max(1, math.abs(part.due[name])) and 0 or rest
      end
    end
    owed[i] = lacking
  end
  local wait, limit = wait_of(chain, owed)
  local origin = place.mode == 'H' and 'picked' or 'same'
  if wait <= ask.max_wait then
    if place.mode == 'H' then
      count_up(chain, GRANTS, 1)
    end
    place.mode = 'T'
    place.asker = ask.asker
  else
    count_up(chain, DENIALS, 1)
    -- whoever is told to come back has not started: anybody may pick the place up
    place.mode = 'H'
  end
  for i, part in ipairs(place.parts) do
    if part.lease > 0 then
      leases().renew(chain[i].key, chain[i].n, text(part.lease), wait)
    end
  end
  write_place(key, place)
  return answer(place, origin, wait, limit)
end
