-- What a reservation owes and how long it waits for it. Needs _scope.lua and _clock.lua.

-- seconds until every limit has got what it is owed (by the limit's place), and the place of the one that takes longest
local function wait_for(n, owed)
  local longest, binding = 0, nil
  for at = HEAD, #n - 1, WIDTH do
    local full = (owed[at] or 0) / n[at + RATE]
    if full > longest then
      longest, binding = full, at
    end
  end
  return math.max(0, n[COOLDOWN] - n[AT]) + seconds_until(longest, n[PACE], n[RECOVERY]), binding
end

-- the name of the limit at a place
local function name_at(names, place)
  if not place then
    return 'cooldown'
  end
  local at = HEAD
  for name in string.gmatch(names, '[^ ]+') do
    if at == place then
      return name
    end
    at = at + WIDTH
  end
end
