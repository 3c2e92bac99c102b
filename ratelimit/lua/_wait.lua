-- What a reservation owes and how long it waits for it. Needs _scope.lua, _pace.lua.

-- seconds until every limit has got what it is owed (by the limit's place; limits that are not charged are missing),
-- and the place of the one that takes longest
local function wait_for(n, owed)
  local longest, binding, slowest, last = 0, nil, 0, nil
  local opens = math.max(n[AT], n[COOLDOWN])
  for at = HEAD, #n - 1, WIDTH do
    local lacking = owed[at]
    if lacking then
      local kind, wait = n[at + KIND], 0
      if kind == CONTINUOUS then
        local full, shut = lacking / n[at + RATE], n[at + UNTIL] - opens
        if shut > 0 then
          full = full + seconds_at_full_pace(shut, n[PACE], n[RECOVERY])
        end
        if full > longest then
          longest, binding = full, at
        end
      elseif kind == IN_FLIGHT then
        wait = lacking / n[at + RATE]
      else
        wait = math.max(0, n[at + UNTIL] - n[AT])
        if lacking > 0 then
          local window = windows().of(n, at, n[AT]) + math.ceil(lacking / n[at + BURST])
          wait = math.max(wait, windows().start(n, at, window) - n[AT])
        end
      end
      if wait > slowest then
        slowest, last = wait, at
      end
    end
  end
  local wait = math.max(0, n[COOLDOWN] - n[AT]) + seconds_until(longest, n[PACE], n[RECOVERY])
  if slowest > wait then
    return slowest, last
  end
  return wait, binding
end

-- the name of the limit at a place
local function name_at(names, place)
  local at = HEAD
  for name in string.gmatch(names, '[^ ]+') do
    if at == place then
      return name
    end
    at = at + WIDTH
  end
end

-- what makes a wait: the limit at a place, or whatever closes the scope
local function bound_by(names, n, place)
  if n[CLOSED] ~= 0 then
    return n[CLOSED] == 1 and 'frozen' or 'billing'
  end
  return place and name_at(names, place) or 'cooldown'
end
