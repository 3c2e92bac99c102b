-- Equal reservations without a key. Needs _begin.lua and _cost.lua.

-- what waits even if all units are there: a closed limit
local function shut(chain, costs)
  for i, scope in ipairs(chain) do
    for at in pairs(costs[i]) do
      if scope.n[at + UNTIL] > scope.n[AT] and scope.n[at + SHADOW] == 0 then
        return true
      end
    end
  end
  return false
end

local function nothing_owed(chain, costs)
  local owed = owed_by(chain, costs)
  for _, lacking in ipairs(owed) do
    for at in pairs(lacking) do
      lacking[at] = 0
    end
  end
  return owed
end

-- the limits that are charged, in one row: of which scope, at which place, how many units
local function row_of(chain, costs)
  local row = {}
  for i, scope in ipairs(chain) do
    for at = HEAD, #scope.n - 1, WIDTH do
      if costs[i][at] then
        row[#row + 1] = {i = i, n = scope.n, at = at, units = costs[i][at], shadow = scope.n[at + SHADOW] == 1}
      end
    end
  end
  return row
end

-- charges one; the waits' units are in owed
local function charge_row(row, owed)
  for _, x in ipairs(row) do
    local n, at = x.n, x.at
    if x.shadow and x.units > n[at + LEVEL] then
      n[at + SHADOWED] = n[at + SHADOWED] + 1
    else
      local due = n[at + CLOCK] + (owed[x.i][at] or 0)
      n[at + LEVEL] = n[at + LEVEL] - x.units
      if due > n[at + TAIL] then
        n[at + TAIL] = due
      end
    end
  end
end

local function lease_row(chain, costs, owed, wait)
  for i, scope in ipairs(chain) do
    local n, held, due = scope.n, {}, {}
    for at, units in pairs(costs[i]) do
      if not (n[at + SHADOW] == 1 and units > n[at + LEVEL]) then
        held[at], due[at] = units, n[at + CLOCK] + (owed[i][at] or 0)
      end
    end
    take_lease(scope.key, scope.names, n, wait, held, due)
  end
end

-- the first denial denies all behind it alike: it changes nothing
local function reserve_alike(chain, max_wait, costs, count)
  local i, at = too_large(chain, costs)
  if i then
    return {'too_large', 'none', limit_name(chain, i, at), '', pack({0})}
  end
  local numbers, leasing = {0, 0}, false
  for _, scope in ipairs(chain) do
    numbers[#numbers + 1] = scope.n[LEASED]
    for place = HEAD, #scope.n - 1, WIDTH do
      numbers[#numbers + 1] = scope.n[place + LEVEL]
    end
    leasing = leasing or lease_s(scope.n)
  end
  local row, owed, limit = row_of(chain, costs), nothing_owed(chain, costs), ''
  local at_once, pressed = wait_of(chain, owed), shut(chain, costs)
  for taken = 1, count do
    local owing = pressed
    for _, x in ipairs(row) do
      if not x.shadow then
        local lacking = x.units - x.n[x.at + LEVEL]
        owed[x.i][x.at] = lacking > 0 and lacking or 0
        owing = owing or lacking > 0
      end
    end
    local wait, binding = at_once, nil
    if owing or at_once > max_wait then
      wait, binding = wait_of(chain, owed)
    end
    if wait > max_wait then
      numbers[2], limit = wait, binding
      count_up(chain, DENIALS, count - taken + 1)
      break
    end
    if leasing then
      lease_row(chain, costs, owed, wait)
    end
    charge_row(row, owed)
    numbers[1] = taken
  end
  count_up(chain, GRANTS, numbers[1])
  return {'alike', 'booked', limit, '', pack(numbers)}
end
