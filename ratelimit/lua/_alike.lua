-- Equal reservations without a key. Needs _scope.lua, _clock.lua and _wait.lua.

-- the first denial denies all behind it alike: it changes nothing
local function reserve_alike(names, n, ask, count)
  local numbers, charged, owed = {0, 0}, {}, {}
  for at = HEAD, #n - 1, WIDTH do
    numbers[#numbers + 1] = n[at + LEVEL]
    if (ask.cost[at] or 0) > 0 then
      charged[#charged + 1] = at
    end
  end
  local limit = ''
  for taken = 1, count do
    for i = 1, #charged do
      local at = charged[i]
      owed[at] = math.max(0, ask.cost[at] - n[at + LEVEL])
    end
    local wait, binding = wait_for(n, owed)
    if wait > ask.max_wait then
      numbers[2], limit = wait, name_at(names, binding)
      n[DENIALS] = n[DENIALS] + count - taken + 1
      break
    end
    for i = 1, #charged do
      local at = charged[i]
      n[at + LEVEL] = n[at + LEVEL] - ask.cost[at]
      n[at + TAIL] = math.max(n[at + TAIL], n[at + CLOCK] + owed[at])
    end
    n[GRANTS] = n[GRANTS] + 1
    numbers[1] = taken
  end
  return {'alike', 'booked', limit, '', pack(numbers)}
end
