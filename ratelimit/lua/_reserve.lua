-- A reservation under a key. Needs _again.lua.

-- a shadow limit counts what it would have refused, and is charged only with what it would have let through
local function drop_shadowed(n, cost)
  for at = HEAD, #n - 1, WIDTH do
    if n[at + SHADOW] == 1 and cost[at] and cost[at] > n[at + LEVEL] then
      n[at + SHADOWED] = n[at + SHADOWED] + 1
      cost[at] = nil
    end
  end
end

-- charges every scope; the parts of the place
local function charge(chain, costs, owed, wait)
  local parts = {}
  for i, scope in ipairs(chain) do
    local n, at, due = scope.n, HEAD, {}
    local part = {epoch = n[EPOCH], lease = 0, names = {}, cost = {}, due = {}}
    for name in string.gmatch(scope.names, '[^ ]+') do
      local units = costs[i][at]
      if units then
        due[at] = n[at + CLOCK] + (owed[i][at] or 0)
        part.names[#part.names + 1] = name
        part.cost[name], part.due[name] = units, due[at]
        n[at + LEVEL] = n[at + LEVEL] - units
        n[at + TAIL] = math.max(n[at + TAIL], due[at])
      end
      at = at + WIDTH
    end
    if scope.lease_s then
      part.lease = leases().take(scope.key, scope.names, n, wait, costs[i], due)
    end
    parts[i] = part
  end
  return parts
end

-- ask: max_wait, hold, asker; costs: of each scope by the limit's place
local function reserve(chain, key, ask, costs)
  local booked_at = instant_of(chain)
  local place = {mode = 'T', generation = 1, booked_at = booked_at, first_at = booked_at, asker = ask.asker}
  local origin, old = 'booked', read_place(key)
  if old then
    local same = old.mode == 'H' or (old.mode == 'T' and old.asker == ask.asker)
    if same and not expired(chain, old) then
      return ask_again(chain, key, old, ask)
    end
    place.generation = old.generation + 1
    if old.mode ~= 'S' then
      place.first_at, origin = old.first_at, 'rebooked'
    end
  end
  local never = too_large(chain, costs)
  if never then
    return {'too_large', 'none', never, '', pack({0})}
  end
  local owed = owed_by(chain, costs)
  local wait, limit = wait_of(chain, owed)
  if wait > ask.max_wait then
    place.mode = 'H'
    count_up(chain, DENIALS, 1)
    if not ask.hold then
      return {'denied', 'none', limit, '', pack({wait})}
    end
  else
    count_up(chain, GRANTS, 1)
  end
  count_up(chain, WAITED, wait)
  for j, scope in ipairs(chain) do
    drop_shadowed(scope.n, costs[j])
    if old and old.mode == 'H' and old.parts[j] and old.parts[j].lease > 0 then
      leases().finish(scope.key, scope.names, scope.n, text(old.parts[j].lease), false)
    end
  end
  place.parts = charge(chain, costs, owed, wait)
  count_up(chain, REBOOKED, origin == 'rebooked' and 1 or 0)
  write_place(key, place)
  return answer(place, origin, wait, limit)
end
