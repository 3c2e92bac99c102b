-- Equal reservations without a key. Needs _scope.lua, _clock.lua and _wait.lua.

-- the first denial denies all behind it alike: it changes nothing
local function reserve_alike(names, n, max_wait, cost, count)
  local numbers, charged, owed = {0, 0}, {}, {}
  local closed = math.max(0, n[COOLDOWN] - n[AT])
  for at = HEAD, #n - 1, WIDTH do
    numbers[#numbers + 1] = n[at + LEVEL]
    if (cost[at] or 0) > 0 then
      charged[#charged + 1] = at
    end
  end
  local limit = ''
  for taken = 1, count do
    local owing = false
    for i = 1, #charged do
      local at = charged[i]
      local lacking = cost[at] - n[at + LEVEL]
      owed[at] = lacking > 0 and lacking or 0
      owing = owing or lacking > 0
    end
    local wait, binding = closed, nil
    if owing then
      wait, binding = wait_for(n, owed)
    end
    if wait > max_wait then
      numbers[2], limit = wait, name_at(names, binding)
      n[DENIALS] = n[DENIALS] + count - taken + 1
      break
    end
    for i = 1, #charged do
      local at = charged[i]
      local due = n[at + CLOCK] + owed[at]
      n[at + LEVEL] = n[at + LEVEL] - cost[at]
      if due > n[at + TAIL] then
        n[at + TAIL] = due
      end
    end
    numbers[1] = taken
  end
  n[GRANTS] = n[GRANTS] + numbers[1]
  return {'alike', 'booked', limit, '', pack(numbers)}
end
