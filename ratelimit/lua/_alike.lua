-- Equal reservations without a key. Needs _row.lua and _cost.lua.

-- seconds until every scope is open
local function closed_for(chain)
  local longest = 0
  for _, scope in ipairs(chain) do
    longest = math.max(longest, scope.n[COOLDOWN] - scope.n[AT])
  end
  return longest
end

-- the last lease and the levels before: from them the caller tells one from the other
local function levels_of(chain)
  local numbers = {0, 0}
  for _, scope in ipairs(chain) do
    local n = scope.n
    numbers[#numbers + 1] = n[LEASED]
    for at = HEAD + LEVEL, #n, WIDTH do
      numbers[#numbers + 1] = n[at]
    end
  end
  return numbers
end

-- the first denial denies all behind it alike: it changes nothing
local function reserve_alike(chain, max_wait, costs, count)
  local never = too_large(chain, costs)
  if never then
    return {'too_large', 'none', never, '', pack({0})}
  end
  local numbers, row, limit = levels_of(chain), row_of(chain, costs), ''
  local closed = closed_for(chain)
  if plenty(row, count) and closed <= max_wait then
    charge_all(row, count)
    for _ = 1, closed > 0 and count or 0 do
      count_up(chain, WAITED, closed)
    end
    numbers[1] = count
    count_up(chain, GRANTS, count)
    return {'alike', 'booked', limit, '', pack(numbers)}
  end
  for taken = 1, count do
    local owed = owed_by(chain, costs)
    local wait, binding = wait_of(chain, owed)
    if wait > max_wait then
      numbers[2], limit = wait, binding
      count_up(chain, DENIALS, count - taken + 1)
      break
    end
    lease_row(chain, costs, owed, wait)
    charge_row(row, owed)
    count_up(chain, WAITED, wait)
    numbers[1] = taken
  end
  count_up(chain, GRANTS, numbers[1])
  return {'alike', 'booked', limit, '', pack(numbers)}
end
